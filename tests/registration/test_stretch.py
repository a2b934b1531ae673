"""An affine answer: stretch that windows tell is found to a fraction of a voxel, what they do not is not made up."""

import numpy as np
import pytest
from made_tissue import pair_of
from scipy import linalg

from volpipe import Affine, Rigid, register_pair
from volpipe.registration import stretch

TURN = Rigid(0.04, (3.3, -2.8))


def stretched_by(along_y, along_x, askew=0.0, turn=TURN):
    return Affine.of(turn) @ Affine(((1 + along_y, askew), (askew, 1 + along_x)))


def off(found, truth, size=(96, 96), spacing=(1.0, 1.0)):
    """How far a corner of the window is from the truth, at most, in voxels."""
    corners = np.array([(y, x) for y in (-0.5, 0.5) for x in (-0.5, 0.5)]) * size * spacing
    return float(np.hypot(*((found(corners) - truth(corners)) / spacing).T).max())


def stretch_of(found):
    """E of `R (1 + E)`, by its polar decomposition."""
    turn, stretched = linalg.polar(found.matrix)
    return stretched - np.eye(2), np.arcsin(turn[0, 1])


@pytest.mark.parametrize("score", ["likelihood", "mutual-information"])
@pytest.mark.parametrize("by", [(0.02, 0.02), (-0.03, 0.01, 0.01)])
def test_stretch_is_found_where_no_rigid_motion_fits(score, by):
    truth = stretched_by(*by)
    found = register_pair(*pair_of(truth, drift=0.02), gap_layers=0, score=score, affine=True)
    assert off(found.transform, truth) > 1
    assert off(found.affine, truth) < 0.3


@pytest.mark.parametrize("score", ["ncc", "pixel_ncc", "2d", "trivial"])
def test_a_score_that_is_less_sure_finds_a_part_of_it(score):
    truth = stretched_by(-0.03, 0.02)
    windows = pair_of(truth, size=(128, 128), drift=0.02)
    found = register_pair(*windows, gap_layers=0, score=score, affine=True)
    assert off(found.affine, truth, (128, 128)) < 0.7 * off(found.transform, truth, (128, 128))


def test_much_stretch_is_found_by_the_coarse_scale_and_made_exact_by_the_fine_one():
    truth, size = stretched_by(0.045, 0.045), (256, 256)
    found = register_pair(*pair_of(truth, size=size, drift=0.02, longest=20.0), gap_layers=0, affine=True)
    assert off(found.transform, truth, size) > 8
    assert off(found.affine, truth, size) < 0.5


def test_stretch_is_found_in_micrometres_of_voxels_that_are_no_squares():
    size, spacing, truth = (120, 200), (1.6, 0.8), stretched_by(0.025, -0.02, 0.005)
    windows = pair_of(truth, size=size, spacing=spacing, drift=0.02)
    found = register_pair(*windows, gap_layers=0, voxel_size_um=spacing, affine=True)
    assert off(found.transform, truth, size, spacing) > 1
    assert off(found.affine, truth, size, spacing) < 0.3


def test_without_stretch_there_is_none_and_the_rigid_answer_is_what_it_was():
    windows = pair_of(TURN, drift=0.02)
    found, rigid = (register_pair(*windows, gap_layers=0, affine=affine) for affine in (True, False))
    assert off(found.affine, TURN) < 0.2
    assert np.abs(stretch_of(found.affine)[0]).max() < 0.003
    assert rigid.affine is None
    assert (rigid.transform, rigid.confidence) == (found.transform, found.confidence)


def test_no_stretch_is_beyond_the_prior_and_no_turn_or_shift_either():
    tight = {"max_shift": 0.02, "max_angle_rad": 0.01}
    # so far beyond it the climb may end early where the prior is tight
    for strain, within, least in ((0.06, {}, 0.049), (0.06, tight, 0.049), (0.08, {}, 0.049), (0.08, tight, 0.03)):
        windows = pair_of(stretched_by(strain, -strain), drift=0.02)
        found = register_pair(*windows, gap_layers=0, affine=True, **within).affine
        along, angle = stretch_of(found)
        assert least < np.abs(along).max() <= 0.05 + 1e-9
        assert abs(angle) <= within.get("max_angle_rad", 0.1) + 1e-9
        assert max(map(abs, found.shift)) <= within.get("max_shift", 0.1) * 96


def test_what_windows_do_not_tell_is_not_made_up(monkeypatch):
    """Across a gap that leaves little; a score alone finds stretch in its noise."""
    errors = []
    for likely in (stretch.LIKELY, 1e3):
        monkeypatch.setattr(stretch, "LIKELY", likely)
        for seed in range(6):
            found = register_pair(*pair_of(TURN, 2, drift=0.3, seed=seed), gap_layers=2, affine=True)
            errors.append((off(found.transform, TURN), off(found.affine, TURN)))
    (rigid, affine), (_, free) = np.mean(np.reshape(errors, (2, 6, 2)), axis=1)
    assert affine < 1.3 * rigid < free


def test_where_nothing_is_told_there_is_no_stretch():
    upper, _ = pair_of(TURN)
    far = register_pair(upper, upper[::-1], gap_layers=10**4, affine=True).affine
    assert np.array(far.rows) == pytest.approx(np.eye(2), abs=1e-6)
