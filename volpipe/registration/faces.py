"""One layer against another, to a hundredth of a voxel: what a chain of forty slabs adds up must be no more.

    upper(q)  ~  lower(R^-1 (q - t)),   q in the upper window, from its centre: `upper_from_lower`

The correlation of both where they lie on each other is climbed from a motion that is nearly right (ECC: Evangelidis and
Psarakis 2008, PAMI). Nothing may draw to the voxel grid, as layers of one slab are compared always the same way: layers
are cubic splines (the cubic kernel that torch samples with gains a few percent between voxels), blurred so far that
noise is as strong between voxels as at them. Layers that are blurred more go first, which see further.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from volpipe.geometry import Rigid

CLIMBS = ((4.0, 0.1), (0.7, 1e-3))  # blur, and when it has settled; voxels. The first one sees some 10 voxels far
STEPS = 20
ALIKE = 0.6  # correlation: of less, what moves as one is less than what changes
FURTHEST, FURTHEST_RAD = 0.04, 0.04  # of the width: twice what counts as a success; further, the start was wrong

Plane = NDArray[np.float64]


def aligned(
    upper: NDArray[Any], lower: NDArray[Any], around: Rigid, spacing: tuple[float, float], within: Rigid | None = None
) -> Rigid | None:
    """Where a layer lies on another one: `upper_from_lower`, in the unit of the spacing.

    Args:
        upper, lower: (y, x) of one shape, any real type; what is not finite is not known.
        around: where to begin; within some voxels.
        spacing: (y, x) of one voxel, in the unit of shifts.
        within: only what a third window shows too, which lies so in the upper one.

    Returns:
        None where the climb leads away from its start, or nowhere, or the layers are not alike: they do not tell.
    """
    motion, correlation = around, 0.0
    for blur, settled in CLIMBS:
        one, other = _Layer.of(upper, blur), _Layer.of(lower, blur)
        if within is not None:
            one = replace(one, weight=one.weight * _shown(within, one.values.shape, spacing))
        climbed = _climbed(one, other, motion, spacing, settled)
        if climbed is None:
            return None
        motion, correlation = climbed
    return motion if correlation >= ALIKE and is_near(motion, around, upper.shape, spacing) else None


@dataclass(frozen=True)
class _Layer:
    """Values, the coefficients of their spline, their slopes per voxel (2, y, x), and the weight of each voxel."""

    values: Plane
    spline: Plane
    slopes: Plane
    weight: Plane

    @classmethod
    def of(cls, layer: NDArray[Any], blur: float) -> _Layer:
        known = np.isfinite(layer)
        values = np.where(known, layer, layer[known].mean() if known.any() else 0).astype(np.float64)
        values = ndimage.gaussian_filter((values - values.mean()) / max(float(values.std()), 1e-12), blur)
        spline = ndimage.spline_filter(values, 3)
        weight = ndimage.binary_erosion(known, iterations=2, border_value=1).astype(np.float64)
        return cls(values, spline, np.stack([_slope(spline, axis) for axis in (0, 1)]), weight)

    def at(self, places: Plane) -> tuple[Plane, Plane, Plane]:
        """Values, slopes (2, y, x) and weights at (2, y, x) voxels; slopes only steer, and need no spline."""
        values = ndimage.map_coordinates(self.spline, places, order=3, prefilter=False)
        *slopes, weight = (ndimage.map_coordinates(one, places, order=1) for one in (*self.slopes, self.weight))
        return values, np.stack(slopes), weight


def _climbed(
    upper: _Layer, lower: _Layer, start: Rigid, spacing: Sequence[float], settled: float
) -> tuple[Rigid, float] | None:
    grid, middle, unit = _grid(upper.values.shape, spacing)
    motion, correlation = np.array([start.angle_rad, *start.shift]), 0.0
    for _ in range(STEPS):
        back = _rigid(motion).inverse
        points = np.moveaxis(back(grid), -1, 0) / unit
        values, slopes, weight = lower.at(points + middle)
        along = _by_motion(slopes / unit, points * unit, back)
        step, correlation = _step(upper.values, values, along, upper.weight * weight)
        if not np.isfinite(step).all():
            return None
        motion = motion + step
        if np.abs(step * [max(upper.values.shape) / 2, 1 / spacing[0], 1 / spacing[1]]).max() < settled:
            break
    return _rigid(motion), correlation


def _step(upper: Plane, lower: Plane, slopes: Plane, weight: Plane) -> tuple[Plane, float]:
    """One step of ECC (its eq. 18 to 21): the motion that makes the linearised correlation greatest."""
    total = max(float(weight.sum()), 1e-12)
    one, other, *along = (image - (image * weight).sum() / total for image in (upper, lower, *slopes))
    stacked = np.stack(along).reshape(3, -1)
    weighted = stacked * weight.ravel()
    normal = weighted @ stacked.T
    onto = np.stack([weighted @ one.ravel(), weighted @ other.ravel()], axis=1)
    squares, product = (float((other * image * weight).sum()) for image in (other, one))
    length = float(np.sqrt((one**2 * weight).sum() * squares))
    if length <= 0 or not np.isfinite(normal).all() or np.linalg.cond(normal) > 1e14:
        return np.full(3, np.nan), 0.0
    solved = np.linalg.solve(normal, onto)
    rest = product - float(onto[:, 0] @ solved[:, 1])
    gain = (squares - float(onto[:, 1] @ solved[:, 1])) / rest if rest > 0 else np.nan
    step: Plane = gain * solved[:, 0] - solved[:, 1]
    return step, product / length


def _by_motion(slopes: Plane, points: Plane, back: Rigid) -> Plane:
    """By how much the moved image changes with angle and shift: its own slopes times how its points move."""
    (y, x), (cos, sin) = points, (np.cos(back.angle_rad), -np.sin(back.angle_rad))
    return np.stack(
        [slopes[1] * y - slopes[0] * x, -slopes[0] * cos - slopes[1] * sin, slopes[0] * sin - slopes[1] * cos]
    )


def _grid(shape: tuple[int, ...], spacing: Sequence[float]) -> tuple[Plane, Plane, Plane]:
    """Points (y, x, 2) from the centre, in the unit; the centre in voxels and the unit as (2, 1, 1)."""
    lines = [(np.arange(n) - (n - 1) / 2) * voxel for n, voxel in zip(shape, spacing, strict=True)]
    points = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1)
    return points, (np.array(shape)[:, None, None] - 1) / 2, np.array(spacing)[:, None, None]


def _slope(spline: Plane, axis: int) -> Plane:
    """Of a cubic spline, at its knots: exact inside, as there no spline ends."""
    along = ndimage.correlate1d(spline, [-0.5, 0.0, 0.5], axis)
    smooth: Plane = ndimage.correlate1d(along, [1 / 6, 2 / 3, 1 / 6], 1 - axis)
    return smooth


def _shown(within: Rigid, shape: tuple[int, ...], spacing: Sequence[float]) -> Plane:
    """1 where a window that lies so shows a voxel, else 0."""
    grid, middle, unit = _grid(shape, spacing)
    places = np.moveaxis(within.inverse(grid), -1, 0) / unit + middle
    last = np.array(shape)[:, None, None] - 1
    shown: Plane = np.all((places >= 0) & (places <= last), axis=0).astype(np.float64)
    return shown


def _rigid(motion: Plane) -> Rigid:
    angle, y, x = map(float, motion)
    return Rigid(angle, (y, x))


def is_near(found: Rigid, around: Rigid, shape: tuple[int, ...], spacing: Sequence[float]) -> bool:
    """Whether a motion of a window (y, x) is what another one is but for its error."""
    width = min(n * voxel for n, voxel in zip(shape, spacing, strict=True))
    away = np.subtract(found.shift, around.shift)
    return bool(np.hypot(*away) <= FURTHEST * width and abs(found.angle_rad - around.angle_rad) <= FURTHEST_RAD)
