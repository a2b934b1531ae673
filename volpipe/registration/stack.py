"""A stack of slabs: all pairs first, each by itself, then one solve.

    slab 0  ====        layers lost between two slabs: the gap of their seam; between slabs further apart also those
    gap 0     ?         of the slabs between, whether these are there or not:
    slab 1  ====
    gap 1     ?             lost(0, 2) = gap 0 + layers of slab 1 + gap 1
    slab 2  ====

Inside each slab it is measured what the tissue moves by itself over the distance of a seam's two faces, and that is
taken off (slant.py). Scores do not see the same motion in tissue that changes, the less so the more layers they
compare, so both are measured alike: one layer against one layer, by one score, the faces around what the pair gave.
Neighbours and skip pairs go into one robust solve (solve.py). A slab that is missing is `None`, or blank: all NaN, or
all of one value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.errors import GeometryError
from volpipe.geometry import Rigid
from volpipe.geometry.raster import plane_size
from volpipe.registration.estimate import NOTHING, PairEstimate
from volpipe.registration.known import has_structure
from volpipe.registration.slant import Inside
from volpipe.registration.solve import Edge, StackSolution, solve_stack

SKIPS = (2, 3)  # one slab or two between: with 3, two bad slabs in a row are bridged
FACES_SHIFT, FACES_ANGLE_RAD = 0.02, 0.02  # around a pair's estimate: what counts as a success, and twice that
MOST_INSIDE = 3  # pairs of layers of a slab whose motion is measured: at both faces, and between them

Slab = NDArray[Any]
Pair = Callable[..., PairEstimate]  # as register_pair


def register_slabs(
    slabs: Sequence[Slab | None],
    *,
    gap_layers: int | Sequence[int],
    max_shift: float = 0.1,
    max_angle_rad: float = 0.1,
    score: str = "likelihood",
    slant_score: str | None = "ncc",
    voxel_size_um: Sequence[float] | None = None,
    anchors: Mapping[int, Rigid] | None = None,
    skips: Sequence[int] = SKIPS,
    pair: Pair | None = None,
) -> list[Rigid]:
    """Where each slab lies in the first one.

    Args:
        slabs: each (z, y, x), all of one height and width; `None` for one that is missing, which is taken to have as
            many layers as the others have (where they differ, give one of NaN, of its shape). The first must be there.
        gap_layers: lost at each seam; one number for all, or one for each.
        max_shift: of any pair, of the window's width (its shorter side); of a skip pair too, as slabs lie on their
            slides independently of each other.
        max_angle_rad: of any pair.
        score: of `register_pair`, for whole slabs.
        slant_score: for single layers, where slant is taken off; None leaves it in.
        voxel_size_um: (z, y, x) or (y, x); then shifts are in micrometres.
        anchors: poses by hand, which are held: index -> pose in slab 0's frame.
        skips: further pairs (i, i + skip) besides the neighbours.
        pair: estimates one pair; `register_pair` if not given.

    Returns:
        Pose of slab i's points in slab 0's frame, about the windows' centres; the first is the identity.
        `register_stack` also says how far each pair was trusted and which slabs were bridged.

    The slant of the tissue is measured inside the slabs over a gap's distance (gap + 1 layers), or over what they have,
    scaled. Slabs of one layer have no inside: then nothing is compensated, and the chain leans as the tissue does.

    Raises:
        GeometryError: slabs, gaps, skips or anchors that do not fit each other, or no pair that is trusted.
    """
    found = register_stack(
        slabs, gap_layers=gap_layers, max_shift=max_shift, max_angle_rad=max_angle_rad, score=score,
        slant_score=slant_score, voxel_size_um=voxel_size_um, anchors=anchors, skips=skips, pair=pair,
    )  # fmt: skip
    if not any(found.weights.values()) and not anchors:
        raise GeometryError(
            "slabs: no pair of them was trusted, so that nothing says where they lie; give a wider prior or anchors "
            "(register_stack shows what was found)"
        )
    return list(found.poses)


def register_stack(
    slabs: Sequence[Slab | None],
    *,
    gap_layers: int | Sequence[int],
    max_shift: float = 0.1,
    max_angle_rad: float = 0.1,
    score: str = "likelihood",
    slant_score: str | None = "ncc",
    voxel_size_um: Sequence[float] | None = None,
    anchors: Mapping[int, Rigid] | None = None,
    skips: Sequence[int] = SKIPS,
    pair: Pair | None = None,
) -> StackSolution:
    """As `register_slabs`, with what became of each pair and slab."""
    stack = Stack.of(slabs, gap_layers, voxel_size_um)
    held = _checked_anchors(anchors or {}, len(stack.layers))
    pairs = list(stack.pairs(_checked_skips(skips)))
    one_pair = pair or _register_pair()
    prior = {"max_shift": max_shift, "max_angle_rad": max_angle_rad, "voxel_size_um": voxel_size_um}
    edges = [stack.edge(i, j, partial(one_pair, **prior, score=score)) for i, j in pairs]
    insides = []
    if slant_score is not None:
        layer = partial(one_pair, **prior, score=slant_score)
        insides = [stack.between_layers(*layers, layer) for layers in stack.inside()]
        edges = [stack.between_faces(edge, layer) if insides and edge.trust else edge for edge in edges]
    return solve_stack(edges, insides, count=len(stack.layers), radius=stack.radius, anchors=held)


def _register_pair() -> Pair:
    from volpipe.registration.pair import register_pair

    return register_pair


@dataclass(frozen=True)
class Stack:
    """Slabs and where they lie in depth.

    Attributes:
        slabs: those that are there, by index.
        layers: of each slab.
        gaps: lost at each seam.
        radius: root of the mean square distance of a window's points from its centre, voxels or um.
    """

    slabs: Mapping[int, Slab]
    layers: tuple[int, ...]
    gaps: tuple[int, ...]
    radius: float

    @classmethod
    def of(
        cls, given: Sequence[Slab | None], gap_layers: int | Sequence[int], voxel_size_um: Sequence[float] | None
    ) -> Stack:
        """Check what was given.

        Raises:
            GeometryError: as `register_slabs`.
        """
        there = {i: np.asarray(slab) for i, slab in enumerate(given) if slab is not None}
        _check_slabs(len(given), there)
        layers = tuple(len(there[i]) if i in there else _usual(there) for i in range(len(given)))
        known = {i: slab for i, slab in there.items() if not _is_blank(slab)}
        if 0 not in known:
            raise GeometryError(
                "slabs: the first one is missing, and poses are in its frame; begin with one that is there"
            )
        height, width = known[0].shape[1:]
        y, x = plane_size(voxel_size_um, "slabs")
        radius = float(np.hypot(height * y, width * x) / np.sqrt(12))
        return cls(known, layers, _checked_gaps(gap_layers, len(given) - 1), radius)

    @property
    def tops(self) -> tuple[int, ...]:
        """The first layer of each slab, in layers from the top of the stack."""
        tops = [0]
        for layers, gap in zip(self.layers, self.gaps, strict=False):
            tops.append(tops[-1] + layers + gap)
        return tuple(tops)

    def lost(self, upper: int, lower: int) -> int:
        """Layers between two slabs."""
        return self.tops[lower] - self.tops[upper] - self.layers[upper]

    def span(self, upper: int, lower: int) -> tuple[float, int]:
        """The depth of the middle between two slabs' faces, and how many layers it is from the one to the other."""
        return self.tops[lower] - (self.lost(upper, lower) + 1) / 2, self.lost(upper, lower) + 1

    def edge(self, upper: int, lower: int, pair: Pair) -> Edge:
        """Two slabs, with all of their layers; nobody trusts it if one of them is blank."""
        estimate = _told(pair, self.slabs[upper], self.slabs[lower], gap_layers=self.lost(upper, lower))
        return Edge(upper, lower, *self.span(upper, lower), estimate)

    def between_faces(self, edge: Edge, pair: Pair) -> Edge:
        """The same by the two layers at the gap alone, around what is known; as it was where these do not tell."""
        upper, lower = self.slabs[edge.upper][-1:], self.slabs[edge.lower][:1]
        narrow = {"max_shift": FACES_SHIFT, "max_angle_rad": FACES_ANGLE_RAD, "around": edge.estimate.transform}
        found = _told(pair, upper, lower, gap_layers=edge.layers - 1, **narrow)
        return replace(edge, estimate=replace(edge.estimate, transform=found.transform)) if found.accepted else edge

    def between_layers(self, slab: int, upper: int, lower: int, pair: Pair) -> Inside:
        """Two layers of one slab; nobody trusts it if one of them is blank."""
        one, other = (self.slabs[slab][layer : layer + 1] for layer in (upper, lower))
        estimate = _told(pair, one, other, gap_layers=lower - upper - 1)
        return Inside(slab, self.tops[slab] + (upper + lower) / 2, lower - upper, estimate)

    def pairs(self, skips: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Neighbours, then those further apart; of slabs that are there."""
        for step in (1, *skips):
            for upper in range(len(self.layers) - step):
                if upper in self.slabs and upper + step in self.slabs:
                    yield upper, upper + step

    def inside(self) -> Iterator[tuple[int, int, int]]:
        """Slab and two of its layers, as far apart as the faces of the seams beside it, if it has so many."""
        for slab in self.slabs:
            beside = self.gaps[max(slab - 1, 0) : slab + 1]
            for layers in sorted({min(gap + 1, self.layers[slab] - 1) for gap in beside} - {0}):
                last = self.layers[slab] - 1 - layers
                for first in np.unique(np.linspace(0, last, MOST_INSIDE).astype(int)).tolist():
                    yield slab, first, first + layers


def _told(pair: Pair, upper: Slab, lower: Slab, **how: Any) -> PairEstimate:
    """What a pair says of layers; nothing of blank ones, at which it would raise."""
    return NOTHING if _is_blank(upper) or _is_blank(lower) else pair(upper, lower, **how)


# ---------------------------------------------------------------------- checks


def _check_slabs(count: int, there: Mapping[int, Slab]) -> None:
    if count < 2:
        raise GeometryError(f"slabs: {count} given; give two at least")
    if not there:
        raise GeometryError(f"slabs: all {count} are missing; give those that are there")
    for i, slab in there.items():
        if slab.ndim != 3 or not slab.size:
            raise GeometryError(f"slabs: number {i} is of shape {slab.shape}; give layers as (z, y, x)")
    for one, other in pairwise(there):
        if there[one].shape[1:] != there[other].shape[1:]:
            raise GeometryError(
                f"slabs: number {one} is {there[one].shape[1:]} in y and x, number {other} {there[other].shape[1:]}; "
                "give windows of one size"
            )


def _usual(there: Mapping[int, Slab]) -> int:
    found = sorted({len(slab) for slab in there.values()})
    if len(found) > 1:
        raise GeometryError(
            f"slabs: one is missing and the others have {found} layers; give it as NaN, of its shape, to say how many "
            "it has"
        )
    return found[0]


def _is_blank(layers: Slab) -> bool:
    """Whether no layer can be registered; layer by layer, so that the first with tissue answers."""
    return not any(map(has_structure, layers))


def _checked_gaps(given: int | Sequence[int], seams: int) -> tuple[int, ...]:
    gaps: list[Any] = list(given) if isinstance(given, Sequence | np.ndarray) else [given] * seams
    if len(gaps) != seams:
        raise GeometryError(
            f"gap_layers: {len(gaps)} given for {seams} seams; give one for each, or one number for all"
        )
    if not all(_is_whole(gap) and gap >= 0 for gap in gaps):
        raise GeometryError(f"gap_layers: {given}; give whole numbers of layers, 0 or more")
    return tuple(int(gap) for gap in gaps)


def _checked_skips(skips: Sequence[int]) -> tuple[int, ...]:
    if not all(_is_whole(skip) and skip >= 2 for skip in skips):
        raise GeometryError(f"skips: {tuple(skips)}; give whole numbers from 2 (neighbours are always paired)")
    return tuple(sorted({int(skip) for skip in skips}))


def _checked_anchors(anchors: Mapping[int, Rigid], count: int) -> dict[int, Rigid]:
    for slab, pose in anchors.items():
        if not (_is_whole(slab) and 0 <= slab < count):
            raise GeometryError(f"anchors: slab {slab} of {count}; give indices from 0 to {count - 1}")
        if slab == 0 and pose != Rigid():
            raise GeometryError("anchors: slab 0 is the frame; give poses of other slabs in it")
    return {int(slab): pose for slab, pose in anchors.items()}


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
