"""Operations that move voxels: each output index reads one input index along every axis, or none and is `fill`.

Padding (zero, reflect, replicate, circular), slices, rolls, flips and nearest upsampling by any factor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from volpipe.geometry import Box
from volpipe.inference.intervals.pointwise import per_voxel
from volpipe.inference.intervals.rule import Call, Needs, Rule, rule

ATEN = torch.ops.aten
Index = Callable[[int], int | None]


@dataclass(frozen=True)
class Gather:
    """Indices.

    Attributes:
        index: per axis, the input that an output reads; None only at the ends.
        fill: what stands where none is read.
        shift: of padding, per axis: an output lies so many voxels before the input of its number.
    """

    index: tuple[Index, ...]
    fill: float = 0.0
    shift: tuple[int, ...] | None = None

    def seen(self, out: Box) -> Box:
        """Of padding: where the outputs lie among the inputs, beyond them too."""
        return out.relative_to(self.shift or (0,) * out.ndim)

    def need(self, out: Box) -> Needs:
        """See `Rule`. A box that reads nothing still reads one voxel, for the shape."""
        spans = []
        for read, a, b in zip(self.index, out.start, out.stop, strict=True):
            inside = [i for i in map(read, range(a, b)) if i is not None]
            spans.append((min(inside), max(inside) + 1) if inside else (0, 1))
        start, stop = zip(*spans, strict=True)
        return (Box(start, stop),)

    def run(self, out: Box, inputs: Sequence[Tensor]) -> Tensor:
        """See `Rule`. Straight runs are views; a mirror or a wrap is an index."""
        (need,), (image,) = self.need(out), inputs
        sides: list[int] = []  # torch lists the last axis first
        for axis, read in enumerate(self.index):
            indices = [read(o) for o in range(out.start[axis], out.stop[axis])]
            inside = [i - need.start[axis] for i in indices if i is not None]
            before = next((n for n, i in enumerate(indices) if i is not None), len(indices))
            sides = [before, len(indices) - before - len(inside), *sides]
            if not inside:
                image = image.narrow(2 + axis, 0, 0)
            elif inside != list(range(need.shape[axis])):
                image = image.index_select(2 + axis, torch.tensor(inside, device=image.device))
        return functional.pad(image, sides, value=self.fill) if any(sides) else image


def _same(index: int) -> int:
    return index


def _along(call: Call, axis: int, index: Index) -> Gather:
    """Along one spatial axis alone."""
    return Gather(tuple(index if a == axis else _same for a in range(call.ndim)))


PADDED: dict[str, Callable[[int, int], int | None]] = {  # index before the first voxel or behind the last, length
    "constant": lambda i, n: i if 0 <= i < n else None,
    "reflect": lambda i, n: abs(i) if i < n else 2 * (n - 1) - i,
    "replicate": lambda i, n: min(max(i, 0), n - 1),
    "circular": lambda i, n: i % n,
}


@rule(ATEN.pad.default, ATEN.constant_pad_nd.default)
def _pad(call: Call) -> Gather:
    has_mode = call.target is ATEN.pad.default
    sides = [*call.args[1], *[0] * (2 * call.ndim)]
    if any(sides[2 * call.ndim :]):
        raise call.refused("pads channels, which has no interval rule")
    padded = PADDED[call.arg(2, "mode", "constant") if has_mode else "constant"]
    fill = call.arg(3, "value") if has_mode else call.arg(2, "value")

    def index(before: int, length: int) -> Index:
        return lambda o: padded(o - before, length)

    befores = tuple(sides[2 * call.ndim - 2 :: -2])  # torch lists the last axis first
    axes = zip(befores, call.sizes[0], strict=True)
    return Gather(tuple(index(before, n) for before, n in axes), float(fill or 0), befores)


@rule(ATEN.slice.Tensor)
def _slice(call: Call) -> Rule:
    axis = call.arg(1, "dim", 0) % (2 + call.ndim) - 2
    if axis < 0:
        return per_voxel(call)
    start, step = call.arg(2, "start") or 0, call.arg(4, "step", 1)
    start = max(0, start + call.sizes[0][axis]) if start < 0 else start
    return _along(call, axis, lambda o: o * step + start)


@rule(ATEN.narrow.default)
def _narrow(call: Call) -> Rule:
    axis, start = call.args[1] % (2 + call.ndim) - 2, call.args[2]
    if axis < 0:
        return per_voxel(call)
    start = max(0, start + call.sizes[0][axis]) if start < 0 else start
    return _along(call, axis, lambda o: o + start)


@rule(ATEN.roll.default)
def _roll(call: Call) -> Rule:
    dims = [dim % (2 + call.ndim) for dim in call.arg(2, "dims", ())]
    if not dims:
        raise call.refused("rolls all axes as one, which has no interval rule")
    if min(dims) < 2:
        raise call.refused("rolls channels, which has no interval rule")
    by = dict(zip(dims, call.args[1], strict=True))

    def index(shift: int, length: int) -> Index:
        return lambda o: (o - shift) % length

    return Gather(tuple(index(by.get(2 + axis, 0), n) for axis, n in enumerate(call.sizes[0])))


@rule(ATEN.flip.default)
def _flip(call: Call) -> Rule:
    dims = {dim % (2 + call.ndim) for dim in call.args[1]}
    if min(dims) < 2:
        raise call.refused("flips channels, which has no interval rule")

    def index(axis: int, length: int) -> Index:
        return (lambda o: length - 1 - o) if 2 + axis in dims else _same

    return Gather(tuple(index(axis, n) for axis, n in enumerate(call.sizes[0])))
