"""Laws of a stack: slabs of a made-up world whose tissue may move with depth, and pairs that are told the truth."""

import math

import numpy as np
import pytest
from stack_world import WIDTH, World, far, furthest, noise, random_poses

from volpipe.geometry import Rigid
from volpipe.registration import stack
from volpipe.registration.estimate import LIKELY, PairEstimate
from volpipe.registration.solve import TOLERANCE
from volpipe.registration.stack import NEAR, register_slabs

# ---------------------------------------------------------------------- what is composed


def test_three_slabs_computed_by_hand():
    """Slab 1 lies a quarter turn and 10 along x from slab 0, slab 2 the same from slab 1."""
    step = Rigid(math.pi / 2, (0.0, 10.0))
    world = World([Rigid(), step, step @ step], layers=1)
    poses = world.solved(register_slabs, skips=())
    np.testing.assert_allclose(poses[1]((0, 1)), (1, 10), atol=1e-9)
    np.testing.assert_allclose(poses[2]((0, 0)), (10, 10), atol=1e-9)  # 10 along slab 1's x, which is slab 0's y
    np.testing.assert_allclose(poses[2]((0, 1)), (10, 9), atol=1e-9)
    assert poses[0] == Rigid()


@pytest.mark.parametrize("skips", [(), (2,), (2, 3)])
def test_exact_pairs_give_exact_poses(skips):
    world = World(random_poses(12))
    solution = world.solved(skips=skips)
    assert furthest(solution.poses, world.truth) < 1e-9
    assert solution.bridged == ()
    assert set(solution.weights.values()) == {0.9}


def test_turns_may_add_up_to_more_than_a_full_one():
    steps = [Rigid(0.1, (1.0, 2.0))] * 80
    poses = [Rigid()]
    for step in steps:
        poses.append(poses[-1] @ step)
    world = World(poses)
    assert furthest(world.solved().poses, world.truth) < 1e-6


def test_what_lies_between_two_slabs_counts_as_lost():
    world = World(random_poses(4))
    world.solved()
    between = {(i, j): gap for i, j, gap in world.asked}
    assert between == {(i, j): 2 + 6 * (j - i - 1) for i in range(4) for j in range(i + 1, 4)}


def test_each_seam_has_its_own_gap():
    asked = []

    def pair(upper, lower, *, gap_layers, **_):
        asked.append((len(upper), len(lower), gap_layers))
        return PairEstimate(Rigid(), 1.0, True)

    random = np.random.default_rng(0)
    slabs = [random.random((layers, WIDTH, WIDTH)) for layers in (2, 3, 5)]
    register_slabs(slabs, gap_layers=[1, 4], pair=pair, skips=(2,), slant=False)
    assert {(2, 3, 1), (3, 5, 4), (2, 5, 1 + 3 + 4)} <= set(asked)


# ---------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("edge", [(0, 1), (5, 6), (10, 11), (4, 6), (3, 6)])
def test_an_edge_that_lies_with_confidence_does_not_bend_the_chain(edge):
    world = World(random_poses(12))
    wrong = world.truth[edge[0]].inverse @ world.truth[edge[1]] @ Rigid(0.06, (5.0, -4.0))
    world.lies[edge] = PairEstimate(wrong, 1.0, True)
    solution = world.solved()
    assert furthest(solution.poses, world.truth) < 1e-3 * WIDTH
    assert solution.weights[edge] < 0.01
    assert min(weight for pair, weight in solution.weights.items() if pair != edge) > 0.8


def test_several_edges_that_lie_do_not_bend_the_chain():
    world = World(random_poses(30))
    for seed, edge in enumerate([(0, 1), (7, 8), (9, 11), (14, 15), (20, 23), (28, 29)]):
        world.lies[edge] = noise(seed, accepted=True, confidence=1.0)
    assert furthest(world.solved().poses, world.truth) < 1e-3 * WIDTH


@pytest.mark.parametrize("missing", [1, 5, 11])
@pytest.mark.parametrize("how", ["none", "nan", "blank"])
def test_a_missing_slab_does_not_break_the_chain(missing, how):
    world = World(random_poses(12))
    shape = world.slabs[missing].shape
    world.slabs[missing] = {"none": None, "nan": np.full(shape, np.nan), "blank": np.zeros(shape, np.uint8)}[how]
    solution = world.solved()
    truth = world.truth
    assert max(far(solution.poses[i], truth[i]) for i in range(12) if i != missing) < 1e-9
    assert solution.bridged == (missing,)
    assert not any(missing in pair for pair in solution.weights)


def test_a_slab_that_no_edge_joins_lies_midway_between_its_neighbours():
    world = World([Rigid(0.02 * i, (1.0 * i, -2.0 * i)) for i in range(5)])
    world.slabs[2] = None
    found = world.solved().poses[2]
    assert far(found, Rigid(0.04, (2.0, -4.0))) < 1e-3


def test_edges_count_by_how_near_their_slabs_are():
    """By hand: a chain of two edges (variance 2) and a skip pair 3 times as far (variance 81), which is 0.011 off."""
    world = World([Rigid()] * 3, lies={(0, 2): PairEstimate(Rigid(0.0, (0.011, 0.0)), 0.9, True)})
    found = world.solved()
    assert found.poses[2].shift[0] == pytest.approx(0.011 * 2 / (2 + 81), rel=1e-3)


@pytest.mark.parametrize("bad", [0, 4, 11])
@pytest.mark.parametrize("confidence", [0.0, LIKELY - 0.01])
def test_a_slab_of_noise_is_bridged(bad, confidence):
    """Its pairs are more likely wrong than right; where it is the first, the next one takes over its frame."""
    world = World(random_poses(12), rate=(0.0, 0.2, -0.3))
    for j in range(12):
        world.lies[tuple(sorted((bad, j)))] = noise(j, confidence=confidence)
    solution = world.solved()
    frame = world.poses[1 if bad == 0 else 0].inverse
    assert max(far(solution.poses[i], frame @ world.poses[i]) for i in range(12) if i != bad) < 1e-6
    assert solution.bridged == (bad,)
    assert all(solution.weights[pair] == 0 for pair in solution.weights if bad in pair)


def test_a_slab_of_noise_that_every_pair_trusts_leaves_the_others_alone():
    """Up to what two lies of neighbours that happen to agree within some tolerances can do."""
    world = World(random_poses(12))
    for seed, j in enumerate((3, 4, 5, 7, 8, 9)):
        world.lies[tuple(sorted((6, j)))] = noise(seed, accepted=True, confidence=1.0)
    solution = world.solved()
    assert max(far(solution.poses[i], world.truth[i]) for i in range(12) if i != 6) < 2 * TOLERANCE * WIDTH


def test_a_stack_in_two_parts_says_which_one_was_laid_by_guess():
    world = World(random_poses(10))
    for upper in range(6):
        for lower in range(6, 10):
            world.lies[upper, lower] = noise(upper)
    solution = world.solved()
    assert solution.bridged == (6, 7, 8, 9)
    between = [solution.poses[6].inverse @ solution.poses[i] for i in range(6, 10)]
    assert furthest(between, [world.poses[6].inverse @ world.poses[i] for i in range(6, 10)]) < 1e-6
    assert far(solution.poses[6], solution.poses[5]) < 1e-6


def test_anchors_are_held_and_bend_what_lies_between_evenly():
    world = World([Rigid()] * 5, layers=1)
    anchor = Rigid(0.0, (4.0, -8.0))
    solution = world.solved(anchors={4: anchor}, skips=())
    assert solution.poses[4] == anchor
    for i in range(5):
        assert far(solution.poses[i], Rigid(0.0, (1.0 * i, -2.0 * i))) < 1e-6


def test_an_anchor_that_is_right_changes_nothing_and_joins_what_was_apart():
    world = World(random_poses(10))
    for upper in range(6):
        for lower in range(6, 10):
            world.lies[upper, lower] = noise(upper)
    solution = world.solved(anchors={8: world.truth[8]})
    assert furthest(solution.poses, world.truth) < 1e-4
    assert solution.bridged == ()


@pytest.mark.parametrize("accepted", [False, True])
def test_a_pair_that_is_likely_counts_though_it_was_not_accepted(accepted):
    """As across a hole, where no other pair tells."""
    world = World(random_poses(12))
    world.slabs[5] = None
    for j, (upper, lower) in enumerate([(4, 6), (3, 6), (4, 7)]):
        right = world.truth[upper].inverse @ world.truth[lower]
        world.lies[upper, lower] = (
            PairEstimate(right, LIKELY, accepted) if j == 0 else noise(j, confidence=LIKELY - 0.01)
        )
    solution = world.solved()
    assert max(far(solution.poses[i], world.truth[i]) for i in range(12) if i != 5) < 1e-6
    assert solution.bridged == (5,)


# ---------------------------------------------------------------------- tissue at a slant


@pytest.mark.parametrize("rate", [(0.0, 0.3, -0.2), (0.004, 0.3, -0.2)])
@pytest.mark.parametrize(("layers", "gap"), [(4, 2), (4, 3), (4, 9), (9, 2), (9, 5), (2, 0)])
def test_tissue_that_moves_with_depth_does_not_move_the_slabs(rate, layers, gap):
    """Also where slabs are thinner than a gap's distance, and each slab sees the tissue move in a frame of its own."""
    random = np.random.default_rng(1)
    poses = [Rigid(random.uniform(-1, 1), tuple(random.uniform(-3, 3, 2))) for _ in range(12)]
    world = World(poses, layers, gap, rate)
    assert furthest(world.solved().poses, world.truth) < 1e-5


def test_slant_is_left_in_where_that_is_asked():
    world = World([Rigid()] * 5, rate=(0.0, 0.1, 0.0))
    lean = world.solved(slant=False, skips=()).poses[4]
    assert far(lean, Rigid(0.0, (4 * 3 * 0.1, 0.0))) < 1e-9


def test_faces_do_not_save_an_estimate_that_is_more_likely_wrong_than_right():
    world = World(random_poses(2), rate=(0.0, 0.3, -0.2))
    world.lies[0, 1] = noise(confidence=LIKELY - 0.1)
    world.aligned = None  # not to be asked
    assert world.solved().bridged == (1,)


def test_a_blank_layer_at_a_face_is_lost_too():
    world = World(random_poses(2), gap=5)
    world.slabs[0][-2:], world.slabs[1][0] = np.nan, 7.0
    world.solved(slant=False)
    assert world.asked == [(0, 1, 5 + 2 + 1)]


@pytest.mark.parametrize(("gap", "near"), [(NEAR - 1, True), (NEAR, False)])
def test_across_few_layers_faces_are_aligned_and_what_is_seen_inside_is_taken_off(gap, near):
    """A measurement that sees half of the tissue's motion sees half of it inside, too."""
    world, shown = World(random_poses(8), gap=gap, rate=(0.0, 0.15, -0.1), layers=6), []

    def spy(upper, lower, around, spacing, within=None):
        slabs, layers, seen = world.between(upper, lower)
        shown.append((slabs[1] - slabs[0], layers, within is not None))
        return seen

    world.aligned = spy
    assert furthest(world.solved(skips=()).poses, world.truth) < 1e-6
    seam = [(1, gap + 1, False), (0, gap + 1, True), (0, gap + 1, True)]
    assert shown == (seam * 7 if near else [])


@pytest.mark.parametrize(("away", "seen"), [(0.02, True), (0.2, False)])
def test_what_the_slabs_as_cut_say_beside_their_middle_is_the_tissues_slant(away, seen):
    """A tree's nodes see it; where it is as far as a wrong answer, nothing is known of the slant."""
    world, as_cut = World(random_poses(2), gap=NEAR), Rigid(0.01, (WIDTH * away, 0.0))
    as_cut = as_cut @ world.truth[1]
    world.lies[0, 1] = PairEstimate(world.truth[1], 0.9, True, as_cut=as_cut)
    edge = stack.Stack.of(world.slabs, world.gap, None).edge(0, 1, world.pair)
    assert far(edge.upper_from_lower, world.truth[1]) < 1e-9
    assert far(edge.estimate.transform, as_cut if seen else world.truth[1]) < 1e-9


def test_inside_a_slab_only_that_is_looked_at_which_both_windows_show():
    world, withins = World([Rigid(), Rigid(0.03, (5.0, -2.0))]), []

    def spy(upper, lower, around, spacing, within=None):
        withins.append(within)
        return World.aligned(world, upper, lower, around, spacing)

    world.aligned = spy
    world.solved()
    seam, above, below = withins
    assert seam is None
    assert far(above, world.poses[1]) < 1e-9
    assert far(below, world.poses[1].inverse) < 1e-9


def test_what_a_slab_was_seen_through_is_told_beside_what_was_seen():
    world = World(random_poses(3), rate=(0.001, 0.3, -0.2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stack, "aligned", world.aligned)
        edge = stack.Stack.of(world.slabs, world.gap, None).edge(1, 2, world.pair)
    assert far(edge.estimate.transform, world.between(world.slabs[1][-1], world.slabs[2][0])[2]) < 1e-9
    assert far(edge.upper_from_lower, world.poses[1].inverse @ world.poses[2]) < 1e-9
    assert far(edge.slant @ edge.upper_from_lower, edge.estimate.transform) < 1e-9


@pytest.mark.parametrize("within", [True, False])
def test_where_faces_or_the_inside_do_not_tell_the_pair_does(within):
    world = World(random_poses(8), rate=(0.0, 0.3, -0.2))
    for i in range(8):
        world.told[(i, i) if within else (i, i + 1)] = None
    assert furthest(world.solved().poses, world.truth) < 1e-6


def test_one_side_of_a_seam_tells_the_slant_where_the_other_does_not():
    world = World(random_poses(8), rate=(0.0, 0.3, -0.2))
    world.told[3, 3] = None
    assert furthest(world.solved().poses, world.truth) < 1e-5


def test_slabs_of_one_layer_lean_as_the_tissue_does():
    world = World([Rigid()] * 5, 1, 2, (0.0, 0.1, 0.0))
    assert far(world.solved(skips=()).poses[4], Rigid(0.0, (4 * 3 * 0.1, 0.0))) < 1e-9


def test_a_missing_slab_is_bridged_through_slanted_tissue():
    world = World(random_poses(12), rate=(0.0, 0.3, -0.2))
    world.slabs[5] = None
    solution = world.solved()
    assert max(far(solution.poses[i], world.truth[i]) for i in range(12) if i != 5) < 1e-6
