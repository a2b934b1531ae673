"""Poses are solved for as they lie from where slabs were said to lie."""

import numpy as np
import pytest

from volpipe.geometry import Rigid
from volpipe.registration.estimate import PairEstimate
from volpipe.registration.solve import Edge, solve_stack

STARTS = (
    Rigid(),
    Rigid(2.1, (30.0, -4.0)),
    Rigid(-0.8, (-9.0, 12.0)),
    Rigid(3.0, (5.0, 7.0)),
    Rigid(-2.0, (0.0, 40.0)),
)
POSES = tuple(Rigid(0.01 * n, (1.0 * n, -2.0 * n)) @ start for n, start in enumerate(STARTS))
CORNERS = 50 * np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)])


def far(one, other):
    return float(np.hypot(*(one(CORNERS) - other(CORNERS)).T).max())


def solved(pairs, poses=POSES, **given):
    edges = [Edge(i, j, 1, PairEstimate(poses[i].inverse @ poses[j], 0.95, True)) for i, j in pairs]
    return solve_stack(edges, count=len(poses), radius=50.0, **{"anchors": {}} | given)


@pytest.mark.parametrize("anchors", [{}, {3: POSES[3]}])
def test_starts_change_nothing_where_pairs_tell_all(anchors):
    pairs = [(0, 1), (1, 2), (2, 3), (3, 4), (0, 2), (1, 3)]
    found = solved(pairs, anchors=anchors, starts=STARTS).poses
    assert max(map(far, found, POSES)) < 1e-9
    assert max(map(far, found, solved(pairs, anchors=anchors).poses)) < 1e-9


def test_a_bridged_slab_lies_from_its_start_as_those_beside_it_do():
    """Between the poses of its neighbours, which lie at any angle, it would be half a turn off."""
    solution = solved([(0, 1), (1, 3), (3, 4)], starts=STARTS)
    assert solution.bridged == (2,)
    assert far(solution.poses[2], POSES[2]) < 0.1


def test_a_part_that_no_pair_joins_to_the_rest_is_moved_as_a_whole():
    solution = solved([(0, 1), (1, 2), (3, 4)], starts=STARTS)
    assert solution.bridged == (3, 4)
    assert far(solution.poses[3].inverse @ solution.poses[4], POSES[3].inverse @ POSES[4]) < 1e-9
    assert far(solution.poses[3], POSES[3]) < 3  # the course of the others is not continued
