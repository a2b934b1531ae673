"""Texture: how lively tissue is around each place. Cells part across a gap; where there are many of them stays.

    normal scores --binomial, Laplace--> fine structure --square, means over JOINED--> energy --rank--> texture

Fine structure is a band about 5 voxels long. Of its energy only what is longer than JOINED voxels is kept: the rest is
the band itself. Ranks take out contrast, as they do for the layers themselves (`ranks.py`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from volpipe.registration.ranks import ranked
from volpipe.registration.window import Window

# Passes of (1, 2, 1) / 4: before the Laplacian, and over joined energy. (Success at 4 lost layers of light-sheet
# tissue, windows of 256, n = 200: 0.49; with 1 or 3 of the first 0.48, 0.45; with 1 or 3 of the second 0.43, 0.38.)
SMOOTH, WIDE = 2, 2
JOINED = 4  # voxels to one, in y and x


def texture(window: Window, scores: Tensor) -> Tensor:
    """(k, h, w) float32: mean about 0, deviation about 0.9; 0 where nothing is known, or too little around.

    Args:
        window: whose layers they are.
        scores: its normal scores, (k, h, w).
    """
    size = (scores.shape[-2], scores.shape[-1])
    small = (max(1, size[0] // JOINED), max(1, size[1] // JOINED))
    known = _inner(window.known)
    energy = F.adaptive_avg_pool2d(_laplacian(_smoothed(scores, SMOOTH)) ** 2 * known, small)
    seen = _smoothed(F.adaptive_avg_pool2d(known, small), WIDE)
    energy = _smoothed(energy, WIDE) / seen.clamp_min(1e-6)
    lively = ranked(energy, (seen > 0).float())
    return F.interpolate(lively[None], size=size, mode="bilinear", align_corners=False)[0] * window.known


def _inner(known: Tensor) -> Tensor:
    """Where structure is that of tissue and not of the edge of what is known."""
    if known.all():  # as a rule, and a pool takes as long as all the rest
        return known
    reach = SMOOTH + 1
    return 1 - F.max_pool2d(1 - known, 2 * reach + 1, 1, reach)


def _smoothed(images: Tensor, passes: int) -> Tensor:
    for _ in range(passes):
        for dim in (-2, -1):
            before, after = _beside(images, dim)
            images = images / 2 + (before + after) / 4
    return images


def _laplacian(images: Tensor) -> Tensor:
    (above, below), (left, right) = _beside(images, -2), _beside(images, -1)
    return above + below + left + right - 4 * images


def _beside(images: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Each voxel's neighbours; at a side it is its own."""
    n = images.shape[dim]
    first, last = images.narrow(dim, 0, 1), images.narrow(dim, n - 1, 1)
    return (
        torch.cat([first, images.narrow(dim, 0, n - 1)], dim),
        torch.cat([images.narrow(dim, 1, n - 1), last], dim),
    )
