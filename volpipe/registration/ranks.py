"""Normal scores: the rank of a voxel among those of its layer, as the quantile of a Gaussian.

No monotone change of contrast changes them, a few bright cells do not outweigh all other tissue, and second moments,
which are all that the likelihood looks at, say more of them than of raw values. (Success of the coarse scale at 2 lost
layers of light-sheet tissue: 0.57 with raw values, 0.93 with normal scores, n = 60.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from volpipe.registration.window import Window

BINS = 2048  # of a layer's values
APART = 13  # of some voxels from which the range of the bins is taken: prime, so that they meet most columns


def normal_scores(window: Window) -> Tensor:
    """(k, h, w) float32: mean about 0, deviation about 1; 0 where nothing is known."""
    return torch.stack([_of_layer(*pair) for pair in zip(window.layers, window.known, strict=True)])


def _of_layer(layer: Tensor, known: Tensor) -> Tensor:
    """Through a histogram: a voxel's rank is the share of voxels below it and half of those that are equal."""
    inside = layer[known > 0]
    if not len(inside) or inside.min() == inside.max():
        return torch.zeros_like(layer)
    low, high = _bulk(inside)
    place = ((layer - low) * (BINS / (high - low))).clamp(0, BINS - 1).int()
    count = torch.bincount(place[known > 0], minlength=BINS).double()
    rank = (count.cumsum(0) - 0.5 * count) / count.sum()
    quantile: Tensor = torch.special.ndtri(rank.clamp(1e-4, 1 - 1e-4)).float()
    return quantile[place] * known


def _bulk(inside: Tensor) -> tuple[Tensor, Tensor]:
    """The range of all but the outermost voxels, whose few values would take most bins."""
    some = inside[:: APART if len(inside) > 2**14 else 1].sort().values
    outer = len(some) // 500
    low, high = some[outer], some[-1 - outer]
    return (low, high) if high > low else (inside.min(), inside.max())
