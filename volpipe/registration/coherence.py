"""How alike two layers of one tissue are, by frequency and by distance, estimated from the slabs themselves.

    rho(f, d) = a(f) M(d r sqrt(f^2 + c^2)),  d >= 1;      rho(f, 0) = 1

    1 - a(f)   what neighbouring layers do not share (noise), of each ring of frequencies
    r, c       how quickly tissue changes with depth, and below which frequency no slower; frequencies are shares of
               the edge
    M          a Matern correlation of one of ORDERS, from exponential to smooth, or a Gaussian, their limit

Tissue as a Matern field in space, which may be stretched in depth: its spectrum is that of (c^2 + |k|^2)^-power, and
at a frequency f in the plane what is left of it in depth is again a Matern process, whose rate is sqrt(f^2 + c^2).
(Light-sheet tissue, correlations at 1, 2, 3 and 5 layers measured over a volume: 0.73, 0.34, 0.12, 0.00 at 0.13 of the
edge, where windows of 8 + 8 layers say 0.73, 0.40, 0.17, 0.02.)

It is measured inside each slab and continued across the gap. Few numbers for all rings, because a window holds few
waves of the low frequencies that alone cross a wide gap. What is measured counts by how sure it is (Fisher's
(1 - rho^2)^2 is its variance), and a ring by how alike its layers are: of what is forgotten from layer to layer, noise
and the patterns of a camera are all that is left. Any Matern correlation is a covariance, so its matrix can be inverted
whatever was measured (Rasmussen & Williams 2006, section 4.2.1, for the closed forms).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RINGS = 24  # of frequencies, up to the edge; with 16 or 48 success differs by chance (2 lost layers, n = 200)
# M(x): half-integer orders 1/2 to 7/2, and a Gaussian. The first is a Markov chain: only the layers at a gap count.
ORDERS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: torch.exp(-x),
    lambda x: (1 + x) * torch.exp(-x),
    lambda x: (1 + x + x**2 / 3) * torch.exp(-x),
    lambda x: (1 + x + 2 * x**2 / 5 + x**3 / 15) * torch.exp(-x),
    lambda x: torch.exp(-(x**2) / 2),
)
RATES = torch.logspace(-1.3, 1.5, 40, dtype=torch.float64)  # r
CORNERS = torch.tensor([0, 0.015, 0.03, 0.045, 0.06, 0.09, 0.13, 0.2, 0.3], dtype=torch.float64)  # c
MOST = 0.999  # coherence of neighbouring layers
# Added to 1 - rho^2: nothing measured is surer than that, for tissue is not quite of this kind. (Success at 0 and 2
# lost layers of a whole brain, windows of 96: 0.95 and 0.57 with 0.02, 0.96 and 0.61 with 0.3; n = 200.)
NOISE = 0.3
ROUNDING = 1e-9  # of a weight; a score has no unit, and where no tissue is left, rounding would be all of it
SUREST = 0.03  # least eigenvalue of a covariance of unit variances: what a window tells is no surer


@dataclass(frozen=True)
class Coherence:
    """The model of a pair of slabs.

    Attributes:
        power: (RINGS,) of one frequency of a layer.
        share: (RINGS,) a.
        rate: (RINGS,) r sqrt(f^2 + c^2).
        order: of ORDERS.
    """

    power: Tensor
    share: Tensor
    rate: Tensor
    order: int

    def at(self, distance: Tensor) -> Tensor:
        """rho at distances in layers: (..., RINGS)."""
        d = distance[..., None].double().abs()
        rho = self.share * ORDERS[self.order](self.rate * d)
        return torch.where(d == 0, torch.ones_like(rho), rho)


def rings(size: tuple[int, int], spacing: tuple[float, float], finest: float = 0) -> Tensor:
    """The ring of each frequency of `torch.fft.rfft2`: (h, w // 2 + 1), RINGS for those beyond the edge, which is the
    highest frequency that both axes have, or that of voxels of the size `finest`."""
    down = torch.fft.fftfreq(size[0], spacing[0])
    across = torch.fft.rfftfreq(size[1], spacing[1])
    place = torch.hypot(down[:, None], across[None, :]) * (2 * max(*spacing, finest) * RINGS)
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


def _fitted(rho: Tensor, count: Tensor) -> tuple[Tensor, Tensor, int]:
    """a, the rates and the order of weighted least squares, each order, r and c tried; a follows from them.

    Args:
        rho: (d, RINGS) at distances 1, 2, ...
        count: (d, RINGS) how much each rests on.
    """
    distance = torch.arange(1, len(rho) + 1, dtype=torch.float64)[:, None]
    frequency = (torch.arange(RINGS, dtype=torch.float64) + 0.5) / RINGS
    rates = (RATES[:, None, None] * torch.hypot(CORNERS[:, None], frequency)).flatten(0, 1)  # (tried, RINGS)
    sure = count / (1 + NOISE - rho.clamp(-1, 1) ** 2) ** 2 * (rho.clamp_min(0) ** 2).sum(0)
    found = [_best(rho, sure, order(rates[:, None] * distance)) for order in ORDERS]
    best = min(range(len(found)), key=lambda i: found[i][0])
    _, share, tried = found[best]
    return share, rates[tried], best


def _best(rho: Tensor, sure: Tensor, shape: Tensor) -> tuple[float, Tensor, int]:
    """Misfit, a and place of the best of the shapes that are tried, (tried, d, RINGS)."""
    share = (sure * rho * shape).sum(1) / (sure * shape**2).sum(1).clamp_min(1e-30)
    share = share.clamp(0, MOST)
    misfit = (sure * (rho - share[:, None] * shape) ** 2).sum((1, 2))
    best = int(misfit.argmin())
    return float(misfit[best]), share[best], best
