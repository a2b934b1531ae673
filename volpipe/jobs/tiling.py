"""Which blocks and tiles a job uses, and what they cost, from the footprint and a memory budget.

    block   whole shards, cubes of 256 unless the volume is small; a function of the volume alone, so that a product
            does not depend on who made it
    tile    the largest one whose promised memory fits; cut along the axis where cutting costs the fewest halo voxels

Reads are separable: the voxels that all tiles read are the product over the axes of the lengths read along each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from volpipe.errors import BudgetError, GeometryError
from volpipe.geometry import BlockGrid, Box, Footprint, ceil_to
from volpipe.stitching import Mode, Tile, read_box

SHARD = 256
CHUNK = 64
ENOUGH_BLOCKS = 8  # below this, smaller blocks: a laptop's cores should all have work
SMALLEST_TILE = 16
LARGEST_STANDARD_TILE = 128


def default_block(region: Sequence[int]) -> tuple[int, ...]:
    """Cubes of 256, or of 128 or 64 where the region would give fewer than eight of them; clipped to the region."""
    for edge in (SHARD, SHARD // 2, CHUNK):
        block = tuple(min(edge, ceil_to(n, min(CHUNK, n))) for n in region)
        if math.prod(-(-n // b) for n, b in zip(region, block, strict=True)) >= ENOUGH_BLOCKS:
            return block
    return block


def chunk_of(block: Sequence[int]) -> tuple[int, ...]:
    """Per axis the largest divisor of the block that is at most 64: a shard is whole chunks.

    Raises:
        GeometryError: an axis is empty, or above 64 without a divisor from 16 to 64: its chunks would be slivers.
    """
    if min(block) < 1:
        raise GeometryError(f"block {tuple(block)}: give three whole numbers above 0")
    chunk = tuple(max(d for d in range(1, min(CHUNK, b) + 1) if b % d == 0) for b in block)
    for b, c in zip(block, chunk, strict=True):
        if c < min(b, 16):
            raise GeometryError(
                f"block {tuple(block)}: {b} has no divisor from 16 to 64 for its chunks; give a multiple of 16"
            )
    return chunk


def check_tile(tile: Sequence[int], footprint: Footprint) -> None:
    """Refuse a tile that is off the period, or larger than a fixed window.

    Raises:
        GeometryError: names an edge that would do.
    """
    periods = footprint.output_period
    if len(tile) != 3 or any(t < 1 or t % p for t, p in zip(tile, periods, strict=True)):
        fit = tuple(ceil_to(max(t, 1), p) for t, p in zip(tile, periods, strict=False))
        raise GeometryError(f"tile {tuple(tile)}: every edge must be a multiple of the period {periods}; give {fit}")
    most = window_tile(tile, footprint)
    if any(t > m for t, m in zip(tile, most, strict=True)):
        raise GeometryError(f"tile {tuple(tile)}: a stride is at most the network's window; give {most} or less")


def tile_candidates(block: Sequence[int], footprint: Footprint) -> Iterator[tuple[int, ...]]:
    """Tiles from the whole block downwards; each halves the axis that costs the fewest additional halo voxels."""
    tile = tuple(ceil_to(b, p) for b, p in zip(block, footprint.output_period, strict=True))
    while True:
        yield tile
        halves = [half for axis in range(3) if (half := _halved(tile, axis, footprint)) != tile]
        if not halves:
            return
        tile = min(halves, key=lambda half: _overhead(half, footprint))


def standard_tile(block: Sequence[int], footprint: Footprint) -> tuple[int, ...]:
    """At most 128 voxels an axis, on the period: the tile where a budget must not decide."""
    sides = zip(block, footprint.output_period, strict=True)
    return window_tile([ceil_to(min(b, LARGEST_STANDARD_TILE), p) for b, p in sides], footprint)


def window_tile(tile: Sequence[int], footprint: Footprint) -> tuple[int, ...]:
    """The tile, with the whole window along axes that have one: strides of a window."""
    axes = zip(tile, footprint.axes, strict=True)
    return tuple(t if axis.window is None else int(axis.window * axis.scale) for t, axis in axes)


def _halved(tile: tuple[int, ...], axis: int, footprint: Footprint) -> tuple[int, ...]:
    period, halo = footprint.output_period[axis], sum(footprint.halo[axis])
    smallest = ceil_to(SMALLEST_TILE if halo else 1, period)  # planes of a 2D network have no halo: down to one
    edge = max(smallest, ceil_to(-(-tile[axis] // 2), period))
    return (*tile[:axis], min(edge, tile[axis]), *tile[axis + 1 :])


def _overhead(tile: Sequence[int], footprint: Footprint) -> float:
    sides = zip(tile, footprint.scale, footprint.halo, strict=True)
    return math.prod(float(1 + sum(halo) * scale / own) for own, scale, halo in sides)


@dataclass(frozen=True, slots=True)
class Reads:
    """Of all tiles and blocks of a region.

    Attributes:
        tiles, blocks: voxels that all tiles see, and that all blocks read from the volume.
        largest_block: voxels that one block reads.
        largest, smallest: along each axis the tile that reads most, and least.
    """

    tiles: int
    blocks: int
    largest_block: int
    largest: Tile
    smallest: Tile


def reads(mode: Mode, grid: BlockGrid, volume: Sequence[int], tile: Sequence[int], footprint: Footprint) -> Reads:
    """Count what every block and tile reads, axis by axis."""
    axes = [_axis_reads(mode, grid, volume[i], tile[i], footprint, i) for i in range(3)]
    along = [[tile for tiles, _ in axis for tile in tiles] for axis in axes]
    return Reads(
        tiles=math.prod(sum(map(_length, tiles)) for tiles in along),
        blocks=math.prod(sum(block for _, block in axis) for axis in axes),
        largest_block=math.prod(max(block for _, block in axis) for axis in axes),
        largest=_joined([max(tiles, key=_length) for tiles in along]),
        smallest=_joined([min(tiles, key=_length) for tiles in along]),
    )


def _length(tile: Tile) -> int:
    return tile.read.shape[0]


def _joined(tiles: Sequence[Tile]) -> Tile:
    """One tile of those along each axis."""
    own, read = (
        Box(tuple(box.start[0] for box in along), tuple(box.stop[0] for box in along))
        for along in ([tile.own for tile in tiles], [tile.read for tile in tiles])
    )
    first, scale = tuple(n for tile in tiles for n in tile.first), tuple(n for tile in tiles for n in tile.scale)
    return Tile(own, read, first, scale)


def _axis_reads(
    mode: Mode, grid: BlockGrid, length: int, tile: int, footprint: Footprint, axis: int
) -> list[tuple[list[Tile], int]]:
    """Per block along one axis: its tiles, and the length read from the volume."""
    line = BlockGrid(Box((grid.region.start[axis],), (grid.region.stop[axis],)), (grid.shape[axis],))
    found = []
    for block in line:
        tiles = mode.tiles(block.core, (length,), (tile,), Footprint((footprint.axes[axis],)))
        found.append((tiles, read_box(tiles, (length,), mode.outside).shape[0]))
    return found


def largest_that_fits(
    candidates: Iterator[tuple[int, ...]],
    fits: Callable[[tuple[int, ...]], bool],
    refusal: Callable[[tuple[int, ...]], str],
) -> tuple[int, ...]:
    """The first candidate that fits.

    Raises:
        BudgetError: not even the smallest one does; `refusal(it)` says what would.
    """
    for tile in candidates:
        if fits(tile):
            return tile
    raise BudgetError(refusal(tile))
