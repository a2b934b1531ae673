"""The last voxel's fraction: a score is climbed through a differentiable resampler (Adam, as in the manuscript).

A search ends on a grid. Where its posterior is narrower than a step of that grid, the mean over it is no finer than the
grid; there the score itself, which is smooth, is climbed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from volpipe.geometry import Rigid
from volpipe.registration.comparison import Comparison
from volpipe.registration.resample import moved
from volpipe.registration.search import Prior

STEPS = 8  # they end 0.02 of a voxel from the top, of 0.3 at the start
PACE = 0.25  # voxels, of the first step
SLOWEST = 0.05  # of the first step, the last one; all between fall alike
# What is remembered of the slope and of its square (Kingma & Ba 2015): little, of few steps. With (0.8, 0.95) they end
# 0.08 of a voxel from the top.
BETAS = (0.5, 0.9)
MOST = 1.5  # voxels that the shift, or a point at half the width, may go from the start


def refined(comparison: Comparison, start: Rigid, prior: Prior) -> Rigid:
    """Climb from a motion; the best motion met.

    Args:
        comparison: the windows, at a scale.
        start: `upper_from_lower`, within a voxel or so; of the prior.
        prior: no step leaves it.
    """
    voxel = min(comparison.spacing)
    half = max(n * s for n, s in zip(comparison.moving.shape[-2:], comparison.spacing, strict=True)) / 2
    unit = torch.tensor([voxel / half, voxel, voxel], dtype=torch.float64)  # of a step: what moves points by one voxel
    origin = torch.tensor([start.angle_rad, *start.shift], dtype=torch.float64)
    low, high = ((torch.tensor(side, dtype=torch.float64) - origin) / unit for side in zip(*prior.bounds, strict=True))

    def value(steps: Tensor) -> Tensor:
        angle, row, column = (origin + steps * unit).float()
        return comparison.value(moved(comparison.moving, (angle, row, column), comparison.spacing))

    steps = climbed(value, low.clamp(-MOST, 0), high.clamp(0, MOST))
    angle, row, column = (origin + steps * unit).tolist()
    return prior.clamped(Rigid(angle, (row, column)))


def climbed(
    value: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, count: int = STEPS, pace: float = PACE
) -> Tensor:
    """Adam from 0 within bounds; the best place met. (torch.optim's takes a second to load.)

    Args:
        value: of a place, with a gradient.
        low, high: bounds of each number.
        count: of steps.
        pace: the first one, in the unit of places.
    """
    slower = SLOWEST ** (1 / count)
    best, best_value = torch.zeros_like(low), -math.inf
    here, slope, square = best, torch.zeros_like(low), torch.zeros_like(low)
    for step in range(1, count + 1):
        here = here.detach().requires_grad_()
        found = value(here)
        if float(found.detach()) > best_value:
            best, best_value = here.detach(), float(found.detach())
        (up,) = torch.autograd.grad(found / found.detach().abs().clamp_min(1e-12), here)
        slope, square = slope.lerp(up, 1 - BETAS[0]), square.lerp(up**2, 1 - BETAS[1])
        unbiased = slope / (1 - BETAS[0] ** step), square / (1 - BETAS[1] ** step)
        by = pace * slower ** (step - 1) * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
        here = (here.detach() + by).clamp(low, high)
    return best
