"""`valid`: networks without padding on tiles that share their context; equals the network on the whole volume.

    volume    |..........................................|
    crop          [ own 1 ][ own 2 ][ own 3 ][ own ]         the product covers what the network gives on the volume:
     read 2         |......[ own 2 ].......|                 `lost` voxels less, half of them on each side
    reflect   [ own 1 ][ own 2 ][ own 3 ][ own 4 ][ o]       the product covers the volume: equals the network on the
     read 1  .|.......[ own 1 ].......|                      volume with `lost` voxels more, in a mirror at its faces

Convention: output o of the network belongs to voxel o + lost // 2 of the product; footprints count both from 0.
The tile lattice is anchored at the first output, so that every read starts on the network's period.
Law: in float64 the stitched product equals `network(volume)`. Source: Rumberger et al., ICCV 2021; "valid convolutions"
of arXiv 2606.20095, figure 2 C; mirrored faces: Ronneberger et al., MICCAI 2015, figure 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from volpipe.errors import GeometryError
from volpipe.geometry import Box, Footprint, lattice_cells
from volpipe.stitching.misfit import no_window, something_lost
from volpipe.stitching.outside import Outside
from volpipe.stitching.tile import Tile

Faces = Literal["crop", "reflect"]


@dataclass(frozen=True, slots=True)
class Valid:
    """A `Mode`; `faces` says what becomes of the voxels at the volume's faces that the network loses."""

    faces: Faces = "crop"

    name: ClassVar[str] = "valid"
    inexact: ClassVar[str] = ""
    reads_halo: ClassVar[bool] = True
    by_intervals: ClassVar[bool] = False

    @property
    def outside(self) -> Outside:
        """See `Mode`."""
        return "reflect" if self.faces == "reflect" else "edge"

    def misfit(self, footprint: Footprint) -> str:
        """See `Mode`."""
        return no_window(footprint) or something_lost(footprint)

    def region(self, volume: Sequence[int], footprint: Footprint) -> Box:
        """See `Mode`: what the network has outputs for.

        Raises:
            GeometryError: it has none: the volume is smaller than what is lost.
        """
        shape = footprint.outputs(volume)
        if self.faces == "reflect":
            return Box.from_shape(shape)
        start = _first_output(footprint)
        box = Box(start, tuple(n - axis.lost + a for a, axis, n in zip(start, footprint.axes, shape, strict=True)))
        if box.is_empty:
            lost = tuple(axis.lost for axis in footprint.axes)
            raise GeometryError(f"stitching valid: the network loses {lost} voxels of a volume of {tuple(volume)}; "
                                "give a larger volume, --faces reflect or a padded network")  # fmt: skip
        return box

    def tiles(self, core: Box, volume: Sequence[int], tile: Sequence[int], footprint: Footprint) -> list[Tile]:
        """See `Mode`."""
        first = self._anchor(footprint)
        cells = (cell.shift(first) for cell in lattice_cells(core.relative_to(first), tile))
        return [self.alone(cell.intersect(core), volume, footprint) for cell in cells]

    def alone(self, own: Box, volume: Sequence[int], footprint: Footprint) -> Tile:
        """See `Mode`."""
        outputs = own.relative_to(self._anchor(footprint))
        added = self._added(footprint)
        axes = zip(footprint.axes, outputs.start, outputs.stop, volume, added, strict=True)
        start, stop = zip(*(axis.read(a, b, n + sum(more)) for axis, a, b, n, more in axes), strict=True)
        read = Box(start, stop).relative_to([before for before, _ in added])
        return Tile(own, read, first=_first_output(footprint), scale=footprint.scale)

    def _anchor(self, footprint: Footprint) -> tuple[int, ...]:
        """The voxel of the product that the network's first output is."""
        return _first_output(footprint) if self.faces == "crop" else (0,) * footprint.ndim

    def _added(self, footprint: Footprint) -> list[tuple[int, int]]:
        """Voxels (before, after) that the mirror adds to the volume along each axis."""
        if self.faces == "crop":
            return [(0, 0)] * footprint.ndim
        befores = [int(axis.first_output / axis.scale) for axis in footprint.axes]
        return [(b, axis.lost_inputs - b) for b, axis in zip(befores, footprint.axes, strict=True)]


def _first_output(footprint: Footprint) -> tuple[int, ...]:
    return tuple(axis.first_output for axis in footprint.axes)
