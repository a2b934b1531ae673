"""What a score sees move inside slabs is taken off what it sees across the gap."""

import math

import numpy as np
import pytest
from made_tissue import Waves, pair_of

from volpipe import register_pair
from volpipe.geometry import Rigid
from volpipe.registration import pair
from volpipe.registration.inside import slant_inside
from volpipe.registration.scores import SCORES
from volpipe.registration.window import facing

SIZE = (128, 128)
NEAR = (0.01, 0.02 * 128)
TRUTH = Rigid(0.06, (5.0, -3.0))


def leaning(above, below, gap=2, layers=8, truth=TRUTH):
    """Slabs whose tissue moves by so many voxels (y, x) a layer; noise of each layer's own, so that both layers a side
    count alike, and see all of it."""
    tissue, noise = Waves(shortest=5.0, drift=0.04), np.random.default_rng(0)

    def slab(depths, rate, pose):
        sampled = [tissue.window([z], SIZE, Rigid(0.0, tuple(-z * np.array(rate))) @ pose)[0] for z in depths]
        clean = np.stack(sampled)
        return clean + clean.std() * noise.standard_normal(clean.shape)

    return slab(range(-layers + 1, 1), above, Rigid()), slab(range(gap + 1, gap + 1 + layers), below, truth)


def across(upper, lower, gap, score="likelihood"):
    return SCORES[score](*facing(upper, lower, (1.0, 1.0)), gap)(1)


def inside(comparison, motion=TRUTH):
    slant = slant_inside(comparison, motion, NEAR, 8.0)
    return np.array([slant.angle_rad, *slant.shift])


def seen_across(upper, lower, gap):
    slant = register_pair(upper, lower, gap_layers=gap, carry=False).transform @ TRUTH.inverse
    return np.array([slant.angle_rad, *slant.shift])


@pytest.mark.parametrize("gap", [0, 1, 2, 4])
def test_what_moves_inside_is_what_a_pair_takes_for_a_shift(gap):
    """Deeper layers lie where tissue has moved to: they are seen the other way."""
    slabs = leaning((0.4, -0.3), (0.4, -0.3), gap)
    measured = inside(across(*slabs, gap))
    assert measured[1] < -0.3 * (gap + 1)
    assert measured[2] > 0.2 * (gap + 1)
    assert measured == pytest.approx(seen_across(*slabs, gap), abs=max(0.15, 0.06 * (gap + 1)))
    assert abs(measured[0]) < 0.002


def test_each_slab_is_seen_in_its_own_frame_and_the_gap_lies_between():
    """The lower one lies upside down: what moves down in it moves up in the upper one."""
    turned = Rigid(math.pi, (0.0, 0.0))
    comparison = across(*leaning((0.4, 0.0), (0.4, 0.0), truth=turned), 2)
    above, below = comparison.inside()
    one = inside(Only(above, None), turned)[1:]
    other = inside(Only(None, below), turned)[1:]
    assert one == pytest.approx((-1.2, 0), abs=0.3)
    assert other == pytest.approx((-1.2, 0), abs=0.3)
    assert inside(Only(None, below), Rigid())[1:] == pytest.approx((1.2, 0), abs=0.3)
    assert inside(comparison, turned)[1:] == pytest.approx((one + other) / 2, abs=1e-4)


class Only:
    """A comparison that sees one slab."""

    moving = spacing = surface = value = None

    def __init__(self, *slabs):
        self.slabs = slabs

    def inside(self):
        return self.slabs


def test_tissue_that_stands_still_shows_none():
    comparison = across(*leaning((0.0, 0.0), (0.0, 0.0)), 2)
    assert inside(comparison) == pytest.approx([0, 0, 0], abs=0.1)
    assert abs(inside(comparison)[0]) < 0.002


def test_slabs_that_are_not_as_deep_as_the_gap_show_what_they_can():
    """Of four layers two and two are one layer apart, and no more is taken off; of three there are none, and the other
    slab counts alone."""
    upper, lower = leaning((0.4, -0.3), (0.4, -0.3), gap=4, layers=4)
    assert inside(across(upper, lower, 4))[1:] == pytest.approx((-0.4, 0.3), abs=0.2)
    one = across(upper[1:], lower, 4)
    assert [slab is None for slab in one.inside()] == [True, False]
    assert inside(one) == pytest.approx(inside(Only(None, one.inside()[1])))
    assert slant_inside(across(upper[1:], lower[:3], 4), TRUTH, NEAR, 8.0) == Rigid()


def test_a_gap_beyond_all_layers_takes_no_longer():
    upper, lower = pair_of(Rigid(), 0, (32, 32), drift=0.1)
    assert None not in across(upper, lower, 10**9).inside()


def test_layers_that_are_left_out_keep_the_others_in_their_place():
    """The second layer of each side is blank: pairs that lie as those at the gap do, the first and the third."""
    upper, lower = leaning((0.4, -0.3), (0.4, -0.3), gap=1, layers=10)
    upper[-2], lower[1] = np.nan, np.nan
    assert inside(across(upper, lower, 1)) == pytest.approx(seen_across(upper, lower, 1), abs=0.25)


def test_blank_layers_at_the_gap_are_lost():
    upper, lower = leaning((0.4, -0.3), (0.4, -0.3), gap=0)
    blanked = upper.copy(), lower.copy()
    blanked[0][-1:], blanked[1][:1] = np.nan, np.nan
    both = across(*blanked, 0).inside(), across(upper[:-1], lower[1:], 2).inside()
    for one, other in zip(*both, strict=True):
        assert np.array_equal(one.moving, other.moving)
        assert one.moving.shape[0] == 2 * 2 + 1  # seven layers hold two and two, two apart, twice


def test_layers_near_the_gap_are_looked_at():
    upper, lower = leaning((0.0, 0.0), (0.0, 0.0), gap=0, layers=12)
    far = upper.copy(), lower.copy()
    far[0][:6], far[1][-6:] = 0.0, 0.0
    for one, other in zip(across(upper, lower, 0).inside(), across(*far, 0).inside(), strict=True):
        assert np.array_equal(one.moving, other.moving)


def test_a_score_that_does_not_see_inside_tells_none():
    upper, lower = leaning((0.4, -0.3), (0.4, -0.3))
    assert slant_inside(across(upper, lower, 2, "ncc"), TRUTH, NEAR, 8.0) == Rigid()
    found = register_pair(upper, lower, gap_layers=0, score="ncc")
    assert found.as_cut is None


def test_a_pair_is_told_without_its_slant_and_as_sure_as_with_it(monkeypatch):
    """Confidence is that of what is seen: a slant that is known takes none of it."""
    monkeypatch.setattr(pair, "in_the_middle", lambda *_: None)
    upper, lower = leaning((0.4, -0.3), (0.4, -0.3))
    found, raw = (register_pair(upper, lower, gap_layers=2, carry=carry) for carry in (True, False))
    assert math.dist(raw.transform.shift, TRUTH.shift) > 1
    assert math.dist(found.transform.shift, TRUTH.shift) < 0.3
    assert (found.as_cut, raw.as_cut) == (raw.transform, None)
    assert found.confidence == pytest.approx(raw.confidence, abs=0.01)


def test_an_answer_without_its_slant_stays_within_the_prior(monkeypatch):
    monkeypatch.setattr(pair, "in_the_middle", lambda *_: None)
    upper, lower = leaning((-0.5, 0.0), (-0.5, 0.0), truth=Rigid(0.0, (-2.5, 0.0)))
    found = register_pair(upper, lower, gap_layers=2, max_shift=1.28 / 128, affine=True)
    assert found.as_cut.shift[0] > found.transform.shift[0] == -1.28
    assert found.affine.shift[0] >= -1.28


def test_a_stretch_is_that_of_the_tissue_and_its_shift_without_the_slant(monkeypatch):
    monkeypatch.setattr(pair, "in_the_middle", lambda *_: None)
    upper, lower = leaning((0.4, -0.3), (0.4, -0.3))
    found = register_pair(upper, lower, gap_layers=2, affine=True)
    assert found.affine.shift == pytest.approx(TRUTH.shift, abs=0.4)
