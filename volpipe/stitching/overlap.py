"""`overlap`: padded convolutions on tiles read with their full context, cropped; equals whole-volume inference.

    read 1  |....[ own 1 ]....|          the read starts on the period's lattice of the volume and covers the need:
    read 2         |....[ own 2 ]....|   the network's own padding is seen at the volume's faces only

Law: in float64 the stitched block equals `network(volume)[core]` within rounding, for every block and tile.
Source: Rumberger et al., ICCV 2021; "overlap with padded convolutions" of arXiv 2606.20095, figure 2 B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from volpipe.geometry import Box, Footprint, lattice_cells
from volpipe.stitching.misfit import no_window, nothing_lost
from volpipe.stitching.outside import Outside
from volpipe.stitching.tile import Tile


@dataclass(frozen=True, slots=True)
class Overlap:
    """A `Mode`."""

    name: ClassVar[str] = "overlap"
    inexact: ClassVar[str] = ""
    reads_halo: ClassVar[bool] = True
    by_intervals: ClassVar[bool] = False
    outside: ClassVar[Outside] = "edge"

    def misfit(self, footprint: Footprint) -> str:
        """See `Mode`."""
        return no_window(footprint) or nothing_lost(footprint)

    def region(self, volume: Sequence[int], footprint: Footprint) -> Box:
        """See `Mode`: all."""
        return Box.from_shape(footprint.outputs(volume))

    def tiles(self, core: Box, volume: Sequence[int], tile: Sequence[int], footprint: Footprint) -> list[Tile]:
        """See `Mode`. A cell that the core cuts is computed for the core's part alone: the numbers are the same."""
        return [self.alone(cell.intersect(core), volume, footprint) for cell in lattice_cells(core, tile)]

    def alone(self, own: Box, volume: Sequence[int], footprint: Footprint) -> Tile:
        """See `Mode`."""
        axes = zip(footprint.axes, own.start, own.stop, volume, strict=True)
        start, stop = zip(*(axis.read(a, b, n) for axis, a, b, n in axes), strict=True)
        return Tile(own, Box(start, stop), scale=footprint.scale)
