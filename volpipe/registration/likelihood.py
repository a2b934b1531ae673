"""The gap-aware likelihood: several layers a side, weighted by what the slabs say of how tissue changes with depth.

Both slabs' layers, as normal scores, are taken for one stationary Gaussian process in depth. Of its log-likelihood one
term depends on the motion t, summed over frequencies f:

    S(t) = Re sum_f exp(i f t) u(f)^H B(f) l(f)        u, l   spectra of the upper and lower layers, of unit power
                                                       B      coherence.weights: by ring and pair of layers

Details that the gap has erased get no weight; several layers a side tell the course that the tissue takes. The score is
S / sqrt(overlap), whose scatter is the same at every shift. It needs two layers in one of the slabs, to see how they
change; with more than LAYERS a side it looks at the nearest, and at all to fit the coherence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from volpipe.errors import GeometryError
from volpipe.registration.coherence import Coherence, coherence, rings, weights
from volpipe.registration.comparison import Prepared, Surface, centred, correlated, most_in_common
from volpipe.registration.ranks import normal_scores
from volpipe.registration.window import Window, pooled, taper

LAYERS = 4  # a side: a fifth changes no success rate


def likelihood(upper: Window, lower: Window, gap: int) -> Prepared:
    """The score of this module (`comparison.Score`).

    Raises:
        GeometryError: both slabs have a single layer.
    """
    if max(upper.given, lower.given) < 2:
        raise GeometryError("register_pair: the likelihood needs two layers in a slab, to see how tissue changes with "
                            "depth; give more layers, or score 'ncc'")  # fmt: skip
    above, below = _Slab.of(upper), _Slab.of(lower)
    return cache(lambda factor: Likelihood(above.at(factor), below.at(factor), gap))


@dataclass(frozen=True)
class _Slab:
    """Normal scores of a slab's layers, (k, h, w), the share that is known, (h, w), their depths, (k,), and (y, x)."""

    scores: Tensor
    known: Tensor
    depth: Tensor
    spacing: tuple[float, float]

    @classmethod
    def of(cls, window: Window) -> _Slab:
        return cls(normal_scores(window), window.known.mean(0), window.depth, window.spacing)

    def at(self, factor: int) -> _Slab:
        """Joined and faded."""
        scores, known = pooled(self.scores, factor), pooled(self.known[None], factor)[0]
        fade = taper((known.shape[0], known.shape[1]), factor)
        return _Slab(scores * fade, known * fade, self.depth, (self.spacing[0] * factor, self.spacing[1] * factor))


class Likelihood:
    """Two windows' normal scores at one scale (`comparison.Comparison`).

    The images that move are the lower slab's nearest layers, and its weight as the last one.
    """

    def __init__(self, above: _Slab, below: _Slab, gap: int) -> None:
        self.spacing = above.spacing
        self.moving = torch.cat([below.scores[:LAYERS], below.known[None]])
        size = (int(above.known.shape[0]), int(above.known.shape[1]))
        self._weight, self._area = above.known, most_in_common(above.known, below.known)
        spectra = [torch.fft.rfft2(slab.scores) for slab in (above, below)]
        model = coherence(spectra, (above.depth, below.depth), rings(size, self.spacing))
        matrix = _by_power(model, weights(model, gap, above.depth[:LAYERS], below.depth[:LAYERS]))
        self._filtered = cache(partial(_filtered, above.scores[:LAYERS], matrix, self.spacing))
        self._image = cache(partial(_image, self._filtered, size))

    def surface(self, turned: Tensor, canvas: tuple[int, int]) -> Surface:
        """See `comparison.Comparison`."""
        spectra = torch.fft.rfft2(turned[:-1], s=canvas)
        score = torch.fft.irfft2((self._filtered(canvas) * spectra.conj()).sum(0), s=canvas)
        overlap = correlated(self._weight, turned[-1], canvas) / self._area
        return Surface(score / overlap.clamp_min(1e-3).sqrt(), overlap)

    def value(self, moved: Tensor) -> Tensor:
        """See `comparison.Comparison`."""
        canvas = (moved.shape[-2], moved.shape[-1])
        overlap = (centred(self._weight, canvas) * moved[-1]).sum() / self._area
        return (self._image(canvas) * moved[:-1]).sum() / overlap.clamp_min(1e-3).sqrt()


def _filtered(above: Tensor, matrix: Tensor, spacing: tuple[float, float], canvas: tuple[int, int]) -> Tensor:
    """B u: for each lower layer, (lower layers, rows, columns // 2 + 1)."""
    ring = rings(canvas, spacing)
    spectra = torch.fft.rfft2(above, s=canvas)
    return torch.stack([(spectra * each[:, ring]).sum(0) for each in matrix.unbind(-1)])


def _image(filtered: Callable[[tuple[int, int]], Tensor], size: tuple[int, int], canvas: tuple[int, int]) -> Tensor:
    """The filtered upper layers, in the middle of a canvas."""
    down, across = ((n - m) // 2 for n, m in zip(canvas, size, strict=True))
    return torch.roll(torch.fft.irfft2(filtered(canvas), s=canvas), (down, across), (-2, -1))


def _by_power(model: Coherence, matrix: Tensor) -> Tensor:
    """B for layers as they are, with none beyond the last ring: (upper layers, RINGS + 1, lower layers)."""
    scaled = matrix / model.power.clamp_min(1e-30)[:, None, None]
    return torch.cat([scaled, torch.zeros_like(scaled[:1])]).float().permute(1, 0, 2)
