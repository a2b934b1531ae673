"""One slab, read at any level of halved y and x; z is kept.

    stored pyramid  0   1   2        levels of the slab: 0 is the one that is registered, k has y and x halved k times
    levels          0   1   2   3    what is not stored, or not with all layers, is pooled from the finer level that is

Convention: float32; NaN is not known, nor is the slab's fill; a slab that lies upside down is read the right way up.
Level k covers what it can of level 0, its last voxel may hang over (SlabFrame).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.geometry import Box, SlabFrame
from volpipe.volume import Source, TurnedOver, levels_of, open_source, turned_layers
from volpipe.volume.downsample import downsample

Layers = NDArray[np.float32]  # (z, y, x)
LEAST_KNOWN = 0.5  # of the voxels that are pooled to one
AGREE = 0.01  # voxel sizes are written with two or three digits


@dataclass(frozen=True)
class SlabReader:
    """Reads any layers of a slab; picklable, small.

    Attributes:
        frame: of its plane.
        first, count: its layers in the volume.
        sources: by level, those that are stored; one channel each.
        fill: value of voxels that hold nothing, if one does. Of a stored level what is all fill: voxels at its edge
            are mixtures, which fade with what is not known (`registration.window.faded`).
    """

    frame: SlabFrame
    first: int
    count: int
    sources: tuple[tuple[int, Source], ...]
    fill: float | None = None

    def read(self, level: int, box: Box, layers: range) -> Layers:
        """The voxels of a box (y, x) that lies within the slab."""
        stored, source = [each for each in self.sources if each[0] <= level][-1]
        factor = 2 ** (level - stored)
        out = np.empty((len(layers), *box.shape), np.float32)
        for rows in _strips(box, max(1, -(-source.chunk[1] // factor))):  # whole chunks, little at once
            voxels = self._known(source.read(self._stored(rows, factor, source, layers)))
            out[:, *rows.relative_to(box.start).slices] = _pooled(voxels, factor)[0]
        return out

    def _known(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Voxels as float32, NaN where they are fill."""
        voxels = stored.astype(np.float32)
        if self.fill is not None:
            voxels[stored == self.fill] = np.nan
        return voxels

    @property
    def turned_over(self) -> SlabReader:
        """The same slab the other way up. Stored levels whose voxels would then lie across those of others are pooled
        instead."""
        depth, _, width = self.sources[0][1].shape
        first, _ = turned_layers(self.first, self.first + self.count, depth)
        aligned = [(level, TurnedOver.of(source)) for level, source in self.sources if width % 2**level == 0]
        return replace(self, first=first, sources=tuple(aligned))

    def strip_bytes(self, level: int, layers: int) -> int:
        """Memory that reading a whole level takes beside the result."""
        stored, source = [each for each in self.sources if each[0] <= level][-1]
        rows = max(source.chunk[1], 2 ** (level - stored))
        deep = (-(-layers // source.chunk[0]) + 1) * source.chunk[0]
        voxel_bytes = 2 * deep * int(source.dtype.itemsize) + 16 * layers
        return int(rows * source.shape[2] * voxel_bytes)

    def _stored(self, rows: Box, factor: int, source: Source, layers: range) -> Box:
        start = [a * factor for a in rows.start]
        stop = [min(b * factor, n) for b, n in zip(rows.stop, source.shape[1:], strict=True)]
        return Box((self.first + layers.start, *start), (self.first + layers.stop, *stop))


def _pooled(voxels: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Means of what is known, (c, z, y, x); not known where less than half is: one voxel takes no block with it."""
    if factor == 1:
        return voxels
    factors, known = (1, factor, factor), np.isfinite(voxels)
    if known.all():
        return downsample(voxels, factors, "mean")
    share = downsample(known.astype(np.float32), factors, "mean")
    mean = downsample(np.where(known, voxels, np.float32(0)), factors, "mean")
    return np.where(share >= LEAST_KNOWN, mean / np.maximum(share, LEAST_KNOWN), np.float32(np.nan))


def _strips(box: Box, step: int) -> Iterator[Box]:
    """The box (y, x) in strips that end at multiples of a step, so that a row of chunks is read once."""
    row = box.start[0]
    while row < box.stop[0]:
        stop = min((row // step + 1) * step, box.stop[0])
        yield Box((row, box.start[1]), (stop, box.stop[1]))
        row = stop


def stored_levels(location: str, registered: Source, level: int, channel: int | None) -> tuple[tuple[int, Source], ...]:
    """The levels of a pyramid from the registered one on that keep its layers and halve y and x, finest first."""
    found: list[tuple[int, Source]] = [(0, registered)]
    for info in levels_of(location)[level + 1 :]:
        halved = found[-1][0] + 1
        if _is_halved(info.voxel_size_um, info.shape, registered, halved):
            found.append((halved, open_source(location, level=info.level, channel=channel)))
    return tuple(found)


def _is_halved(size_um: Sequence[float] | None, shape: Sequence[int], registered: Source, times: int) -> bool:
    if size_um is None or registered.voxel_size_um is None:
        return False
    factors = (1, 2**times, 2**times)
    wanted = [size * factor for size, factor in zip(registered.voxel_size_um, factors, strict=True)]
    covering = [-(-n // factor) for n, factor in zip(registered.shape, factors, strict=True)]
    return bool(np.allclose(size_um, wanted, rtol=AGREE)) and list(shape) == covering
