"""The search: a score at every angle and every shift of a prior, and what it says of where the lower window lies.

    angles of the prior  --turn-->  Comparison.surface  --all shifts-->  Landscape  -->  modes: motion, spread, mass

A landscape is read as a posterior. Its scatter `sigma` is what is seen over all shifts, nearly all of which are wrong
ones; in units of it the peak has the height Z, and Gaussian noise says of a height z elsewhere

    log p = Z z / TEMPER + constant

Neighbouring frequencies of tissue are not independent, so that a peak says less than its height (TEMPER). What is
returned of a mode is the mean over it and not its peak, which is what the criterion of success asks for (at 2 lost
layers of light-sheet tissue 0.75 of the peaks of the coarse scale are right, and 0.92 of the means).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

from volpipe.geometry import Rigid
from volpipe.registration.comparison import LEAST_OVERLAP, Comparison
from volpipe.registration.resample import moved

TEMPER = 4.0
BEYOND = 1.0  # voxels and steps of the angle that are searched beyond the prior, so that its edge is no worse
SAMPLE = 7  # every 7th shift tells the scatter


@dataclass(frozen=True)
class Reach:
    """What is searched, about a motion.

    Attributes:
        angle_rad: to both sides.
        shift: (y, x), to both sides, in the unit of shifts.
        step: of the angle, in voxels at half the window's width.
    """

    angle_rad: float
    shift: tuple[float, float]
    step: float = 1.0


@dataclass(frozen=True)
class Landscape:
    """A score over angles and shifts.

    Attributes:
        angles: (m,) rad.
        rows, columns: (p,), (q,) shifts in y and x, in their unit.
        height: (m, p, q) in units of the scatter, from the level where nothing fits.
    """

    angles: Tensor
    rows: Tensor
    columns: Tensor
    height: Tensor

    @property
    def peak(self) -> float:
        """The largest height."""
        return float(self.height.max())

    def posterior(self) -> Tensor:
        """(m, p, q), of sum 1."""
        log = self.height.double() * (max(self.peak, 0.0) / TEMPER)
        return torch.softmax(log.flatten(), 0).view(log.shape)

    def near(self, motion: Rigid, angle_rad: float, shift: float) -> Tensor:
        """(m, p, q): 1 for motions within a tolerance of one, 0 beyond, and a share for cells on its edge."""
        steps = [float(axis[1] - axis[0]) if len(axis) > 1 else 1.0 for axis in (self.angles, self.rows, self.columns)]
        turned = _inside(self.angles - motion.angle_rad, angle_rad, steps[0])
        away = torch.hypot(self.rows[:, None] - motion.shift[0], self.columns[None, :] - motion.shift[1])
        return turned[:, None, None] * _inside(away, shift, max(steps[1:]))


@dataclass(frozen=True)
class Mode:
    """One place where the windows may fit.

    Attributes:
        motion: mean over it.
        spread: deviations of angle (rad) and of shift (its unit) in it.
        mass: its share of the posterior.
    """

    motion: Rigid
    spread: tuple[float, float]
    mass: float


def canvas_of(size: tuple[int, int], reach: tuple[int, int]) -> tuple[int, int]:
    """Height and width on which shifts up to `reach` voxels do not meet from the other side; quick to transform, and
    larger than the window by even numbers, so that both have one centre."""
    down, across = (_quick(n + r, n) for n, r in zip(size, reach, strict=True))
    return down, across


def landscape(comparison: Comparison, around: Rigid, reach: Reach) -> Landscape:
    """The score at all motions within reach of one.

    Args:
        comparison: the windows, at a scale.
        around: `upper_from_lower`.
        reach: how far to search.
    """
    size = (int(comparison.moving.shape[-2]), int(comparison.moving.shape[-1]))
    voxels = tuple(
        math.ceil(shift / voxel + BEYOND) for shift, voxel in zip(reach.shift, comparison.spacing, strict=True)
    )
    canvas = canvas_of(size, (voxels[0], voxels[1]))
    angles = around.angle_rad + _angles(reach, size, comparison.spacing)
    shift = torch.tensor(around.shift)
    surfaces = [
        comparison.surface(moved(comparison.moving, (angle, shift[0], shift[1]), comparison.spacing), canvas)
        for angle in angles.float()
    ]
    score, overlap = (torch.stack([getattr(one, name) for one in surfaces]) for name in ("score", "overlap"))
    level, scatter = _scatter(score[overlap > LEAST_OVERLAP])
    rows, columns = (torch.arange(-n, n + 1) for n in voxels)
    height = torch.where(overlap > LEAST_OVERLAP, (score - level) / scatter, torch.tensor(-math.inf))
    return Landscape(
        angles,
        rows * comparison.spacing[0] + around.shift[0],
        columns * comparison.spacing[1] + around.shift[1],
        height[:, rows][:, :, columns],
    )


def modes(found: Landscape, most: int, angle_rad: float, shift: float) -> list[Mode]:
    """The places that hold most of the posterior, the heaviest first.

    Args:
        found: of a search.
        most: how many.
        angle_rad, shift: two motions that are no further apart are one place.
    """
    left, places = found.posterior(), []
    for _ in range(most):
        mass = _within(left, found, angle_rad, shift)
        best = torch.unravel_index(mass.argmax(), mass.shape)
        angle, row, column = (axis[i] for axis, i in zip((found.angles, found.rows, found.columns), best, strict=True))
        centre = Rigid(float(angle), (float(row), float(column)))
        here = left * found.near(centre, 2 * angle_rad, 2 * shift)
        total = float(here.sum())
        if total < 1e-9:
            break
        places.append(_mode(here / total, found, total))
        left = left - here
    return places


def _mode(share: Tensor, found: Landscape, mass: float) -> Mode:
    (angle, turn), (row, down), (column, across) = (
        _moments(share.sum(others), axis)
        for others, axis in (((1, 2), found.angles), ((0, 2), found.rows), ((0, 1), found.columns))
    )
    return Mode(Rigid(angle, (row, column)), (turn, math.hypot(down, across)), mass)


def _moments(share: Tensor, axis: Tensor) -> tuple[float, float]:
    mean = (share * axis).sum()
    return float(mean), float((share * (axis - mean) ** 2).sum().clamp_min(0).sqrt())


def _within(posterior: Tensor, found: Landscape, angle_rad: float, shift: float) -> Tensor:
    """At each motion the mass of the box around it."""
    wide = [
        2 * int(extent / float(axis[1] - axis[0])) + 1 if len(axis) > 1 else 1
        for extent, axis in ((angle_rad, found.angles), (shift, found.rows), (shift, found.columns))
    ]
    padded = posterior[None, None]
    return F.avg_pool3d(padded, wide, 1, [n // 2 for n in wide], count_include_pad=True)[0, 0] * math.prod(wide)


def _angles(reach: Reach, size: tuple[int, int], spacing: tuple[float, float]) -> Tensor:
    half = max(n * voxel for n, voxel in zip(size, spacing, strict=True)) / 2
    step = reach.step * min(spacing) / half
    count = math.ceil(reach.angle_rad / step) if reach.angle_rad > 0 else 0
    return torch.arange(-count, count + 1, dtype=torch.float64) * step


def _scatter(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Level and deviation of what fits nowhere: a peak, or many, do not move quantiles."""
    below, level, above = torch.quantile(scores[::SAMPLE][: 2**20], torch.tensor([0.16, 0.5, 0.84]))
    return level, ((above - below) / 2).clamp_min(1e-20)


def _inside(away: Tensor, tolerance: float, step: float) -> Tensor:
    return ((tolerance - away.abs()) / step + 0.5).clamp(0, 1)


def _quick(least: int, window: int) -> int:
    n = next_fast_len(least, real=True)
    while (n - window) % 2:
        n = next_fast_len(n + 1, real=True)
    return int(n)
