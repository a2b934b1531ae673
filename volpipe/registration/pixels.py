"""Scores of pixels, which know nothing of the gap: the manuscript's, and mutual information.

    ncc                 correlation of the two facing layers over faded windows
    pixel_ncc           the same of what lies on each other alone (normalised anew at each shift; Padfield 2012)
    2d                  cosine of the two facing layers, where they lie on each other
    trivial             mean cosine of patches of 4 x 4 x 4 voxels (the manuscript's section 5.6)
    mutual-information  of the two facing layers, from the joint histogram of BINS equal shares of the voxels

Each is a sum of products of images, or is made of a few such sums, so that one FFT gives all shifts. Correlations and
cosines are multiplied by sqrt(overlap): their scatter where nothing fits is then the same at every shift.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from volpipe.registration.comparison import Prepared, Surface, centred, most_in_common
from volpipe.registration.ranks import normal_scores
from volpipe.registration.window import Window, taper

PATCH = 4  # voxels and layers
BINS = 8
TINY = 1e-6
FLAT = 1e-3  # of a layer's variance: a part that varies less has no structure, and no correlation

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Products:
    """A score that is made of sums of products of images (`comparison.Comparison`).

    Attributes:
        fixed: (c, h, w) of the upper window; the last one is its weight.
        moving: (d, h, w) of the lower window; the last one is its weight.
        spacing: (y, x) of one voxel.
        sums: of each sum, which images are multiplied, (fixed, derived), and added.
        score: of the sums, (sums, ...), and the overlap.
        derive: the images compared, of turned ones; the weight stays last.
    """

    fixed: Tensor
    moving: Tensor
    spacing: tuple[float, float]
    sums: tuple[Pairs, ...]
    score: Callable[[Tensor, Tensor], Tensor]
    derive: Callable[[Tensor], Tensor]

    def surface(self, turned: Tensor, canvas: tuple[int, int]) -> Surface:
        """See `comparison.Comparison`."""
        fixed, moving = (torch.fft.rfft2(images, s=canvas) for images in (self.fixed, self.derive(turned)))
        sums = torch.fft.irfft2(self._summed(lambda i, j: fixed[i] * moving[j].conj()), s=canvas)
        overlap = sums[-1] / self._area
        return Surface(self.score(sums[:-1], overlap), overlap)

    def value(self, moved: Tensor) -> Tensor:
        """See `comparison.Comparison`."""
        fixed, moving = centred(self.fixed, (moved.shape[-2], moved.shape[-1])), self.derive(moved)
        sums = self._summed(lambda i, j: (fixed[i] * moving[j]).sum())
        return self.score(sums[:-1], sums[-1] / self._area)

    @property
    def _area(self) -> Tensor:
        return most_in_common(self.fixed[-1], self.moving[-1])

    def _summed(self, product: Callable[[int, int], Tensor]) -> Tensor:
        """All sums, and that of the weights as the last."""
        return torch.stack([_total([product(i, j) for i, j in pairs]) for pairs in (*self.sums, ((-1, -1),))])


def ncc(upper: Window, lower: Window, gap: int) -> Prepared:
    """Correlation of the two facing layers over faded windows (a `comparison.Score`)."""
    sums: tuple[Pairs, ...] = (((0, 0),),)
    return _at_scales(upper, lower, lambda above, below: Products(
        _faded(above), _faded(below), above.spacing, sums, _per_overlap, _as_they_are))  # fmt: skip


def pixel_ncc(upper: Window, lower: Window, gap: int) -> Prepared:
    """Correlation of the two facing layers where they lie on each other (a `comparison.Score`)."""
    sums: tuple[Pairs, ...] = (((0, 0),), ((0, 2),), ((2, 0),), ((1, 2),), ((2, 1),), ((2, 2),))
    return _at_scales(upper, lower, lambda above, below: Products(
        _moments(above), _moments(below), above.spacing, sums, _pearson, _as_they_are))  # fmt: skip


def cosine(upper: Window, lower: Window, gap: int) -> Prepared:
    """Cosine of the two facing layers where they lie on each other: the manuscript's `2d` (a `comparison.Score`)."""
    sums: tuple[Pairs, ...] = (((0, 0),), ((1, 2),), ((2, 1),), ((2, 2),))
    return _at_scales(upper, lower, lambda above, below: Products(
        _moments(above), _moments(below), above.spacing, sums, _cosine, _as_they_are))  # fmt: skip


def trivial(upper: Window, lower: Window, gap: int) -> Prepared:
    """Mean cosine of patches of PATCH voxels and layers: the manuscript's `trivial` (a `comparison.Score`).

    The upper window's patches stand side by side, the lower window's are cut at every voxel, from turned layers. The
    layers of a patch are in the order of the volume: the upper window's last ones against the lower one's first ones.
    """
    layers = min(PATCH, len(upper.layers), len(lower.layers))
    sums: tuple[Pairs, ...] = (tuple((i, i) for i in range(layers * PATCH * PATCH)),)

    def at(above: Window, below: Window) -> Products:
        fixed = _patches(torch.cat([above.layers[:layers].flip(0), above.known[:layers].amin(0)[None]]))
        apart = torch.zeros(fixed.shape[-2:])
        apart[::PATCH, ::PATCH] = 1
        fixed[:-1] *= apart
        moving = torch.cat([below.layers[:layers], below.known[:layers].amin(0)[None]])
        return Products(fixed, moving, above.spacing, sums, _per_overlap, _patches)

    return _at_scales(upper, lower, at)


def mutual_information(upper: Window, lower: Window, gap: int) -> Prepared:
    """Of the two facing layers (a `comparison.Score`; Mattes et al. 2003, with equal shares for bins)."""
    sums: tuple[Pairs, ...] = tuple(((i, j),) for i in range(BINS) for j in range(BINS))
    return _at_scales(upper, lower, lambda above, below: Products(
        _shares(above), _shares(below), above.spacing, sums, _information, _as_they_are))  # fmt: skip


def _at_scales(upper: Window, lower: Window, compare: Callable[[Window, Window], Products]) -> Prepared:
    return cache(lambda factor: compare(upper.pooled(factor), lower.pooled(factor)))


def _as_they_are(images: Tensor) -> Tensor:
    return images


def _total(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def _faded(window: Window) -> Tensor:
    weight = window.known[0] * taper(window.size, window.factor)
    return torch.stack([window.layers[0] * weight, weight])


def _moments(window: Window) -> Tensor:
    return torch.stack([window.layers[0], window.layers[0] ** 2, window.known[0]])


def _shares(window: Window) -> Tensor:
    """For each bin where its voxels are, and the weight: a histogram with bins of equal counts."""
    rank = torch.special.ndtr(normal_scores(window)[0])
    place = (rank * BINS).long().clamp(0, BINS - 1)
    members = F.one_hot(place, BINS).permute(2, 0, 1).float() * window.known[0]
    return torch.cat([members, window.known[:1]])


def _patches(images: Tensor) -> Tensor:
    """(layers * PATCH^2 + 1, h, w): at each voxel the patch that begins there, of length 1; then the weight."""
    beyond = F.pad(images[:-1], (0, PATCH - 1, 0, PATCH - 1))
    cut = beyond.unfold(1, PATCH, 1).unfold(2, PATCH, 1).permute(0, 3, 4, 1, 2).flatten(0, 2)
    length = (cut**2).sum(0).clamp_min(TINY).sqrt()
    return torch.cat([cut / length * images[-1], images[-1:]])


def _per_overlap(sums: Tensor, overlap: Tensor) -> Tensor:
    return sums[0] / overlap.clamp_min(TINY).sqrt()


def _cosine(sums: Tensor, overlap: Tensor) -> Tensor:
    both, above2, below2, count = sums
    least = FLAT * count.clamp_min(TINY)
    cosine_there: Tensor = both / (above2.clamp_min(least) * below2.clamp_min(least)).sqrt()
    return cosine_there * overlap.clamp_min(TINY).sqrt()


def _pearson(sums: Tensor, overlap: Tensor) -> Tensor:
    both, above, below, above2, below2, count = sums
    count = count.clamp_min(TINY)
    covariance = both - above * below / count
    least = FLAT * count
    variances = (above2 - above**2 / count).clamp_min(least) * (below2 - below**2 / count).clamp_min(least)
    correlation: Tensor = covariance / variances.sqrt()
    return correlation * overlap.clamp_min(TINY).sqrt()


def _information(sums: Tensor, overlap: Tensor) -> Tensor:
    """n times the information, whose mean and scatter where nothing fits do not depend on n."""
    joint = sums.clamp_min(TINY).reshape(BINS, BINS, *sums.shape[1:])
    joint = joint / joint.sum((0, 1))
    apart = joint.sum(0, keepdim=True) * joint.sum(1, keepdim=True)
    information: Tensor = (joint * (joint / apart).log()).sum((0, 1))
    return information * overlap
