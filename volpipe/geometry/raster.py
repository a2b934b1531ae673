"""Rasters: where the voxels of a plane lie, in micrometres.

    o--o--o--o     o  voxel (row, column): a point, its centre, at origin_um + (row, column) * spacing_um
    o--o--o--o     a place is a point given in rows and columns, with fractions; voxel r is what is nearest to it,
    o--o--o--o     places r - 1/2 <= place < r + 1/2

Convention: (y, x). Law: a point of a box is the same to the last bit whatever box it is asked for in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from volpipe.errors import GeometryError
from volpipe.geometry.box import Box
from volpipe.geometry.transform import Vector

ROUNDING = 1e-6  # voxels: an edge that misses a voxel's by less is taken for it


@dataclass(frozen=True, slots=True)
class Raster:
    """A regular grid of points in a plane.

    Attributes:
        shape: rows and columns.
        spacing_um: between neighbours, y and x.
        origin_um: where voxel (0, 0) lies.

    Raises:
        GeometryError: no voxel, or a spacing that is not above 0.
    """

    shape: tuple[int, int]
    spacing_um: Vector
    origin_um: Vector

    def __post_init__(self) -> None:
        numbers = (*self.spacing_um, *self.origin_um)
        if min(self.shape) < 1 or min(self.spacing_um) <= 0 or not all(map(math.isfinite, numbers)):
            raise GeometryError(
                f"raster of {self.shape} points, {self.spacing_um} um apart from {self.origin_um} um; give whole "
                "numbers and spacings above 0, all finite"
            )

    @classmethod
    def centred(cls, shape: tuple[int, int], spacing_um: Vector) -> Raster:
        """The raster whose centre is the origin."""
        y, x = (-(n - 1) / 2 * s for n, s in zip(shape, spacing_um, strict=True))
        return cls(shape, spacing_um, (y, x))

    @property
    def box(self) -> Box:
        """All of it."""
        return Box.from_shape(self.shape)

    @property
    def outline_um(self) -> NDArray[np.float64]:
        """The corners of the outermost voxels' areas, (4, 2)."""
        ends = [np.array([-0.5, n - 0.5]) for n in self.shape]
        return self._um(np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(4, 2))

    def points(self, box: Box) -> NDArray[np.float64]:
        """Where the voxels of a box lie, (rows, columns, 2); the box may reach out of the raster."""
        axes = [np.arange(a, b, dtype=np.float64) for a, b in zip(box.start, box.stop, strict=True)]
        return self._um(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1))

    def places(self, points: ArrayLike) -> NDArray[np.float64]:
        """Rows and columns, with fractions, of points (..., 2)."""
        at = np.asarray(points, np.float64)
        places: NDArray[np.float64] = (at - np.asarray(self.origin_um)) / np.asarray(self.spacing_um)
        return places

    def over(self, points: ArrayLike) -> Raster:
        """The smallest raster on the same lattice whose voxels' areas cover all of these points (n, 2)."""
        places = self.places(points)
        start = np.floor(places.min(0) + 0.5 + ROUNDING).astype(int)
        stop = np.maximum(np.ceil(places.max(0) + 0.5 - ROUNDING).astype(int), start + 1)
        y, x = (float(value) for value in self._um(start.astype(np.float64)))
        rows, columns = (stop - start).tolist()
        return Raster((rows, columns), self.spacing_um, (y, x))

    def cut(self, box: Box) -> Raster:
        """The part that is a box of this one."""
        y, x = (float(value) for value in self._um(np.asarray(box.start, np.float64)))
        rows, columns = box.shape
        return Raster((rows, columns), self.spacing_um, (y, x))

    def _um(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(places * np.asarray(self.spacing_um) + np.asarray(self.origin_um))


def plane_size(voxel_size_um: Sequence[float] | None, who: str) -> Vector:
    """(y, x) of a voxel given as (z, y, x) or (y, x); ones where none is given: then the unit is the voxel.

    Raises:
        GeometryError: another number of sizes, or one that is not above 0; the line begins with `who`.
    """
    try:
        sizes = np.atleast_1d(np.asarray((1.0, 1.0) if voxel_size_um is None else voxel_size_um, np.float64)).tolist()
    except (TypeError, ValueError):
        raise GeometryError(f"{who}: voxel_size_um is {voxel_size_um!r}; give (z, y, x) or (y, x), above 0") from None
    if len(sizes) not in (2, 3) or not all(math.isfinite(size) and size > 0 for size in sizes):
        raise GeometryError(f"{who}: voxel_size_um is {sizes}; give (z, y, x) or (y, x), above 0")
    return two(sizes[-2:])


def two(values: Sequence[float]) -> Vector:
    """Two numbers, as (y, x)."""
    y, x = values
    return float(y), float(x)
