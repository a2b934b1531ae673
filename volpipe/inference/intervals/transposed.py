"""Transposed convolutions: input i writes to the outputs i * stride - padding + j * dilation, j < kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from volpipe.geometry import Box
from volpipe.inference.intervals.rule import Call, Needs, cut, rule

ATEN = torch.ops.aten
CONV = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


@dataclass(frozen=True)
class Transposed:
    """The inputs that write to a box, and the outputs cut to it."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    operation: Callable[[Tensor, tuple[int, ...], tuple[int, ...]], Tensor]

    def need(self, out: Box) -> Needs:
        """See `Rule`. Outputs that no input writes to hold the bias alone: one input is read for the shape."""
        axes = range(len(self.size))
        start, stop = zip(*(self._inputs(axis, out.start[axis], out.stop[axis]) for axis in axes), strict=True)
        return (Box(start, stop),)

    def _inputs(self, axis: int, a: int, b: int) -> tuple[int, int]:
        s, p, reach = self.stride[axis], self.padding[axis], (self.kernel[axis] - 1) * self.dilation[axis]
        first = min(-(-(a + p - reach) // s), (a + p) // s)  # the second where a kernel leaves gaps
        first = min(max(0, first), self.size[axis] - 1)
        return first, max(first + 1, min(self.size[axis], (b - 1 + p) // s + 1))

    def run(self, out: Box, inputs: Sequence[Tensor]) -> Tensor:
        """See `Rule`. What both sides have too much is the operation's own padding; the rest is cut."""
        (need,) = self.need(out)
        padding, more, cuts = zip(*(self._cut(axis, out, need) for axis in range(len(self.size))), strict=True)
        written = self.operation(inputs[0], padding, more)
        return cut(written, Box(cuts, tuple(a + n for a, n in zip(cuts, out.shape, strict=True))))

    def _cut(self, axis: int, out: Box, need: Box) -> tuple[int, int, int]:
        """(padding, output padding, first voxel to keep) along an axis."""
        s, p, reach = self.stride[axis], self.padding[axis], (self.kernel[axis] - 1) * self.dilation[axis]
        first, last = need.start[axis] * s - p, (need.stop[axis] - 1) * s - p + reach + 1
        both = max(0, min(out.start[axis] - first, last - out.stop[axis]))
        return both, max(0, out.stop[axis] - last), out.start[axis] - first - both


@rule(ATEN.conv_transpose1d.default, ATEN.conv_transpose2d.input, ATEN.conv_transpose3d.input)
def _transposed(call: Call) -> Transposed:
    weight, bias, groups = call.args[1], call.arg(2, "bias"), call.arg(6, "groups", 1)
    stride, dilation, convolve = call.per_axis(3, "stride", 1), call.per_axis(7, "dilation", 1), CONV[call.ndim]

    def operation(image: Tensor, padding: tuple[int, ...], more: tuple[int, ...]) -> Tensor:
        return convolve(image, weight, bias, stride, padding, more, groups, dilation)

    padding, kernel = call.per_axis(4, "padding", 0), tuple(weight.shape[2:])
    return Transposed(call.sizes[0], kernel, stride, padding, dilation, operation)
