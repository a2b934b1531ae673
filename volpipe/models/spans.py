"""What a layer reads: the span of inputs behind a span of outputs, along one axis.

          [start      stop)      outputs of the layer
         /                 \\
    [start                stop)  inputs that they depend on

Convention: half-open spans of whole voxels in the coordinates of the layer's own tensors, on an endless
line: at the faces of a volume a span is clipped and the network's own padding acts. Applied from a network's
last layer to its first, a span of one period gives the network's need before and after it. No torch, no
arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Upsampling = Literal["nearest", "transposed", "bilinear"]


@dataclass(frozen=True, slots=True)
class Span:
    """The voxels `start <= v < stop` along one axis."""

    start: int
    stop: int

    def shift(self, by: int) -> Span:
        """The same span, `by` voxels further."""
        return Span(self.start + by, self.stop + by)

    def hull(self, other: Span) -> Span:
        """The smallest span that holds both."""
        return Span(min(self.start, other.start), max(self.stop, other.stop))

    def conv(self, kernel: int, stride: int = 1, padding: int = 0) -> Span:
        """Read by a convolution; output o reads o * stride - padding and the kernel - 1 inputs after it."""
        return Span(self.start * stride - padding, (self.stop - 1) * stride - padding + kernel)

    def pool(self, factor: int) -> Span:
        """Read by a pooling whose windows do not overlap."""
        return self.conv(factor, factor)

    def transposed_conv(self, kernel: int, stride: int, padding: int = 0) -> Span:
        """Read by a transposed convolution; input i reaches outputs i * stride - padding + [0, kernel)."""
        return Span(-((kernel - 1 - self.start - padding) // stride), (self.stop - 1 + padding) // stride + 1)

    def linear(self, factor: int) -> Span:
        """Read by linear upsampling without align_corners; output o lies at (o + 1/2) / factor - 1/2."""
        first = (2 * self.start + 1 - factor) // (2 * factor)
        last = -((factor - 1 - 2 * (self.stop - 1)) // (2 * factor))
        return Span(first, last + 1)

    def upsampled(self, how: Upsampling, factor: int) -> Span:
        """Read by an upsampling; where a transposed convolution's kernel is its stride it reads as nearest."""
        return self.linear(factor) if how == "bilinear" else self.transposed_conv(factor, factor)
