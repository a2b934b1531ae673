"""Convolutions and pooling: output o reads the inputs o * stride - padding + j * dilation, j < kernel.

         face of the volume
. . . .  |  i i i i i i          what lies outside is `fill`: zero, or -inf under a maximum
[ window ]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from volpipe.geometry import Box
from volpipe.inference.intervals.rule import Call, Needs, rule
from volpipe.models import kernels

ATEN = torch.ops.aten
CONV: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: kernels.conv3d}
MAX_POOL = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
AVG_POOL = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


@dataclass(frozen=True)
class Window:
    """One window per output.

    Attributes:
        size: of the input.
        operation: (input, padding per axis) -> output; the padding is zeros.
        fill: what lies outside the volume.
    """

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    operation: Callable[[Tensor, tuple[int, ...]], Tensor]
    fill: float = 0.0

    def seen(self, out: Box) -> Box:
        """The inputs that windows cover, beyond the volume too."""
        start = tuple(a * s - p for a, s, p in zip(out.start, self.stride, self.padding, strict=True))
        axes = zip(out.stop, self.stride, self.padding, self.kernel, self.dilation, strict=True)
        return Box(start, tuple((b - 1) * s - p + (k - 1) * d + 1 for b, s, p, k, d in axes))

    def need(self, out: Box) -> Needs:
        """See `Rule`."""
        return (self.seen(out).intersect(Box.from_shape(self.size)),)

    def run(self, out: Box, inputs: Sequence[Tensor]) -> Tensor:
        """See `Rule`. As much padding as both sides share is the operation's own: no copy of the input."""
        seen, (image,) = self.seen(out), inputs
        sides = [(max(0, -a), max(0, b - n)) for a, b, n in zip(seen.start, seen.stop, self.size, strict=True)]
        own = tuple(min(side) if self.fill == 0 and side[0] == side[1] else 0 for side in sides)
        rest = [side - o for (before, after), o in zip(sides[::-1], own[::-1], strict=True) for side in (before, after)]
        if any(rest):
            image = functional.pad(image, rest, value=self.fill)
        return self.operation(image, own)


@dataclass(frozen=True)
class Average(Window):
    """Pooling by the mean: at faces it divides by the voxels that count, of the volume or of its padding."""

    counts_padding: bool = True

    def run(self, out: Box, inputs: Sequence[Tensor]) -> Tensor:
        """See `Rule`."""
        mean = super().run(out, inputs)
        for axis in range(len(self.size)):
            share = self._share(axis, range(out.start[axis], out.stop[axis]))
            if any(value != 1 for value in share):
                shape = [-1 if a == axis else 1 for a in range(len(self.size))]
                mean = mean * torch.tensor(share, dtype=mean.dtype, device=mean.device).view(1, 1, *shape)
        return mean

    def _share(self, axis: int, outputs: range) -> list[float]:
        """Kernel size over counted voxels, per output."""
        k, s, p, n = self.kernel[axis], self.stride[axis], self.padding[axis], self.size[axis]
        low, high = (-p, n + p) if self.counts_padding else (0, n)
        starts = [o * s - p for o in outputs]
        return [k / (min(a + k, high) - max(a, low)) for a in starts]


@rule(
    ATEN.conv1d.default, ATEN.conv2d.default, ATEN.conv3d.default,
    ATEN.conv1d.padding, ATEN.conv2d.padding, ATEN.conv3d.padding,
)  # fmt: skip
def _convolution(call: Call) -> Window:
    weight, bias = call.args[1], call.arg(2, "bias")
    stride, dilation, groups = call.per_axis(3, "stride", 1), call.per_axis(5, "dilation", 1), call.arg(6, "groups", 1)
    kernel, convolve = tuple(weight.shape[2:]), CONV[call.ndim]

    def operation(image: Tensor, padding: tuple[int, ...]) -> Tensor:
        return convolve(image, weight, bias, stride, padding, dilation, groups)

    return Window(call.sizes[0], kernel, stride, _padding(call, kernel, dilation), dilation, operation)


def _padding(call: Call, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """Before the first voxel; "same" with an even kernel has one less there than at the end, which `seen` sees to."""
    given = call.arg(4, "padding", 0)
    if given == "valid":
        return (0,) * call.ndim
    if given == "same":
        return tuple((k - 1) * d // 2 for k, d in zip(kernel, dilation, strict=True))
    return call.per_axis(4, "padding", 0)


@rule(ATEN.max_pool1d.default, ATEN.max_pool2d.default, ATEN.max_pool3d.default)
def _max_pool(call: Call) -> Window:
    kernel, dilation = call.per_axis(1, "kernel_size", 1), call.per_axis(4, "dilation", 1)
    stride, pool = _pool_stride(call, kernel), MAX_POOL[call.ndim]

    def operation(image: Tensor, padding: tuple[int, ...]) -> Tensor:
        return pool(image, kernel, stride, 0, dilation)

    padding = call.per_axis(3, "padding", 0)
    return Window(call.sizes[0], kernel, stride, padding, dilation, operation, fill=-math.inf)


@rule(ATEN.avg_pool1d.default, ATEN.avg_pool2d.default, ATEN.avg_pool3d.default)
def _avg_pool(call: Call) -> Average:
    if call.arg(6, "divisor_override") is not None:
        raise call.refused("has divisor_override, which has no interval rule")
    kernel = call.per_axis(1, "kernel_size", 1)
    stride, pool = _pool_stride(call, kernel), AVG_POOL[call.ndim]

    def operation(image: Tensor, padding: tuple[int, ...]) -> Tensor:
        return pool(image, kernel, stride, padding, False, True)

    counts: Any = call.arg(5, "count_include_pad", True)
    return Average(
        call.sizes[0], kernel, stride, call.per_axis(3, "padding", 0), (1,) * call.ndim, operation,
        counts_padding=bool(counts),
    )  # fmt: skip


def _pool_stride(call: Call, kernel: tuple[int, ...]) -> tuple[int, ...]:
    return call.per_axis(2, "stride", 1) if call.arg(2, "stride") else kernel
