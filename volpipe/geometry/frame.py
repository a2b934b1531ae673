"""Where the voxels of a slab's pyramid lie, in micrometres from the slab's centre.

    level 0   | 0 | 1 | 2 | 3 | 4 |        y and x are halved per level, the last voxel may hang over; z is kept,
    level 1   |   0   |   1   |   2   |    so frames are of the plane (y, x)
    um        -5 -4 -3 -2 -1 0 1 2 3 4 5   (voxels of 2 um)

Faces of voxels have whole coordinates: voxel j of a level lies from j to j + 1. So a point in micrometres is the same
point at every level, with no factor 2 and no half voxel to remember.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from volpipe.errors import GeometryError
from volpipe.geometry.box import Box
from volpipe.geometry.transform import Vector


@dataclass(frozen=True, slots=True)
class SlabFrame:
    """The plane of a slab.

    Attributes:
        extent: (y, x) voxels of level 0.
        voxel_um: (y, x) of a voxel of level 0.

    Raises:
        GeometryError: an extent below 1 or a voxel without size.
    """

    extent: tuple[int, int]
    voxel_um: Vector

    def __post_init__(self) -> None:
        if len(self.extent) != 2 or len(self.voxel_um) != 2 or min(self.extent) < 1 or not min(self.voxel_um) > 0:
            raise GeometryError(
                f"slab: extent {self.extent} of voxels of {self.voxel_um} um; give (y, x), both above zero"
            )

    def shape(self, level: int) -> tuple[int, int]:
        """(y, x) voxels of a level."""
        return -(-self.extent[0] >> level), -(-self.extent[1] >> level)

    def voxel_um_at(self, level: int) -> Vector:
        """(y, x) of a voxel of a level."""
        return self.voxel_um[0] * 2**level, self.voxel_um[1] * 2**level

    def centre_um(self, box: Box, level: int) -> Vector:
        """The centre of a box (y, x) of voxels of `level`, from the slab's centre."""
        y, x = (
            ((a + b) * 2**level - extent) / 2 * um
            for a, b, extent, um in zip(box.start, box.stop, self.extent, self.voxel_um, strict=True)
        )
        return y, x

    def box_around(self, point_um: Sequence[float], shape: Sequence[int], level: int) -> Box:
        """The box of whole voxels of `level` whose centre is nearest to a point; it may reach out of the slab."""
        start = tuple(
            round((p / um + extent / 2) / 2**level - n / 2)
            for p, um, extent, n in zip(point_um, self.voxel_um, self.extent, shape, strict=True)
        )
        return Box(start, tuple(a + n for a, n in zip(start, shape, strict=True)))
