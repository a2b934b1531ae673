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

from functools import cache, partial

import torch
from torch import Tensor

from volpipe.errors import GeometryError
from volpipe.registration.coherence import Coherence, coherence, rings, weights
from volpipe.registration.comparison import Prepared, Surface, centred, correlated
from volpipe.registration.ranks import normal_scores
from volpipe.registration.window import Window, pooled, taper

LAYERS = 4  # a side: a fifth changes no success rate


def likelihood(upper: Window, lower: Window, gap: int) -> Prepared:
    """The score of this module (`comparison.Score`).

    Raises:
        GeometryError: both slabs have a single layer.
    """
    if max(len(upper.layers), len(lower.layers)) < 2:
        raise GeometryError("register_pair: the likelihood needs two layers in a slab, to see how tissue changes with "
                            "depth; give more layers, or score 'ncc'")  # fmt: skip
    scores = (normal_scores(upper), normal_scores(lower))
    weight = (upper.known.mean(0), lower.known.mean(0))
    return cache(partial(_at, scores, weight, upper.spacing, gap))


def _at(
    scores: tuple[Tensor, Tensor], known: tuple[Tensor, Tensor], spacing: tuple[float, float], gap: int, factor: int
) -> Likelihood:
    rows, columns = pooled(known[0][None], factor).shape[-2:]
    fade = taper((rows, columns), factor)
    above, below = (pooled(layers, factor) * fade for layers in scores)
    faded = tuple(pooled(one[None], factor)[0] * fade for one in known)
    return Likelihood(above, below, faded, (spacing[0] * factor, spacing[1] * factor), gap)


class Likelihood:
    """Two windows' normal scores at one scale (`comparison.Comparison`).

    The images that move are the lower slab's nearest layers, and its weight as the last one.
    """

    def __init__(
        self, above: Tensor, below: Tensor, known: tuple[Tensor, ...], spacing: tuple[float, float], gap: int
    ) -> None:
        self.spacing = spacing
        self.moving = torch.cat([below[:LAYERS], known[1][None]])
        self._above, self._weight = above[:LAYERS], known[0]
        self._area = float((known[0] * known[1]).sum().clamp_min(1e-6))
        size = (above.shape[-2], above.shape[-1])
        ring = rings(size, spacing)
        model = coherence([torch.fft.rfft2(above), torch.fft.rfft2(below)], ring)
        self._weights = _by_power(model, weights(model, gap, (len(self._above), len(self.moving) - 1)))
        self._filtered, self._image = cache(self._filtered_on), cache(self._image_on)

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

    def _image_on(self, canvas: tuple[int, int]) -> Tensor:
        """The filtered upper layers, in the middle of a canvas."""
        size = self._weight.shape
        down, across = ((n - m) // 2 for n, m in zip(canvas, size, strict=True))
        return torch.roll(torch.fft.irfft2(self._filtered(canvas), s=canvas), (down, across), (-2, -1))

    def _filtered_on(self, canvas: tuple[int, int]) -> Tensor:
        """B u: for each lower layer, (lower layers, rows, columns // 2 + 1)."""
        ring = rings(canvas, self.spacing)
        spectra = torch.fft.rfft2(self._above, s=canvas)
        return torch.stack([(spectra * each[:, ring]).sum(0) for each in self._weights.unbind(-1)])


def _by_power(model: Coherence, matrix: Tensor) -> Tensor:
    """B for layers as they are, with none beyond the last ring: (upper layers, RINGS + 1, lower layers)."""
    scaled = matrix / model.power.clamp_min(1e-30)[:, None, None]
    scaled[model.power <= 0] = 0
    return torch.cat([scaled, torch.zeros_like(scaled[:1])]).float().permute(1, 0, 2)
