"""Stretch: a rigid answer that is freed to an affine one.

    A = R (1 + E)        E = [[yy, yx], [yx, xx]]: what is left beside a turn is symmetric

What a score says (`freedom.py`) is weighed against a prior of tissue that is stretched by E:

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
from volpipe.registration.comparison import Comparison
from volpipe.registration.freedom import log_likely
from volpipe.registration.refine import climbed
from volpipe.registration.resample import moved
from volpipe.registration.search import Prior
from volpipe.registration.slant import taken_off

# Of windows of 256 of light-sheet tissue; with 0.01 a stretch of 0.04 was not found across a lost layer, with 0.03 two
# lost layers made stretch up.
LIKELY = 0.02
MOST = 0.05
STEPS, PACE = 24, 0.5  # they reach 4 voxels: by more than MOST moves the sides of a window of 128
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
    likely = log_likely(comparison, Rigid(start[0], (start[1], start[2])))
    if likely is None:
        return list(start)

    def value(steps: Tensor) -> Tensor:
        at = origin + steps * unit
        images = moved(comparison.moving, tuple(at.float()), comparison.spacing)
        return likely(images) - (ASKEW * (at[3:] / LIKELY) ** 2).sum() / 2

    reach = torch.tensor([NEAR] * 3 + [float("inf")] * 3, dtype=torch.float64)
    steps = climbed(
        value, torch.maximum(low, -reach).clamp(max=0), torch.minimum(high, reach).clamp(min=0), STEPS, PACE
    )
    return list((origin + steps * unit).tolist())
