"""`overlap`: padded convolutions on tiles read with their full context, cropped; equals whole-volume inference.

    read 1  |....[ own 1 ]....|          the read starts on the period's lattice of the volume and covers the need:
    read 2         |....[ own 2 ]....|   the network's own padding is seen at the volume's faces only

Law: in float64 the stitched block equals `network(volume)[core]` within rounding, for every block and tile.
Source: Rumberger et al., ICCV 2021; "overlap with padded convolutions" of arXiv 2606.20095, figure 2 B.
"""

from __future__ import annotations

from collections.abc import Sequence

from volpipe.geometry import Box, Footprint, lattice_cells
from volpipe.stitching.tile import Tile

NAME = "overlap"
EXACT = True
PADDED = True


def region(volume: Sequence[int], footprint: Footprint) -> Box:
    """The voxels of the volume that a product can have: all."""
    return Box.from_shape(volume)


def tiles(core: Box, volume: Sequence[int], tile: Sequence[int], footprint: Footprint) -> list[Tile]:
    """The tiles of one block; arguments and result as in `tile_and_stitch.tiles`.

    A cell of the lattice that the core cuts is computed for the core's part alone: the numbers are the same.
    """
    return [alone(cell.intersect(core), volume, footprint) for cell in lattice_cells(core, tile)]


def alone(own: Box, volume: Sequence[int], footprint: Footprint) -> Tile:
    """The tile that owns a box, wherever that lies."""
    axes = zip(footprint.axes, own.start, own.stop, volume, strict=True)
    start, stop = zip(*(axis.read(a, b, n) for axis, a, b, n in axes), strict=True)
    return Tile(own, Box(start, stop))
