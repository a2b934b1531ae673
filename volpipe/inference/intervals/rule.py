"""What an operation needs and how it runs on a box; one small class each, found by the operation's name.

    need(out)        the box of each volumetric input that the box `out` of its output depends on
    run(out, inputs) the output on exactly `out`, of the inputs on exactly need(out)

Users add their own:

    @rule(torch.ops.mylib.sharpen.default)
    def _(call: Call) -> Rule: ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from volpipe.errors import ModelError
from volpipe.geometry import Box

Needs = tuple[Box, ...]


class Rule(Protocol):
    """See the module; a rule belongs to one operation of one program."""

    def need(self, out: Box) -> Needs:
        """The box of each volumetric input, inside its whole size."""
        ...

    def run(self, out: Box, inputs: Sequence[Tensor]) -> Tensor:
        """(n, c, ...) on `out`; the inputs are not changed."""
        ...


class CannotCapture(ModelError):
    """A network that intervals cannot run: overlap can, where its footprint is known."""


@dataclass(frozen=True)
class Volume:
    """Stands for a volumetric input among the arguments of an operation: a tensor (n, c, spatial axes)."""

    number: int


@dataclass(frozen=True)
class Call:
    """An operation of a captured network.

    Attributes:
        target: the operator.
        args, kwargs: volumetric inputs as `Volume`, weights and other constants as they are.
        sizes: spatial size of each volumetric input, of the whole volume.
        size: of the output.
        where: the module that calls it.
        dtype: of the output.
        pick: which of several results the output is; None if the operation has one.
        channels: of the output.
        flat: some tensor lacks the axes of space, as behind `flatten`; all of its inputs are of one voxel, or `split`
            makes them so.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    sizes: tuple[tuple[int, ...], ...]
    size: tuple[int, ...]
    where: str = ""
    dtype: Any = None
    pick: int | None = None
    channels: int = 0
    flat: bool = False

    @property
    def name(self) -> str:
        """As torch writes it."""
        return str(self.target.name()) if hasattr(self.target, "name") else str(self.target.__name__)

    @property
    def ndim(self) -> int:
        """Spatial axes."""
        return len(self.size)

    def arg(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by its place or its name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def per_axis(self, place: int, name: str, default: int) -> tuple[int, ...]:
        """An argument that is one number or one for each spatial axis."""
        value = self.arg(place, name, default)
        values = (value,) if isinstance(value, int) else tuple(value)
        return values * self.ndim if len(values) == 1 else values

    @property
    def tensors(self) -> list[Tensor]:
        """Weights and constants."""
        return [each for each in tree_leaves((self.args, self.kwargs)) if isinstance(each, Tensor)]

    def to(self, device: str | torch.device) -> Call:
        """The same call with its weights and constants there."""
        args, kwargs = tree_map_only(Tensor, lambda each: each.to(device), (self.args, self.kwargs))
        return replace(self, args=args, kwargs=kwargs)

    def refused(self, why: str = "has no interval rule") -> CannotCapture:
        """The error that names the operation and its module."""
        return CannotCapture(f"operation {self.name} of module {self.where or 'the network itself'} {why}")


def cut(image: Tensor, box: Box) -> Tensor:
    """A view of the voxels of a box; its coordinates are the image's own."""
    index: tuple[Any, ...] = (..., *box.slices)
    return image[index]


@dataclass(frozen=True)
class AsItStands:
    """The rule of operations on what a pooling over everything leaves: there is nothing to cut."""

    call: Call

    def need(self, out: Box) -> Needs:
        """See `Rule`."""
        return tuple(map(Box.from_shape, self.call.sizes))

    def run(self, out: Box, inputs: Sequence[Tensor]) -> Tensor:
        """See `Rule`; the tensors may have other axes."""
        call = self.call
        args, kwargs = tree_map_only(Volume, lambda each: inputs[each.number], (call.args, call.kwargs))
        made: Any = call.target(*args, **kwargs)
        return made if call.pick is None else made[call.pick]  # type: ignore[no-any-return]


Builder = Callable[[Call], Rule]
B = TypeVar("B", bound=Builder)
_BUILDERS: dict[Any, Builder] = {}


def rule(*targets: Any) -> Callable[[B], B]:
    """Register the maker of a rule for operators; a later one takes the place of an earlier one."""

    def register(builder: B) -> B:
        _BUILDERS.update(dict.fromkeys(targets, builder))
        return builder

    return register


def rule_of(call: Call) -> Rule:
    """The rule of an operation.

    Raises:
        CannotCapture: it has none.
    """
    if call.flat:
        return AsItStands(call)
    builder = _BUILDERS.get(call.target)
    if builder is None:
        raise call.refused()
    return builder(call)
