"""What a score sees move inside slabs is taken off what it sees across the gap."""

import math

import numpy as np
import pytest
from made_tissue import Waves

from volpipe import register_pair
from volpipe.geometry import Rigid
from volpipe.registration import inside as inside_slabs
from volpipe.registration import pair
from volpipe.registration.inside import slant_inside
from volpipe.registration.scores import SCORES
from volpipe.registration.search import Prior
from volpipe.registration.window import facing

SIZE = (128, 128)
NEAR = (0.01, 0.02 * 128)
TRUTH = Rigid(0.06, (5.0, -3.0))


def leaning(above, below, gap=2, layers=8, truth=TRUTH, noisy=1.0):
    """Slabs whose tissue moves by so many voxels (y, x) a layer; noise of each layer's own, so that both layers a side
    count alike, and see all of it."""
    tissue, noise = Waves(shortest=5.0, drift=0.04), np.random.default_rng(0)

    def slab(depths, rate, pose):
        sampled = [tissue.window([z], SIZE, Rigid(0.0, tuple(-z * np.array(rate))) @ pose)[0] for z in depths]
        clean = np.stack(sampled)
        return clean + noisy * clean.std() * noise.standard_normal(clean.shape)

    return slab(range(-layers + 1, 1), above, Rigid()), slab(range(gap + 1, gap + 1 + layers), below, truth)


def across(upper, lower, gap, score="likelihood", scale=1):
    return SCORES[score](*facing(upper, lower, (1.0, 1.0)), gap)(scale)


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
    """The lower one is turned by a quarter: what moves down in it moves to the left in the upper one."""
    turned = Rigid(math.pi / 2, (0.0, 0.0))
    comparison = across(*leaning((0.4, 0.0), (0.4, 0.0), truth=turned), 2)
    above, below = comparison.inside_slabs()
    one = inside(Only(above, None), turned)[1:]
    other = inside(Only(None, below), turned)[1:]
    assert one == pytest.approx((-1.2, 0), abs=0.3)
    assert other == pytest.approx((-1.2, 0), abs=0.3)
    assert inside(Only(None, below), Rigid())[1:] == pytest.approx((0, -1.2), abs=0.3)
    assert inside(comparison, turned)[1:] == pytest.approx((one + other) / 2, abs=1e-4)


@pytest.mark.parametrize("side", [1, -1])
def test_slabs_that_lie_half_a_turn_apart_are_told_from_both_sides_of_it(side):
    """A prior about half a turn holds angles on both sides of where turns are wrapped."""
    truth = Rigid(math.pi + 0.03 * side, (1.0, -2.0))
    upper, lower = leaning((0.4, -0.3), (0.4, -0.3), truth=truth)
    found = register_pair(upper, lower, gap_layers=2, around=Rigid(math.pi), affine=True)
    assert found.transform.angle_rad == pytest.approx(truth.angle_rad, abs=0.005)
    assert found.transform.shift == pytest.approx(truth.shift, abs=0.4)
    assert found.confidence > 0.6
    assert found.affine.shift == pytest.approx(truth.shift, abs=0.5)


def test_a_turned_slab_shows_its_slant_in_a_pair(monkeypatch):
    monkeypatch.setattr(pair, "in_the_middle", lambda *_: None)
    truth = Rigid(math.pi / 2 + 0.02, (2.0, -1.0))
    upper, lower = leaning((0.6, 0.0), (0.6, 0.0), truth=truth)
    found = register_pair(upper, lower, gap_layers=2, around=Rigid(math.pi / 2))
    assert found.transform.shift == pytest.approx(truth.shift, abs=0.3)


class Only:
    """A comparison that sees one slab."""

    moving = spacing = surface = value = None

    def __init__(self, *slabs):
        self.slabs = slabs

    def inside_slabs(self):
        return self.slabs


def test_tissue_that_stands_still_shows_none():
    comparison = across(*leaning((0.0, 0.0), (0.0, 0.0)), 2)
    assert inside(comparison) == pytest.approx([0, 0, 0], abs=0.1)
    assert abs(inside(comparison)[0]) < 0.002


def test_what_moves_by_a_part_of_a_voxel_is_not_drawn_to_the_grid():
    """Layers that are nearly alike have a peak that is narrower than a voxel."""
    slabs = leaning((0.2, -0.15), (0.2, -0.15), gap=0, noisy=0.3)
    measured = inside(across(*slabs, 0))
    assert measured[1] < -0.15
    assert measured == pytest.approx(seen_across(*slabs, 0), abs=0.05)


def test_tissue_is_looked_for_within_twice_the_tolerances(monkeypatch):
    priors, search = [], inside_slabs.landscape
    monkeypatch.setattr(inside_slabs, "landscape", lambda *given: priors.append(given[1]) or search(*given))
    inside(across(*leaning((0.4, 0.0), (0.4, 0.0)), 2))
    assert priors == [Prior(Rigid(), 0.02, (0.04 * 128, 0.04 * 128))] * 2


def test_slabs_that_are_not_as_deep_as_the_gap_tell_nothing():
    """Of seven layers two and two are three apart, of six they are not; then the other slab counts alone."""
    upper, lower = leaning((0.4, -0.3), (0.4, -0.3), gap=3, layers=7)
    assert None not in across(upper, lower, 3).inside_slabs()
    one = across(upper[1:], lower, 3)
    assert [slab is None for slab in one.inside_slabs()] == [True, False]
    assert inside(one) == pytest.approx(inside(Only(None, one.inside_slabs()[1])))
    assert slant_inside(across(upper[1:], lower[:6], 3), TRUTH, NEAR, 8.0) is None
    assert across(upper, lower, 10**9).inside_slabs() == (None, None)


@pytest.mark.parametrize(("layers", "gap"), [(2, 0), (2, 4), (3, 2), (4, 4)])
def test_what_is_not_told_inside_is_told_in_the_middle_and_not_averaged_with_what_leans(layers, gap):
    tissue = Waves(shortest=6.0, drift=0.02)
    depths = [*range(-layers + 1, 1), *range(gap + 1, gap + 1 + layers)]
    seen = [
        tissue.window([z], SIZE, Rigid(0.0, (-0.4 * z, 0.3 * z)) @ (TRUTH if z > 0 else Rigid()))[0] for z in depths
    ]
    found = register_pair(np.stack(seen[:layers]), np.stack(seen[layers:]), gap_layers=gap)
    assert found.transform.shift == pytest.approx(TRUTH.shift, abs=0.3)


def noise_pair(layers=8):
    """No two layers are alike, so that images tell which they are of."""
    return np.random.default_rng(1).standard_normal((2, layers, *SIZE))


def layers_of(comparison, slab):
    """Of which layers of a slab the images are that move."""
    alike = [
        [float(np.corrcoef(image.ravel(), layer.ravel())[0, 1]) for layer in slab]
        for image in comparison.moving[:-1].numpy()
    ]
    assert min(map(max, alike)) > 0.8
    return [int(np.argmax(each)) for each in alike]


def test_layers_near_the_gap_are_looked_at_as_those_at_the_gap_lie():
    upper, lower = noise_pair()
    above, below = across(upper, lower, 1).inside_slabs()
    assert layers_of(above, upper) == [6, 7, 5, 6, 4, 5]  # seen from 4, 3 and 3, 2 and 2, 1
    assert layers_of(below, lower) == [3, 4, 4, 5, 5, 6]  # seen from 1, 0 and 2, 1 and 3, 2


def test_layers_that_are_left_out_keep_the_others_in_their_place():
    """The second layer of each side is blank: the first and the third of both are looked for elsewhere."""
    upper, lower = noise_pair()
    blank = np.full((1, *SIZE), np.nan)
    one, other = np.concatenate([upper[:6], blank, upper[7:]]), np.concatenate([lower[:1], blank, lower[2:]])
    above, below = across(one, other, 1).inside_slabs()
    assert layers_of(above, upper) == [5, 7]
    assert layers_of(below, lower) == [4, 6]


def test_texture_is_looked_at_as_well():
    upper, lower = np.random.default_rng(1).standard_normal((2, 8, 256, 256))
    for slab in across(upper, lower, 1, scale=2).inside_slabs():
        assert len(slab.moving) == 3 * 2 + 3 * 1 + 1


def test_a_pair_asks_at_the_coarse_scale(monkeypatch):
    asked = []
    monkeypatch.setattr(pair, "slant_inside", lambda seen, *_: asked.append(seen.spacing))
    register_pair(*np.random.default_rng(1).standard_normal((2, 4, 256, 256)), gap_layers=0)
    assert asked == [(2.0, 2.0)]


def test_blank_layers_at_the_gap_are_lost():
    upper, lower = leaning((0.4, -0.3), (0.4, -0.3), gap=0)
    blanked = upper.copy(), lower.copy()
    blanked[0][-1:], blanked[1][:1] = np.nan, np.nan
    both = across(*blanked, 0).inside_slabs(), across(upper[:-1], lower[1:], 2).inside_slabs()
    for one, other in zip(*both, strict=True):
        assert np.array_equal(one.moving, other.moving)
        assert one.moving.shape[0] == 2 * 2 + 1  # seven layers hold two and two, two apart, twice


def test_a_score_that_does_not_see_inside_tells_none():
    upper, lower = leaning((0.4, -0.3), (0.4, -0.3))
    assert slant_inside(across(upper, lower, 2, "ncc"), TRUTH, NEAR, 8.0) is None


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
