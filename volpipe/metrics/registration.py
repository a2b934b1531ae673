"""How well motions were found: errors, success, and whether a confidence tells one from the other.

    error in shift   |estimate - truth| in y, in x, and its length; fractions of the window's width
    error in angle   radians, the short way round
    success          length under SHIFT_WITHIN and angle under ANGLE_WITHIN_RAD

Both motions are `upper_from_lower` about the windows' centres. Trials of windows that overlap in space are not
independent: intervals resample blocks of them, not trials (block bootstrap; Künsch 1989).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from volpipe.geometry import Rigid

Numbers = NDArray[np.float64]

SHIFT_WITHIN = 0.02  # of the width
ANGLE_WITHIN_RAD = 0.01
RESAMPLED = 2000
ACCEPTED_FAILURES = 0.01  # share of the failures that a confidence may let through


@dataclass(frozen=True, eq=False)
class Errors:
    """Of n estimates.

    Attributes:
        shift: (n, 2), absolute in y and x, fractions of the width.
        angle_rad: (n,), absolute.
    """

    shift: Numbers
    angle_rad: Numbers

    @property
    def length(self) -> Numbers:
        """(n,), of the shifts' errors."""
        found: Numbers = np.hypot(self.shift[:, 0], self.shift[:, 1])
        return found

    @property
    def success(self) -> NDArray[np.bool_]:
        """(n,), right in shift and in angle."""
        right: NDArray[np.bool_] = (self.length < SHIFT_WITHIN) & (self.angle_rad < ANGLE_WITHIN_RAD)
        return right


def errors_of(estimates: Sequence[Rigid], truths: Sequence[Rigid], width: float) -> Errors:
    """Of each estimate against its truth.

    Args:
        estimates, truths: in one unit of length.
        width: of the window, in that unit.
    """
    pairs = list(zip(estimates, truths, strict=True))
    shift = np.array([np.subtract(one.shift, other.shift) for one, other in pairs], np.float64).reshape(-1, 2)
    turn = np.array([one.angle_rad - other.angle_rad for one, other in pairs], np.float64)
    return Errors(np.abs(shift) / width, np.abs(np.remainder(turn + np.pi, 2 * np.pi) - np.pi))


def identity_errors(truths: Sequence[Rigid], width: float) -> Errors:
    """Of doing nothing: what every method must beat."""
    return errors_of([Rigid()] * len(truths), truths, width)


def summary(errors: Errors, blocks: ArrayLike, confidence: ArrayLike | None = None) -> dict[str, Any]:
    """One row of a table, JSON-able: n, success with its 95 % interval, mean, median and 95th percentile of the errors,
    and what the confidence is worth (`auroc`, `kept`; None without one, or where all succeed or all fail).

    Args:
        errors: of n estimates.
        blocks: (n,) the place of each; see `bootstrap_interval`.
        confidence: (n,), higher is surer.
    """
    success = errors.success
    low, high = bootstrap_interval(success, blocks)
    told = {"n": len(success), "success": float(success.mean()), "success_low": low, "success_high": high}
    parts = {"shift": errors.length, "y": errors.shift[:, 0], "x": errors.shift[:, 1], "angle_rad": errors.angle_rad}
    for name, values in parts.items():
        told |= {f"{name}_mean": float(values.mean()), f"{name}_median": float(np.median(values))}
        told[f"{name}_p95"] = float(np.percentile(values, 95))
    sure = None if confidence is None else np.asarray(confidence, np.float64)
    worth = (
        {"auroc": None, "kept": None} if sure is None else {"auroc": auroc(sure, success), "kept": kept(sure, success)}
    )
    return told | worth


def bootstrap_interval(values: ArrayLike, blocks: ArrayLike, share: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Interval of the mean of values, by blocks drawn with replacement.

    Where all values are 0 or all are 1 no draw differs: then the exact binomial one (Clopper and Pearson 1934), as if
    all were independent.

    Args:
        values: (n,)
        blocks: (n,) of whole numbers: values of one block are drawn together.
        share: that the interval is to cover.
        seed: of the draws.
    """
    numbers = np.asarray(values, np.float64)
    if numbers.min() == numbers.max() and numbers[0] in (0.0, 1.0):
        least = float(((1 - share) / 2) ** (1 / len(numbers)))
        return (least, 1.0) if numbers[0] else (0.0, 1 - least)
    _, block = np.unique(np.asarray(blocks), return_inverse=True)
    total, count = np.bincount(block, numbers), np.bincount(block)
    drawn = np.random.default_rng(seed).integers(0, len(count), (RESAMPLED, len(count)))
    means = total[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    low, high = np.percentile(means, (50 * (1 - share), 50 * (1 + share)))
    return float(low), float(high)


def auroc(confidence: ArrayLike, success: ArrayLike) -> float | None:
    """The chance that a success has a higher confidence than a failure; a tie counts half (Mann and Whitney 1947).

    None where all succeed or all fail.
    """
    sure, right = np.asarray(confidence, np.float64), np.asarray(success, bool)
    good, bad = sure[right], np.sort(sure[~right])
    if not len(good) or not len(bad):
        return None
    below, up_to = np.searchsorted(bad, good, "left"), np.searchsorted(bad, good, "right")
    return float((below + up_to).mean() / (2 * len(bad)))


def kept(confidence: ArrayLike, success: ArrayLike, accepted_failures: float = ACCEPTED_FAILURES) -> float | None:
    """Share of the successes above the lowest threshold that lets through at most this share of the failures.

    None where all succeed or all fail.
    """
    sure, right = np.asarray(confidence, np.float64), np.asarray(success, bool)
    good, bad = sure[right], np.sort(sure[~right])[::-1]
    if not len(good) or not len(bad):
        return None
    threshold = bad[int(accepted_failures * len(bad))]  # the surest failure that must not pass
    return float((good > threshold).mean())
