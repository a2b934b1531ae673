"""What a stored volume looks like: extents, dtype, voxel size, chunk and shard; no zarr here.

Convention: z, y, x; voxels; micrometres. One channel is stored as (z, y, x), several as (c, z, y, x) with all
channels in one chunk and one shard, so that a block is whole shards whatever the number of channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from volpipe.errors import GeometryError, VolumeError
from volpipe.geometry import Block, BlockGrid, Box, ceil_to
from volpipe.volume.multiscale import coarser_placement, level_shape

Triple = tuple[int, int, int]
STORED_DTYPES = (
    *("uint8", "uint16", "uint32", "uint64"),
    *("int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64"),
)


@dataclass(frozen=True)
class Extents:
    """The three shapes of one level. Law: the chunk is at most the volume, the shard is whole chunks.

    Attributes:
        shape: of the volume.
        chunk: unit of compression; clipped to the volume.
        shard: unit of file; clipped to the whole chunks that hold the volume.
    """

    shape: Triple
    chunk: Triple
    shard: Triple

    def __post_init__(self) -> None:
        whole = len(self.chunk) == len(self.shard) == 3 and min(*self.chunk, *self.shard) > 0
        if not whole or any(s % c for s, c in zip(self.shard, self.chunk, strict=True)):
            raise GeometryError(f"chunk {self.chunk}, shard {self.shard}: give a shard that is whole chunks")
        chunk = tuple(min(c, n) for c, n in zip(self.chunk, self.shape, strict=True))
        shard = tuple(min(s, ceil_to(n, c)) for s, n, c in zip(self.shard, self.shape, chunk, strict=True))
        object.__setattr__(self, "chunk", chunk)
        object.__setattr__(self, "shard", shard)

    @property
    def grid(self) -> BlockGrid:
        """The shards as blocks."""
        return BlockGrid(Box.from_shape(self.shape), self.shard)

    def coarser(self, factors: Sequence[int]) -> Extents:
        """The next level of the pyramid; same chunk and shard where they fit."""
        z, y, x = level_shape(self.shape, factors)
        return replace(self, shape=(z, y, x))

    def check_shards(self, box: Box) -> None:
        """Make sure that `box` is whole shards.

        Raises:
            GeometryError: it is empty, leaves the volume, or cuts a shard, which a second writer would tear.
        """
        sides = zip(box.start, box.stop, self.shard, self.shape, strict=True)
        whole = all(a % s == 0 and (b % s == 0 or b == n) for a, b, s, n in sides)
        if box.is_empty or not whole or not Box.from_shape(self.shape).contains(box):
            raise GeometryError(
                f"write {box} into a volume of {self.shape}: give whole shards of {self.shard}, "
                "each axis starting on one and ending on one or at the volume's end"
            )


@dataclass(frozen=True)
class Layout:
    """A volume to be written, or one that was. Chunk and shard are clipped to the volume (see `Extents`).

    Attributes:
        shape: z, y, x extent in voxels.
        channels: 1 or more.
        dtype: of the stored voxels; native byte order.
        voxel_size_um: z, y, x in micrometres; None if nobody knows (then no unit is written).
        translation_um: centre of the first voxel, z, y, x in micrometres.
        unit: the unit that is written, by its full name.
        chunk: unit of compression.
        shard: unit of file, a multiple of the chunk.
    """

    shape: Triple
    channels: int
    dtype: np.dtype[Any]
    voxel_size_um: tuple[float, float, float] | None = None
    translation_um: tuple[float, float, float] = (0.0, 0.0, 0.0)
    unit: str = "micrometer"
    chunk: Triple = (64, 64, 64)
    shard: Triple = (256, 256, 256)

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1 or self.channels < 1:
            raise GeometryError(f"volume {self.shape} with {self.channels} channels: give z, y, x and channels above 0")
        dtype = np.dtype(self.dtype).newbyteorder("=")
        if dtype.name not in STORED_DTYPES:
            raise VolumeError(f"dtype {dtype.name} cannot be stored; give one of {', '.join(STORED_DTYPES)}")
        _check_voxel_size(self.voxel_size_um)
        extents = Extents(self.shape, self.chunk, self.shard)
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "chunk", extents.chunk)
        object.__setattr__(self, "shard", extents.shard)

    @property
    def extents(self) -> Extents:
        """Shape, chunk and shard."""
        return Extents(self.shape, self.chunk, self.shard)

    @property
    def grid(self) -> BlockGrid:
        """The shards as blocks."""
        return self.extents.grid

    @property
    def voxel_bytes(self) -> int:
        """Bytes of one voxel, all channels."""
        return self.channels * int(self.dtype.itemsize)

    def coarser(self, factors: Sequence[int]) -> Layout:
        """The next level of the pyramid."""
        coarser = replace(self, shape=self.extents.coarser(factors).shape)
        if self.voxel_size_um is None:
            return coarser
        (sz, sy, sx), (tz, ty, tx) = coarser_placement(self.voxel_size_um, self.translation_um, factors)
        return replace(coarser, voxel_size_um=(sz, sy, sx), translation_um=(tz, ty, tx))

    def levels(self, factors: Sequence[Sequence[int]]) -> list[Layout]:
        """This layout and one for each level above it."""
        found = [self]
        for step in factors:
            found.append(found[-1].coarser(step))
        return found


def blocks_touched(grid: BlockGrid, box: Box) -> list[Block]:
    """The blocks of `grid` that share voxels with `box`, in C order."""
    inside = box.intersect(grid.region).relative_to(grid.region.start)
    if inside.is_empty:
        return []
    first = [a // s for a, s in zip(inside.start, grid.shape, strict=True)]
    last = [-(-b // s) for b, s in zip(inside.stop, grid.shape, strict=True)]
    counts = tuple(b - a for a, b in zip(first, last, strict=True))
    near = BlockGrid(Box.from_shape(counts), (1,) * len(counts))
    return [grid.block([f + i for f, i in zip(first, block.index, strict=True)]) for block in near]


def _check_voxel_size(voxel_size_um: Sequence[float] | None) -> None:
    if voxel_size_um is None:
        return
    if len(voxel_size_um) != 3 or not all(math.isfinite(size) and size > 0 for size in voxel_size_um):
        raise VolumeError(f"voxel size {tuple(voxel_size_um)} um: give three sizes above 0, z, y, x")
