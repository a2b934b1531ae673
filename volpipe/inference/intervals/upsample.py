"""Upsampling: nearest and linear by whole factors, by any other through the indices; pixel shuffle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from volpipe.geometry import Box
from volpipe.inference.intervals.gather import Gather, Index
from volpipe.inference.intervals.rule import Call, Needs, Rule, cut, rule

ATEN = torch.ops.aten
LARGEST_FACTOR = 8  # of one voxel all of its outputs are made, and cut; of pooling over everything that is the volume
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Enlarge:
    """By whole factors: the operation on the slice, cut.

    Attributes:
        size: of the input.
        factors: outputs per input, per axis.
        operation: of the slice.
        linear: whether an output lies between two inputs: half a voxel to each side.
    """

    size: tuple[int, ...]
    factors: tuple[int, ...]
    operation: Callable[[Tensor], Tensor]
    linear: bool = False

    def need(self, out: Box) -> Needs:
        """See `Rule`."""
        start, stop = zip(*map(self._inputs, out.start, out.stop, self.factors), strict=True)
        return (Box(start, stop).intersect(Box.from_shape(self.size)),)

    def _inputs(self, a: int, b: int, factor: int) -> tuple[int, int]:
        if not self.linear or factor == 1:
            return a // factor, (b - 1) // factor + 1
        first, last = ((2 * o + 1 - factor) // (2 * factor) for o in (a, b - 1))
        return first, last + 2

    def run(self, out: Box, inputs: Sequence[Tensor]) -> Tensor:
        """See `Rule`."""
        (need,) = self.need(out)
        origin = tuple(a * factor for a, factor in zip(need.start, self.factors, strict=True))
        return cut(self.operation(inputs[0]), out.relative_to(origin))


@dataclass(frozen=True)
class Between:
    """Linear by any factor, axis after axis.

    Attributes:
        size: of the input.
        places: per axis, where among the inputs an output lies.
    """

    size: tuple[int, ...]
    places: tuple[Callable[[int], float], ...]

    def need(self, out: Box) -> Needs:
        """See `Rule`."""
        spans = [self._ends(axis, out) for axis in range(len(self.size))]
        start, stop = zip(*((lows[0], highs[-1] + 1) for lows, highs, _ in spans), strict=True)
        return (Box(start, stop),)

    def run(self, out: Box, inputs: Sequence[Tensor]) -> Tensor:
        """See `Rule`."""
        (need,), (image,) = self.need(out), inputs
        for axis, first in enumerate(need.start):
            lows, highs, shares = self._ends(axis, out)
            low, high = (torch.tensor([i - first for i in ends], device=image.device) for ends in (lows, highs))
            shape = [-1 if a == axis else 1 for a in range(len(self.size))]
            share = torch.tensor(shares, dtype=image.dtype, device=image.device).view(1, 1, *shape)
            image = torch.lerp(image.index_select(2 + axis, low), image.index_select(2 + axis, high), share)
        return image

    def _ends(self, axis: int, out: Box) -> tuple[list[int], list[int], list[float]]:
        """Per output the two inputs that it lies between, and its share of the second."""
        last, place = self.size[axis] - 1, self.places[axis]
        places = [place(o) for o in range(out.start[axis], out.stop[axis])]
        lows = [min(int(p), last) for p in places]
        return lows, [min(i + 1, last) for i in lows], [p - i for p, i in zip(places, lows, strict=True)]


@rule(
    ATEN.upsample_nearest1d.default, ATEN.upsample_nearest2d.default, ATEN.upsample_nearest3d.default,
    ATEN.upsample_nearest1d.vec, ATEN.upsample_nearest2d.vec, ATEN.upsample_nearest3d.vec,
)  # fmt: skip
def _nearest(call: Call) -> Rule:
    scales = _scales(call, 2)
    factors = _whole_factors(call, scales)
    if factors is not None:
        return Enlarge(call.sizes[0], factors, _interpolation(factors, "nearest"))

    def index(n: int, m: int, scale: float | None) -> Index:
        step = 1 / scale if scale else n / m
        return lambda o: min(int(o * step), n - 1)

    return Gather(tuple(map(index, call.sizes[0], call.size, scales)))


@rule(
    ATEN.upsample_linear1d.default, ATEN.upsample_bilinear2d.default, ATEN.upsample_trilinear3d.default,
    ATEN.upsample_linear1d.vec, ATEN.upsample_bilinear2d.vec, ATEN.upsample_trilinear3d.vec,
)  # fmt: skip
def _linear(call: Call) -> Rule:
    corners, scales = bool(call.arg(2, "align_corners", False)), _scales(call, 3)
    factors = None if corners else _whole_factors(call, scales)
    if factors is not None:
        return Enlarge(call.sizes[0], factors, _interpolation(factors, LINEAR[call.ndim]), linear=True)

    def place(n: int, m: int, scale: float | None) -> Callable[[int], float]:
        if corners:
            return lambda o: o * (n - 1) / (m - 1) if m > 1 else 0.0
        step = 1 / scale if scale else n / m
        return lambda o: max(0.0, (o + 0.5) * step - 0.5)

    return Between(call.sizes[0], tuple(map(place, call.sizes[0], call.size, scales)))


def _scales(call: Call, place: int) -> list[float | None]:
    """The factors that were given per axis; None where sizes were."""
    if call.name.endswith(".vec"):
        given = call.arg(place, "scale_factors")
        return list(given) if given else [None] * call.ndim
    return [call.args[place + a] if len(call.args) > place + a else None for a in range(call.ndim)]


def _whole_factors(call: Call, scales: Sequence[float | None]) -> tuple[int, ...] | None:
    factors = []
    for n, m, scale in zip(call.sizes[0], call.size, scales, strict=True):
        if m % n or (scale and m // n != scale) or m // n > LARGEST_FACTOR:
            return None
        factors.append(m // n)
    return tuple(factors)


def _interpolation(factors: tuple[int, ...], mode: str) -> Callable[[Tensor], Tensor]:
    scales = [float(factor) for factor in factors]
    return lambda image: functional.interpolate(image, scale_factor=scales, mode=mode)


@rule(ATEN.pixel_shuffle.default)
def _pixel_shuffle(call: Call) -> Enlarge:
    factor = call.args[1]
    return Enlarge(call.sizes[0], (factor,) * call.ndim, lambda image: functional.pixel_shuffle(image, factor))
