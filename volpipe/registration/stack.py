"""A stack of slabs: all pairs first, each by itself, then one solve.

    slab 0  ====        layers lost between two slabs: the gap of their seam; between slabs further apart also those
    gap 0     ?         of the slabs between, whether these are there or not:
    slab 1  ====
    gap 1     ?             lost(0, 2) = gap 0 + layers of slab 1 + gap 1
    slab 2  ====

Tissue that runs at a slant moves between two faces by itself, and that must not move the slabs. `register_pair` takes
off what it sees move inside both slabs, and looks at them in the gap's middle, where it is gone. Over a gap of few
layers, where the faces are alike, more can be told: the faces are aligned to a hundredth of a voxel (faces.py), and so,
measured alike, are layers as far apart inside both slabs, of the same tissue; their motion is taken off (slant.py).
Slabs that are bent are laid on each other stiffly too: what a bend draws one face by, it draws the other face back by.

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
from volpipe.registration.faces import aligned
from volpipe.registration.known import has_structure
from volpipe.registration.slant import motion_of, rate_of, seen_and_slant, seen_from
from volpipe.registration.solve import STILL, Edge, StackSolution, solve_stack

SKIPS = (2, 3)  # one slab or two between: with 3, two bad slabs in a row are bridged
NEAR = 3  # layers, from face to face: over more, tissue keeps no course that two layers inside a slab would tell

Slab = NDArray[Any]
Pair = Callable[..., PairEstimate]  # as register_pair


def register_slabs(
    slabs: Sequence[Slab | None],
    *,
    gap_layers: int | Sequence[int],
    max_shift: float = 0.1,
    max_angle_rad: float = 0.1,
    score: str = "likelihood",
    slant: bool = True,
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
        score: of `register_pair`.
        slant: what the tissue moves with depth by itself is taken off, where that shows; else pairs are told to tell
            what they see (`carry=False`).
        voxel_size_um: (z, y, x) or (y, x); then shifts are in micrometres.
        anchors: poses by hand, which are held: index -> pose in slab 0's frame.
        skips: further pairs (i, i + skip) besides the neighbours.
        pair: estimates one pair; `register_pair` if not given.

    Returns:
        Pose of slab i's points in slab 0's frame, about the windows' centres; the first is the identity.
        `register_stack` also says how far each pair was trusted and which slabs were bridged.

    Slabs of one layer have no inside: then nothing is taken off, and the chain leans as the tissue does. So it does
    where structures are shorter than a gap, as their slant cannot be seen across it.

    Raises:
        GeometryError: slabs, gaps, skips or anchors that do not fit each other, a slant that is neither True nor False,
            or no pair that is trusted.
    """
    found = register_stack(
        slabs, gap_layers=gap_layers, max_shift=max_shift, max_angle_rad=max_angle_rad, score=score,
        slant=slant, voxel_size_um=voxel_size_um, anchors=anchors, skips=skips, pair=pair,
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
    slant: bool = True,
    voxel_size_um: Sequence[float] | None = None,
    anchors: Mapping[int, Rigid] | None = None,
    skips: Sequence[int] = SKIPS,
    pair: Pair | None = None,
) -> StackSolution:
    """As `register_slabs`, with what became of each pair and slab."""
    if not isinstance(slant, (bool, np.bool_)):
        raise GeometryError(f"slabs: slant is {slant!r}; give True or False")
    stack = Stack.of(slabs, gap_layers, voxel_size_um)
    held = _checked_anchors(anchors or {}, len(stack.layers))
    pairs = list(stack.pairs(_checked_skips(skips)))
    one_pair = partial(
        pair or _register_pair(), max_shift=max_shift, max_angle_rad=max_angle_rad, voxel_size_um=voxel_size_um,
        score=score, **({} if slant else {"carry": False}),
    )  # fmt: skip
    edges = [stack.edge(*indices, one_pair, slant=slant) for indices in pairs]
    return solve_stack(edges, count=len(stack.layers), radius=stack.radius, anchors=held)


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
        spacing: (y, x) of one voxel, in the unit of shifts.
        radius: root of the mean square distance of a window's points from its centre, voxels or um.
    """

    slabs: Mapping[int, Slab]
    layers: tuple[int, ...]
    gaps: tuple[int, ...]
    spacing: tuple[float, float]
    radius: float

    @classmethod
    def of(
        cls, given: Sequence[Slab | None], gap_layers: int | Sequence[int], voxel_size_um: Sequence[float] | None
    ) -> Stack:
        """Check what was given.

        Raises:
            GeometryError: as `register_slabs`.
        """
        if not isinstance(given, Sequence | np.ndarray):
            raise GeometryError(f"slabs: {given!r}; give a list of arrays (z, y, x), None for one that is missing")
        there = {i: np.asarray(slab) for i, slab in enumerate(given) if slab is not None}
        _check_slabs(len(given), there)
        layers = tuple(len(there[i]) if i in there else _usual(there) for i in range(len(given)))
        known = {i: slab for i, slab in there.items() if not _is_blank(slab)}
        if 0 not in known:
            raise GeometryError(
                "slabs: the first one is missing or blank, and poses are in its frame; begin with one that shows tissue"
            )
        height, width = known[0].shape[1:]
        y, x = plane_size(voxel_size_um, "slabs")
        radius = float(np.hypot(height * y, width * x) / np.sqrt(12))
        gaps = _checked_gaps(gap_layers, len(given) - 1)
        return cls(known, layers, gaps, (y, x), radius)

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

    def edge(self, upper: int, lower: int, pair: Pair, *, slant: bool = True) -> Edge:
        """Two slabs; nobody trusts it if one of them is blank.

        Args:
            upper, lower: of the stack.
            pair: `register_pair` with a prior.
            slant: the tissue's own motion is taken off; of slabs of one layer it is not known.
        """
        one, other, layers = _bare(self.slabs[upper], self.slabs[lower], self.lost(upper, lower) + 1)
        if blank := tuple(slab for slab, left in ((upper, one), (lower, other)) if not len(left)):
            return Edge(upper, lower, layers, NOTHING, blank=blank)
        found = pair(one, other, gap_layers=layers - 1)
        seen, own = seen_and_slant(found, one.shape[1:], self.spacing)
        edge = Edge(upper, lower, layers, replace(found, transform=seen), own)
        return self._near(edge, one, other) if slant else edge

    def _near(self, edge: Edge, upper: Slab, lower: Slab) -> Edge:
        """By the faces, and layers as far apart inside the slabs, of what both windows show; as it was, if these do not
        tell."""
        layers, rates = edge.layers, []
        if not edge.trust or layers > NEAR:
            return edge
        seen = aligned(upper[-1], lower[0], edge.estimate.transform, self.spacing)
        if seen is None:
            return edge
        if len(upper) > layers and (inside := aligned(upper[-1 - layers], upper[-1], STILL, self.spacing, seen)):
            rates.append(rate_of(inside, layers))
        if len(lower) > layers and (inside := aligned(lower[0], lower[layers], STILL, self.spacing, seen.inverse)):
            rates.append(seen_from(seen, rate_of(inside, layers)))
        if not rates:
            return edge
        slant = motion_of(np.mean(rates, axis=0), layers)
        return replace(edge, estimate=replace(edge.estimate, transform=seen), slant=slant)

    def pairs(self, skips: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Neighbours, then those further apart; of slabs that are there."""
        for step in (1, *skips):
            for upper in range(len(self.layers) - step):
                if upper in self.slabs and upper + step in self.slabs:
                    yield upper, upper + step


def _bare(upper: Slab, lower: Slab, layers: int) -> tuple[Slab, Slab, int]:
    """Without blank layers at the gap: these are lost too. A slab may have no others."""
    above, below = (list(map(has_structure, slab)) for slab in (upper[::-1], lower))
    over, under = (known.index(True) if True in known else len(known) for known in (above, below))
    return upper[: len(upper) - over], lower[under:], layers + over + under


# ---------------------------------------------------------------------- checks


def _check_slabs(count: int, there: Mapping[int, Slab]) -> None:
    if count < 2:
        raise GeometryError(f"slabs: {count} given; give two at least")
    if not there:
        raise GeometryError(f"slabs: all {count} are missing; give those that are there")
    for i, slab in there.items():
        if slab.ndim != 3 or not slab.size:
            raise GeometryError(f"slabs: number {i} is of shape {slab.shape}; give layers as (z, y, x)")
        if slab.dtype.kind not in "buif":
            raise GeometryError(f"slabs: number {i} is {slab.dtype}; give layers of real numbers")
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
    several = isinstance(given, Sequence | np.ndarray) and not isinstance(given, str)
    gaps: list[Any] = list(given) if several else [given] * seams  # type: ignore[arg-type]
    if len(gaps) != seams:
        raise GeometryError(
            f"gap_layers: {len(gaps)} given for {seams} seams; give one for each, or one number for all"
        )
    if not all(_is_whole(gap) and gap >= 0 for gap in gaps):
        raise GeometryError(f"gap_layers: {given!r}; give whole numbers of layers, 0 or more")
    return tuple(int(gap) for gap in gaps)


def _checked_skips(skips: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(skips, Sequence | np.ndarray) or not all(_is_whole(skip) and skip >= 2 for skip in skips):
        raise GeometryError(f"skips: {skips!r}; give whole numbers from 2, as [2, 3] (neighbours are always paired)")
    return tuple(sorted({int(skip) for skip in skips}))


def _checked_anchors(anchors: Mapping[int, Rigid], count: int) -> dict[int, Rigid]:
    for slab, pose in anchors.items():
        if not (_is_whole(slab) and 0 <= slab < count):
            raise GeometryError(f"anchors: slab {slab} of {count}; give indices from 0 to {count - 1}")
        if not isinstance(pose, Rigid):
            raise GeometryError(f"anchors: slab {slab} is held at {pose!r}; give a Rigid")
        if slab == 0 and pose != Rigid():
            raise GeometryError("anchors: slab 0 is the frame; give poses of other slabs in it")
    return {int(slab): pose for slab, pose in anchors.items()}


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
