"""Motions in the plane of a slab: a turn about an origin, then a shift; or an affine map, which may stretch as well.

        y                       p = (y, x), from the origin: a window's centre, unless said otherwise
        |   . p' = R p + t      x' = cos(a) x - sin(a) y + tx
        |  /  a                 y' = sin(a) x + cos(a) y + ty
        | / ) . p               shift = (ty, tx), in the unit of p: voxels, or micrometres
        +-----------> x

An affine map has any matrix A that can be undone in place of R. Transforms chain by name, `upper_from_lower`:
`a_from_c = a_from_b @ b_from_c`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from volpipe.errors import GeometryError

Vector = tuple[float, float]  # (y, x)


@dataclass(frozen=True, slots=True)
class Rigid:
    """`p' = R p + shift`: where a point of one frame lies in another.

    Attributes:
        angle_rad: of the turn, from x towards y.
        shift: (y, x), in the unit of the points.

    Raises:
        GeometryError: an angle or a shift that is not finite.
    """

    angle_rad: float = 0.0
    shift: Vector = (0.0, 0.0)

    def __post_init__(self) -> None:
        if len(self.shift) != 2 or not all(map(math.isfinite, (self.angle_rad, *self.shift))):
            raise GeometryError(
                f"transform: angle {self.angle_rad} and shift {self.shift}; give finite numbers, (y, x)"
            )

    @property
    def matrix(self) -> NDArray[np.float64]:
        """R for columns (y, x)."""
        cos, sin = math.cos(self.angle_rad), math.sin(self.angle_rad)
        return np.array([[cos, sin], [-sin, cos]])

    def __call__(self, points: ArrayLike) -> NDArray[np.float64]:
        """Move points, (..., 2) as (y, x)."""
        return _moved(points, self.matrix, self.shift)

    def __matmul__(self, other: Rigid) -> Rigid:
        """First `other`, then this: `a_from_b @ b_from_c`."""
        return Rigid(wrapped(self.angle_rad + other.angle_rad), _vector(self(other.shift)))

    @property
    def inverse(self) -> Rigid:
        """`b_from_a` of `a_from_b`."""
        return Rigid(-self.angle_rad, _vector(-(self.matrix.T @ np.asarray(self.shift))))

    def about(self, origin: ArrayLike) -> Rigid:
        """The same motion, for points from another origin, itself given from this one: a child's centre in its parent.

        `motion.about(c)(p) == motion(p + c) - c`.
        """
        centre = np.asarray(origin, np.float64)
        return Rigid(self.angle_rad, _vector(self(centre) - centre))

    def times(self, factor: float) -> Rigid:
        """In another unit: the shift is `factor` times as long."""
        return Rigid(self.angle_rad, (self.shift[0] * factor, self.shift[1] * factor))


@dataclass(frozen=True, slots=True)
class Affine:
    """`p' = A p + shift`: where a point of one frame lies in another that may be stretched.

    Attributes:
        rows: A for columns (y, x): ((y of y, y of x), (x of y, x of x)).
        shift: (y, x), in the unit of the points.

    Raises:
        GeometryError: numbers that are not finite, or an A that cannot be undone.
    """

    rows: tuple[Vector, Vector] = ((1.0, 0.0), (0.0, 1.0))
    shift: Vector = (0.0, 0.0)

    def __post_init__(self) -> None:
        if np.shape(self.rows) != (2, 2) or np.shape(self.shift) != (2,):
            raise GeometryError(f"transform: rows {self.rows} and shift {self.shift}; give 2 x 2 numbers and (y, x)")
        if not (np.isfinite(self.rows).all() and np.isfinite(self.shift).all() and np.linalg.det(self.rows)):
            raise GeometryError(f"transform: rows {self.rows} and shift {self.shift}; give finite numbers, and rows "
                                "that can be undone")  # fmt: skip

    @classmethod
    def of(cls, motion: Rigid) -> Affine:
        """The same motion."""
        return cls(_rows(motion.matrix), motion.shift)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """A for columns (y, x)."""
        return np.array(self.rows)

    def __call__(self, points: ArrayLike) -> NDArray[np.float64]:
        """Move points, (..., 2) as (y, x)."""
        return _moved(points, self.matrix, self.shift)

    def __matmul__(self, other: Affine) -> Affine:
        """First `other`, then this: `a_from_b @ b_from_c`."""
        return Affine(_rows(self.matrix @ other.matrix), _vector(self(other.shift)))

    @property
    def inverse(self) -> Affine:
        """`b_from_a` of `a_from_b`."""
        back = np.linalg.inv(self.matrix)
        return Affine(_rows(back), _vector(-(back @ np.asarray(self.shift))))

    def about(self, origin: ArrayLike) -> Affine:
        """The same map, for points from another origin (`Rigid.about`)."""
        centre = np.asarray(origin, np.float64)
        return Affine(self.rows, _vector(self(centre) - centre))

    def times(self, factor: float) -> Affine:
        """In another unit: the shift is `factor` times as long."""
        return Affine(self.rows, (self.shift[0] * factor, self.shift[1] * factor))


def wrapped(angle_rad: float) -> float:
    """The same direction within -pi..pi."""
    return math.remainder(angle_rad, math.tau)


def _moved(points: ArrayLike, matrix: NDArray[np.float64], shift: Vector) -> NDArray[np.float64]:
    """Each point to the same bits among any others, which a matrix product does not."""
    at = np.asarray(points, np.float64)
    turned = (row[0] * at[..., 0] + row[1] * at[..., 1] for row in matrix)
    return np.stack([one + by for one, by in zip(turned, shift, strict=True)], axis=-1)


def _rows(matrix: NDArray[Any]) -> tuple[Vector, Vector]:
    return _vector(matrix[0]), _vector(matrix[1])


def _vector(pair: NDArray[Any]) -> Vector:
    return float(pair[0]), float(pair[1])
