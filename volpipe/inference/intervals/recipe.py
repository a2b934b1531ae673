"""Large constants, as coordinates are: kept as recipes, and made for the part that is needed.

    linspace --meshgrid--> views, no memory --stack, -1--> (z, y, x, 3) --permute--> 3 x volume
          cut <------------------------------ cut <---------------------------------- box

An operation says which axis of an input is which of its output (`_axes`). Cut along an axis that an operation makes or
mixes, a recipe has to be made whole: it is, up to `WHOLE_BYTES`, else the network is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node, tree_leaves

from volpipe.geometry import Box

ATEN = torch.ops.aten
LARGE_BYTES = 64 * 2**20  # a smaller constant is computed once and kept
WHOLE_BYTES = 512 * 2**20  # of what is made on the way to one that must be made whole
FILLED = {ATEN.zeros.default, ATEN.ones.default, ATEN.full.default}
RESHAPED = {ATEN.view.default, ATEN.reshape.default, ATEN._unsafe_view.default, ATEN.flatten.using_ints}
CASTS = {ATEN.to.device, ATEN.to.other, ATEN.to.dtype_layout, ATEN.type_as.default, ATEN._to_copy.default}
VOXEL_BY_VOXEL = {  # beside those that torch tags as pointwise
    ATEN.clone.default, ATEN.contiguous.default, ATEN.to.dtype, ATEN.alias.default, ATEN.detach.default,
    ATEN.lift_fresh_copy.default, ATEN.full_like.default, ATEN.zeros_like.default, ATEN.ones_like.default,
    ATEN.expand.default, ATEN.where.ScalarOther, ATEN.where.ScalarSelf, ATEN.where.Scalar, ATEN.subtract.Tensor,
    ATEN.multiply.Tensor, ATEN.divide.Tensor, ATEN.absolute.default, ATEN.negative.default, ATEN.arctan2.default,
    ATEN.floor_divide.default, ATEN.hardswish.default, ATEN.log_sigmoid.default,
}  # fmt: skip
ALONG_DIMS = {
    ATEN.cat.default, ATEN.sum.dim_IntList, ATEN.mean.dim, ATEN.amax.default, ATEN.amin.default, ATEN.softmax.int,
    ATEN._softmax.default, ATEN.linalg_vector_norm.default, ATEN.argmax.default, ATEN.squeeze.dim, ATEN.select.int,
}  # fmt: skip

Part = Sequence[slice | None]  # per axis; None is all of it
Axes = tuple[int | None, ...]  # of an input: the output's axis that each is, if it is passed on


@dataclass(frozen=True, eq=False)
class Recipe:
    """One operation on constants.

    Attributes:
        args, kwargs: with tensors and recipes among them.
        shape, itemsize: of what it makes.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shape: tuple[int, ...]
    itemsize: int

    def on(self, part: Part) -> Tensor:
        """A part of it."""
        lengths = [n if cut is None else len(range(n)[cut]) for cut, n in zip(part, self.shape, strict=True)]

        def made(each: Any) -> Any:
            mine = [None if axis is None else part[axis] for axis in _axes(self, each.shape)]
            return _part(each, [cut if n != 1 else None for cut, n in zip(mine, each.shape, strict=True)])

        args, kwargs = _mapped(self.args, made), _mapped(self.kwargs, made)
        if self.target is ATEN.expand.default:
            args = (args[0], lengths)
        if self.target in RESHAPED:
            return args[0].reshape(lengths)  # type: ignore[no-any-return]
        return self.target(*args, **kwargs)  # type: ignore[no-any-return]

    def whole(self) -> Tensor:
        """All of it."""
        return self.on([None] * len(self.shape))

    def is_local(self, axes: Collection[int]) -> bool:
        """Cut along these axes it needs parts of its inputs."""
        for each in self.inputs:
            passed = _axes(self, each.shape)
            spread = _spread_axes(self, each.shape)
            if any(axis not in passed and axis not in spread for axis in axes):
                return False
            cut = [mine for mine, axis in enumerate(passed) if axis in axes and each.shape[mine] != 1]
            if isinstance(each, Recipe) and not each.is_local(cut):
                return False
        return bool(self.inputs)

    @cached_property
    def inputs(self) -> list[Any]:
        """Tensors and recipes."""
        leaves = tree_leaves([self.args, self.kwargs], is_leaf=is_recipe)
        return [each for each in leaves if isinstance(each, Tensor | Recipe)]

    @property
    def nbytes(self) -> int:
        """Of all of it."""
        return math.prod(self.shape) * self.itemsize

    @property
    def bytes_to_make(self) -> int:
        """Of it, and of all that is made on the way to it."""
        return self.nbytes + sum(each.bytes_to_make for each in self.inputs if isinstance(each, Recipe))

    @property
    def bytes_given(self) -> int:
        """Of the tensors that it is made of."""
        return sum(each.bytes_given if isinstance(each, Recipe) else held_bytes(each) for each in self.inputs)


register_pytree_node(
    Recipe,
    lambda each: ([each.args, each.kwargs], (each.target, each.shape, each.itemsize)),
    lambda parts, rest: Recipe(rest[0], *parts, *rest[1:]),
)


def large(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], like: Tensor) -> Any:
    """A large constant: a recipe, or where one value is all of it a view.

    Args:
        like: what it makes, by its shape and type.
    """
    shape = tuple(like.shape)
    if target is ATEN.repeat.default and _repeats_voxels_alone(args[0].shape, args[1]):
        target, args = ATEN.expand.default, (args[0], list(shape))
    if target in FILLED:
        return target([1] * len(shape), *args[1:], **kwargs).expand(shape)
    if target in CASTS:
        target, args, kwargs = ATEN.to.dtype, (args[0], like.dtype), {}
    made = Recipe(target, args, kwargs, shape, like.element_size())
    beside = {name: value for name, value in kwargs.items() if name != "device"}  # that of its inputs
    return replace(made, kwargs=beside) if made.inputs else made


def is_recipe(value: object) -> bool:
    """For walks over arguments: a recipe is one of them, whatever it holds."""
    return isinstance(value, Recipe)


def held_bytes(tensor: Tensor) -> int:
    """That a tensor takes: a view of a few values, spread over the volume, none."""
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())


def part_of(value: Tensor | Recipe, box: Box) -> Tensor:
    """What of a constant stands for a box, whose axes are its last ones: those of one voxel, or that it lacks, serve
    all of the volume."""
    sides = (*[None] * (len(value.shape) - box.ndim), *box.slices)[-len(value.shape) :] if value.shape else ()
    return _part(value, [None if n == 1 else side for side, n in zip(sides, value.shape, strict=True)])


def _part(value: Tensor | Recipe, part: Part) -> Tensor:
    return value.on(part) if isinstance(value, Recipe) else value[tuple(cut or slice(None) for cut in part)]


def _mapped(value: Any, made: Callable[[Any], Any]) -> Any:
    if isinstance(value, Tensor | Recipe):
        return made(value)
    if isinstance(value, Mapping):
        return {name: _mapped(each, made) for name, each in value.items()}
    return type(value)(_mapped(each, made) for each in value) if isinstance(value, list | tuple) else value


# ---------------------------------------------------------------------- which axis is which


def _axes(recipe: Recipe, shape: Sequence[int]) -> Axes:
    """Of an input of this shape."""
    target, n, m = recipe.target, len(shape), len(recipe.shape)
    if _is_voxel_by_voxel(recipe):
        return tuple(range(m - n, m))
    if target is ATEN.repeat.default:
        times = recipe.args[1]
        return tuple(axis if times[axis] == 1 else None for axis in range(m - n, m))
    if target in (ATEN.stack.default, ATEN.unsqueeze.default):
        new = _argument(recipe, "dim") % m
        return tuple(axis + (axis >= new) for axis in range(n))
    if target is ATEN.slice.Tensor:
        cut = _argument(recipe, "dim") % n
        return tuple(axis if axis != cut or shape[cut] == recipe.shape[cut] else None for axis in range(n))
    if target in (ATEN.permute.default, ATEN.transpose.int, ATEN.numpy_T.default, ATEN.t.default):
        order = _order(recipe, n)
        return tuple(order.index(axis) for axis in range(n))
    if target in RESHAPED:
        return _kept(shape, recipe.shape)
    return _without_dims(recipe, n) if target in ALONG_DIMS else (None,) * n


def _repeats_voxels_alone(shape: Sequence[int], times: Sequence[int]) -> bool:
    """Only axes of length 1 are repeated: spread, that is."""
    lengths = (1,) * (len(times) - len(shape)) + tuple(shape)
    return all(n == 1 or k == 1 for n, k in zip(lengths, times, strict=True))


def _is_voxel_by_voxel(recipe: Recipe) -> bool:
    tags = getattr(recipe.target, "tags", ())
    random = torch.Tag.nondeterministic_seeded in tags
    return (torch.Tag.pointwise in tags and not random) or recipe.target in VOXEL_BY_VOXEL


def _spread_axes(recipe: Recipe, shape: Sequence[int]) -> set[int]:
    """Axes of the output that an input of one voxel along them, or without them, serves all of."""
    if not _is_voxel_by_voxel(recipe):
        return set()
    before = len(recipe.shape) - len(shape)
    return {axis for axis in range(len(recipe.shape)) if axis < before or shape[axis - before] == 1}


def _argument(recipe: Recipe, name: str) -> Any:
    for place, argument in enumerate(recipe.target._schema.arguments):
        if argument.name == name:
            given = recipe.args[place] if len(recipe.args) > place else recipe.kwargs.get(name)
            return argument.default_value if given is None else given
    return None


def _order(recipe: Recipe, n: int) -> list[int]:
    """The input's axes, as the output has them."""
    order = list(range(n))
    if recipe.target is ATEN.permute.default:
        return [axis % n for axis in recipe.args[1]]
    if recipe.target is ATEN.transpose.int:
        a, b = (axis % n for axis in recipe.args[1:3])
        order[a], order[b] = b, a
        return order
    return order[::-1]


def _kept(shape: Sequence[int], made: Sequence[int]) -> Axes:
    """The equal lengths at both ends stay as they are."""
    n, m = len(shape), len(made)
    first = next((i for i, (a, b) in enumerate(zip(shape, made, strict=False)) if a != b), min(n, m))
    last = next((i for i in range(min(n, m) - first) if shape[n - 1 - i] != made[m - 1 - i]), min(n, m) - first)
    return tuple(a if a < first else a + m - n if a >= n - last else None for a in range(n))


def _without_dims(recipe: Recipe, n: int) -> Axes:
    """An operation along some axes, which it may take away."""
    dims = _argument(recipe, "dim")
    gone = set(range(n)) if dims is None else {dim % n for dim in ([dims] if isinstance(dims, int) else dims)}
    kept: Iterator[int] = iter([axis for axis in range(n) if axis not in gone or len(recipe.shape) == n])
    places = {axis: place for place, axis in enumerate(kept)}
    return tuple(None if axis in gone else places[axis] for axis in range(n))
