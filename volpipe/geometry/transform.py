"""Rigid motions in the plane of a slab: a turn about an origin, then a shift.

        y                       p = (y, x), from the origin: a window's centre, unless said otherwise
        |   . p' = R p + t      x' = cos(a) x - sin(a) y + tx
        |  /  a                 y' = sin(a) x + cos(a) y + ty
        | / ) . p               shift = (ty, tx), in the unit of p: voxels, or micrometres
        +-----------> x

Transforms chain by name, `upper_from_lower`: `a_from_c = a_from_b @ b_from_c`.
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
        """Move points, (..., 2) as (y, x); each to the same bits among any others, which a matrix product does not."""
        at, (rows_y, rows_x) = np.asarray(points, np.float64), self.matrix
        turned = (row[0] * at[..., 0] + row[1] * at[..., 1] for row in (rows_y, rows_x))
        return np.stack([one + shift for one, shift in zip(turned, self.shift, strict=True)], axis=-1)

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


def wrapped(angle_rad: float) -> float:
    """The same direction within -pi..pi."""
    return math.remainder(angle_rad, math.tau)


def _vector(pair: NDArray[Any]) -> Vector:
    return float(pair[0]), float(pair[1])
