"""`tile`: the volume is cut into tiles that see nothing of each other; declared inexact.

    |tttttttt|tttttttt|ttttt|    every tile is padded by the network at its own faces: seams

Law: a tile is the same cell of the volume's lattice whatever block it falls into, so the product does not depend on
the blocks. Source: "tile-and-stitch" of Stitching and dimensionality effects (arXiv 2606.20095), figure 2 A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from volpipe.geometry import Box, Footprint, lattice_cells
from volpipe.stitching.tile import Tile

NAME = "tile"
EXACT = False
PADDED = True


def region(volume: Sequence[int], footprint: Footprint) -> Box:
    """The voxels of the volume that a product can have: all."""
    return Box.from_shape(volume)


def tiles(core: Box, volume: Sequence[int], tile: Sequence[int], footprint: Footprint) -> list[Tile]:
    """The tiles of one block.

    Args:
        core: the block's core, in voxels of the volume.
        volume: the volume's shape.
        tile: the lattice's cell, a multiple of the period on every axis.
        footprint: of the network, one entry per axis of the volume.

    Returns:
        Tiles in C order, whose `own` boxes cover `core`; a tile is computed whole and cropped to the core.
    """
    return [replace(alone(cell, volume, footprint), own=cell.intersect(core)) for cell in lattice_cells(core, tile)]


def alone(own: Box, volume: Sequence[int], footprint: Footprint) -> Tile:
    """The tile that owns a box which starts on the period, wherever that lies; it ends where the volume does."""
    end = tuple(a.admissible(n) for a, n in zip(footprint.axes, volume, strict=True))
    return Tile(own, Box(own.start, tuple(min(b, e) for b, e in zip(own.stop, end, strict=True))))
