"""`windows`: networks that take one length only, on the volume's lattice of windows; declared inexact.

    window 0   |[ own 0 ]...|                   cells of the stride; a window lies around its cell and inside the
    window 1     |..[ own 1 ]..|                volume, on the lattice of tokens
    window 2          |...[ own 2 ]|

A vision transformer attends over its whole window: there is no whole-volume result to equal, and what it says of a
voxel depends on where the window lies. The lattice belongs to the volume, so the product does not depend on the blocks.
The cell is the stride, up to the window; a volume thinner than a window is padded at its end. Source: the sliding
window of "Semantic stitching" (manuscript, section 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from volpipe.geometry import AxisFootprint, Box, Footprint, ceil_to, floor_to, lattice_cells
from volpipe.stitching.misfit import a_window
from volpipe.stitching.outside import Outside
from volpipe.stitching.tile import Tile


@dataclass(frozen=True, slots=True)
class Windows:
    """A `Mode`."""

    name: ClassVar[str] = "windows"
    inexact: ClassVar[str] = "fixed window: the network sees one window at a time"
    reads_halo: ClassVar[bool] = False
    by_intervals: ClassVar[bool] = False
    outside: ClassVar[Outside] = "edge"

    def misfit(self, footprint: Footprint) -> str:
        """See `Mode`."""
        return a_window(footprint)

    def region(self, volume: Sequence[int], footprint: Footprint) -> Box:
        """See `Mode`: all."""
        return Box.from_shape(footprint.outputs(volume))

    def tiles(self, core: Box, volume: Sequence[int], tile: Sequence[int], footprint: Footprint) -> list[Tile]:
        """See `Mode`. A window is computed whole and cropped to the core."""
        cells = lattice_cells(core, tile)
        return [replace(self.alone(cell, volume, footprint), own=cell.intersect(core)) for cell in cells]

    def alone(self, own: Box, volume: Sequence[int], footprint: Footprint) -> Tile:
        """See `Mode`: the window around a box that it can hold."""
        inputs = footprint.inputs(own)
        axes = zip(footprint.axes, inputs.start, inputs.stop, volume, strict=True)
        start, stop = zip(*(_window(axis, a, b, n) for axis, a, b, n in axes), strict=True)
        return Tile(own, Box(start, stop), scale=footprint.scale)


def _window(axis: AxisFootprint, start: int, stop: int, length: int) -> tuple[int, int]:
    """[start, stop) in the middle of a window, as far as the volume allows; as it is along an axis without one."""
    if axis.window is None:
        return start, stop
    last = max(0, ceil_to(length, axis.period) - axis.window)
    middle = floor_to((start + stop - axis.window) // 2, axis.period)
    first = max(middle, ceil_to(stop - axis.window, axis.period))
    first = min(max(0, first), last)
    return first, first + axis.window
