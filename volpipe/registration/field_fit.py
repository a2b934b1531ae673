"""Fit the displacement field of a slab to the trusted nodes of a tree.

minimise over d on the nodes' raster    sum over nodes of w |d(r) - (pose(s) - r)|^2      what the nodes say
                                      + STIFFNESS * bending energy of d                   smooth, affine for nothing
                                      + STIFFNESS / REACH^4 * (1 - known) * |d|^2         the pose, where nobody knows

s is a point of the slab and r where its node puts it in the reconstruction: five points a node, so that its turn counts
too. Nodes that are trusted alone among others say nothing (`believed`). w is the node's confidence, times

* a robust weight (Geman and McClure 1987; reweighted ROUNDS times, first stiffly, so that an outlier does not bend what
  it is compared with), and
* what folds leave of it: where the field is steeper than `field.STEEPEST`, the nodes of the cell and around are
  believed QUARTER as much, each round one node farther, at most UNFOLDS times; without nodes d is 0, which folds
  nowhere. The confidence map shows all three: what was not believed is marked.

Distances are counted in nodes, so that the weights mean the same for every slab and level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from scipy.spatial import KDTree

from volpipe.errors import GeometryError
from volpipe.geometry import Raster, Rigid
from volpipe.geometry.transform import Vector
from volpipe.registration.field import STEEPEST, Field, Points, bilinear, steepness

STIFFNESS = 0.5  # halves the noise of single nodes
REACH = 4.0  # nodes: how far a displacement is carried on beyond the last node that is known
ROUNDS, FIRST_STIFFER = 6, 16.0
WIDTH = 3.0  # robust widths: a residual of this many counts a quarter
SMALLEST_WIDTH = 0.02  # nodes: what differs by less is no outlier, however well the others agree
QUARTER, UNFOLDS = 0.25, 8
TOLERANCE, MOST_STEPS = 1e-8, 20_000  # of the linear system; some hundreds of steps are enough
MARGIN = 1  # nodes around the slab
# Nodes: as far another one must be trusted. (Where one of 16 or 64 nodes over bent light-sheet tissue is trusted alone,
# a field that follows it is further off than the pose.)
BESIDE = 2
OFFSETS = np.array([(0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)]) / 4  # of a node's size: points that speak for it


@dataclass(frozen=True, slots=True)
class Node:
    """What a tree found for one of its finest windows.

    Attributes:
        centre_um: of the window, from the slab's centre (y, x).
        upper_from_lower: about that centre, in micrometres: where the slab's points lie in the slab above.
        confidence: 0..1.
        trusted: False keeps it out of the field.
    """

    centre_um: Vector
    upper_from_lower: Rigid
    confidence: float
    trusted: bool = True


def fit_field(
    nodes: Sequence[Node],
    pose: Rigid,
    *,
    extent_um: Vector,
    spacing_um: Vector,
    reconstruction_from_upper: Callable[[Points], Points] = Rigid(),  # noqa: B008 (frozen)
    stiffness: float = STIFFNESS,
) -> Field:
    """Fit the field of one slab.

    Args:
        nodes: of the slab; none, or none that is believed (`believed`), give the pose.
        pose: reconstruction_from_slab, which holds where no node is trusted.
        extent_um: height and width of the slab.
        spacing_um: size of a finest node.
        reconstruction_from_upper: where points of the slab above, (n, 2), lie in the reconstruction: its pose, or
            `Field.push` of its own field. To correct `pose` by what nodes say beyond the pair's motion alone, give
            `pose @ pair.inverse`.
        stiffness: more is smoother.

    Raises:
        GeometryError: a node is not finite, its confidence is not within 0..1, or the field folds whatever is left out.
    """
    _check(nodes, stiffness)
    raster = _raster_of(pose, extent_um, spacing_um)
    fit = _Fit(raster, *_pairs(believed(nodes, spacing_um), pose, spacing_um, reconstruction_from_upper))
    moved, weights = fit.robust(stiffness)
    for reach in range(UNFOLDS):
        steep = steepness(moved.astype(np.float32), spacing_um) > STEEPEST
        if not steep.any():
            break
        weights = np.where(fit.near(steep, reach), weights * QUARTER, weights)
        moved = fit.solved(weights, stiffness, moved)
    # still folded: refused by Field, with where
    return Field(
        pose, moved.astype(np.float32), raster.origin_um, raster.spacing_um, fit.known(weights).astype(np.float32)
    )


def believed(nodes: Sequence[Node], spacing_um: Vector) -> list[Node]:
    """Those that are trusted, less one that is so alone among others that were looked at: of many that find nothing
    some look sure, and each would turn all of its slab.

    Args:
        nodes: of a slab; of confidence 0 where there was nothing to look at.
        spacing_um: size of a finest node.
    """
    trusted = [node for node in nodes if node.trusted]
    around, alike = (
        _near([node.centre_um for node in trusted], [node.centre_um for node in them], spacing_um)
        for them in ([node for node in nodes if node.trusted or node.confidence > 0], trusted)
    )
    return [node for node, looked, agreed in zip(trusted, around, alike, strict=True) if agreed > 1 or looked == 1]


def _near(points: Sequence[Vector], others: Sequence[Vector], spacing_um: Vector) -> NDArray[np.intp]:
    """How many of the others lie within BESIDE nodes of each point along both axes: (points,)."""
    here, there = (np.reshape(some, (-1, 2)) / spacing_um for some in (points, others))
    count = KDTree(there).query_ball_point(here, BESIDE + 0.5, p=np.inf, return_length=True)
    return np.asarray(count, np.intp)


def _check(nodes: Sequence[Node], stiffness: float) -> None:
    for node in nodes:
        if not np.isfinite(node.centre_um).all() or not 0 <= node.confidence <= 1:
            raise GeometryError(
                f"field: a node at {node.centre_um} um of confidence {node.confidence}; give finite places and 0..1"
            )
    if not 0 < stiffness < np.inf:
        raise GeometryError(f"field: stiffness {stiffness}; give a number above 0")


def _raster_of(pose: Rigid, extent_um: Vector, spacing_um: Vector) -> Raster:
    """Nodes over the slab as it lies in the reconstruction, about its centre, and MARGIN around."""
    whole = Raster.centred((1, 1), extent_um)
    corners = pose(whole.outline_um)
    half = np.abs(corners - pose((0.0, 0.0))).max(0)
    rows, columns = (int(np.ceil(2 * h / s)) + 1 + 2 * MARGIN for h, s in zip(half, spacing_um, strict=True))
    around = Raster.centred((max(rows, 2), max(columns, 2)), spacing_um)
    y, x = (o + c for o, c in zip(around.origin_um, pose.shift, strict=True))
    return Raster(around.shape, spacing_um, (y, x))


def _pairs(
    nodes: Sequence[Node], pose: Rigid, spacing_um: Vector, reconstruction_from_upper: Callable[[Points], Points]
) -> tuple[Points, Points, NDArray[np.float64]]:
    """(points of the reconstruction, the displacement wanted there, both (nodes, 5, 2); confidences)."""
    offsets = OFFSETS * np.asarray(spacing_um)
    in_slab = np.array([node.centre_um + offsets for node in nodes]).reshape(-1, len(OFFSETS), 2)
    in_upper = np.array([node.centre_um + node.upper_from_lower(offsets) for node in nodes]).reshape(in_slab.shape)
    placed = np.asarray(reconstruction_from_upper(in_upper.reshape(-1, 2))).reshape(in_slab.shape)
    return placed, pose(in_slab) - placed, np.array([node.confidence for node in nodes])


@dataclass(frozen=True)
class _Fit:
    """The least squares of one slab.

    Attributes:
        raster: of the unknowns.
        points, wanted: (nodes, 5, 2).
        confidences: (nodes,).
    """

    raster: Raster
    points: Points
    wanted: Points
    confidences: NDArray[np.float64]

    @cached_property
    def _sampled(self) -> sparse.csr_matrix:
        """(5 * nodes, unknowns): the displacement at the nodes' points."""
        corners, weights = bilinear(self.raster, self.points.reshape(-1, 2))
        count = len(self.confidences) * len(OFFSETS)
        rows = np.tile(np.arange(count), 4)
        entries = (np.concatenate(weights), (rows, np.concatenate(corners)))
        return sparse.csr_matrix(entries, shape=(count, self._unknowns))

    @cached_property
    def _bending(self) -> sparse.csr_matrix:
        rows, columns = (sparse.identity(n, format="csr") for n in self.raster.shape)
        (dy, dx), (ddy, ddx) = ([_difference(n, order) for n in self.raster.shape] for order in (1, 2))
        terms = (sparse.kron(ddy, columns), sparse.kron(rows, ddx), np.sqrt(2) * sparse.kron(dy, dx))
        return sparse.csr_matrix(sum(term.T @ term for term in terms))

    @property
    def _unknowns(self) -> int:
        return self.raster.shape[0] * self.raster.shape[1]

    def known(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """0..1 on the raster: the mean weight of the nodes around, less where they cover less than half."""
        one = np.ones(len(weights)) / len(OFFSETS)
        covered, summed = (self._sampled.T @ np.repeat(one * each, len(OFFSETS)) for each in (1.0, weights))
        return np.asarray(np.clip(summed / np.maximum(covered, 0.5), 0, 1)).reshape(self.raster.shape)

    def solved(self, weights: NDArray[np.float64], stiffness: float, start: NDArray[np.float64]) -> NDArray[np.float64]:
        """The minimum for weights (nodes,), (2, rows, columns)."""
        each = np.repeat(weights / len(OFFSETS), len(OFFSETS))
        data = self._sampled.T @ sparse.diags(each) @ self._sampled
        pose = sparse.diags((1 + 1e-6 - self.known(weights).ravel()) / REACH**4)
        right = self._sampled.T @ (each[:, None] * self.wanted.reshape(-1, 2))
        found = conjugate_gradients(data + stiffness * (self._bending + pose), right, start.reshape(2, -1).T)
        return found.T.reshape(2, *self.raster.shape)

    def robust(self, stiffness: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(displacement, weights) with outliers believed little."""
        moved, weights = np.zeros((2, *self.raster.shape)), self.confidences
        if not weights.any():
            return moved, weights
        moved = self.solved(weights, FIRST_STIFFER * stiffness, moved)
        for _ in range(ROUNDS):
            away = self._residuals(moved)
            width = max(1.4826 * float(np.median(away[self.confidences > 0])), SMALLEST_WIDTH)
            weights = self.confidences / (1 + (away / (WIDTH * width)) ** 2) ** 2
            moved = self.solved(weights, stiffness, moved)
        return moved, weights

    def near(self, steep: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
        """The nodes that speak for a steep cell, or lie up to `reach` nodes beside it: (nodes,)."""
        on_raster = np.pad(steep, ((0, 1), (0, 1))) | np.pad(steep, ((1, 0), (0, 1)))
        on_raster |= np.pad(steep, ((0, 1), (1, 0))) | np.pad(steep, ((1, 0), (1, 0)))
        around = binary_dilation(on_raster, np.ones((3, 3), bool), iterations=reach + 1)
        touched = self._sampled @ around.ravel().astype(np.float64) > 0
        return np.asarray(touched.reshape(-1, len(OFFSETS)).any(1))

    def _residuals(self, moved: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far each node's points lie from where it put them: root mean square, in nodes."""
        left = (self._sampled @ moved.reshape(2, -1).T - self.wanted.reshape(-1, 2)) / np.asarray(
            self.raster.spacing_um
        )
        return np.asarray(np.sqrt((left**2).sum(1).reshape(-1, len(OFFSETS)).mean(1)))


def _difference(length: int, order: int) -> sparse.csr_matrix:
    """(length - order, length): first or second differences; of too few points, none."""
    stencil = {1: (-1.0, 1.0), 2: (1.0, -2.0, 1.0)}[order]
    return sparse.diags(stencil, range(order + 1), shape=(max(length - order, 0), length), format="csr")


def conjugate_gradients(
    matrix: sparse.csr_matrix, right: NDArray[np.float64], start: NDArray[np.float64], *, most: int = MOST_STEPS
) -> NDArray[np.float64]:
    """Solve a positive definite system for several right sides (n, k) at once, preconditioned by its diagonal.

    Not a factorisation: a raster of 1000 x 1000 nodes would fill gigabytes.

    Raises:
        GeometryError: not converged.
    """
    found, scale = start.copy(), 1 / matrix.diagonal()[:, None]
    left = right - matrix @ found
    enough = TOLERANCE * np.maximum(np.linalg.norm(right, axis=0), np.finfo(float).tiny)
    direction = scale * left
    energy = (left * direction).sum(0)
    for _ in range(most):
        if (np.linalg.norm(left, axis=0) <= enough).all():
            return found
        image = matrix @ direction
        step = energy / np.maximum((direction * image).sum(0), np.finfo(float).tiny)
        found, left = found + step * direction, left - step * image
        before, energy = energy, (left * scale * left).sum(0)
        direction = scale * left + energy / np.maximum(before, np.finfo(float).tiny) * direction
    raise GeometryError(f"field: no smooth field found in {most} steps; leave out nodes far off")
