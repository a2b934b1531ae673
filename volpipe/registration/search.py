"""The search: a score at every angle and every shift of a prior, and what it says of where the lower window lies.

    angles of the prior  --turn-->  Comparison.surface  --all shifts-->  Landscape  -->  modes: motion, spread, mass

A landscape is read as a posterior. Its scatter `sigma` is what is seen over all shifts, nearly all of which are wrong
ones; in units of it the peak has the height Z, and Gaussian noise says of a height z elsewhere

    log p = Z z / temper + constant

Neighbouring frequencies of tissue are not independent, so that a peak says less than its height. What is
returned of a mode is the mean over it and not its peak, which is what the criterion of success asks for (at 2 lost
layers of light-sheet tissue 0.75 of the peaks of the coarse scale are right, and 0.92 of the means).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

from volpipe.geometry import Rigid
from volpipe.geometry.transform import Vector
from volpipe.registration.comparison import LEAST_OVERLAP, Comparison
from volpipe.registration.resample import moved

BEYOND = 1.0  # voxels that are searched beyond the prior, so that its edge is no worse
LOWEST = 1e-3  # of a peak: with none, all that is searched is about as likely
SAMPLES = 2**15  # about, of the shifts: they tell the scatter to a hundredth


@dataclass(frozen=True)
class Prior:
    """What may be: a box of motions.

    Attributes:
        middle: `upper_from_lower`.
        angle_rad: to both sides of it.
        shift: (y, x), to both sides, in the unit of shifts.
    """

    middle: Rigid
    angle_rad: float
    shift: Vector

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """(lowest, highest) angle, shift in y, shift in x."""
        sides = zip(_numbers(self.middle), (self.angle_rad, *self.shift), strict=True)
        return tuple((middle - reach, middle + reach) for middle, reach in sides)

    def clamped(self, motion: Rigid) -> Rigid:
        """The nearest motion of the box."""
        angle, row, column = (
            min(max(one, low), high) for one, (low, high) in zip(_numbers(motion), self.bounds, strict=True)
        )
        return Rigid(angle, (row, column))

    def times(self, factor: float) -> Prior:
        """A wider one about the same middle."""
        return Prior(self.middle, self.angle_rad * factor, (self.shift[0] * factor, self.shift[1] * factor))

    def near(self, motion: Rigid, angle_rad: float, shift: float) -> Prior:
        """The part of it that lies within reach of a motion of it."""
        part = Prior(motion, angle_rad, (shift, shift))
        both = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(self.bounds, part.bounds, strict=True)]
        angle, row, column = ((low + high) / 2 for low, high in both)
        turn, down, across = ((high - low) / 2 for low, high in both)
        return Prior(Rigid(angle, (row, column)), turn, (down, across))


@dataclass(frozen=True)
class Landscape:
    """A score over angles and shifts.

    Attributes:
        angles: (m,) rad.
        rows, columns: (p,), (q,) shifts in y and x, in their unit.
        height: (m, p, q) in units of the scatter, from the level where nothing fits.
        temper: by how much less the highest peak says than its height.
    """

    angles: Tensor
    rows: Tensor
    columns: Tensor
    height: Tensor
    temper: float

    @property
    def peak(self) -> float:
        """The largest height, above 0."""
        return max(float(self.height.max()), LOWEST)

    def posterior(self) -> Tensor:
        """(m, p, q), of sum 1."""
        return torch.softmax(self.log_likely(self.peak).flatten(), 0).view(self.height.shape)

    def log_likely(self, peak: float) -> Tensor:
        """(m, p, q): log p, up to a constant, where the highest peak of all that is compared is this one."""
        return self.height.double() * (peak / self.temper)

    def near(self, motion: Rigid, angle_rad: float, shift: float) -> Tensor:
        """(m, p, q): 1 for motions within a tolerance of one, 0 beyond, and a share for cells on its edge."""
        turned = _inside(self.angles - motion.angle_rad, angle_rad, _step(self.angles))
        away = torch.hypot(self.rows[:, None] - motion.shift[0], self.columns[None, :] - motion.shift[1])
        return turned[:, None, None] * _inside(away, shift, max(_step(self.rows), _step(self.columns)))


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


@torch.no_grad()  # a learned score has gradients to its parameters, which no search needs
def landscape(comparison: Comparison, prior: Prior, temper: float) -> Landscape:
    """The score at all motions of a prior, and a little beyond; all alike where the windows do not overlap.

    Args:
        comparison: the windows, at a scale.
        prior: what to search.
        temper: by how much less the highest peak says than its height.
    """
    size, spacing = (int(comparison.moving.shape[-2]), int(comparison.moving.shape[-1])), comparison.spacing
    down, across = (math.ceil(reach / voxel + BEYOND) for reach, voxel in zip(prior.shift, spacing, strict=True))
    canvas = canvas_of(size, (down, across))
    angles = prior.middle.angle_rad + _angles(prior.angle_rad, size, spacing)
    row, column = torch.tensor(prior.middle.shift)
    surfaces = [
        comparison.surface(moved(comparison.moving, (angle, row, column), spacing), canvas) for angle in angles.float()
    ]
    score, overlap = (torch.stack([getattr(one, name) for one in surfaces]) for name in ("score", "overlap"))
    rows, columns = torch.arange(-down, down + 1), torch.arange(-across, across + 1)
    level, scatter = _where_nothing_fits(score, overlap)
    score, overlap = (image[:, rows][:, :, columns] for image in (score, overlap))
    height = torch.where(overlap > LEAST_OVERLAP, (score - level) / scatter, -math.inf)
    return Landscape(
        angles,
        rows * spacing[0] + prior.middle.shift[0],
        columns * spacing[1] + prior.middle.shift[1],
        height if height.isfinite().any() else torch.zeros_like(height),
        temper,
    )


def modes(found: Landscape, most: int, angle_rad: float, shift: float) -> list[Mode]:
    """The places that hold most of the posterior, the heaviest first; of those alike the nearest to the middle.

    Args:
        found: of a search.
        most: how many.
        angle_rad, shift: two motions that are no further apart are one place.
    """
    left, places = found.posterior(), []
    for _ in range(most):
        mass = _within(left, found, angle_rad, shift)
        best = torch.unravel_index((mass * _tilt(mass.shape)).argmax(), mass.shape)
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
    axes = ((angle_rad, found.angles), (shift, found.rows), (shift, found.columns))
    reach = [min(int(extent / _step(axis)), len(axis) - 1) for extent, axis in axes]
    padded = F.pad(posterior, [n for n in reversed(reach) for _ in range(2)])
    wide = [2 * n + 1 for n in reach]
    return F.avg_pool3d(padded[None, None], wide, 1)[0, 0] * math.prod(wide)


def _tilt(shape: torch.Size) -> Tensor:
    """1 in the middle, and so little less elsewhere that it decides only what nothing else does."""
    down = [torch.linspace(-1, 1, n, dtype=torch.float64) ** 2 for n in shape]
    return 1 - 1e-9 * (down[0][:, None, None] + down[1][:, None] + down[2])


def _angles(reach_rad: float, size: tuple[int, int], spacing: Vector) -> Tensor:
    """Steps that move the end of the longer side by a voxel."""
    step = min(spacing) / (max(n * voxel for n, voxel in zip(size, spacing, strict=True)) / 2)
    count = math.ceil(reach_rad / step)
    return torch.arange(-count, count + 1, dtype=torch.float64) * step


def _where_nothing_fits(score: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
    """Level and scatter, from a part of all shifts that are looked at."""
    some = slice(None, None, score.numel() // (4 * SAMPLES) | 1)
    seen = overlap.flatten()[some] > LEAST_OVERLAP
    return level_and_scatter(score.flatten()[some][seen]) if seen.any() else (torch.tensor(0.0), torch.tensor(1.0))


def level_and_scatter(score: Tensor) -> tuple[Tensor, Tensor]:
    """Of a score at many shifts, (n,), nearly all of which are wrong: a peak, or many, do not move quantiles."""
    some = score[:: len(score) // SAMPLES | 1].numpy()  # numpy's quantile partitions; torch's sorts, which takes longer
    below, level, above = torch.from_numpy(np.quantile(some, (0.16, 0.5, 0.84)).astype(np.float32))
    return level, ((above - below) / 2).clamp_min(1e-20)


def _step(axis: Tensor) -> float:
    """Of an axis of one place there is none: that place is within any tolerance of itself."""
    return float(axis[1] - axis[0]) if len(axis) > 1 else 1e-9


def _inside(away: Tensor, tolerance: float, step: float) -> Tensor:
    return ((tolerance - away.abs()) / step + 0.5).clamp(0, 1)


def _numbers(motion: Rigid) -> tuple[float, float, float]:
    return motion.angle_rad, *motion.shift


def _quick(least: int, window: int) -> int:
    n = next_fast_len(least, real=True)
    while (n - window) % 2:
        n = next_fast_len(n + 1, real=True)
    return int(n)
