"""The first stage of `register`: pairs of whole slabs, and the poses that follow.

    OUT/pairs/002-003.json     ("pair", n)    an edge: neighbours and slabs further apart
    OUT/stack.json             ("solve", 0)   needs all of these

Each task writes down the little that it found, whole or not at all, and reads what it needs of others from there: so
a value reaches any worker that sees the product, and a run that goes on finds it. Motions are in micrometres, about the
slabs' centres.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from volpipe.errors import RunError
from volpipe.geometry import Rigid
from volpipe.geometry.raster import two
from volpipe.inference.device import use_threads
from volpipe.jobs.register_setup import SlabStack
from volpipe.jobs.slab_reader import Layers
from volpipe.plan import Receipt
from volpipe.registration.estimate import PairEstimate
from volpipe.registration.pair import register_pair
from volpipe.registration.solve import Edge, StackSolution, solve_stack
from volpipe.volume.folder import Folder

PAIR, SOLVE = "pair", "solve"
FOUND = "stack.json"
EVEN = 0.02  # of what is known of a slab: as much that has its lowest value looks like fill
HONEST = 0.5  # weight of a pair that may start a tree: likelier right than wrong, and contradicted by none

Pair = tuple[int, int]


@dataclass(frozen=True)
class Prior:
    """How far a pair may lie apart, and how it is scored.

    Attributes:
        max_shift, max_angle_rad, score: as in `register_pair`.
        slant: what the tissue moves by itself is taken off.
    """

    max_shift: float
    max_angle_rad: float
    score: str
    slant: bool

    def pair(self, voxel_size_um: tuple[float, float, float], around: Rigid) -> Any:
        """`register_pair` with these."""
        return partial(
            register_pair,
            max_shift=self.max_shift,
            max_angle_rad=self.max_angle_rad,
            score=self.score,
            voxel_size_um=voxel_size_um,
            around=around,
            carry=self.slant,
        )


@dataclass(frozen=True)
class Stage:
    """What the tasks of this stage share; picklable.

    Attributes:
        starts: about where each slab lies in the first one's frame.
        pairs: what is registered; an item is an index.
        folder: of the product.
    """

    stack: SlabStack
    prior: Prior
    starts: tuple[Rigid, ...]
    pairs: tuple[Pair, ...]
    folder: Folder


@dataclass(frozen=True)
class PairWork:
    """Registers two slabs."""

    stage: Stage

    def __call__(self, item: int) -> Receipt:
        """Register one pair; a slab without tissue gives an edge that nobody trusts."""
        use_threads(1)
        (upper, lower), began = self.stage.pairs[item], time.perf_counter()
        stack = self.stage.stack
        slabs = {slab: stack.read(slab, stack.facing(slab, last=slab == upper)) for slab in (upper, lower)}
        read = time.perf_counter()
        edge = self._edge(upper, lower, slabs)
        found = told_edge(self._about_slabs(edge)) | {"even": {str(slab): _even(slabs[slab]) for slab in slabs}}
        put(self.stage.folder, pair_key(upper, lower), found)
        seconds = {"read": read - began, "compute": time.perf_counter() - read}
        return Receipt(PAIR, item, seconds=seconds, bytes_read=sum(slab.nbytes for slab in slabs.values()))

    def _edge(self, upper: int, lower: int, slabs: dict[int, Layers]) -> Edge:
        stage = self.stage
        start = stage.starts[upper].inverse @ stage.starts[lower]
        around = stage.stack.between_canvases(upper, lower, start)
        pair = stage.prior.pair(stage.stack.canvas_size_um, around)
        return stage.stack.stack(slabs).edge(upper, lower, pair, slant=stage.prior.slant)

    def _about_slabs(self, edge: Edge) -> Edge:
        """From the centres of the canvases to those of the slabs."""
        between = self.stage.stack.between_slabs
        seen = replace(edge.estimate, transform=between(edge.upper, edge.lower, edge.estimate.transform))
        return replace(edge, estimate=seen, slant=between(edge.upper, edge.upper, edge.slant))


@dataclass(frozen=True)
class SolveWork:
    """Finds all poses at once.

    Attributes:
        anchors: poses by hand.
    """

    stage: Stage
    anchors: Mapping[int, Rigid]

    def __call__(self, item: int) -> Receipt:
        """Read every pair, solve, and write down what became of them.

        Raises:
            RunError: nothing can be told of any seam.
        """
        began = time.perf_counter()
        stored = [get(self.stage.folder, pair_key(*pair)) for pair in self.stage.pairs]
        edges = list(map(edge_of, stored))
        if not any(edge.trust for edge in edges):
            raise RunError(_nothing_trusted(edges))
        stack = self.stage.stack
        solution = solve_stack(
            edges, count=len(stack.layers), radius=stack.radius_um, anchors=self.anchors, starts=self.stage.starts
        )
        put(self.stage.folder, FOUND, told_solution(edges, solution, _most_even(stored)))
        return Receipt(SOLVE, item, seconds={"compute": time.perf_counter() - began})


def _even(layers: Layers) -> tuple[float, float]:
    """The lowest value, and how much of what is known has it."""
    known = layers[np.isfinite(layers)]
    return (float(known.min()), float((known == known.min()).mean())) if known.size else (0.0, 0.0)


def _most_even(pairs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Of pairs as they are stored, slabs that look filled; what is all of one value is blank."""
    seen = [(slab, tuple(found)) for pair in pairs for slab, found in pair["even"].items()]
    return {
        slab: (value, share) for slab, (value, share) in sorted(seen, key=lambda each: each[1][1]) if EVEN <= share < 1
    }


def _nothing_trusted(edges: Sequence[Edge]) -> str:
    told = [told_edge(edge) for edge in edges]
    best, blank = max(edge.estimate.confidence for edge in edges), _blank(told)
    if len(blank) == len(_named(told)):
        return "register: no slab shows tissue at its gaps; give slabs that do"
    without = f"no tissue at their gaps: slabs {', '.join(map(str, blank))}; " if blank else ""
    return (
        f"register: no pair of slabs was trusted, the best had a confidence of {best:.2f}; {without}give a wider "
        "max_shift or max_angle_rad in the slabs file, a larger --window, another --score, or slabs with tissue"
    )


def _blank(pairs: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """Of pairs as JSON: slabs that show no tissue in any of theirs."""
    shown = {slab for pair in pairs for slab in {pair["upper"], pair["lower"]} - set(pair["blank"])}
    return tuple(sorted(_named(pairs) - shown))


def _named(pairs: Sequence[Mapping[str, Any]]) -> set[int]:
    return {slab for pair in pairs for slab in (pair["upper"], pair["lower"])}


@dataclass(frozen=True)
class FoundStack:
    """What `solve` wrote.

    Attributes:
        poses: reconstruction_from_slab.
        motions: upper_from_lower as it was seen, of the pairs that were trusted and that no others contradict.
        trusted, contradicted, pairs: how many; what is contradicted was trusted, until others spoke against it.
        bridged: slabs whose pose is that of neighbours, or between.
        blank: slabs that show no tissue at any gap.
        even: of slabs of which much has one value: that value, and how much.
    """

    poses: tuple[Rigid, ...]
    motions: Mapping[Pair, Rigid]
    trusted: int
    contradicted: int
    pairs: int
    bridged: tuple[int, ...]
    blank: tuple[int, ...]
    even: Mapping[int, tuple[float, float]]

    @property
    def told(self) -> str:
        """How many pairs were trusted."""
        against = f", {self.contradicted} of them contradicted by others" if self.contradicted else ""
        return f"{self.trusted} of {self.pairs} pairs trusted{against}"

    @property
    def looks_filled(self) -> str:
        """What is to be asked of those who know how the slabs were imaged; nothing of most."""
        values = sorted({value for value, _ in self.even.values()})
        if not values:
            return ""
        each, most = " or ".join(f"{value:g}" for value in values), max(share for _, share in self.even.values())
        which = ", ".join(map(str, sorted(self.even)))
        return (
            f"exactly {each} is up to {100 * most:.0f} % of slabs {which}: if that was not imaged (empty ground was), "
            f"say fill: {values[0]:g} in the slabs file"
        )

    def above(self, slab: int) -> int | None:
        """The nearest slab above that such a pair joins it to."""
        return max((upper for upper, lower in self.motions if lower == slab), default=None)

    @classmethod
    def read(cls, folder: Folder) -> FoundStack:
        """From the product."""
        stored = get(folder, FOUND)
        honest = [pair for pair in stored["pairs"] if pair["weight"] >= HONEST]
        motions = {(pair["upper"], pair["lower"]): edge_of(pair).estimate.transform for pair in honest}
        trusted = [pair for pair in stored["pairs"] if pair["weight"] > 0]
        contradicted = sum(pair["weight"] < HONEST * pair["confidence"] for pair in trusted)
        poses = tuple(map(motion_of, stored["poses"]))
        bridged, blank = tuple(stored["bridged"]), _blank(stored["pairs"])
        even = {int(slab): (value, share) for slab, (value, share) in stored["even"].items()}
        return cls(poses, motions, len(trusted), contradicted, len(stored["pairs"]), bridged, blank, even)


# ---------------------------------------------------------------------- as JSON


def told(motion: Rigid) -> dict[str, Any]:
    """A motion as JSON, to the last bit."""
    return {"angle_rad": float(motion.angle_rad), "shift_um": [float(part) for part in motion.shift]}


def motion_of(stored: Mapping[str, Any]) -> Rigid:
    """What `told` told."""
    return Rigid(stored["angle_rad"], two(stored["shift_um"]))


def told_edge(edge: Edge) -> dict[str, Any]:
    """An edge as JSON."""
    place = {"upper": edge.upper, "lower": edge.lower, "layers": edge.layers, "blank": list(edge.blank)}
    return place | {"slant": told(edge.slant)} | _told_estimate(edge.estimate)


def edge_of(stored: Mapping[str, Any]) -> Edge:
    """What `told_edge` told."""
    seen, slant, blank = _estimate_of(stored), motion_of(stored["slant"]), tuple(stored["blank"])
    return Edge(stored["upper"], stored["lower"], stored["layers"], seen, slant, blank)


def told_solution(edges: list[Edge], solution: StackSolution, even: Mapping[str, Any]) -> dict[str, Any]:
    """Poses, every pair with the weight that it was given, and which slabs look filled."""
    pairs = [told_edge(edge) | {"weight": solution.weights[edge.upper, edge.lower]} for edge in edges]
    poses, bridged = list(map(told, solution.poses)), list(solution.bridged)
    return {"poses": poses, "bridged": bridged, "pairs": pairs, "even": dict(even)}


def pair_key(upper: int, lower: int) -> str:
    """Where a pair is written, in the product."""
    return f"pairs/{upper:03d}-{lower:03d}.json"


def _told_estimate(estimate: PairEstimate) -> dict[str, Any]:
    return told(estimate.transform) | {"confidence": float(estimate.confidence), "accepted": bool(estimate.accepted)}


def _estimate_of(stored: Mapping[str, Any]) -> PairEstimate:
    return PairEstimate(motion_of(stored), stored["confidence"], stored["accepted"])


def put(folder: Folder, key: str, content: Mapping[str, Any]) -> None:
    """Write what a task found, whole or not at all."""
    folder.put(key, (json.dumps(content, indent=1) + "\n").encode())


def get(folder: Folder, key: str) -> Any:
    """What a task found.

    Raises:
        RunError: it is gone.
    """
    stored = folder.get(key)
    if stored is None:
        raise RunError(f"{folder.location}/{key}: is missing, though it was made; give --restart")
    return json.loads(stored)
