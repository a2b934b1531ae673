"""What the solve of a stack leaves for others to read."""

import pytest

from volpipe.geometry import Rigid
from volpipe.jobs.register_stack import FOUND, FoundStack, put, told_solution
from volpipe.registration.estimate import PairEstimate
from volpipe.registration.solve import Edge, StackSolution, solve_stack
from volpipe.volume.folder import open_folder

STEP = Rigid(0.02, (3.0, -1.0))


def found_of(tmp_path, edges, solution):
    folder = open_folder(str(tmp_path))
    put(folder, FOUND, told_solution(edges, solution, {}))
    return FoundStack.read(folder)


def test_pairs_that_others_contradict_are_told(tmp_path):
    """Of a loop one lies: what it says of slabs 1 and 3 is forty voxels off. Another pair was never trusted."""
    motions = {(i, i + 1): STEP for i in range(4)} | {(i, i + 2): STEP @ STEP for i in range(3)}
    motions[1, 3] = Rigid(0.0, (40.0, 0.0)) @ motions[1, 3]
    edges = [Edge(*pair, 1, PairEstimate(motion, 0.9, True)) for pair, motion in motions.items()]
    edges.append(Edge(0, 3, 1, PairEstimate(Rigid(), 0.2, False)))
    found = found_of(tmp_path, edges, solve_stack(edges, count=5, radius=50.0, anchors={}))
    assert found.told == "7 of 8 pairs trusted, 1 of them contradicted by others"
    assert (1, 3) not in found.motions
    assert found.above(3) == 2


@pytest.mark.parametrize(("weight", "contradicted"), [(0.6, 0), (0.31, 0), (0.29, 1), (0.0, 0)])
def test_a_pair_that_was_hardly_sure_is_not_contradicted_by_that(tmp_path, weight, contradicted):
    edges = [Edge(0, 1, 1, PairEstimate(STEP, 0.6, False))]
    found = found_of(tmp_path, edges, StackSolution((Rigid(), STEP), {(0, 1): weight}, ()))
    assert found.contradicted == contradicted
    assert found.told.startswith(f"{int(weight > 0)} of 1 pairs trusted")
    assert ("contradicted" in found.told) == bool(contradicted)
