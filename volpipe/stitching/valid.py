"""`valid`: networks without padding on tiles that share their context; equals the network on the whole volume.

    volume    |..........................................|      the product covers what the network gives on the volume:
    product       [ own 1 ][ own 2 ][ own 3 ][ own ]            `lost` voxels less, half of them on each side
    read 2          |......[ own 2 ].......|

Convention: output voxel o of the network belongs to voxel o + lost // 2 of the volume; footprints count both from 0.
The tile lattice is anchored at the first output, so that every read starts on the network's period.
Law: in float64 the stitched product equals `network(volume)`. Source: Rumberger et al., ICCV 2021; "valid convolutions"
of arXiv 2606.20095, figure 2 C.
"""

from __future__ import annotations

from collections.abc import Sequence

from volpipe.errors import GeometryError
from volpipe.geometry import Box, Footprint, lattice_cells
from volpipe.stitching.tile import Tile

NAME = "valid"
EXACT = True
PADDED = False


def region(volume: Sequence[int], footprint: Footprint) -> Box:
    """The voxels of the volume that the network has outputs for.

    Raises:
        GeometryError: it has none: the volume is smaller than what is lost.
    """
    start = _first_output(footprint)
    stop = tuple(n - axis.lost + a for a, axis, n in zip(start, footprint.axes, volume, strict=True))
    box = Box(start, stop)
    if box.is_empty:
        lost = tuple(axis.lost for axis in footprint.axes)
        raise GeometryError(f"stitching valid: the network loses {lost} voxels of a volume of {tuple(volume)}; "
                            "give a larger volume or a padded network")  # fmt: skip
    return box


def tiles(core: Box, volume: Sequence[int], tile: Sequence[int], footprint: Footprint) -> list[Tile]:
    """The tiles of one block; arguments and result as in `tile_and_stitch.tiles`."""
    first = _first_output(footprint)
    cells = (cell.shift(first) for cell in lattice_cells(core.relative_to(first), tile))
    return [alone(cell.intersect(core), volume, footprint) for cell in cells]


def alone(own: Box, volume: Sequence[int], footprint: Footprint) -> Tile:
    """The tile that owns a box, wherever that lies."""
    first = _first_output(footprint)
    outputs = own.relative_to(first)
    axes = zip(footprint.axes, outputs.start, outputs.stop, volume, strict=True)
    start, stop = zip(*(axis.read(a, b, n) for axis, a, b, n in axes), strict=True)
    return Tile(own, Box(start, stop), margin=first)


def _first_output(footprint: Footprint) -> tuple[int, ...]:
    return tuple(axis.lost // 2 for axis in footprint.axes)
