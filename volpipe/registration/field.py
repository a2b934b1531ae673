"""The smooth displacement field of a slab: where to read in the slab for a point of the reconstruction.

    point p of the reconstruction --+ d(p)--> --pose^-1--> point of the slab            pull: warping reads
    point of the slab --pose--> q,  p = q - d(p) by iteration --> point of the reconstruction          push

    o----o----o    d stands on a raster of nodes, bilinear between them, as on the nearest edge outside, so that far
    | d  |    |    from every trusted node, where it is 0, the slab lies as its pose says
    o----o----o

Convention: (y, x), micrometres; points of the slab from its centre, points of the reconstruction from slab 0's; `pose`
is reconstruction_from_slab.

Law: NO FOLDS. Between neighbouring points the displacement changes by at most STEEPEST of their distance. The norm of
its gradient is convex and the Jacobian's determinant is linear within a bilinear cell, so both are extreme in the
cell's corners, and checking these is exact. p -> p + d(p) is then one to one and onto, its determinant is at least
(1 - STEEPEST)^2, and the iteration converges (Banach): the inverse is never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from volpipe.errors import GeometryError
from volpipe.geometry import Raster, Rigid
from volpipe.geometry.transform import Vector

Points = NDArray[np.float64]  # (..., 2)

STEEPEST = 0.75  # tissue that is pulled together to a quarter, or a jump between nodes that is none of tissue
TOLERANCE = 1e-9  # of the nodes' distance: where the inverse stops
MOST_STEPS = 200  # 0.75^72 = 1e-9


@dataclass(frozen=True, eq=False)
class Field:
    """Where the points of the reconstruction lie in one slab.

    Attributes:
        pose: reconstruction_from_slab, which the field is a small correction of.
        displacement: (2, rows, columns) float32, y and x in micrometres.
        origin_um: of its first node, from the reconstruction's origin.
        spacing_um: of its nodes.
        confidence: (rows, columns) float32, 0 (the pose alone) to 1.

    Raises:
        GeometryError: the shapes do not fit, a number is not finite, or the field folds.
    """

    pose: Rigid
    displacement: NDArray[np.float32]
    origin_um: Vector
    spacing_um: Vector
    confidence: NDArray[np.float32]

    def __post_init__(self) -> None:
        shape = self.displacement.shape
        if len(shape) != 3 or shape[0] != 2 or min(shape) < 2 or self.confidence.shape != shape[1:]:
            raise GeometryError(
                f"field: displacement {shape} and confidence {self.confidence.shape}; give (2, rows, columns) and "
                "(rows, columns), two nodes an axis or more"
            )
        if not np.isfinite(self.displacement).all() or not np.isfinite(self.confidence).all():
            raise GeometryError("field: holds numbers that are not finite; fit it again")
        if self.steepness.max() > STEEPEST:
            raise GeometryError(self._fold())

    @property
    def raster(self) -> Raster:
        """Where its nodes lie."""
        rows, columns = self.confidence.shape
        return Raster((rows, columns), self.spacing_um, self.origin_um)

    # ------------------------------------------------------------------ the map and its inverse

    def pull(self, points: ArrayLike) -> Points:
        """Where points (..., 2) of the reconstruction lie in the slab."""
        at = np.asarray(points, np.float64)
        return self.pose.inverse(at + self.displacement_at(at))

    def push(self, points: ArrayLike) -> Points:
        """Where points (..., 2) of the slab lie in the reconstruction: `push(pull(p)) == p`."""
        wanted = self.pose(points)
        found, enough = wanted, TOLERANCE * min(self.spacing_um)
        for _ in range(MOST_STEPS):
            before, found = found, wanted - self.displacement_at(found)
            if np.abs(found - before).max(initial=0.0) <= enough:
                return found
        raise GeometryError(f"field: no inverse within {MOST_STEPS} steps; give finite points")

    def displacement_at(self, points: ArrayLike) -> Points:
        """Bilinear between nodes, that of the nearest edge outside; the same to the last bit among any points."""
        corners, weights = bilinear(self.raster, points)
        values = np.moveaxis(self.displacement.astype(np.float64), 0, -1).reshape(-1, 2)
        total = values[corners[0]] * weights[0][..., None]
        for corner, weight in zip(corners[1:], weights[1:], strict=True):
            total += values[corner] * weight[..., None]
        return total

    # ------------------------------------------------------------------ folds

    @property
    def steepness(self) -> NDArray[np.float64]:
        """The largest norm of the displacement's gradient in each cell, (rows - 1, columns - 1)."""
        return steepness(self.displacement, self.spacing_um)

    @property
    def jacobian(self) -> NDArray[np.float64]:
        """The smallest determinant of the map's Jacobian in each cell, (rows - 1, columns - 1)."""
        corners = _gradients(self.displacement, self.spacing_um) + np.eye(2)
        return np.asarray(np.linalg.det(corners).min(0))

    @property
    def stretch(self) -> float:
        """No two points lie farther apart in the slab than this many times their distance in the reconstruction."""
        return 1.0 + float(self.steepness.max())

    def _fold(self) -> str:
        steep = self.steepness
        row, column = np.unravel_index(int(steep.argmax()), steep.shape)
        y, x = (o + (i + 0.5) * s for o, i, s in zip(self.origin_um, (row, column), self.spacing_um, strict=True))
        return (
            f"field: folds at y {y:.6g}, x {x:.6g} um: the displacement changes by {steep.max():.3g} of the way, "
            f"at most {STEEPEST} is allowed; leave out the nodes there (trusted: false), or fit with more stiffness"
        )


def bilinear(raster: Raster, points: ArrayLike) -> tuple[list[NDArray[np.intp]], list[NDArray[np.float64]]]:
    """The four nodes around each point and their weights; of points outside those of the nearest one inside.

    Args:
        raster: of the nodes, two an axis or more.
        points: (..., 2).

    Returns:
        Flat numbers of the nodes, and weights that add up to 1: four arrays (...) each.
    """
    last = np.asarray(raster.shape) - 1
    places = np.clip(raster.places(points), 0, last)
    low = np.minimum(places.astype(np.intp), last - 1)
    (ty, tx), (row, column) = (np.moveaxis(part, -1, 0) for part in (places - low, low))
    first = row * raster.shape[1] + column
    steps = (0, 1, raster.shape[1], raster.shape[1] + 1)
    weights = [(1 - ty) * (1 - tx), (1 - ty) * tx, ty * (1 - tx), ty * tx]
    return [first + step for step in steps], weights


def steepness(displacement: NDArray[np.float32], spacing_um: Vector) -> NDArray[np.float64]:
    """The largest norm of the gradient of a displacement (2, rows, columns) in each cell (rows - 1, columns - 1)."""
    return np.asarray(np.linalg.norm(_gradients(displacement, spacing_um), ord=2, axis=(-2, -1)).max(0))


def _gradients(displacement: NDArray[np.float32], spacing_um: Vector) -> NDArray[np.float64]:
    """In the four corners of each cell: (4, rows - 1, columns - 1, 2, 2), of (y, x) by (y, x)."""
    moved = displacement.astype(np.float64)
    by_y = np.diff(moved, axis=1) / spacing_um[0]  # along the left and right sides of a cell
    by_x = np.diff(moved, axis=2) / spacing_um[1]  # along its upper and lower ones
    corners = [(left, upper) for left in (by_y[:, :, :-1], by_y[:, :, 1:]) for upper in (by_x[:, :-1], by_x[:, 1:])]
    return np.stack([np.moveaxis(np.stack(pair, axis=-1), 0, -2) for pair in corners])
