"""A pair of windows across a gap: where does the lower one lie in the upper one?

    upper, lower --facing--> Window --score--> Comparison at a coarse and a fine scale
        coarse   every angle and shift of the prior        -> up to CANDIDATES places
        closer   around each; the fine scale, if the       -> mean of the best, or where it is sharper than a voxel,
                 coarse one is too coarse for the best        the peak, by Adam
        both       freed to an affine map, where asked for  -> the same with stretch

A slab that comes back bent fits best where a part of it fits: the answer is its mean motion, if it is freed to bend
(`bend.py`). Tissue at a slant has moved across a gap by itself. So slabs are looked at as they were cut, less what the
score sees move inside each of them, if they are as deep as the gap (`inside.py`), and, less finely, where layers are
lost or that is not told, as they are in the gap's middle, if each structure keeps its course (`flow.py`). The surer
answer counts, or the mean where both know the slant and agree; where the other look contradicts it, or is vague, it is
believed less.

Convention: a point p = (y, x) of the lower window, from its centre ((h - 1) / 2, (w - 1) / 2), lies at R p + shift in
the upper one, with x' = cos(a) x - sin(a) y + tx, y' = sin(a) x + cos(a) y + ty (`geometry.transform`); in voxels, or
in micrometres where a voxel size is given. The prior is a box: `around`, give or take `max_angle_rad` in angle and
`max_shift` of the window's width, its shorter side, in each of y and x. An answer is never outside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from volpipe.errors import GeometryError
from volpipe.geometry import Affine, Rigid
from volpipe.geometry.raster import plane_size
from volpipe.registration.bend import looks_bent, rigid_part
from volpipe.registration.comparison import LEAST_OVERLAP, Comparison, Prepared, Score
from volpipe.registration.estimate import PairEstimate
from volpipe.registration.flow import in_the_middle
from volpipe.registration.inside import slant_inside
from volpipe.registration.known import has_structure
from volpipe.registration.refine import refined
from volpipe.registration.scores import prepared_by
from volpipe.registration.search import Landscape, Mode, Prior, landscape, modes
from volpipe.registration.slant import put_on, taken_off
from volpipe.registration.stretch import stretched
from volpipe.registration.window import Window, facing

COARSE, FINE = 128, 256  # voxels across that the two scales work with
# Across, that a large bend is climbed at first: slabs of light-sheet tissue bent by 2 % are right in 0.83 and 0.75 at 0
# and 1 lost layers, in 0.67 and 0.63 without, in 0.25 and 0.56 by the stiff answer (n = 12 and 16).
WIDE = 32
LEAST_CARRIED = 120  # voxels across, of slabs in the gap's middle: 192 are carried as they are, 256 joined by two
CANDIDATES = 3
# By how much less a peak says than its height (`search.py`), of all places and, from closer, of one. (Success at 2 lost
# layers of light-sheet tissue, windows of 256: 0.86 with 4 from closer, 0.89 with 8, 0.90 with 12; n = 400.)
TEMPER, CLOSER_TEMPER = 4.0, 8.0
LIGHTEST = 0.05  # of the heaviest place's mass: a lighter one is not looked at closer
TOLERANCE = 0.02  # of the width: a shift that is this close is a success
TOLERANCE_RAD = 0.01
WIDER = (3.0, 1.6)  # times the tolerances of angle and shift: how far around a place is looked at closer
BEYOND = 1.3  # times the prior: an edge that cannot be seen beyond draws the mean inwards
LATEST = 1.2  # voxels: a posterior that is narrower is narrower than the grid
# Voxels of the coarse scale: a place that is wider is not told better by the fine one (light-sheet tissue, windows of
# 256: 0.5 at 1 lost layer, 1.0 at 2, 2.8 at 4; success of both scales at 2 and 4: 0.90 and 0.90, 0.49 and 0.50).
BLURRED = 0.7
# Of all looks' weight, for one to count: what is found to a tenth of a voxel is only spoilt by what is found to one.
LEAST_COUNTING = 0.2
NARROWEST = 0.2  # voxels: no answer is finer
# Of the share that the looks give an answer. What is called 0.86, 0.69, 0.39 is right in 1.00, 0.90, 0.46 at 1, 2 and 4
# lost layers (light-sheet tissue, windows of 256), 0.77 in 0.78 at 8 (neuropil, 192), 0.90 and 0.86 in 0.98 and 0.82 at
# 0 and 1 (a whole brain, 96: what fails there is called as sure as what does not); 60 to 200 trials each.
CALIBRATION = 0.3
ACCEPTED = 0.9  # confidence
MIDDLE = Rigid()


@torch.inference_mode(False)  # scores are climbed by their slopes, also for a caller who needs none
def register_pair(
    upper: ArrayLike,
    lower: ArrayLike,
    *,
    gap_layers: int,
    max_shift: float = 0.1,
    max_angle_rad: float = 0.1,
    score: str | Score = "likelihood",
    voxel_size_um: Sequence[float] | None = None,
    around: Rigid = MIDDLE,
    carry: bool = True,
    affine: bool = False,
) -> PairEstimate:
    """Where the lower window lies in the upper one.

    Args:
        upper, lower: layers (z, y, x) of one height and width, any real type; the upper one's last layer and the lower
            one's first face the gap. NaN and infinity are not known.
        gap_layers: layers of tissue lost between them.
        max_shift: of the prior, as a fraction of the window's width (its shorter side), in y and in x.
        max_angle_rad: of the prior.
        score: a name of `scores.SCORES`, or a callable of that kind; of carried slabs it is shown two layers.
        voxel_size_um: (z, y, x) or (y, x); then shifts are in micrometres, and voxels may be longer along one axis.
        around: middle of the prior, in the unit of shifts.
        carry: free tissue to bend, take off what it moves by itself, as each slab shows it to a score that sees inside
            (the likelihood, of slabs of 4 layers and the lost ones), and look in the gap's middle as well; else what is
            seen of the slabs as they were cut, by stiff motions, is the answer, which takes less time.
        affine: also tell how tissue is stretched, by up to 5 % (`stretch.py`); not free where it is not stretched.

    Returns:
        The estimate; its transform is `upper_from_lower`, and so is its affine map where that was asked for. Its
        confidence is that of the transform, within the prior: where that is no wider than the tolerances of a success,
        all of it is, whatever the windows hold.

    Raises:
        GeometryError: windows or a prior that cannot be registered, or a choice that is neither True nor False.
        ConfigError: no such score, or a callable that is no score.
    """
    spacing = plane_size(voxel_size_um, "register_pair")
    gap = _checked(gap_layers, max_shift, max_angle_rad, around)
    _check_choices(carry=carry, affine=affine)
    above, below = facing(upper, lower, spacing)
    size, width = min(above.size), _width(above.size, spacing)
    prior, near = Prior(around, max_angle_rad, (max_shift * width,) * 2), _tolerances(size, width)
    _check_overlap(above.size, spacing, prior)
    scale = _factors(size)[-1] if affine else max(1, size // LEAST_CARRIED)  # stretch is told by the fine scale

    def look(*shown: Any, slant: Rigid | None = None, free: bool = False) -> _Look:
        found = _Look.at(cache(prepared_by(score, *shown)), min(shown[0].size), prior, near)
        return replace(found, slant=slant, free=free)

    each = [first := look(above, below, gap, free=carry)]
    if carry:
        each[0] = first = first.asked_inside(near)
        lost = gap + int(above.depth[0]) + int(below.depth[0])
        if (lost or first.slant is None) and (carried := _carried(above.pooled(scale), below.pooled(scale), lost)):
            each.append(look(*carried, slant=MIDDLE, free=first.bent is not None))
    sure = [look.within(look.about, near) for look in each]
    found = _joined(each, sure, near)
    confidence = _agreed([look.within(found, near) for look in each], sure) ** CALIBRATION
    freed = each[sure.index(max(sure))].stretched(found) if affine else None
    as_cut = None if found == each[0].seen else each[0].seen
    return PairEstimate(found, confidence, confidence >= ACCEPTED, freed, as_cut)


def _carried(above: Window, below: Window, lost: int) -> tuple[Window, Window, int] | None:
    """Both in the gap's middle, where they tell their course and something is left of them there, and the layers lost,
    blank ones too: what tissue changes by is not undone."""
    middle = in_the_middle(above.slab[::-1], below.slab, lost + 1)
    if middle is None or not all(any(map(has_structure, slab)) for slab in middle):
        return None
    one, other = (replace(window, factor=above.factor) for window in facing(*middle, above.spacing))
    return one, other, lost


@dataclass(frozen=True, eq=False)
class _Look:
    """What one look at the windows finds.

    Attributes:
        places: each from closer, and its share of all that is likely.
        best: of them. As far as the answer is uncertain, most of what is likely lies around the mean of it.
        closer: what they were looked at by.
        prior: of the answer.
        prepared, size: what was looked at, and its voxels across.
        slant: what of all that is seen is the tissue's own motion; None where that is not told.
        free: to bend.
    """

    places: list[tuple[Landscape, float]]
    best: Mode
    closer: Comparison
    prior: Prior
    prepared: Prepared
    size: int
    slant: Rigid | None = None
    free: bool = False

    @classmethod
    def at(cls, prepared: Prepared, size: int, prior: Prior, near: tuple[float, float]) -> _Look:
        factors = _factors(size)
        coarse = prepared(factors[0])
        wide = _places(landscape(coarse, prior, TEMPER), near)
        closer = prepared(factors[-1]) if _spread(wide[0], coarse) < BLURRED * max(coarse.spacing) else coarse
        places = _looked_at(closer, wide, prior, near)
        heaviest, _ = max(places, key=lambda place: place[1])
        best = modes(heaviest, 1, 2 * near[0], 2 * near[1])[0]
        return cls(places, best, closer, prior, prepared, size)

    def asked_inside(self, near: tuple[float, float]) -> _Look:
        """The same less what is seen inside the slabs, if it is."""
        return replace(self, slant=slant_inside(self.scales[0], self.best.motion, near, CLOSER_TEMPER))

    @cached_property
    def stiff(self) -> Rigid:
        """The mean of the best place, unless that place is narrower than LATEST voxels: then the grid is too coarse for
        it, and the score itself is climbed."""
        mean = self.prior.clamped(self.best.motion)
        sharp = self.spread < LATEST * min(self.closer.spacing)
        return refined(self.closer, mean, self.prior) if sharp else mean

    @cached_property
    def bent(self) -> Rigid | None:
        """Of bent tissue that is free to bend, the rigid part of what is seen (`bend.py`). The grid has the first word:
        a look that may not count is not climbed to learn that nothing is bent."""
        if not (self.free and looks_bent(self.scales[0], self.prior.clamped(self.best.motion))):
            return None
        wide = max(1, round(self.size / WIDE))
        found = rigid_part(self.scales[0], lambda: self.prepared(wide), self.stiff)
        return None if found is None else self.prior.clamped(found)

    @property
    def seen(self) -> Rigid:
        """The tissue's own motion is in it, a bend is not."""
        return self.bent or self.stiff

    @property
    def answer(self) -> Rigid:
        """Where the lower window lies."""
        return self.prior.clamped(taken_off(self.slant or MIDDLE, self.seen))

    @property
    def about(self) -> Rigid:
        """The answer, to a voxel."""
        return taken_off(self.slant or MIDDLE, self.bent or self.best.motion)

    @property
    def spread(self) -> float:
        """How wide the best place is, in the unit of shifts."""
        return _spread(self.best, self.closer)

    @property
    def scales(self) -> list[Comparison]:
        """Coarse ones first."""
        return [self.prepared(factor) for factor in _factors(self.size)]

    def stiffly(self, motion: Rigid) -> Rigid:
        """Where a motion is seen: with the slant in it, and drawn by a bend."""
        seen = put_on(self.slant or MIDDLE, motion)
        return seen if self.bent is None else put_on(self.stiff @ self.bent.inverse, seen)

    def within(self, motion: Rigid, near: tuple[float, float]) -> float:
        """Of all that is likely, what lies within the tolerances of any motion (of places that overlap, a little
        twice)."""
        here = self.stiffly(motion)
        parts = [(float((seen.posterior() * seen.near(here, *near)).sum()), share) for seen, share in self.places]
        return sum(inside * share for inside, share in parts)

    def stretched(self, found: Rigid) -> Affine:
        """A motion with the stretch that this look tells."""
        return stretched(self.scales, self.prior.clamped(self.stiffly(found)), self.prior, self.slant or MIDDLE)

    def agrees(self, other: _Look, near: tuple[float, float]) -> bool:
        """Whether both answers may be right, and err by no slant."""
        one, two = self.about, other.about
        apart = math.hypot(*(a - b for a, b in zip(one.shift, two.shift, strict=True)))
        near_by = apart <= 2 * near[1] and abs(one.angle_rad - two.angle_rad) <= 2 * near[0]
        return near_by and self.slant is not None and other.slant is not None


def _joined(looks: Sequence[_Look], sure: Sequence[float], near: tuple[float, float]) -> Rigid:
    """The answer of the surest look, or the mean with those that agree, each by how sure it is over its variance."""
    first = sure.index(max(sure))
    weights = [
        share / max(look.spread, NARROWEST * min(look.closer.spacing)) ** 2 if look.agrees(looks[first], near) else 0.0
        for look, share in zip(looks, sure, strict=True)
    ]
    least = LEAST_COUNTING * sum(weights)
    counting = [(looks[i].answer, weight) for i, weight in enumerate(weights) if i == first or weight > least]
    if len(counting) == 1:
        return counting[0][0]
    parts = np.array([[motion.angle_rad, *motion.shift] for motion, _ in counting])
    angle, row, column = map(float, np.average(parts, axis=0, weights=[weight for _, weight in counting]))
    return Rigid(angle, (row, column))


def _agreed(shares: Sequence[float], sure: Sequence[float]) -> float:
    """The mean of what the looks give an answer, each as far as it is sure of its own."""
    total = sum(sure)
    agreed = sum(share * weight for share, weight in zip(shares, sure, strict=True))
    return min(1.0, agreed / total) if total else 0.0


def _tolerances(size: int, width: float) -> tuple[float, float]:
    """What is a success, angle and shift: no window tells an angle that moves its sides by less than half a voxel."""
    return max(TOLERANCE_RAD, 1 / size), TOLERANCE * width


def _places(wide: Landscape, near: tuple[float, float]) -> list[Mode]:
    places = modes(wide, CANDIDATES, 2 * near[0], near[1])
    return [place for place in places if place.mass >= LIGHTEST * places[0].mass]


def _looked_at(
    closer: Comparison, places: Sequence[Mode], prior: Prior, near: tuple[float, float]
) -> list[tuple[Landscape, float]]:
    """Each place from closer, and its share of all that is likely."""
    wide = prior.times(BEYOND)
    around = [wide.near(wide.clamped(place.motion), WIDER[0] * near[0], WIDER[1] * near[1]) for place in places]
    found = [landscape(closer, part, CLOSER_TEMPER) for part in around]
    mass = min(1.0, sum(place.mass for place in places))
    return [(one, share * mass) for one, share in zip(found, _likely(found), strict=True)]


def _likely(found: Sequence[Landscape]) -> list[float]:
    """The share of each place."""
    peak = max(one.peak for one in found)
    log = [float(one.log_likely(peak).flatten().logsumexp(0)) for one in found]
    shares = [math.exp(one - max(log)) for one in log]
    return [share / sum(shares) for share in shares]


def _spread(mode: Mode, scale: Comparison) -> float:
    """How wide a place is, in the unit of shifts: the spread of its shift, or of a point at half the width."""
    half = min(n * voxel for n, voxel in zip(scale.moving.shape[-2:], scale.spacing, strict=True)) / 2
    return max(mode.spread[1], mode.spread[0] * half)


def _factors(size: int) -> list[int]:
    """Of the scales, coarse ones first."""
    return sorted({max(1, round(size / voxels)) for voxels in (COARSE, FINE)}, reverse=True)


def _width(size: tuple[int, int], spacing: tuple[float, float]) -> float:
    return min(n * voxel for n, voxel in zip(size, spacing, strict=True))


def _checked(gap_layers: Any, max_shift: Any, max_angle_rad: Any, around: Any) -> int:
    if isinstance(gap_layers, bool) or not isinstance(gap_layers, Integral) or gap_layers < 0:
        raise GeometryError(f"register_pair: gap_layers is {gap_layers!r}; give a whole number of layers, 0 or more")
    if not (isinstance(max_shift, Real) and 0 <= float(max_shift) <= 0.5):
        raise GeometryError(f"register_pair: max_shift is {max_shift!r}; give a fraction of the width, 0 to 0.5")
    if not (isinstance(max_angle_rad, Real) and 0 <= float(max_angle_rad) <= math.pi):
        raise GeometryError(f"register_pair: max_angle_rad is {max_angle_rad!r}; give 0 to pi")
    if not isinstance(around, Rigid):
        raise GeometryError(f"register_pair: around is {around!r}; give a Rigid, the prior's middle")
    return int(gap_layers)


def _check_choices(**choices: Any) -> None:
    for name, choice in choices.items():
        if not isinstance(choice, (bool, np.bool_)):
            raise GeometryError(f"register_pair: {name} is {choice!r}; give True or False")


def _check_overlap(size: tuple[int, int], spacing: tuple[float, float], prior: Prior) -> None:
    """Somewhere in the prior the windows lie on each other (told without the turn)."""
    shift = prior.clamped(Rigid()).shift
    overlap = math.prod(max(0.0, 1 - abs(s) / (n * voxel)) for s, n, voxel in zip(shift, size, spacing, strict=True))
    if overlap < LEAST_OVERLAP:
        raise GeometryError(f"register_pair: around {prior.middle.shift} the windows overlap by {overlap:.2f} at most; "
                            f"give windows and a prior that overlap by {LEAST_OVERLAP}")  # fmt: skip
