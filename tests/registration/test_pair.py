"""register_pair: a known motion is found; what tells nothing changes nothing; an answer never leaves the prior."""

import math

import numpy as np
import pytest
from made_tissue import Waves, pair_of

from volpipe import register_pair
from volpipe.errors import ConfigError, GeometryError
from volpipe.geometry import Rigid
from volpipe.registration.scores import SCORES

TRUTH = Rigid(0.06, (5.3, -3.8))


def errors(found, truth=TRUTH):
    motion = found.transform
    shift = math.hypot(motion.shift[0] - truth.shift[0], motion.shift[1] - truth.shift[1])
    return shift, abs(motion.angle_rad - truth.angle_rad)


def close(one, other, shift=1e-3, angle=1e-5):
    away, turned = errors(one, other.transform)
    return away < shift and turned < angle


# ---------------------------------------------------------------------- what is found


@pytest.mark.parametrize(
    ("score", "shift", "angle"),
    [
        ("likelihood", 0.1, 0.001),
        ("mutual-information", 0.3, 0.005),
        ("pixel_ncc", 0.3, 0.005),
        ("ncc", 0.5, 0.01),
        ("2d", 0.5, 0.01),
        ("trivial", 1.0, 0.015),
    ],
)
def test_every_score_finds_a_known_motion(score, shift, angle):
    found = errors(register_pair(*pair_of(TRUTH, drift=0.02), gap_layers=0, score=score))
    assert found[0] < shift
    assert found[1] < angle


def test_every_name_of_a_score_was_tried():
    assert set(SCORES) == {"likelihood", "mutual-information", "pixel_ncc", "ncc", "2d", "trivial"}


@pytest.mark.parametrize("size", [(96, 130), (101, 96), (64, 65), (255, 255), (33, 40)])
def test_windows_of_any_size_have_their_centre_where_it_is_said(size):
    reach = min(size) / 96
    truth = Rigid(0.05, (4.3 * reach, -3.1 * reach))
    assert errors(register_pair(*pair_of(truth, size=size, drift=0.02), gap_layers=0), truth)[0] < 0.15


def test_micrometres_and_longer_voxels_along_an_axis():
    spacing = (1.6, 0.8)
    truth = Rigid(0.06, (5.3, -3.8))
    upper, lower = pair_of(truth, size=(64, 128), spacing=spacing, drift=0.02)
    for size in ((7.0, *spacing), spacing):
        found = register_pair(upper, lower, gap_layers=0, voxel_size_um=size)
        assert errors(found, truth)[0] < 0.15
        assert errors(found, truth)[1] < 0.002


def test_layers_lost_cost_accuracy_and_confidence():
    near, far = (register_pair(*pair_of(TRUTH, gap, drift=0.3), gap_layers=gap) for gap in (0, 12))
    assert errors(near)[0] < 0.3
    assert near.confidence > 0.88
    assert far.confidence < near.confidence
    assert register_pair(*pair_of(TRUTH, drift=0.1), gap_layers=0).confidence > 0.95


def test_the_other_way_round_it_is_the_inverse():
    upper, lower = pair_of(TRUTH, drift=0.05)
    back = register_pair(lower[::-1], upper[::-1], gap_layers=0)
    assert errors(back, TRUTH.inverse)[0] < 0.2


def test_the_gap_is_told_to_the_score():
    upper, lower = pair_of(TRUTH, 3, drift=0.25)
    assert register_pair(upper, lower, gap_layers=3).transform != register_pair(upper, lower, gap_layers=0).transform


def test_the_layers_at_the_gap_count():
    upper, lower = pair_of(TRUTH, drift=0.1)
    noise = np.random.default_rng(0).normal(size=upper.shape[1:]) * upper.std()
    far, near = upper.copy(), upper.copy()
    far[0], near[-1] = noise, noise
    assert errors(register_pair(far, lower, gap_layers=0, score="ncc"))[0] < 0.5
    assert errors(register_pair(near, lower, gap_layers=0, score="ncc"))[0] > 0.5


# ---------------------------------------------------------------------- what changes nothing


@pytest.mark.parametrize("score", ["likelihood", "ncc", "pixel_ncc", "mutual-information"])
def test_gain_and_offset_of_a_slab_change_nothing(score):
    upper, lower = pair_of(TRUTH, drift=0.05)
    plain = register_pair(upper, lower, gap_layers=0, score=score)
    for change in (lambda v: 1e-6 * v, lambda v: 1e25 * v, lambda v: 3 * v - 1e5):
        assert close(register_pair(change(upper), lower, gap_layers=0, score=score), plain)


@pytest.mark.parametrize("score", ["likelihood", "mutual-information"])
def test_no_monotone_contrast_changes_anything(score):
    upper, lower = pair_of(TRUTH, drift=0.05)
    plain = register_pair(upper, lower, gap_layers=0, score=score)
    bright = np.exp(2 * (lower - lower.mean()) / lower.std())
    assert close(register_pair(upper, bright, gap_layers=0, score=score), plain)


@pytest.mark.parametrize(("dtype", "level"), [("uint16", 60000), ("uint8", 128), ("int16", -3000), ("int32", 10**9)])
def test_whole_numbers_of_any_type(dtype, level):
    upper, lower = (20 * window / window.std() + level for window in pair_of(TRUTH, drift=0.05))
    found = register_pair(np.rint(upper).astype(dtype), np.rint(lower).astype(dtype), gap_layers=0)
    assert errors(found)[0] < 0.1


@pytest.mark.parametrize("score", ["likelihood", "ncc", "pixel_ncc", "mutual-information"])
def test_what_is_not_known_has_no_weight(score):
    upper, lower = pair_of(TRUTH, drift=0.05)
    upper[:, :, :20], lower[:, 70:] = np.nan, np.inf
    upper[0] = np.nan
    assert errors(register_pair(upper, lower, gap_layers=0, score=score))[0] < 1.0


@pytest.mark.parametrize("score", ["likelihood", "ncc"])
def test_a_bright_rim_of_both_windows_is_not_taken_for_tissue_at_rest(score):
    windows = [(window - window.mean()) / window.std() for window in pair_of(TRUTH, drift=0.05)]
    for window in windows:
        window[:, :2], window[:, -2:], window[:, :, :2], window[:, :, -2:] = 6, 6, 6, 6
    assert errors(register_pair(*windows, gap_layers=0, score=score))[0] < 0.5


def test_layers_of_the_gap_that_are_not_given_are_not_read():
    tissue = Waves(drift=0.1)
    whole = tissue.window(range(10), (96, 96))
    found = [register_pair(volume[:4], volume[6:], gap_layers=2) for volume in (whole, _spoiled(whole))]
    assert found[0] == found[1]


def _spoiled(volume):
    spoiled = volume.copy()
    spoiled[4:6] = np.nan
    return spoiled


# ---------------------------------------------------------------------- the prior


@pytest.mark.parametrize("score", ["likelihood", "ncc"])
def test_no_answer_is_outside_the_prior(score):
    upper, lower = pair_of(TRUTH, drift=0.05)
    found = register_pair(upper, lower, gap_layers=0, max_shift=0.02, max_angle_rad=0.01, score=score).transform
    assert max(map(abs, found.shift)) <= 0.02 * 96
    assert abs(found.angle_rad) <= 0.01


def test_a_prior_of_nothing_is_the_answer():
    upper, lower = pair_of(TRUTH, drift=0.05)
    around = Rigid(0.02, (1.0, -1.0))
    nothing = {"max_shift": 0, "max_angle_rad": 0, "around": around}
    assert register_pair(upper, lower, gap_layers=0, **nothing).transform == around
    still = register_pair(upper, lower, gap_layers=0, max_angle_rad=0, around=Rigid(TRUTH.angle_rad)).transform
    assert still.angle_rad == TRUTH.angle_rad
    assert errors_of_shift(still) < 0.1


def errors_of_shift(motion):
    return math.dist(motion.shift, TRUTH.shift)


def test_a_truth_at_the_edge_of_the_prior_is_not_drawn_inwards():
    """Where a place is broad; on average over 16, by less than half a voxel."""
    inwards = []
    for seed in range(16):
        side = np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)][seed % 4])
        windows = pair_of(Rigid(0.0, tuple(6.4 * side)), 2, (64, 64), drift=0.3, seed=seed, longest=40.0)
        found = register_pair(*windows, gap_layers=2, max_angle_rad=0).transform
        inwards.append(6.4 - found.shift * side)
    assert np.mean(inwards) < 0.45


def test_the_middle_of_the_prior_may_lie_elsewhere():
    truth = Rigid(0.4, (14.0, -12.0))
    upper, lower = pair_of(truth, drift=0.05)
    found = register_pair(upper, lower, gap_layers=0, around=Rigid(0.37, (10.0, -9.0)), max_shift=0.08)
    assert errors(found, truth)[0] < 0.2


# ---------------------------------------------------------------------- confidence


def test_windows_that_have_nothing_in_common_are_not_accepted():
    strangers = [(pair_of(TRUTH, seed=n)[0], pair_of(TRUTH, seed=n + 50)[1]) for n in range(6)]
    found = [register_pair(*pair, gap_layers=2) for pair in strangers]
    assert not any(one.accepted for one in found)
    assert all(0 <= one.confidence <= 1 for one in found)


def test_equal_windows_are_certain():
    upper, _ = pair_of(TRUTH)
    found = register_pair(upper, upper[::-1], gap_layers=0)
    assert errors(found, Rigid())[0] < 0.01
    assert found.accepted
    assert 0.99 < found.confidence <= 1
    assert 0.99 < register_pair(upper, upper[::-1], gap_layers=0, carry=False).confidence <= 1


# ---------------------------------------------------------------------- what is refused


GOOD = np.random.default_rng(1).normal(size=(3, 40, 40))


@pytest.mark.parametrize(
    ("upper", "lower", "more", "said"),
    [
        (GOOD[:, :30], GOOD, {}, "one height and width"),
        (GOOD[0], GOOD, {}, "upper is 40 x 40 float64; give layers"),
        (GOOD.astype(complex), GOOD, {}, "complex128"),
        (GOOD[:0], GOOD, {}, "0 x 40 x 40"),
        (GOOD[:, :12, :12], GOOD[:, :12, :12], {}, "at least 16 voxels"),
        (np.zeros((3, 40, 40)), GOOD, {}, "upper holds no structure"),
        (GOOD, np.full((3, 40, 40), np.nan), {}, "lower holds no structure"),
        (GOOD[:1], GOOD[:1], {}, "two layers in a slab"),
        (GOOD, GOOD, {"gap_layers": -1}, "gap_layers is -1"),
        (GOOD, GOOD, {"gap_layers": 1.5}, "gap_layers is 1.5"),
        (GOOD, GOOD, {"gap_layers": True}, "gap_layers is True"),
        (GOOD, GOOD, {"gap_layers": None}, "gap_layers is None"),
        (GOOD, GOOD, {"gap_layers": math.nan}, "gap_layers is nan"),
        (GOOD, GOOD, {"carry": 1}, "carry is 1; give True or False"),
        (GOOD, GOOD, {"affine": "no"}, "affine is 'no'; give True or False"),
        (GOOD, GOOD, {"gap_layers": "2"}, "gap_layers is '2'"),
        (GOOD, GOOD, {"max_shift": "x"}, "max_shift is 'x'"),
        (GOOD, GOOD, {"max_angle_rad": None}, "max_angle_rad is None"),
        (GOOD, GOOD, {"around": (0, 0)}, r"around is \(0, 0\); give a Rigid"),
        (GOOD, GOOD, {"voxel_size_um": "abc"}, "voxel_size_um is 'abc'"),
        (GOOD, GOOD, {"max_shift": -0.1}, "max_shift is -0.1"),
        (GOOD, GOOD, {"max_shift": 0.7}, "0 to 0.5"),
        (GOOD, GOOD, {"max_shift": math.nan}, "max_shift is nan"),
        (GOOD, GOOD, {"max_angle_rad": 4}, "max_angle_rad is 4"),
        (GOOD, GOOD, {"voxel_size_um": 0.5}, r"voxel_size_um is \[0.5\]"),
        (GOOD, GOOD, {"voxel_size_um": (1, 0)}, "above 0"),
        (GOOD, GOOD, {"voxel_size_um": (1, 1, math.nan)}, "above 0"),
        (GOOD, GOOD, {"voxel_size_um": (1, 1, 1, 1)}, r"give \(z, y, x\)"),
    ],
)
def test_what_cannot_be_registered_is_refused_in_one_line(upper, lower, more, said):
    with pytest.raises(GeometryError, match=said) as refusal:
        register_pair(upper, lower, **{"gap_layers": 0} | more)
    assert "\n" not in str(refusal.value)


def test_a_choice_may_be_numpys():
    off = register_pair(GOOD, GOOD, gap_layers=0, carry=np.bool_(False), affine=np.bool_(False))
    assert off == register_pair(GOOD, GOOD, gap_layers=0, carry=False, affine=False)


@pytest.mark.parametrize("score", ["sift", None, 5])
def test_what_is_no_score_is_refused_with_those_that_are(score):
    with pytest.raises(ConfigError, match=f"score {score!r}: give one of likelihood, ncc, mutual-information"):
        register_pair(GOOD, GOOD, gap_layers=0, score=score)


def test_a_callable_that_is_no_score_is_refused():
    with pytest.raises(ConfigError, match="score: gives 0; give one that takes two windows and a gap"):
        register_pair(GOOD, GOOD, gap_layers=0, score=lambda *_: 0)


def test_a_prior_in_which_the_windows_do_not_overlap_is_refused():
    for around in (Rigid(0.0, (30.0, 0.0)), Rigid(0.0, (-25.0, 25.0)), Rigid(0.3, (1e12, 0.0))):
        with pytest.raises(GeometryError, match="overlap by 0") as refusal:
            register_pair(GOOD, GOOD, gap_layers=0, max_shift=0, around=around)
        assert "\n" not in str(refusal.value)
    assert not register_pair(GOOD, GOOD, gap_layers=0, around=Rigid(0.0, (30.0, 0.0))).accepted  # comes to 26


# ---------------------------------------------------------------------- where little is known, nothing is said


@pytest.mark.parametrize("score", SCORES)
def test_windows_of_which_other_halves_are_known_say_nothing(score):
    upper, lower = pair_of(TRUTH, size=(48, 48))
    upper[:, :, :24], lower[:, :, 24:] = np.nan, np.nan
    found = register_pair(upper, lower, gap_layers=0, score=score)
    assert not found.accepted
    assert max(map(abs, found.transform.shift)) < 1
    assert 0 <= found.confidence < 0.4


@pytest.mark.parametrize(("drift", "gaps"), [(0.25, (10**4, 10**9, 10**30)), (0.05, (2**12,))])
def test_a_gap_beyond_which_nothing_is_left_says_nothing(drift, gaps):
    upper, _ = pair_of(TRUTH, drift=drift)
    for gap in gaps:
        found = register_pair(upper, upper[::-1], gap_layers=gap)  # equal: rounding would find them
        assert found.confidence < 0.4
        assert found.transform.shift == pytest.approx((0, 0), abs=0.01)


@pytest.mark.parametrize("score", SCORES)
def test_strangers_are_not_accepted_by_any_score(score):
    for seed in range(3):
        size = (64, 64)
        upper, lower = pair_of(TRUTH, seed=seed, size=size)[0], pair_of(TRUTH, seed=seed + 50, size=size)[1]
        found = register_pair(upper, lower, gap_layers=0, score=score)
        assert 0 <= found.confidence < 0.9
        assert not found.accepted


@pytest.mark.parametrize("score", SCORES)
def test_a_layer_that_is_not_known_is_no_more_than_lost(score):
    """At the gap it makes the gap wider; elsewhere the others go on."""
    upper, lower = pair_of(TRUTH, drift=0.05, layers=6)
    wider = register_pair(upper, lower[1:], gap_layers=1, score=score)
    lower[0] = np.nan
    assert close(register_pair(upper, lower, gap_layers=0, score=score), wider)
    lower[3] = 7.0
    shift, angle = errors(register_pair(upper, lower, gap_layers=0, score=score))
    assert (shift < 1.0, angle < 0.015) == (True, True)


def test_a_single_layer_that_is_left_says_nothing_to_the_likelihood():
    upper, lower = pair_of(TRUTH)
    upper[:-1], lower[1:] = np.nan, np.nan
    assert register_pair(upper, lower, gap_layers=0).confidence < 0.4
    assert errors(register_pair(upper, lower, gap_layers=0, score="pixel_ncc"))[0] < 0.5


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_voxels_that_are_lost_here_and_there(share):
    upper, lower = pair_of(TRUTH, size=(260, 260), drift=0.02)  # joined by two at the coarse scale
    for window in (upper, lower):
        window[np.random.default_rng(4).random(window.shape) < share] = np.nan
    assert errors(register_pair(upper, lower, gap_layers=0))[0] < 0.5


@pytest.mark.parametrize("size", [(33, 48), (64, 64)])
def test_tissue_without_details_is_not_found_at_rest_because_windows_have_edges(size):
    """What leaks from a window's edges lies still, and where tissue has no power it is all there is."""
    for seed in range(6):
        truth = Rigid(-0.06, (0.05 * size[0], -0.06 * size[0]))
        upper, lower = pair_of(truth, size=size, drift=0.05, seed=seed, shortest=6.0)
        found = register_pair(upper, lower, gap_layers=0)
        assert errors(found, truth)[0] < 0.03 * size[0] or not found.accepted


@pytest.mark.parametrize("gap", [1, 2])
@pytest.mark.parametrize("shape", ["half", "disc"])
def test_what_both_windows_do_not_know_is_not_laid_on_itself(gap, shape):
    """A mask, or a field of view, which does not move with the tissue."""
    truth, (y, x) = Rigid(0.05, (4.0, -5.0)), np.indices((128, 128)) - 63.5
    for seed in range(2):
        windows = pair_of(truth, gap, size=(128, 128), drift=0.3, seed=seed)
        for window in windows:
            window[:, y > 0 if shape == "half" else np.hypot(y, x) > 55] = np.nan
        found = register_pair(*windows, gap_layers=gap).transform
        assert np.hypot(*np.subtract(found.shift, truth.shift)) < 0.6
        assert found.angle_rad == pytest.approx(truth.angle_rad, abs=0.008)
