"""`tile`: the volume is cut into tiles that see nothing of each other; declared inexact.

    |tttttttt|tttttttt|ttttt|    every tile is padded by the network at its own faces: seams

Law: a tile is the same cell of the volume's lattice whatever block it falls into, so the product does not depend on
the blocks. Source: "tile-and-stitch" of Stitching and dimensionality effects (arXiv 2606.20095), figure 2 A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from volpipe.geometry import Box, Footprint, lattice_cells
from volpipe.stitching.misfit import no_window, nothing_lost
from volpipe.stitching.outside import Outside
from volpipe.stitching.tile import Tile


@dataclass(frozen=True, slots=True)
class TileAndStitch:
    """A `Mode`."""

    name: ClassVar[str] = "tile"
    inexact: ClassVar[str] = "tile: tiles see nothing of each other"
    reads_halo: ClassVar[bool] = False
    by_intervals: ClassVar[bool] = False
    outside: ClassVar[Outside] = "edge"

    def misfit(self, footprint: Footprint) -> str:
        """See `Mode`."""
        return no_window(footprint) or nothing_lost(footprint)

    def region(self, volume: Sequence[int], footprint: Footprint) -> Box:
        """See `Mode`: all."""
        return Box.from_shape(footprint.outputs(volume))

    def tiles(self, core: Box, volume: Sequence[int], tile: Sequence[int], footprint: Footprint) -> list[Tile]:
        """See `Mode`. A tile is computed whole and cropped to the core."""
        cells = lattice_cells(core, tile)
        return [replace(self.alone(cell, volume, footprint), own=cell.intersect(core)) for cell in cells]

    def alone(self, own: Box, volume: Sequence[int], footprint: Footprint) -> Tile:
        """See `Mode`: the box starts on the period; the tile ends where the network or the padded volume says.

        One that the network finds too short sees something of its neighbour.
        """
        inputs = footprint.inputs(own)
        axes = zip(footprint.axes, inputs.start, inputs.stop, volume, strict=True)
        reads = [axis.lengthened(a, min(a + axis.admissible(b - a), axis.admissible(n)), n) for axis, a, b, n in axes]
        start, stop = zip(*reads, strict=True)
        return Tile(own, Box(start, stop), scale=footprint.scale)
