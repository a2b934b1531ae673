"""One robust solve for the poses of all slabs, from estimates between pairs of them.

    0 --- 1 --- 2 --- 3        an edge says where its lower slab lies in its upper one
     \\_________/ \\___ ...       skip edges close loops: in a loop an edge that lies shows

A plane's points are complex numbers here, x + i y: a pose is p -> d p + t, with |d| = 1, and an edge (turn e, shift s)
asks for d_lower = d_upper e and t_lower = t_upper + d_upper s. Both are linear, so a solve is two small systems, with
no start and no wrap of angles (the chordal relaxation of Carlone et al. 2015, ICRA).

Which edges lie is found by weights that redescend, from a wide scale to a narrow one (graduated non-convexity: Blake
and Zisserman 1987; Welsch's weight), every edge counting alike; the honest ones are then averaged, near ones counting
more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volpipe.geometry import Rigid
from volpipe.registration.estimate import LIKELY, PairEstimate

TOLERANCE = 0.01  # of the width: edges that miss by much more lie; half of what counts as a success
NARROWER = 0.7  # scale of the weights, from one solve to the next
STEEPER = 4  # variance of an edge by its distance: courses that are continued err by their bend, with its square
FAINT = 1e-9  # weight of an edge that lies: it only keeps the system whole

STILL = Rigid()

Complex = NDArray[np.complex128]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Edge:
    """What was estimated between two slabs.

    Attributes:
        upper, lower: indices of the slabs.
        layers: from upper's last to lower's first, 1 where nothing was lost.
        estimate: as it was seen.
        slant: what the tissue moves by itself over these layers; it is in what was seen (slant.py).
        blank: those of the two slabs that show no tissue at this gap.
    """

    upper: int
    lower: int
    layers: int
    estimate: PairEstimate
    slant: Rigid = STILL
    blank: tuple[int, ...] = ()

    @property
    def upper_from_lower(self) -> Rigid:
        """Of the slabs themselves."""
        return self.slant.inverse @ self.estimate.transform

    @property
    def trust(self) -> float:
        """Its confidence, 0 where it is more likely wrong than right: loops find out the others that are wrong."""
        return self.estimate.confidence if self.estimate.confidence >= LIKELY else 0.0


@dataclass(frozen=True, slots=True)
class StackSolution:
    """Where every slab lies.

    Attributes:
        poses: of each slab's points in slab 0's frame, about the windows' centres.
        weights: of each pair (upper, lower), 0..1: its confidence, less where other pairs contradict it; 0 where it was
            more likely wrong than right.
        bridged: slabs that no trusted pair joins to the largest group of slabs (or to an anchor): their poses, and
            that of a group of them, are interpolated, from their starts where these are given.
    """

    poses: tuple[Rigid, ...]
    weights: dict[tuple[int, int], float]
    bridged: tuple[int, ...]


def solve_stack(
    edges: Sequence[Edge],
    *,
    count: int,
    radius: float,
    anchors: Mapping[int, Rigid],
    starts: Sequence[Rigid] | None = None,
) -> StackSolution:
    """Poses from edges.

    Args:
        edges: of neighbours and of slabs further apart; those that are more likely wrong than right do not count.
        count: of slabs.
        radius: root of the mean square distance of the windows' points from the centre, in the unit of the shifts: what
            a turn is worth as a shift.
        anchors: poses that are held.
        starts: about where each slab lies, as far as is known: what is interpolated is how far poses are from these.
    """
    trusted = [edge for edge in edges if edge.trust > 0]
    laid = tuple(starts) if starts is not None else (STILL,) * count
    solver = _Solver(radius, {0: Rigid(), **anchors}, _groups(count, trusted), laid)
    poses, weights = solver(trusted)
    found = {(edge.upper, edge.lower): 0.0 for edge in edges}
    found |= {(edge.upper, edge.lower): float(weight) for edge, weight in zip(trusted, weights, strict=True)}
    return StackSolution(tuple(poses), found, _bridged(solver.groups, anchors))


# ---------------------------------------------------------------------- poses


@dataclass(frozen=True)
class _Solver:
    """What is solved for is `slab 0's frame from start` of each slab: pose = moved @ start.

    Attributes:
        radius, held: as `solve_stack`.
        groups: of each slab the first slab of the group that trusted edges join it to.
        starts: of each slab.
    """

    radius: float
    held: Mapping[int, Rigid]
    groups: tuple[int, ...]
    starts: tuple[Rigid, ...]

    def __call__(self, edges: Sequence[Edge]) -> tuple[list[Rigid], Floats]:
        """Poses and the weights of the edges."""
        graph = _Graph.of([(edge.upper, edge.lower, self._between_starts(edge)) for edge in edges])
        trust = np.array([edge.trust for edge in edges])
        honest = np.ones(len(edges))
        fixed = {slab: pose @ self.starts[slab].inverse for slab, pose in self.held.items()}
        held = {first: Rigid() for first in self._loose} | fixed
        misses = graph.misses(*graph.solved(trust, held, len(self.groups)), self.radius)
        for scale in self._scales(float(misses.max(initial=0.0))):
            honest = np.maximum(np.exp(-((misses / scale) ** 2) / 2), FAINT)
            misses = graph.misses(*graph.solved(trust * honest, held, len(self.groups)), self.radius)
        nearest = min((edge.layers for edge in edges), default=1)
        precise = np.array([(nearest / edge.layers) ** STEEPER for edge in edges])
        poses = _rigid(*graph.solved(trust * honest * precise, held, len(self.groups)))
        laid = [pose @ start for pose, start in zip(self._joined(poses), self.starts, strict=True)]
        return [self.held.get(i, pose) for i, pose in enumerate(laid)], trust * honest

    def _between_starts(self, edge: Edge) -> Rigid:
        return self.starts[edge.upper] @ edge.upper_from_lower @ self.starts[edge.lower].inverse

    def _scales(self, widest: float) -> list[float]:
        narrowest = TOLERANCE * self.radius * math.sqrt(6)
        steps = math.ceil(math.log(max(widest / narrowest, 1.0), 1 / NARROWER))
        return [narrowest / NARROWER**step for step in range(steps, -1, -1)]

    @property
    def _loose(self) -> set[int]:
        """First slabs of the groups in which none is held."""
        return set(self.groups) - {self.groups[slab] for slab in self.held}

    def _joined(self, poses: list[Rigid]) -> list[Rigid]:
        """Loose groups are moved as wholes, so that slabs on either side of each break differ least."""
        group = self.groups
        breaks = [sorted((i, i + 1), key=group.__getitem__) for i in range(len(poses) - 1) if group[i] != group[i + 1]]
        alike = [(group[i], group[j], poses[i] @ poses[j].inverse) for i, j in breaks]
        still = {slab: Rigid() for slab in range(len(poses)) if slab not in self._loose}
        moves = _rigid(*_Graph.of(alike).solved(np.ones(len(alike)), still, len(poses)))
        return [moves[first] @ pose for first, pose in zip(group, poses, strict=True)]


@dataclass(frozen=True)
class _Graph:
    """Edges as arrays: upper, lower, and the lower one's motion in the upper one as a turn and a shift."""

    upper: NDArray[np.intp]
    lower: NDArray[np.intp]
    turns: Complex
    shifts: Complex

    @classmethod
    def of(cls, edges: Sequence[tuple[int, int, Rigid]]) -> _Graph:
        upper, lower = (np.array([edge[end] for edge in edges], np.intp) for end in (0, 1))
        return cls(upper, lower, *_complex([motion for _, _, motion in edges]))

    def solved(self, weights: Floats, held: Mapping[int, Rigid], count: int) -> tuple[Complex, Complex]:
        """Directions, then shifts given these."""
        turns, shifts = _complex(list(held.values()))
        nothing = np.zeros(len(weights), np.complex128)
        directions = self._least_squares(self.turns, nothing, weights, dict(zip(held, turns, strict=True)), count)
        directions /= np.maximum(np.abs(directions), 1e-12)
        asked = directions[self.upper] * self.shifts
        return directions, self._least_squares(nothing + 1, asked, weights, dict(zip(held, shifts, strict=True)), count)

    def misses(self, directions: Complex, shifts: Complex, radius: float) -> Floats:
        """By how much each edge is contradicted: root mean square over the points of a window."""
        turned = directions[self.lower] - directions[self.upper] * self.turns
        shifted = shifts[self.lower] - shifts[self.upper] - directions[self.upper] * self.shifts
        return np.hypot(radius * np.abs(turned), np.abs(shifted))

    def _least_squares(
        self, factors: Complex, offsets: Complex, weights: Floats, held: Mapping[int, complex], count: int
    ) -> Complex:
        """The x that makes sum w |x_lower - factor x_upper - offset|^2 least, some of them held."""
        rows = np.zeros((len(weights), count), np.complex128)
        every = np.arange(len(weights))
        rows[every, self.lower] += 1
        rows[every, self.upper] -= factors
        fixed = np.array(sorted(held), np.intp)
        free = np.setdiff1d(np.arange(count), fixed)
        x = np.zeros(count, np.complex128)
        x[fixed] = [held[slab] for slab in sorted(held)]
        weighted = rows[:, free].conj().T * weights
        x[free] = np.linalg.solve(weighted @ rows[:, free], weighted @ (offsets - rows[:, fixed] @ x[fixed]))
        return x


def _complex(motions: Sequence[Rigid]) -> tuple[Complex, Complex]:
    turns = np.exp(1j * np.array([motion.angle_rad for motion in motions]))
    return turns, np.array([complex(motion.shift[1], motion.shift[0]) for motion in motions], np.complex128)


def _rigid(directions: Complex, shifts: Complex) -> list[Rigid]:
    return [Rigid(float(np.angle(d)), (float(t.imag), float(t.real))) for d, t in zip(directions, shifts, strict=True)]


# ---------------------------------------------------------------------- groups


def _groups(count: int, edges: Sequence[Edge]) -> tuple[int, ...]:
    """Slabs that edges join have one number, that of their first."""
    group = list(range(count))
    for edge in edges:
        one, other = sorted((group[edge.upper], group[edge.lower]))
        group = [one if number == other else number for number in group]
    return tuple(group)


def _bridged(groups: Sequence[int], anchors: Mapping[int, Rigid]) -> tuple[int, ...]:
    known = {max(groups, key=groups.count)} | {groups[slab] for slab in anchors}
    return tuple(slab for slab, number in enumerate(groups) if number not in known)
