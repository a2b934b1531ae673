"""register_pair looks at slabs as they were cut and in the gap's middle: tissue at a slant is not taken for a shift."""

import math

import numpy as np
import pytest
from made_tissue import Waves, pair_of

from volpipe import register_pair
from volpipe.geometry import Rigid
from volpipe.registration import pair
from volpipe.registration.scores import SCORES

TRUTH = Rigid(0.06, (5.3, -3.8))


def errors(found):
    motion = found.transform
    return math.dist(motion.shift, TRUTH.shift), abs(motion.angle_rad - TRUTH.angle_rad)


def leaning_pair(rate, gap=4, size=(96, 96), layers=4, drift=0.02):
    """Slabs of tissue that moves by `rate` voxels (y, x) a layer, and changes little: long structures at a slant."""
    tissue = Waves(shortest=6.0, drift=drift)

    def layer(z, pose):
        return tissue.window([z], size, Rigid(0.0, tuple(-z * np.array(rate))) @ pose)[0]

    upper = np.stack([layer(z, Rigid()) for z in range(-layers + 1, 1)])
    return upper, np.stack([layer(z, TRUTH) for z in range(gap + 1, gap + 1 + layers)])


def test_tissue_at_a_slant_is_not_taken_for_a_shift():
    upper, lower = leaning_pair((0.5, -0.4))
    as_cut, found = (errors(register_pair(upper, lower, gap_layers=4, carry=carry)) for carry in (False, True))
    assert as_cut[0] > 1
    assert found[0] < 0.5


def test_what_the_slabs_as_cut_say_is_told_beside_the_answer():
    upper, lower = leaning_pair((0.5, -0.4))
    found, as_cut = (register_pair(upper, lower, gap_layers=4, carry=carry) for carry in (True, False))
    assert found.as_cut == as_cut.transform != found.transform
    assert as_cut.as_cut is None


def test_blank_layers_at_the_gap_are_lost_as_others_are():
    upper, lower = leaning_pair((0.5, -0.4), gap=0, layers=6, drift=0.08)
    blanked = upper.copy(), lower.copy()
    blanked[0][-2:], blanked[1][0] = np.nan, 3.0
    found = register_pair(*blanked, gap_layers=0)
    assert found.as_cut is not None  # else the middle was not what counted
    assert found == register_pair(upper[:-2], lower[1:], gap_layers=3)


def test_where_structures_keep_no_course_the_answer_is_that_of_the_slabs_as_they_were_cut():
    upper, lower = pair_of(TRUTH, gap=1, drift=0.3)
    found, as_cut = (register_pair(upper, lower, gap_layers=1, carry=carry) for carry in (True, False))
    assert found.transform == as_cut.transform
    assert found.as_cut is None
    assert found.confidence < as_cut.confidence  # which the other look does not share


def test_across_no_lost_layer_nothing_is_carried_where_the_slabs_show_their_slant(monkeypatch):
    monkeypatch.setattr(pair, "in_the_middle", lambda *_: pytest.fail("asked"))
    upper, lower = pair_of(TRUTH, drift=0.1)
    assert register_pair(upper, lower, gap_layers=0).as_cut is not None
    upper[-1] = np.nan
    for windows in ((upper, lower), (upper[1:3], lower[:2])):  # a blank layer is a lost one; two layers show none
        with pytest.raises(pytest.fail.Exception, match="asked"):
            register_pair(*windows, gap_layers=0)


def test_of_what_looks_say_each_counts_as_far_as_it_is_sure_of_its_own():
    assert pair._agreed([0.9, 0.1], [0.9, 0.3]) == pytest.approx((0.9 * 0.9 + 0.1 * 0.3) / 1.2)
    assert pair._agreed([0.9], [0.9]) == pytest.approx(0.9)
    assert pair._agreed([1.0 + 1e-15, 1.0], [1.0, 1.0]) == 1.0
    assert pair._agreed([0.0, 0.0], [0.0, 0.0]) == 0.0


def test_the_surer_of_both_counts_and_what_the_other_says_against_it(monkeypatch):
    """A middle that is other tissue is less sure, and one that is the same layer twice is surer."""
    upper, lower = pair_of(TRUTH, gap=3, drift=0.2)
    sure = register_pair(upper, lower, gap_layers=3, carry=False)
    other = Waves(seed=5).window(range(2), (96, 96)), Waves(seed=6).window(range(2), (96, 96))
    monkeypatch.setattr(pair, "in_the_middle", lambda *_: other)
    found = register_pair(upper, lower, gap_layers=3)
    assert found.transform == sure.transform
    assert found.confidence < sure.confidence
    same = pair_of(Rigid(0.01, (1.0, 2.0)), layers=2, drift=0.0)
    monkeypatch.setattr(pair, "in_the_middle", lambda *_: same)
    found = register_pair(upper, lower, gap_layers=3)
    assert found.transform.shift == pytest.approx((1.0, 2.0), abs=0.1)
    alike = pair_of(TRUTH, layers=2, drift=0.0)
    monkeypatch.setattr(pair, "in_the_middle", lambda *_: alike)
    agreed = register_pair(upper, lower, gap_layers=3)
    assert agreed.transform.shift == pytest.approx(TRUTH.shift, abs=0.1)
    assert agreed.confidence > max(sure.confidence, found.confidence)


def test_what_the_slabs_as_cut_say_is_as_exact_where_the_middle_counts(monkeypatch):
    """A place that is sharper than the grid is climbed, whether it is the answer or stands beside it."""
    upper, lower = pair_of(TRUTH, gap=1, drift=0.02)
    same = pair_of(Rigid(0.01, (1.0, 2.0)), layers=2, drift=0.0)
    monkeypatch.setattr(pair, "in_the_middle", lambda *_: same)
    found = register_pair(upper, lower, gap_layers=1)
    assert found.as_cut == register_pair(upper, lower, gap_layers=1, carry=False).transform
    assert math.dist(found.as_cut.shift, TRUTH.shift) < 0.1


def test_what_is_seen_in_the_middle_has_no_slant_that_is_taken_off(monkeypatch):
    same = pair_of(Rigid(0.01, (1.0, 2.0)), layers=2, drift=0.0)
    monkeypatch.setattr(pair, "in_the_middle", lambda *_: same)
    found = register_pair(*leaning_pair((0.6, -0.5), gap=1, layers=8, drift=0.2), gap_layers=1)
    assert found.transform.shift == pytest.approx((1.0, 2.0), abs=0.05)


@pytest.mark.parametrize(("size", "shown_as"), [((250, 256), (125, 128)), ((192, 200), (192, 200))])
def test_large_slabs_are_carried_less_finely_and_blank_layers_are_lost_too(monkeypatch, size, shown_as):
    upper, lower = leaning_pair((0.0, 0.0), gap=2, size=size)
    upper[-1], lower[0] = np.nan, 3.0
    shown = []

    def spy(upper, lower, layers):
        shown.append((upper.shape, lower.shape, layers))

    monkeypatch.setattr(pair, "in_the_middle", spy)
    register_pair(upper, lower, gap_layers=2)
    assert shown == [((3, *shown_as), (3, *shown_as), 2 + 1 + 2)]


def test_what_is_carried_less_finely_fades_over_as_many_voxels():
    """Two of the slab's voxels are one there, so that half as many fade at each side."""
    upper, lower = leaning_pair((0.5, -0.4), size=(256, 256))
    shown = []

    def spy(one, other, gap):
        shown.append((one.size, one.factor, other.factor, gap))
        return SCORES["ncc"](one, other, gap)

    register_pair(upper, lower, gap_layers=4, score=spy)
    assert shown == [((256, 256), 1, 1, 4), ((128, 128), 2, 2, 4)]


def test_a_layer_that_is_left_out_within_a_slab_keeps_its_place(monkeypatch):
    upper, lower = pair_of(TRUTH, gap=1, drift=0.1)
    upper[2] = np.nan
    shown = []
    monkeypatch.setattr(pair, "in_the_middle", lambda *slabs: shown.append(slabs))
    register_pair(upper, lower, gap_layers=1)
    assert [bool(np.isfinite(layer).all()) for layer in shown[0][0]] == [True, True, False, True]
    assert np.corrcoef(shown[0][0][3].ravel(), upper[3].ravel())[0, 1] > 0.999
    assert np.corrcoef(shown[0][1][0].ravel(), lower[0].ravel())[0, 1] > 0.999


@pytest.mark.parametrize("nothing", [np.full((2, 96, 96), np.nan), np.zeros((2, 96, 96))])
def test_a_middle_of_which_nothing_is_left_says_nothing(monkeypatch, nothing):
    upper, lower = pair_of(TRUTH, gap=1, drift=0.1)
    monkeypatch.setattr(pair, "in_the_middle", lambda *_: (nothing, nothing))
    found = register_pair(upper, lower, gap_layers=1)
    monkeypatch.setattr(pair, "in_the_middle", lambda *_: None)
    assert register_pair(upper, lower, gap_layers=1) == found
