"""What a stack is given: units, arguments, and slabs that do not fit, or hold nothing."""

import numpy as np
import pytest
from made_tissue import Waves, pair_of
from stack_world import WIDTH, World, far, furthest, noise, random_poses

from volpipe.errors import GeometryError
from volpipe.geometry import Rigid
from volpipe.registration.estimate import PairEstimate
from volpipe.registration.stack import register_slabs


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
    register_slabs(slabs, gap_layers=5, pair=pair, slant=False, **wanted)
    assert given == [{"gap_layers": 5, **wanted}, {"gap_layers": 5, "carry": False, **wanted}]


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
        ([SLAB, SLAB], {"gap_layers": "2"}, "gap_layers: '2'; give whole numbers"),
        ([SLAB, SLAB], {"anchors": {1: (0, 0)}}, r"slab 1 is held at \(0, 0\); give a Rigid"),
        ([SLAB, SLAB], {"skips": 2}, r"skips: 2; give whole numbers from 2, as \[2, 3\]"),
        (None, {}, "slabs: None; give a list"),
        ([SLAB, SLAB], {"skips": (1,)}, "skips"),
        ([SLAB, SLAB], {"skips": (2.5,)}, "skips"),
        ([SLAB, SLAB], {"slant": "no"}, "slant is 'no'; give True or False"),
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
