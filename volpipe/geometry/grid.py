"""Cut a volume into blocks: each voxel is written by one block and read with a halo.

|cccccccc|hh                    c  core: written by this block alone
       hh|cccccccc|hh           h  halo: read so that the core is right
                hh|ccccc|       the last core and the outer halos are clipped

Blocks are numbered in C order (x fastest). The grid is arithmetic: it holds no list, so 10^6 blocks cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from volpipe.errors import GeometryError
from volpipe.geometry.box import Box


def ceil_to(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple


def floor_to(value: int, multiple: int) -> int:
    """The largest multiple of `multiple` that is at most `value`."""
    return value // multiple * multiple


@dataclass(frozen=True, slots=True)
class Block:
    """One unit of work: `core` is the box it alone writes, in the coordinates of the volume."""

    number: int
    index: tuple[int, ...]
    core: Box


@dataclass(frozen=True, slots=True)
class BlockGrid:
    """The blocks of `shape` that cover `region`; the first block starts where the region starts.

    Law: the cores of the blocks are disjoint and their union is `region`.
    """

    region: Box
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.region.is_empty:
            raise GeometryError(f"block grid: the region {self.region} holds no voxel; give one that does")
        if len(self.shape) != self.region.ndim or min(self.shape) < 1:
            raise GeometryError(f"block grid: block {self.shape}; give {self.region.ndim} whole numbers above 0")

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of blocks per axis."""
        return tuple(-(-n // b) for n, b in zip(self.region.shape, self.shape, strict=True))

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __getitem__(self, number: int) -> Block:
        if not 0 <= number < len(self):
            raise IndexError(number)
        index, rest = [], number
        for count in reversed(self.counts):
            rest, i = divmod(rest, count)
            index.append(i)
        return self.block(tuple(reversed(index)))

    def __iter__(self) -> Iterator[Block]:
        return (self[number] for number in range(len(self)))

    def block(self, index: Sequence[int]) -> Block:
        """The block at a grid position (z, y, x)."""
        number = 0
        for i, count in zip(index, self.counts, strict=True):
            number = number * count + i
        start = tuple(o + i * b for o, i, b in zip(self.region.start, index, self.shape, strict=True))
        stop = tuple(a + b for a, b in zip(start, self.shape, strict=True))
        return Block(number, tuple(index), Box(start, stop).intersect(self.region))


def lattice_cells(box: Box, cell: Sequence[int]) -> Iterator[Box]:
    """The cells of the lattice anchored at the origin that meet `box`, whole, in C order.

    The lattice belongs to the volume, not to the box: whatever the boxes are, the cells are the same.
    """
    first = [a // c for a, c in zip(box.start, cell, strict=True)]
    last = [-(-b // c) for b, c in zip(box.stop, cell, strict=True)]
    counts = tuple(b - a for a, b in zip(first, last, strict=True))
    for block in BlockGrid(Box.from_shape(counts), (1,) * len(counts)):
        start = tuple((f + i) * c for f, i, c in zip(first, block.index, cell, strict=True))
        yield Box(start, tuple(a + c for a, c in zip(start, cell, strict=True)))
