"""Stretch: a rigid answer that is freed to an affine one.

    A = R (1 + E)        E = [[yy, yx], [yx, xx]]: what is left beside a turn is symmetric

A score with more freedom climbs higher on noise alone, so it is weighed against a prior. Of a height z in units of the
scatter it says log p = z^2 / (2 TEMPER) + constant, whose slope is that of the wide search; tissue is stretched by E
with

    log p = -(yy^2 + xx^2 + 2 yx^2) / (2 LIKELY^2) + constant,        no number of E beyond MOST

Both are climbed together, at the coarse scale and then at the fine one. Where the windows tell the stretch it is found
to a fraction of a voxel; where there is none, corners are up to twice as far off as the rigid answer's
(`benchmarks/stretch.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from volpipe.geometry import Affine, Rigid
from volpipe.registration.comparison import LEAST_OVERLAP, Comparison
from volpipe.registration.refine import climbed
from volpipe.registration.resample import moved
from volpipe.registration.search import Prior, canvas_of, level_and_scatter
from volpipe.registration.slant import taken_off

# Of windows of 256 of light-sheet tissue; with 0.01 a stretch of 0.04 was not found across a lost layer, with 0.03 two
# lost layers made stretch up.
LIKELY = 0.02
MOST = 0.05
STEPS, PACE = 24, 0.5  # they reach 4 voxels: by more than MOST moves the sides of a window of 128
TEMPER = 4.0  # by how much less a peak says than its height; what is made up and what is found was tried with it
NEAR = 4.0  # voxels that the shift, or a point at half the width, may go at each scale
ASKEW = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)  # yy, xx, yx: how often each stands in E


def stretched(scales: Sequence[Comparison], start: Rigid, prior: Prior, slant: Rigid) -> Affine:
    """Climb from a rigid motion to an affine map.

    Args:
        scales: the windows, coarse ones first.
        start: `upper_from_lower`, as it is seen; of the prior.
        prior: of the turn and the shift.
        slant: what of all that is seen is the tissue's own motion; it is taken off.
    """
    numbers = [start.angle_rad, *start.shift, 0.0, 0.0, 0.0]
    for comparison in scales:
        numbers = _freed(comparison, numbers, prior)
    angle, row, column, along_y, along_x, askew = numbers
    turn = prior.clamped(taken_off(slant, Rigid(angle, (row, column))))
    return Affine.of(turn) @ Affine(((1 + along_y, askew), (askew, 1 + along_x)))


def _freed(comparison: Comparison, start: Sequence[float], prior: Prior) -> list[float]:
    """The best of one scale: angle, shift and stretch."""
    voxel = min(comparison.spacing)
    half = max(n * s for n, s in zip(comparison.moving.shape[-2:], comparison.spacing, strict=True)) / 2
    small = voxel / half  # what moves points at half the width by one voxel
    unit = torch.tensor([small, voxel, voxel, small, small, small], dtype=torch.float64)
    origin = torch.tensor(start, dtype=torch.float64)
    bounds = zip(*prior.bounds, *[(-MOST, MOST)] * 3, strict=True)
    low, high = ((torch.tensor(side, dtype=torch.float64) - origin) / unit for side in bounds)
    noise = _noise(comparison, start)
    if noise is None:
        return list(start)
    level, scatter = noise

    def value(steps: Tensor) -> Tensor:
        at = origin + steps * unit
        score = comparison.value(moved(comparison.moving, tuple(at.float()), comparison.spacing))
        height = ((score - level) / scatter).double()
        return height * height.abs() / (2 * TEMPER) - (ASKEW * (at[3:] / LIKELY) ** 2).sum() / 2

    reach = torch.tensor([NEAR] * 3 + [float("inf")] * 3, dtype=torch.float64)
    steps = climbed(
        value, torch.maximum(low, -reach).clamp(max=0), torch.minimum(high, reach).clamp(min=0), STEPS, PACE
    )
    return list((origin + steps * unit).tolist())


@torch.no_grad()
def _noise(comparison: Comparison, start: Sequence[float]) -> tuple[Tensor, Tensor] | None:
    """Level and scatter of the score where nothing fits; None where the windows hardly overlap."""
    size = (int(comparison.moving.shape[-2]), int(comparison.moving.shape[-1]))
    motion = tuple(torch.tensor(one, dtype=torch.float32) for one in start)
    turned = moved(comparison.moving, motion, comparison.spacing)
    surface = comparison.surface(turned, canvas_of(size, (size[0] // 4, size[1] // 4)))
    seen = surface.score[surface.overlap > LEAST_OVERLAP]
    return level_and_scatter(seen) if len(seen) else None
