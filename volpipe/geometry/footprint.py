"""What a network must see to compute a block of its output: context, alignment and sizes, per axis.

    read  t0 |....need_before....[a  own  b)....need_after....| t1     t0 = floor_P(a - before), t1 = ceil_P(b + after)
             0 mod P                               size class mod P    clipped to the volume

Convention: input voxels, but for `own`, a block of outputs [a, b): output o covers the inputs [o, o + 1) / scale, which
are the same voxels where the network keeps the resolution. The need is that of a block with a and b 0 mod P, so any
other block is rounded out to one first. For a network that keeps its size (`lost == 0`) the tiled
result is the whole-volume result iff the read covers the need **and** starts at 0 mod period on the volume's grid.
A volume whose length is not in the size class, or below `smallest`, is *defined* to be padded at its end, for every
tile the same. A read below `smallest` sees more of the volume: after it, or before it where the volume ends.
A network that takes one length only has no need and no whole-volume result: it has a `window`.
Source: Rumberger et al., ICCV 2021 (shift equivariance of U-Nets); closed forms stand with each model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from volpipe.errors import GeometryError
from volpipe.geometry.box import Box
from volpipe.geometry.grid import ceil_to, floor_to


@dataclass(frozen=True, slots=True)
class AxisFootprint:
    """One axis of a footprint.

    Attributes:
        need_before, need_after: input voxels needed before and after an aligned block of output.
        period: shifts by this many voxels shift the output and change nothing else; of a network with a fixed window
            its token, on whose lattice windows lie.
        size_class: admissible input lengths are `size_class` modulo `period`.
        lost: voxels by which the output is shorter than the input, in outputs (0 for padded convolutions).
        scale: output voxels per input voxel.
        window: the only length that the network takes; None if it takes many.
        smallest: no shorter input is admissible.
    """

    need_before: int = 0
    need_after: int = 0
    period: int = 1
    size_class: int = 0
    lost: int = 0
    scale: Fraction = Fraction(1)
    window: int | None = None
    smallest: int = 1

    def __post_init__(self) -> None:
        if self.period < 1:
            raise GeometryError(f"footprint: period {self.period}; give 1 or more")
        if min(self.need_before, self.need_after) < 0 and self.lost == 0:
            raise GeometryError(f"footprint: need {self.need_before}, {self.need_after}; give 0 or more")
        if self.scale <= 0 or (self.period * self.scale).denominator != 1:
            raise GeometryError(
                f"footprint: scale {self.scale} at period {self.period}; a period must give whole voxels"
            )
        if self.window is not None and (self.window < 1 or self.window % self.period):
            raise GeometryError(f"footprint: window {self.window}; give a multiple of its token {self.period}")
        if self.smallest < 1:
            raise GeometryError(f"footprint: smallest {self.smallest}; give 1 or more")

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> AxisFootprint:
        """What `as_json` wrote."""
        return cls(**{**stored, "scale": Fraction(stored["scale"])})

    def as_json(self) -> dict[str, Any]:
        """Plain values by field; a scale is text, as "1/4"."""
        return {**asdict(self), "scale": str(self.scale)}

    @property
    def output_period(self) -> int:
        """Outputs of one period."""
        return int(self.period * self.scale)

    @property
    def lost_inputs(self) -> int:
        """Input voxels without an output, or with some of theirs alone: `lost`, in voxels of the input."""
        return math.ceil(self.lost / self.scale)

    @property
    def first_output(self) -> int:
        """The voxel of the product that a network without padding gives first: it loses as much on both sides."""
        return self.lost // 2

    @property
    def halo_before(self) -> int:
        """`need_before` rounded up to the period: what a reader of aligned blocks reads."""
        return ceil_to(max(0, self.need_before), self.period)

    @property
    def halo_after(self) -> int:
        """`need_after` rounded up to the period."""
        return ceil_to(max(0, self.need_after), self.period)

    def admissible(self, length: int) -> int:
        """The shortest admissible input length that is at least `length`."""
        return ceil_to(max(0, max(length, self.smallest) - self.size_class), self.period) + self.size_class

    def read(self, start: int, stop: int, length: int) -> tuple[int, int]:
        """Input range of a tile that owns the outputs [start, stop) of a volume of `length` voxels.

        Returns:
            (t0, t1) with t0 >= 0 and t1 <= admissible(length): past the volume's own end the reader pads.
        """
        start = floor_to(start, self.output_period) * self.period // self.output_period
        stop = ceil_to(stop, self.output_period) * self.period // self.output_period
        first = max(0, floor_to(start - self.need_before, self.period))
        last = first + self.admissible(stop + self.need_after - first)
        return self.lengthened(first, min(last, self.admissible(length)), length)

    def lengthened(self, first: int, last: int, length: int) -> tuple[int, int]:
        """A read of a volume of `length` voxels, with more of its voxels where the network takes none so short."""
        least = self.admissible(1)
        if last - first < least:
            last = min(first + least, self.admissible(length))
        return min(first, last - least), last

    def hull(self, other: AxisFootprint) -> AxisFootprint:
        """What covers both: the larger needs, on a lattice that both know.

        Raises:
            GeometryError: they admit different lengths, or lose voxels.
        """
        plain = (0, 0, Fraction(1), None)
        if any((axis.size_class, axis.lost, axis.scale, axis.window) != plain for axis in (self, other)):
            raise GeometryError(
                "footprint: networks that lose voxels, change the resolution, take lengths off their period or see a "
                "fixed window have no common footprint; give padded ones that do not"
            )
        return AxisFootprint(
            max(self.need_before, other.need_before),
            max(self.need_after, other.need_after),
            math.lcm(self.period, other.period),
            smallest=max(self.smallest, other.smallest),
        )


@dataclass(frozen=True, slots=True)
class Footprint:
    """A network's footprint, one `AxisFootprint` per spatial axis (z, y, x or y, x)."""

    axes: tuple[AxisFootprint, ...]

    @classmethod
    def from_halo(cls, halo: Sequence[int], period: Sequence[int]) -> Footprint:
        """A footprint given by hand: the same context on both sides of each axis."""
        return cls(tuple(AxisFootprint(h, h, p) for h, p in zip(halo, period, strict=True)))

    @classmethod
    def pointwise(cls, ndim: int) -> Footprint:
        """No context, no alignment."""
        return cls((AxisFootprint(),) * ndim)

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.axes)

    @property
    def period(self) -> tuple[int, ...]:
        """Alignment per axis."""
        return tuple(axis.period for axis in self.axes)

    @property
    def output_period(self) -> tuple[int, ...]:
        """Alignment per axis, in outputs: tiles own multiples of it."""
        return tuple(axis.output_period for axis in self.axes)

    @property
    def scale(self) -> tuple[Fraction, ...]:
        """Output voxels per input voxel, per axis."""
        return tuple(axis.scale for axis in self.axes)

    def outputs(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Extent of the product of a volume, before anything is lost: rounded up, the volume is padded at its end."""
        return tuple(math.ceil(n * scale) for n, scale in zip(shape, self.scale, strict=True))

    def inputs(self, box: Box) -> Box:
        """The voxels of the volume that a box of outputs covers."""
        sides = list(zip(box.start, box.stop, self.scale, strict=True))
        return Box(tuple(math.floor(a / s) for a, _, s in sides), tuple(math.ceil(b / s) for _, b, s in sides))

    @property
    def halo(self) -> tuple[tuple[int, int], ...]:
        """(before, after) per axis, rounded up to the period."""
        return tuple((axis.halo_before, axis.halo_after) for axis in self.axes)

    def hull(self, other: Footprint) -> Footprint:
        """What covers both, axis by axis."""
        return Footprint(tuple(mine.hull(their) for mine, their in zip(self.axes, other.axes, strict=True)))

    def along(self, axis: int) -> Footprint:
        """The 3D footprint of this 2D one when its planes are cut across `axis` (0 z, 1 y, 2 x)."""
        axes = list(self.axes)
        axes.insert(axis, AxisFootprint())
        return Footprint(tuple(axes))
