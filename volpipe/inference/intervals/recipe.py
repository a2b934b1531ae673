"""Constants as large as the volume, as coordinates are: made for a box when one is needed, and never whole.

    linspace --meshgrid--> views, which take no memory --stack--> 3 x the volume: a recipe, run on a box of the views

Axes of space are the last ones. An operation is part of a recipe if it does the same on a box of its inputs.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node, tree_leaves

from volpipe.geometry import Box

ATEN = torch.ops.aten
LARGE_BYTES = 64 * 2**20  # a smaller constant is computed once and kept
FILLED = {ATEN.zeros.default, ATEN.ones.default, ATEN.full.default}
VIEWS = {
    ATEN.expand.default, ATEN.unsqueeze.default, ATEN.squeeze.dim, ATEN.view.default, ATEN.permute.default,
    ATEN.transpose.int, ATEN.select.int, ATEN.slice.Tensor, ATEN.alias.default, ATEN.detach.default,
    ATEN.meshgrid.default, ATEN.meshgrid.indexing, operator.getitem,
}  # fmt: skip
AS_THEY_ARE = {
    ATEN.clone.default, ATEN.contiguous.default, ATEN.to.dtype, ATEN._to_copy.default, ATEN.alias.default,
    ATEN.detach.default, ATEN.lift_fresh_copy.default, ATEN.full_like.default, ATEN.zeros_like.default,
    ATEN.ones_like.default,
}  # fmt: skip
ALONG = {ATEN.cat.default, ATEN.stack.default, ATEN.unsqueeze.default}  # an axis, which may not be one of space


@dataclass(frozen=True, eq=False)
class Recipe:
    """One operation.

    Attributes:
        args, kwargs: with tensors and recipes among them.
        shape: of all that it makes.
        ndim: axes of space.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shape: tuple[int, ...]
    ndim: int

    def on(self, box: Box) -> Tensor:
        """The part of it on a box, whose last axes are those of the box."""
        args, kwargs = (_on(each, box) for each in (self.args, self.kwargs))
        if self.target is ATEN.expand.default:
            args = (args[0], [*self.shape[: -self.ndim], *box.shape])
        made: Tensor = self.target(*args, **kwargs)
        return made

    @property
    def is_of_recipes(self) -> bool:
        """One of its inputs has no values."""
        leaves = tree_leaves([self.args, self.kwargs], is_leaf=lambda each: isinstance(each, Recipe))
        return any(isinstance(each, Recipe) for each in leaves)

    @property
    def is_local(self) -> bool:
        """It does the same on a box."""
        if self.target in ALONG:
            axis = self.args[1] if len(self.args) > 1 else self.kwargs.get("dim", 0)
            return bool(axis % len(self.shape) < len(self.shape) - self.ndim)
        pointwise = torch.Tag.pointwise in getattr(self.target, "tags", ())
        return pointwise or self.target in AS_THEY_ARE or self.target is ATEN.expand.default


register_pytree_node(
    Recipe,
    lambda each: ([each.args, each.kwargs], (each.target, each.shape, each.ndim)),
    lambda parts, rest: Recipe(rest[0], *parts, *rest[1:]),
)


def _on(value: Any, box: Box) -> Any:
    if isinstance(value, Recipe):
        return value.on(box)
    if isinstance(value, Tensor):
        return part_of(value, box)
    if isinstance(value, Mapping):
        return {name: _on(each, box) for name, each in value.items()}
    return [_on(each, box) for each in value] if isinstance(value, list | tuple) else value


def part_of(tensor: Tensor, box: Box) -> Tensor:
    """A view; axes of one voxel, or that the tensor lacks, serve all of the volume."""
    sides = list(box.slices)[-tensor.ndim :] if tensor.ndim else []
    lengths = tensor.shape[tensor.ndim - len(sides) :]
    index: tuple[Any, ...] = tuple(slice(None) if n == 1 else side for side, n in zip(sides, lengths, strict=True))
    return tensor[(..., *index)]


def made_of(recipe: Recipe) -> Tensor | Recipe | None:
    """The large constant: itself where it takes no memory, else its recipe; None if it has to be made whole."""
    target, args, kwargs = recipe.target, recipe.args, recipe.kwargs
    if target in FILLED:
        filled: Tensor = target([1] * len(recipe.shape), *args[1:], **kwargs).expand(recipe.shape)
        return filled
    if target in VIEWS and not recipe.is_of_recipes:
        return target(*args, **kwargs)  # type: ignore[no-any-return]
    return recipe if recipe.is_local else None
