"""Slabs that come back bent: the lower window of a trial, sampled again where a smooth field takes it.

    lower'(q) = lower(q + d(q))        d   waves longer than a third of the window, with neither shift nor turn

The field is what is left of smoothed noise when the shift and the turn that fit it best are taken off, so that the
trial's truth is still its best rigid motion. What is bent differs from what is not by one more cubic spline.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from volpipe.registration.trials import Trial, TrialOptions

LARGER = 32  # voxels, of the window that is sampled again: half of it at each side
SMOOTH = 1 / 6  # of the window's width: deviation of the Gaussian that noise is smoothed by


def larger(options: TrialOptions) -> TrialOptions:
    """Of trials to be bent: with the same shifts in voxels, at other places of the volume."""
    window = options.window + LARGER
    return replace(options, window=window, max_shift=options.max_shift * options.window / window)


def bent(trial: Trial, by: float, number: int) -> Trial:
    """A trial of `larger` options, its lower window bent.

    Args:
        trial: one.
        by: root of the mean square of the field's length, share of the window's width.
        number: of the trial; it tells the field.
    """
    size = trial.lower.shape[-1] - LARGER
    inner = slice(LARGER // 2, -(LARGER // 2))
    at = np.indices((size, size), float) + LARGER // 2
    displaced = by * size * field(np.random.default_rng((number, round(1e6 * by))), size)
    if np.abs(displaced).max() > LARGER / 2:
        raise SystemExit(
            f"bend {by}: {np.abs(displaced).max():.0f} voxels at most; a window has {LARGER // 2} around it"
        )
    at += displaced
    lower = np.stack([ndimage.map_coordinates(layer, at, order=3, mode="nearest") for layer in trial.lower])
    return replace(trial, upper=np.ascontiguousarray(trial.upper[:, inner, inner]), lower=lower)


def field(random: np.random.Generator, size: int) -> NDArray[np.float64]:
    """(2, size, size) displacements in y and x: mean square length 1, without shift or turn."""
    noise = random.standard_normal((2, 2 * size, 2 * size))  # wrapped, and of that a part: no side is like another
    smooth = np.stack([ndimage.gaussian_filter(one, SMOOTH * size, mode="wrap")[:size, :size] for one in noise])
    smooth -= smooth.mean((1, 2), keepdims=True)
    y, x = np.indices((size, size)) - (size - 1) / 2
    turn = np.stack([x, -y])
    smooth -= turn * (smooth * turn).sum() / (turn**2).sum()
    return np.asarray(smooth / np.sqrt((smooth**2).sum(0).mean()))
