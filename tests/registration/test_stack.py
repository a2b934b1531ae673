"""Laws of a stack: slabs of a made-up world whose tissue may move with depth, and pairs that are told the truth."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from made_tissue import Waves, pair_of

from volpipe.errors import GeometryError
from volpipe.geometry import Rigid
from volpipe.registration import stack
from volpipe.registration.estimate import LIKELY, PairEstimate
from volpipe.registration.slant import motion_of
from volpipe.registration.solve import TOLERANCE
from volpipe.registration.stack import NEAR, register_slabs, register_stack

WIDTH = 64
STILL = (0.0, 0.0, 0.0)


@dataclass
class World:
    """Slabs with known poses; `rate` is what the tissue moves per layer, in the world's frame.

    A slab's voxel holds its depth, so that of any layers it is known what lies between them. Pairs see slabs without
    the tissue's motion, as `register_pair` does in the gap's middle, unless they are told not to carry; what is aligned
    is seen with it. `lies` replaces the estimate of a pair of slabs, and `told` is what aligning says of a pair, or of
    two layers of one slab: the truth, where nothing is given.
    """

    poses: list
    layers: int = 4
    gap: int = 2
    rate: tuple = STILL
    lies: dict = field(default_factory=dict)
    told: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)

    def __post_init__(self):
        self.period = self.layers + self.gap
        depths = np.arange(self.layers)[:, None, None] + np.zeros((1, WIDTH, WIDTH)) + 1e-3 * np.arange(WIDTH)
        self.slabs = [depths + i * self.period for i in range(len(self.poses))]

    def between(self, upper, lower, rate=None):
        """Slabs, and what a faithful estimate sees of two layers: upper_from_lower through the tissue's motion."""
        top, bottom = (math.floor(float(layer[0, 0])) for layer in (upper, lower))
        i, j = top // self.period, bottom // self.period
        moved = motion_of(np.array(self.rate if rate is None else rate), bottom - top)
        return (i, j), bottom - top, self.poses[i].inverse @ moved @ self.poses[j]

    def pair(self, upper, lower, *, gap_layers, carry=True, **_):
        slabs, layers, seen = self.between(upper[-1], lower[0], STILL if carry and len(upper) > 1 else None)
        assert gap_layers == layers - 1
        self.asked.append((*slabs, gap_layers))
        return self.lies.get(slabs, PairEstimate(seen, 0.9, True))

    def aligned(self, upper, lower, around, spacing, within=None):
        slabs, _, seen = self.between(upper, lower)
        if slabs in self.lies:
            return self.lies[slabs].transform
        return self.told.get(slabs, seen)

    def solved(self, call=register_stack, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stack, "aligned", self.aligned)
            return call(self.slabs, **{"gap_layers": self.gap, "pair": self.pair, **options})

    @property
    def truth(self):
        return [self.poses[0].inverse @ pose for pose in self.poses]


def random_poses(count, seed=0):
    random = np.random.default_rng(seed)
    return [Rigid(random.uniform(-0.05, 0.05), tuple(random.uniform(-3, 3, 2))) for _ in range(count)]


def noise(seed=0, *, accepted=False, confidence=0.4):
    random = np.random.default_rng(seed)
    return PairEstimate(Rigid(random.uniform(-0.1, 0.1), tuple(random.uniform(-6, 6, 2))), confidence, accepted)


def far(one, other):
    """The largest distance between where two poses put the corners of a window."""
    corners = (WIDTH / 2) * np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)])
    return float(np.abs(one(corners) - other(corners)).max())


def furthest(found, truth):
    return max(far(one, other) for one, other in zip(found, truth, strict=True))


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


# ---------------------------------------------------------------------- units and arguments


def test_in_micrometres_it_is_the_same_stack():
    """Shifts come in um, so poses do; the voxel size only says what a turn is worth, and y and x may differ."""
    size = (4.0, 0.5, 2.0)
    world = World([Rigid(p.angle_rad, (p.shift[0] * 0.5, p.shift[1] * 2.0)) for p in random_poses(12)])
    world.lies[5, 6] = noise(3, accepted=True, confidence=1.0)
    assert furthest(world.solved(voxel_size_um=size).poses, world.truth) < 1e-3 * WIDTH


def test_in_another_unit_an_edge_is_doubted_as_much():
    """Half a micrometre a voxel: what an edge misses, what is tolerated and what a turn is worth all halve."""
    lie = Rigid(0.01, (0.3, -0.5))
    voxels, um = World([Rigid()] * 6), World([Rigid()] * 6)
    voxels.lies[2, 3], um.lies[2, 3] = (PairEstimate(one, 0.9, True) for one in (lie, lie.times(0.5)))
    one, other = voxels.solved(), um.solved(voxel_size_um=(1.0, 0.5, 0.5))
    assert 0.1 < one.weights[2, 3] < 0.8
    assert other.weights == pytest.approx(one.weights)
    assert furthest([pose.times(0.5) for pose in one.poses], other.poses) < 1e-9


def test_what_is_asked_of_a_pair_reaches_it():
    given = []

    def pair(upper, lower, **options):
        given.append(options)
        return PairEstimate(Rigid(), 1.0, True)

    slabs = [np.random.default_rng(i).random((1, WIDTH, WIDTH)) for i in range(2)]
    wanted = {"max_shift": 0.2, "max_angle_rad": 0.3, "score": "ncc", "voxel_size_um": (3.0, 2.0, 1.0)}
    register_slabs(slabs, gap_layers=5, pair=pair, **wanted)
    assert given == [{"gap_layers": 5, "carry": True, **wanted}]


SLAB = np.random.default_rng(0).random((4, WIDTH, WIDTH))


@pytest.mark.parametrize(
    ("slabs", "options", "said"),
    [
        ([SLAB], {}, "1 given"),
        ([], {}, "0 given"),
        ([None, None], {}, "all 2 are missing"),
        ([None, SLAB], {}, "the first one is missing"),
        ([np.full_like(SLAB, np.nan), SLAB], {}, "the first one is missing"),
        ([SLAB, SLAB[:, :-1]], {}, "windows of one size"),
        ([SLAB, SLAB[0]], {}, "number 1 is of shape"),
        ([SLAB, SLAB[:0]], {}, "number 1 is of shape"),
        ([SLAB, SLAB.astype(str)], {}, "number 1 is <U.*real numbers"),
        ([SLAB, None, SLAB[:3]], {}, "as NaN"),
        ([SLAB, SLAB], {"gap_layers": -1}, "gap_layers: -1"),
        ([SLAB, SLAB], {"gap_layers": 1.5}, "whole numbers"),
        ([SLAB, SLAB], {"gap_layers": True}, "whole numbers"),
        ([SLAB, SLAB], {"gap_layers": [1, 2]}, "2 given for 1 seams"),
        ([SLAB, SLAB], {"gap_layers": []}, "0 given for 1 seams"),
        ([SLAB, SLAB], {"anchors": {2: Rigid()}}, "slab 2 of 2"),
        ([SLAB, SLAB], {"anchors": {-1: Rigid()}}, "slab -1 of 2"),
        ([SLAB, SLAB], {"anchors": {0: Rigid(0.1)}}, "slab 0 is the frame"),
        ([SLAB, SLAB], {"skips": (1,)}, "skips"),
        ([SLAB, SLAB], {"skips": (2.5,)}, "skips"),
        ([SLAB, SLAB], {"voxel_size_um": (1.0, 0.0, 1.0)}, "voxel_size_um"),
        ([SLAB, SLAB], {"voxel_size_um": (1.0,)}, "voxel_size_um"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_before_any_pair(slabs, options, said):
    def pair(*_, **__):
        raise AssertionError("asked")

    with pytest.raises(GeometryError, match=said) as error:
        register_slabs(slabs, **{"gap_layers": 2, "pair": pair, **options})
    assert "\n" not in str(error.value)


def test_slabs_that_nothing_joins_are_refused_and_not_laid_on_each_other():
    slabs = [np.random.default_rng(n).normal(size=(2, 20, 20)) for n in range(3)]

    def unsure(upper, lower, **_):
        return PairEstimate(Rigid(), 0.1, False)

    with pytest.raises(GeometryError, match="no pair of them was trusted"):
        register_slabs(slabs, gap_layers=1, pair=unsure)
    held = {1: Rigid(0.1, (1.0, 2.0))}
    assert register_slabs(slabs, gap_layers=1, pair=unsure, anchors=held)[1] == held[1]


def test_a_layer_without_tissue_at_a_face_does_not_stop_a_stack():
    """The others of its slab tell where it lies; the pair itself would raise at a blank layer."""
    poses = [Rigid(), Rigid(0.03, (2.0, -1.5)), Rigid(-0.02, (-1.0, 2.5))]
    tissue = Waves(drift=0.05)
    slabs = [tissue.window(range(5 * i, 5 * i + 4), (96, 96), pose) for i, pose in enumerate(poses)]
    slabs[1][-1] = np.nan
    slabs[2][0, 3:] = np.nan  # 3 % of a layer is no layer
    found = register_slabs(slabs, gap_layers=1)
    assert max(far(one, other) for one, other in zip(found, poses, strict=True)) < 1.0


def test_slabs_may_be_lists():
    slabs = [window.tolist() for window in pair_of(Rigid(0.02, (1.0, -1.0)), gap=1, size=(48, 48), drift=0.05)]
    assert register_slabs(slabs, gap_layers=1)[0] == Rigid()
