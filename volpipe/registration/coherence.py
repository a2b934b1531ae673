"""How alike two layers of one tissue are, by frequency and by distance, estimated from the slabs themselves.

    rho(f, d) = a(f) exp(-r (f / edge)^q d^p),  d >= 1;      rho(f, 0) = 1

    1 - a(f)   what neighbouring layers do not share (noise), of each ring of frequencies
    r, q, p    three numbers for all frequencies and both slabs: how quickly tissue changes, how much quicker its
               details do, and how it forgets

It is measured inside each slab and continued across the gap. Three numbers for all rings, because a window holds few
waves of the low frequencies that alone cross a wide gap (success at 2 lost layers: 0.75 where each ring had its own
rate, 0.93 so, n = 40). With p = 1 tissue forgets as a Markov chain does and only the two layers at the gap would count;
real tissue has p near 1.7, and further layers tell its course. Any such rho with 0 < p <= 2 is a covariance
(Schoenberg 1938), so its matrix can be inverted whatever was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RINGS = 48  # of frequencies, up to the edge
FORGETTING = torch.tensor([0.7, 1.0, 1.3, 1.6, 1.8], dtype=torch.float64)  # p
STEEPNESS = torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64)  # q
RATES = torch.logspace(-2, 2.5, 28, dtype=torch.float64)  # r
MOST = 0.999  # coherence of neighbouring layers
ROUNDING = 1e-9  # of a weight; a score has no unit, and where no tissue is left, rounding would be all of it
SUREST = 0.03  # least eigenvalue of a covariance of unit variances: what a window tells is no surer


@dataclass(frozen=True)
class Coherence:
    """The model of a pair of slabs.

    Attributes:
        power: (RINGS,) of one frequency of a layer.
        share: (RINGS,) a.
        rate: (RINGS,) r (f / edge)^q.
        forgetting: p.
    """

    power: Tensor
    share: Tensor
    rate: Tensor
    forgetting: float

    def at(self, distance: Tensor) -> Tensor:
        """rho at distances in layers: (..., RINGS)."""
        d = distance[..., None].double().abs()
        rho = self.share * torch.exp(-self.rate * d**self.forgetting)
        return torch.where(d == 0, torch.ones_like(rho), rho)


def rings(size: tuple[int, int], spacing: tuple[float, float]) -> Tensor:
    """The ring of each frequency of `torch.fft.rfft2`: (h, w // 2 + 1), RINGS for those beyond the edge, which is the
    highest frequency that both axes have."""
    down = torch.fft.fftfreq(size[0], spacing[0])
    across = torch.fft.rfftfreq(size[1], spacing[1])
    place = torch.hypot(down[:, None], across[None, :]) * (2 * max(spacing) * RINGS)
    ring = place.long().clamp(max=RINGS)
    ring[0, 0] = RINGS
    return ring


def coherence(spectra: Sequence[Tensor], depths: Sequence[Tensor], ring: Tensor) -> Coherence:
    """Fit the model to what was measured inside each slab.

    Args:
        spectra: of each slab, (k, h, w // 2 + 1) of its layers; one of them has several.
        depths: of each slab, (k,) where its layers lie.
        ring: of each frequency.
    """
    reach = 1 + max(int(depth[-1] - depth[0]) for depth in depths)
    cross, pairs = torch.zeros(reach, RINGS, dtype=torch.float64), torch.zeros(reach, 1, dtype=torch.float64)
    for layers, depth in zip(spectra, depths, strict=True):
        for distance in range(reach):
            near, far = torch.nonzero(depth[None, :] - depth[:, None] == distance, as_tuple=True)
            cross[distance] += _by_ring((layers[near] * layers[far].conj()).real.sum(0), ring)
            pairs[distance] += len(near)
    members = torch.bincount(ring.flatten(), minlength=RINGS + 1)[:RINGS].double()
    power = cross[0] / pairs[0]
    rho = cross / pairs.clamp_min(1) / power.clamp_min(1e-30)
    return Coherence(power / members.clamp_min(1), *_fitted(rho[1:], members * pairs[1:]))


def weights(model: Coherence, gap: int, above: Tensor, below: Tensor) -> Tensor:
    """B of `Re sum_f exp(i f t) u(f)^H B(f) l(f)`, for layers of unit power: (RINGS, upper layers, lower layers).

    It is the cross term of the Gaussian log-likelihood of both slabs' layers together: minus the block of their inverse
    covariance.

    Args:
        model: of both slabs.
        gap: layers lost.
        above, below: depths of the upper and lower layers; two are `gap + 1 + above + below` apart.
    """
    place = torch.cat([-1.0 - above, float(gap) + below])
    covariance = model.at(place[:, None] - place[None, :]).permute(2, 0, 1)
    value, vector = torch.linalg.eigh(covariance)
    inverse = (vector / value.clamp_min(SUREST)[:, None, :]) @ vector.mT
    cross = -inverse[:, : len(above), len(above) :]
    return torch.where(cross.abs() > ROUNDING, cross, 0)


def _by_ring(values: Tensor, ring: Tensor) -> Tensor:
    return torch.bincount(ring.flatten(), weights=values.flatten().double(), minlength=RINGS + 1)[:RINGS]


def _fitted(rho: Tensor, count: Tensor) -> tuple[Tensor, Tensor, float]:
    """a, the rates and p of least squares, each r, q and p tried; a follows from them.

    Args:
        rho: (d, RINGS) at distances 1, 2, ...
        count: (d, RINGS) how much each rests on.
    """
    distance = torch.arange(1, len(rho) + 1, dtype=torch.float64)
    frequency = (torch.arange(RINGS, dtype=torch.float64) + 0.5) / RINGS
    found = [_best(rho, count, frequency, distance**p) for p in FORGETTING]
    best = min(range(len(found)), key=lambda i: found[i][0])
    return found[best][1], found[best][2], float(FORGETTING[best])


def _best(rho: Tensor, count: Tensor, frequency: Tensor, far: Tensor) -> tuple[float, Tensor, Tensor]:
    """Misfit, a and rates of the best r and q for one p; far: d^p."""
    rates = (RATES[:, None, None] * frequency ** STEEPNESS[:, None]).flatten(0, 1)  # (tried, RINGS)
    shape = torch.exp(-rates[:, None] * far[:, None])  # (tried, d, RINGS)
    share = (count * rho * shape).sum(1) / (count * shape**2).sum(1).clamp_min(1e-30)
    share = share.clamp(0, MOST)
    misfit = (count * (rho - share[:, None] * shape) ** 2).sum((1, 2))
    best = int(misfit.argmin())
    return float(misfit[best]), share[best], rates[best]
