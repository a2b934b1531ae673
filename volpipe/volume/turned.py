"""A volume turned over: what was stored upside down, as it is the right way up.

stored z, y, x   ->   depth - 1 - z, y, width - 1 - x        half a turn about the y axis, which mirrors nothing
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.geometry import Box
from volpipe.volume.source import Source


@dataclass(frozen=True)
class TurnedOver:
    """A source that reads another one turned over; see `Source` for its attributes."""

    source: Source
    location: str
    axes: str
    shape: tuple[int, int, int]
    channels: int
    dtype: np.dtype[Any]
    voxel_size_um: tuple[float, float, float] | None
    translation_um: tuple[float, float, float]
    chunk: tuple[int, int, int]

    @classmethod
    def of(cls, source: Source) -> TurnedOver:
        """Turn a volume over, about the axis z = 0, x = 0 of its micrometres, so that its levels stay together."""
        size, (z, y, x) = source.voxel_size_um, source.translation_um
        depth, _, width = source.shape
        last = (0.0, 0.0) if size is None else ((depth - 1) * size[0], (width - 1) * size[2])
        return cls(
            source,
            source.location,
            source.axes,
            source.shape,
            source.channels,
            source.dtype,
            size,
            (-(z + last[0]), y, -(x + last[1])),
            source.chunk,
        )

    def read(self, box: Box) -> NDArray[Any]:
        """As `Source.read`."""
        (depth, _, width), start, stop = self.shape, box.start, box.stop
        stored = Box((depth - stop[0], start[1], width - stop[2]), (depth - start[0], stop[1], width - start[2]))
        return np.ascontiguousarray(self.source.read(stored)[:, ::-1, :, ::-1])

    def identity(self) -> dict[str, Any]:
        """As `Source.identity`."""
        return {**self.source.identity(), "turned_over": True}


def turned_layers(first: int, stop: int, depth: int) -> tuple[int, int]:
    """A run of layers of a volume as it is counted once that is turned over."""
    return depth - stop, depth - first
