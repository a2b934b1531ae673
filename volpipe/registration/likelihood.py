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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor

from volpipe.errors import GeometryError
from volpipe.geometry.transform import Vector
from volpipe.registration.coherence import Coherence, coherence, rings, weights
from volpipe.registration.comparison import Comparison, Prepared, Surface, centred, most_in_common
from volpipe.registration.ranks import normal_scores
from volpipe.registration.texture import JOINED, texture
from volpipe.registration.window import Window, faded, pooled, taper

# A side; the weights say how much each of them counts. One is too few (success at 2 lost layers of light-sheet tissue
# 0.72, with two 0.87); a third or fourth changes no success rate by more than chance, in three tissues at 0 to 8 lost
# layers, with noise of up to three times the tissue's deviation added or without (n = 60 to 200).
LAYERS = 2
# Of texture the nearest alone. At 4 lost layers of light-sheet tissue 0.35 succeed without it, 0.48 with it and 0.51
# with four layers of it, which is no more than chance (n = 200).
TEXTURES = 1
REPEATS = 3  # of layers inside a slab: with all that a slab of 8 layers has, errors differ by chance (n = 60 to 100)


def likelihood(upper: Window, lower: Window, gap: int) -> Prepared:
    """The score of this module (`comparison.Score`).

    Raises:
        GeometryError: both slabs have a single layer.
    """
    if max(upper.given, lower.given) < 2:
        raise GeometryError("register_pair: the likelihood needs two layers in a slab, to see how tissue changes with "
                            "depth; give more layers, or score 'ncc'")  # fmt: skip
    scores = normal_scores(upper), normal_scores(lower)

    def prepared(factor: int) -> AcrossGap:
        above, below = (_Slab.of(*slab, factor) for slab in zip((upper, lower), scores, strict=True))
        return AcrossGap(above, below, gap)

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
    spacing: Vector

    @classmethod
    def of(cls, window: Window, scores: Tensor, factor: int) -> _Slab:
        kinds = [_Kind(scores, LAYERS)]
        # Where voxels are told to a fraction, texture only blurs: it is known to some voxels. So it counts in windows
        # of 192 and more, as they were cut; carried ones are joined before, and seen at one scale.
        if factor > 1:
            kinds.append(_Kind(texture(window, scores), TEXTURES, JOINED * max(window.spacing)))
        inner = faded(window.known)
        known = pooled(inner.mean(0)[None], factor)[0]
        fade = taper((known.shape[0], known.shape[1]), factor)
        seen = [_Kind(pooled(kind.images * inner, factor) * fade, kind.count, kind.finest) for kind in kinds]
        return cls(seen, known * fade, window.depth, (window.spacing[0] * factor, window.spacing[1] * factor))

    def places(self, way: int) -> list[int]:
        """In z, of layers that go up from -1, which is the nearest one's, or down from 0."""
        return [way * int(depth - self.depth[0]) + min(way, 0) for depth in self.depth]


@dataclass(frozen=True)
class _Part:
    """What is compared of one kind.

    Attributes:
        upper, lower: images, (m, k, h, w): m times layers of both sides that lie as the weights have them.
        weights: B for images as they are, (k upper, RINGS + 1, k lower).
        scale: of `rings`: (y, x), and the voxel that details are as large as.
    """

    upper: Tensor
    lower: Tensor
    weights: Tensor
    scale: tuple[Vector, float]

    @classmethod
    def of(cls, above: _Kind, below: _Kind, depths: tuple[Tensor, Tensor], gap: int, spacing: Vector) -> _Part:
        """Fit the coherence of one kind."""
        scale = (spacing, above.finest)
        size = (int(above.images.shape[-2]), int(above.images.shape[-1]))
        model = coherence([torch.fft.rfft2(kind.images) for kind in (above, below)], depths, rings(size, *scale))
        cross = weights(model, gap, depths[0][: above.count], depths[1][: below.count])
        return cls(above.images[None, : above.count], below.images[None, : below.count], _by_power(model, cross), scale)

    def filtered(self, canvas: tuple[int, int]) -> Tensor:
        """B u: for each lower image, (m * k, rows, columns // 2 + 1)."""
        ring = rings(canvas, *self.scale)
        spectra = torch.fft.rfft2(self.upper, s=canvas)
        each = [(spectra * weight[:, ring]).sum(1) for weight in self.weights.unbind(-1)]
        return torch.stack(each, 1).flatten(0, 1)


class Likelihood:
    """What is seen of two windows, at one scale (`comparison.Comparison`).

    The images that move are the lower ones, kind by kind, and their weight as the last one.
    """

    def __init__(self, parts: Sequence[_Part], upper: Tensor, lower: Tensor) -> None:
        self.spacing = parts[0].scale[0]
        self.moving = torch.cat([*(part.lower.flatten(0, 1) for part in parts), lower[None]])
        size = (int(upper.shape[0]), int(upper.shape[1]))
        self._weight, self._area = upper, most_in_common(upper, lower)
        self._fixed = fixed = cache(partial(_spectra, parts, upper))  # of no `self`: a cycle would outlive the pair
        self._image = cache(partial(_image, fixed, size))

    def surface(self, turned: Tensor, canvas: tuple[int, int]) -> Surface:
        """See `comparison.Comparison`."""
        products = self._fixed(canvas) * torch.fft.rfft2(turned, s=canvas).conj()
        score, common = torch.fft.irfft2(torch.stack([products[:-1].sum(0), products[-1]]), s=canvas)
        overlap = common / self._area
        return Surface(score / overlap.clamp_min(1e-3).sqrt(), overlap)

    def value(self, moved: Tensor) -> Tensor:
        """See `comparison.Comparison`."""
        canvas = (moved.shape[-2], moved.shape[-1])
        overlap = (centred(self._weight, canvas) * moved[-1]).sum() / self._area
        return (self._image(canvas) * moved[:-1]).sum() / overlap.clamp_min(1e-3).sqrt()


class AcrossGap(Likelihood):
    """Two slabs, each of which can be asked about itself as well (`comparison.SeesInside`)."""

    def __init__(self, above: _Slab, below: _Slab, gap: int) -> None:
        depths = (above.depth, below.depth)
        kinds = list(zip(above.kinds, below.kinds, strict=True))
        self._parts = [_Part.of(*kind, depths, gap, above.spacing) for kind in kinds]
        self._slabs = above, below
        lost = gap + int(above.depth[0]) + int(below.depth[0])
        upper, lower = above.places(-1), [place + lost for place in below.places(1)]
        self._places = [(upper[: one.count], lower[: other.count]) for one, other in kinds]  # of layers that count
        super().__init__(self._parts, above.known, below.known)

    def inside_slabs(self) -> tuple[Comparison | None, Comparison | None]:
        """See `comparison.SeesInside`."""
        above, below = self._slabs
        return self._of_slab(above, above.places(-1)), self._of_slab(below, below.places(1))

    def _of_slab(self, slab: _Slab, layers: Sequence[int]) -> Comparison | None:
        """Its nearest layers to the gap that lie as those of both slabs do. (With the same weights layers that lie
        closer show another slant, which may point the other way: weights across a gap continue what changes.)"""
        index = {place: i for i, place in enumerate(layers)}
        repeats = _repeats(index, [place for kind in self._places for side in kind for place in side])
        if not repeats:
            return None
        parts = [
            replace(part, upper=_layers(kind, index, upper, repeats), lower=_layers(kind, index, lower, repeats))
            for part, kind, (upper, lower) in zip(self._parts, slab.kinds, self._places, strict=True)
        ]
        return Likelihood(parts, slab.known, slab.known)


def _repeats(index: Mapping[int, int], places: Sequence[int]) -> list[int]:
    """How much further all of these places are layers of a slab: the nearest to the gap, REPEATS at most."""
    first = min(places)
    further = [place - first for place in index]
    return sorted((by for by in further if all(place + by in index for place in places)), key=abs)[:REPEATS]


def _layers(kind: _Kind, index: Mapping[int, int], places: Sequence[int], repeats: Sequence[int]) -> Tensor:
    """(m, k, h, w): layers at these places, repeated so much further."""
    return kind.images[torch.tensor([[index[place + by] for place in places] for by in repeats])]


def _spectra(parts: Sequence[_Part], weight: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Of the filtered upper layers, and of their weight as the last."""
    return torch.cat([*(part.filtered(canvas) for part in parts), torch.fft.rfft2(weight, s=canvas)[None]])


def _image(spectra: Callable[[tuple[int, int]], Tensor], size: tuple[int, int], canvas: tuple[int, int]) -> Tensor:
    """The filtered upper layers, in the middle of a canvas."""
    down, across = ((n - m) // 2 for n, m in zip(canvas, size, strict=True))
    return torch.roll(torch.fft.irfft2(spectra(canvas)[:-1], s=canvas), (down, across), (-2, -1))


def _by_power(model: Coherence, matrix: Tensor) -> Tensor:
    """B for layers as they are, with none beyond the last ring: (upper layers, RINGS + 1, lower layers)."""
    scaled = matrix / model.power.clamp_min(1e-30)[:, None, None]
    return torch.cat([scaled, torch.zeros_like(scaled[:1])]).float().permute(1, 0, 2)
