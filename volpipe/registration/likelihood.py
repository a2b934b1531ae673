"""The gap-aware likelihood: layers of both sides, weighted by what the slabs say of how tissue changes with depth.

Both slabs' layers, as normal scores, are taken for one stationary Gaussian process in depth, and so is their texture
(`texture.py`), which outlasts them across wide gaps. Of their log-likelihood one term depends on the motion t, summed
over frequencies f:

    S(t) = Re sum_f exp(i f t) u(f)^H B(f) l(f)        u, l   spectra of the upper and lower layers, of unit power
                                                       B      coherence.weights: by ring and pair of layers

Layers and texture tell of different things, so both terms are added, texture at coarse scales alone. Details that the
gap has erased get no weight; a second layer a side tells what the first one is about to become. The score is
S / sqrt(overlap), whose scatter is the same at every shift. It needs two layers in one of the slabs, to see how they
change; it looks at the nearest LAYERS a side, and at all to fit the coherence.
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
from volpipe.registration.texture import JOINED, texture
from volpipe.registration.window import Window, pooled, taper

# A side; the weights say how much each of them counts. One is too few (success at 2 lost layers of light-sheet tissue
# 0.72, with two 0.87); a third or fourth changes no success rate by more than chance, in three tissues at 0 to 8 lost
# layers, with noise of up to three times the tissue's deviation added or without (n = 60 to 200).
LAYERS = 2
# Of texture the nearest alone. At 4 lost layers of light-sheet tissue 0.35 succeed without it, 0.48 with it and 0.51
# with four layers of it, which is no more than chance (n = 200).
TEXTURES = 1


def likelihood(upper: Window, lower: Window, gap: int) -> Prepared:
    """The score of this module (`comparison.Score`).

    Raises:
        GeometryError: both slabs have a single layer.
    """
    if max(upper.given, lower.given) < 2:
        raise GeometryError("register_pair: the likelihood needs two layers in a slab, to see how tissue changes with "
                            "depth; give more layers, or score 'ncc'")  # fmt: skip
    scores = normal_scores(upper), normal_scores(lower)

    def prepared(factor: int) -> Likelihood:
        above, below = (_Slab.of(*slab, factor) for slab in zip((upper, lower), scores, strict=True))
        return Likelihood(above, below, gap)

    return cache(prepared)


@dataclass(frozen=True)
class _Kind:
    """One kind of image of a slab's layers, (k, h, w); how many of them count, and the voxel that its details are as
    large as, in the unit of spacing."""

    images: Tensor
    count: int
    finest: float = 0.0


@dataclass(frozen=True)
class _Slab:
    """What is seen of a slab at one scale, joined and faded, the share that is known, (h, w), the layers' depths, (k,),
    and (y, x)."""

    kinds: list[_Kind]
    known: Tensor
    depth: Tensor
    spacing: tuple[float, float]

    @classmethod
    def of(cls, window: Window, scores: Tensor, factor: int) -> _Slab:
        kinds = [_Kind(scores, LAYERS)]
        # Where voxels are told to a fraction, texture only blurs: it is known to some voxels. So it counts in windows
        # of 192 and more, as they were cut; carried ones are joined before, and seen at one scale.
        if factor > 1:
            kinds.append(_Kind(texture(window, scores), TEXTURES, JOINED * max(window.spacing)))
        known = pooled(window.known.mean(0)[None], factor)[0]
        fade = taper((known.shape[0], known.shape[1]), factor)
        faded = [_Kind(pooled(kind.images, factor) * fade, kind.count, kind.finest) for kind in kinds]
        return cls(faded, known * fade, window.depth, (window.spacing[0] * factor, window.spacing[1] * factor))

    @property
    def nearest(self) -> list[Tensor]:
        """Of each kind the images that count."""
        return [one.images[: one.count] for one in self.kinds]


class Likelihood:
    """What is seen of two windows, at one scale (`comparison.Comparison`).

    The images that move are the nearest ones of the lower slab, kind by kind, and its weight as the last one.
    """

    def __init__(self, above: _Slab, below: _Slab, gap: int) -> None:
        self.spacing = above.spacing
        self.moving = torch.cat([*below.nearest, below.known[None]])
        size = (int(above.known.shape[0]), int(above.known.shape[1]))
        self._weight, self._area = above.known, most_in_common(above.known, below.known)
        depths = (above.depth, below.depth)
        each = [_filter(*kinds, depths, gap, self.spacing) for kinds in zip(above.kinds, below.kinds, strict=True)]
        self._filtered = cache(lambda canvas: torch.cat([of_kind(canvas) for of_kind in each]))
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


def _filter(
    above: _Kind, below: _Kind, depths: tuple[Tensor, Tensor], gap: int, spacing: tuple[float, float]
) -> Callable[[tuple[int, int]], Tensor]:
    """Fit the coherence of one kind: B u, for a canvas."""
    size = (int(above.images.shape[-2]), int(above.images.shape[-1]))
    spectra = [torch.fft.rfft2(kind.images) for kind in (above, below)]
    model = coherence(spectra, depths, rings(size, spacing, above.finest))
    matrix = _by_power(model, weights(model, gap, *(depth[: above.count] for depth in depths)))
    return partial(_filtered, above.images[: above.count], matrix, (spacing, above.finest))


def _filtered(
    above: Tensor, matrix: Tensor, scale: tuple[tuple[float, float], float], canvas: tuple[int, int]
) -> Tensor:
    """B u: for each lower layer, (lower layers, rows, columns // 2 + 1)."""
    ring = rings(canvas, *scale)
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
