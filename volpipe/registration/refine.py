"""The last voxel's fraction: a score is climbed through a differentiable resampler (Adam, as in the manuscript).

A search ends on a grid. Where its posterior is narrower than a step of that grid, the mean over it is no finer than the
grid; there the score itself, which is smooth, is climbed.
"""

from __future__ import annotations

import torch

from volpipe.geometry import Rigid
from volpipe.registration.comparison import Comparison
from volpipe.registration.resample import moved

STEPS = 12
PACE = 0.25  # voxels, of the first steps; it shrinks to a twentieth


def refined(comparison: Comparison, start: Rigid, most: float = 1.5) -> Rigid:
    """Climb from a motion; the best motion met.

    Args:
        comparison: the windows, at a scale.
        start: `upper_from_lower`, within a voxel or so.
        most: voxels that the shift, or a point at half the width, may go from there.
    """
    size = (int(comparison.moving.shape[-2]), int(comparison.moving.shape[-1]))
    voxel = min(comparison.spacing)
    half = max(n * s for n, s in zip(size, comparison.spacing, strict=True)) / 2
    unit = torch.tensor([voxel / half, voxel, voxel], dtype=torch.float64)  # of a step: what moves points by one voxel
    origin = torch.tensor([start.angle_rad, *start.shift], dtype=torch.float64)
    steps = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    climb = torch.optim.Adam([steps], lr=PACE, betas=(0.8, 0.95))
    slower = torch.optim.lr_scheduler.ExponentialLR(climb, 0.05 ** (1 / STEPS))
    best, best_value = steps.detach().clone(), -torch.inf
    for _ in range(STEPS):
        motion = (origin + steps * unit).float()
        value = comparison.value(moved(comparison.moving, (motion[0], motion[1], motion[2]), comparison.spacing))
        if float(value.detach()) > best_value:
            best, best_value = steps.detach().clone(), float(value.detach())
        climb.zero_grad()
        torch.autograd.backward(-value / value.detach().abs().clamp_min(1e-12))
        climb.step()
        slower.step()
        with torch.no_grad():
            steps.clamp_(-most, most)
    angle, row, column = (origin + best * unit).tolist()
    return Rigid(angle, (row, column))
