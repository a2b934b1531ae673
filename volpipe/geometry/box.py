"""Boxes: half-open boxes of voxels, one (start, stop) per axis.

Convention: voxels of level 0 unless said otherwise, axis order z, y, x (or y, x), start included, stop excluded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from volpipe.errors import GeometryError


@dataclass(frozen=True, slots=True)
class Box:
    """The voxels `start[i] <= v[i] < stop[i]`; may be empty, may have negative coordinates."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.start) != len(self.stop):
            raise GeometryError(f"box: start has {len(self.start)} axes and stop {len(self.stop)}; give as many")

    @classmethod
    def from_shape(cls, shape: Iterable[int]) -> Box:
        """The box of an array of this shape: it starts at the origin."""
        stop = tuple(int(n) for n in shape)
        return cls((0,) * len(stop), stop)

    @classmethod
    def parse(cls, text: str) -> Box:
        """Read `z0:z1,y0:y1,x0:x1`, the form of `--bbox`.

        Raises:
            GeometryError: the text is not three non-empty ranges of whole numbers.
        """
        try:
            pairs = [tuple(int(n) for n in part.split(":")) for part in text.split(",")]
            start, stop = (tuple(side) for side in zip(*pairs, strict=True))
        except ValueError:
            raise GeometryError(f"box {text!r}: give z0:z1,y0:y1,x0:x1 in voxels, as 0:64,128:256,0:512") from None
        box = cls(start, stop)
        if len(start) != 3 or box.is_empty:
            raise GeometryError(f"box {text!r}: give three ranges, each with its start below its stop")
        return box

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.start)

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent per axis, zero where the box is empty."""
        return tuple(max(0, b - a) for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def is_empty(self) -> bool:
        """True if the box holds no voxel."""
        return any(b <= a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index an array that starts at this box's origin of coordinates."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def shift(self, by: Sequence[int]) -> Box:
        """Move by `by` voxels per axis."""
        return Box(
            tuple(a + d for a, d in zip(self.start, by, strict=True)),
            tuple(b + d for b, d in zip(self.stop, by, strict=True)),
        )

    def relative_to(self, origin: Sequence[int]) -> Box:
        """The same voxels in coordinates that start at `origin`."""
        return self.shift([-o for o in origin])

    def intersect(self, other: Box) -> Box:
        """Voxels in both; may be empty."""
        return Box(
            tuple(max(a, c) for a, c in zip(self.start, other.start, strict=True)),
            tuple(min(b, d) for b, d in zip(self.stop, other.stop, strict=True)),
        )

    def hull(self, other: Box) -> Box:
        """The smallest box that holds both."""
        return Box(
            tuple(min(a, c) for a, c in zip(self.start, other.start, strict=True)),
            tuple(max(b, d) for b, d in zip(self.stop, other.stop, strict=True)),
        )

    def without(self, axis: int | None) -> Box:
        """What of it lies in a plane across an axis; itself for None."""
        if axis is None:
            return self
        return Box((*self.start[:axis], *self.start[axis + 1 :]), (*self.stop[:axis], *self.stop[axis + 1 :]))

    def across(self, axis: int | None, planes: range) -> Box:
        """The same part of neighbouring planes across an axis, one that the box lacks; itself for None."""
        if axis is None:
            return self
        start = (*self.start[:axis], planes.start, *self.start[axis:])
        return Box(start, (*self.stop[:axis], planes.stop, *self.stop[axis:]))

    def contains(self, other: Box) -> bool:
        """True if every voxel of `other` lies in this box."""
        return other.is_empty or self.intersect(other) == other

    def __str__(self) -> str:
        return ",".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True))
