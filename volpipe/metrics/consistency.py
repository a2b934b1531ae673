"""Whether answers that differ are wrong ones: the spread of several answers beside their true error.

    answers     displacements of n cells by k runs, (k, n, 2), one unit of length
    spread      root of the variance over the runs, y and x together: sqrt(sum |u - mean u|^2 / (k - 1))
    error       |u - truth| of the first run, which is the one that would be used, and of the mean of all
    Spearman    correlation of the ranks of spread and error, ties sharing theirs (Spearman 1904)

Cells of one pair of slabs, and of pairs that overlap in space, are not independent: intervals resample blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

Numbers = NDArray[np.float64]

RESAMPLED = 1000


def spread_of(answers: ArrayLike) -> Numbers:
    """(n,) of answers (k, n, 2), two or more of each cell."""
    each = np.asarray(answers, np.float64)
    found: Numbers = np.sqrt(each.var(axis=0, ddof=1).sum(axis=-1))
    return found


def error_of(answer: ArrayLike, truth: ArrayLike) -> Numbers:
    """(n,) of one answer (n, 2)."""
    off = np.subtract(answer, truth)
    found: Numbers = np.hypot(off[:, 0], off[:, 1])
    return found


def spearman(one: ArrayLike, other: ArrayLike) -> float | None:
    """-1 .. 1 of two (n,); None where one of them is the same throughout."""
    ranks: Numbers = np.stack([rankdata(np.asarray(values, np.float64)) for values in (one, other)])
    off = ranks - ranks.mean(axis=1, keepdims=True)
    lengths = np.sqrt((off * off).sum(axis=1))
    return None if lengths.min() == 0 else float((off[0] * off[1]).sum() / lengths.prod())


def spearman_interval(
    one: ArrayLike, other: ArrayLike, blocks: ArrayLike, share: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """Of `spearman`, by blocks drawn with replacement; None of a single block, which no draw differs from.

    Args:
        one, other: (n,)
        blocks: (n,) of whole numbers: cells of one block are drawn together.
        share: that the interval is to cover.
        seed: of the draws.
    """
    x, y = np.asarray(one, np.float64), np.asarray(other, np.float64)
    names, block = np.unique(np.asarray(blocks), return_inverse=True)
    if len(names) < 2:
        return None
    members = [np.flatnonzero(block == number) for number in range(len(names))]
    random = np.random.default_rng(seed)
    draws = ([members[i] for i in random.integers(0, len(names), len(names))] for _ in range(RESAMPLED))
    found = (spearman(x[drawn], y[drawn]) for drawn in map(np.concatenate, draws))
    told = [value for value in found if value is not None]
    if not told:
        return None
    low, high = np.percentile(told, (50 * (1 - share), 50 * (1 + share)))
    return float(low), float(high)


def consistency(spreads: Sequence[Numbers], errors: Sequence[Numbers], blocks: Sequence[int]) -> dict[str, Any]:
    """One row of a table, JSON-able.

    `spearman` is over all cells of all trials. It has two parts: `within`, the mean of the trials' own, tells whether
    the worse cells of a pair of slabs are known from its better ones, and `between`, over the trials' means, whether
    the worse pairs are known. None where it cannot be told.

    Args:
        spreads, errors: (n,) of each trial.
        blocks: of each trial.
    """
    spread, error = np.concatenate(spreads), np.concatenate(errors)
    each = np.repeat(blocks, [len(part) for part in spreads])
    own = [value for pair in zip(spreads, errors, strict=True) if (value := spearman(*pair)) is not None]
    low, high = spearman_interval(spread, error, each) or (None, None)
    return {
        "trials": len(spreads), "n": len(spread),
        "error_mean": float(error.mean()), "error_median": float(np.median(error)),
        "error_p95": float(np.percentile(error, 95)), "spread_median": float(np.median(spread)),
        "spearman": spearman(spread, error), "spearman_low": low, "spearman_high": high,
        "within": float(np.mean(own)) if own else None,
        "between": spearman([part.mean() for part in spreads], [part.mean() for part in errors]),
    }  # fmt: skip
