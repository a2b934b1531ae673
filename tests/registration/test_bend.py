"""Tissue that comes back bent is found at its mean motion, and what is not bent is left as it was seen."""

import math

import numpy as np
import pytest
import torch
from bent_tissue import SQUARES, TURN, bent_pair, compared
from made_tissue import pair_of

from volpipe import register_pair
from volpipe.geometry import Rigid
from volpipe.registration import bend, pair
from volpipe.registration.bend import looks_bent, rigid_part
from volpipe.registration.freedom import log_likely


def off(found, truth=TURN, size=(128, 128), spacing=SQUARES):
    """How far a corner is from the truth, at most, in voxels."""
    corners = np.array([(y, x) for y in (-0.5, 0.5) for x in (-0.5, 0.5)]) * size * spacing
    return float(np.hypot(*((found(corners) - truth(corners)) / spacing).T).max())


def stiff(monkeypatch, *windows, **given):
    with monkeypatch.context() as stiffly:
        stiffly.setattr(pair, "rigid_part", lambda *_: None)
        return register_pair(*windows, **given)


@pytest.mark.parametrize(("share", "gap"), [(0.01, 0), (0.015, 0), (0.02, 0), (0.01, 1), (0.02, 1)])
def test_bent_tissue_is_found_at_its_mean_motion(monkeypatch, share, gap):
    windows = bent_pair(share, gap=gap)
    found = register_pair(*windows, gap_layers=gap).transform
    seen = stiff(monkeypatch, *windows, gap_layers=gap).transform
    assert off(seen) > 0.6
    assert off(found) < 0.5 * off(seen)


def test_bends_are_found_in_micrometres_of_voxels_that_are_no_squares(monkeypatch):
    given = {"size": (120, 200), "spacing": (1.6, 0.8)}
    windows = bent_pair(0.015, **given)
    found = register_pair(*windows, gap_layers=0, voxel_size_um=given["spacing"]).transform
    seen = stiff(monkeypatch, *windows, gap_layers=0, voxel_size_um=given["spacing"]).transform
    assert off(seen, **given) > 0.8
    assert off(found, **given) < 0.4 * off(seen, **given)


@pytest.mark.parametrize("side", [1, -1])
def test_an_angle_about_half_a_turn_is_counted_on(side):
    truth = Rigid(math.pi + 0.005 * side, (1.0, -2.0))
    windows = bent_pair(0.015, truth=truth)
    found = register_pair(*windows, gap_layers=0, around=Rigid(math.pi))
    assert found.transform.angle_rad == pytest.approx(truth.angle_rad, abs=0.006)
    assert found.confidence > 0.8


def test_an_answer_stays_in_the_prior():
    tight = {"max_shift": 0.02, "max_angle_rad": 0.035}
    found = register_pair(*bent_pair(0.015), gap_layers=0, **tight).transform
    assert abs(found.angle_rad) <= 0.035
    assert max(map(abs, found.shift)) <= 0.02 * 128


@pytest.mark.parametrize("gap", [0, 1, 2])
def test_what_is_not_bent_is_left_as_it_was_seen(monkeypatch, gap):
    windows = pair_of(TURN, gap, drift=0.05)
    assert register_pair(*windows, gap_layers=gap) == stiff(monkeypatch, *windows, gap_layers=gap)


def test_noise_is_not_bent():
    random = np.random.default_rng(0)
    for _ in range(5):
        upper, lower = random.standard_normal((2, 4, 96, 96))
        seen = compared(upper, lower)
        assert rigid_part(seen, lambda seen=seen: seen, Rigid()) is None


def test_windows_that_hardly_overlap_tell_nothing():
    upper, lower = pair_of(TURN)
    seen, away = compared(upper, lower), Rigid(0.0, (300.0, 0.0))
    assert log_likely(seen, away) is None
    assert rigid_part(seen, lambda: seen, away) is None


def tells(monkeypatch, rigid_part):
    """All that is free to bend is bent, by that."""
    monkeypatch.setattr(pair, "looks_bent", lambda *_: True)
    monkeypatch.setattr(pair, "rigid_part", rigid_part)


def test_the_slant_is_taken_off_bent_tissue_and_told_beside_it(monkeypatch):
    slant, mean = Rigid(0.01, (-0.8, 0.6)), Rigid(0.045, (2.0, -2.0))
    tells(monkeypatch, lambda *_: mean)
    monkeypatch.setattr(pair, "slant_inside", lambda *_: slant)
    monkeypatch.setattr(pair, "_carried", lambda *_: None)
    found = register_pair(*pair_of(TURN, 1, drift=0.02), gap_layers=1)
    without = slant.inverse @ mean
    assert found.as_cut == mean
    assert (found.transform.angle_rad, *found.transform.shift) == pytest.approx((without.angle_rad, *without.shift))


def test_an_answer_is_as_sure_as_what_was_seen_and_stretch_is_climbed_from_there(monkeypatch):
    """A bend moves the answer, and nothing else: not what a stiff look knows of where it saw it."""
    windows, started = pair_of(TURN, 0, drift=0.02), []
    monkeypatch.setattr(pair, "stretched", lambda scales, start, *_: started.append(start))
    seen = stiff(monkeypatch, *windows, gap_layers=0, affine=True)
    tells(monkeypatch, lambda *_: Rigid(0.02, (1.0, 1.0)))
    found = register_pair(*windows, gap_layers=0, affine=True)
    assert found.transform != seen.transform
    assert found.confidence == pytest.approx(seen.confidence, abs=1e-6)
    stiffly, bent = ((start.angle_rad, *start.shift) for start in started)
    assert bent == pytest.approx(stiffly, abs=1e-6)


def test_bends_are_looked_for_in_both_looks_and_not_without_carry(monkeypatch):
    windows = bent_pair(0.015, gap=1)
    stiffly = stiff(monkeypatch, *windows, gap_layers=1, carry=False)
    assert register_pair(*windows, gap_layers=1, carry=False) == stiffly
    looked_at, real = [], pair.rigid_part
    tells(monkeypatch, lambda *given: looked_at.append(1) or real(*given))
    register_pair(*windows, gap_layers=1)
    assert len(looked_at) == 2
    register_pair(*pair_of(TURN, 1, drift=0.05), gap_layers=1)
    assert len(looked_at) == 3  # what is not bent as it was cut is carried stiffly


@pytest.mark.parametrize(("layers", "gap"), [(2, 0), (3, 1), (4, 1), (5, 2)])
def test_slabs_too_thin_to_tell_their_slant_are_found_at_their_mean_motion(monkeypatch, layers, gap):
    windows = bent_pair(0.015, gap=gap, layers=layers)
    found = register_pair(*windows, gap_layers=gap).transform
    assert off(found) < 0.7
    assert off(found) < off(stiff(monkeypatch, *windows, gap_layers=gap).transform)


@pytest.mark.parametrize(("further", "joined"), [(1.0, True), (5.0, False)])
def test_looks_are_joined_if_they_agree_by_their_bends(monkeypatch, further, joined):
    """Both see the windows in one place; by four voxels, twice the tolerance, their bends may differ."""
    bends = iter([Rigid(0.041, (3.0, -3.0)), Rigid(0.041, (3.0 + further, -3.0))])
    tells(monkeypatch, lambda *_: next(bends))
    monkeypatch.setattr(pair, "slant_inside", lambda *_: Rigid())
    monkeypatch.setattr(pair._Look, "within", lambda *_: 0.8)
    monkeypatch.setattr(pair._Look, "spread", 4.0)
    found = register_pair(*pair_of(TURN, 1, drift=0.02), gap_layers=1).transform.shift[0]
    assert (3.1 < found < 2.9 + further) == joined


def test_bends_are_looked_for_at_the_coarse_scale_and_a_wide_one(monkeypatch):
    shown = []
    tells(monkeypatch, lambda one, wide, _: shown.extend([one.spacing, wide().spacing]))
    register_pair(*pair_of(TURN, size=(256, 256), drift=0.02), gap_layers=0)
    assert shown == [(2.0, 2.0), (8.0, 8.0)]


def test_what_looks_bent_is_told_from_a_voxel_off():
    about = Rigid(TURN.angle_rad, (TURN.shift[0] + 0.5, TURN.shift[1] - 0.5))
    assert looks_bent(compared(*bent_pair(0.015)), about)
    assert not looks_bent(compared(*np.random.default_rng(0).standard_normal((2, 4, 96, 96))), about)
    assert not looks_bent(compared(*pair_of(TURN)), Rigid(0.0, (300.0, 0.0)))  # where they hardly overlap


def test_what_does_not_look_bent_from_the_grid_is_not_climbed(monkeypatch):
    asked = []
    tells(monkeypatch, lambda *_: pytest.fail("climbed"))
    monkeypatch.setattr(pair, "looks_bent", lambda _, seen: asked.append(seen))
    register_pair(*pair_of(TURN, drift=0.02), gap_layers=0)
    assert off(asked[0]) < 1


def test_bent_or_not_what_is_within_a_prior_of_no_width_is_all_of_it(monkeypatch):
    tells(monkeypatch, lambda *_: Rigid(0.05, (9.0, 9.0)))
    found = register_pair(*pair_of(TURN, drift=0.02), gap_layers=0, max_shift=0, max_angle_rad=0)
    assert (found.confidence, found.transform, found.as_cut) == (1.0, Rigid(), None)


def test_the_same_answer_is_as_sure_by_a_bend(monkeypatch):
    """Sharp as it is: it was climbed to between the places that are looked at."""
    windows = pair_of(TURN, drift=0.05)
    stiffly = stiff(monkeypatch, *windows, gap_layers=0)
    tells(monkeypatch, lambda _, __, seen: seen)
    assert register_pair(*windows, gap_layers=0) == stiffly
    assert stiffly.confidence < 0.99


def test_windows_of_which_other_halves_are_known_are_not_bent():
    for seed in range(3):
        upper, lower = pair_of(TURN, seed=seed, layers=6)
        upper[:, :40], lower[:, 56:] = np.nan, np.nan
        seen = compared(upper, lower)
        assert rigid_part(seen, lambda seen=seen: seen, Rigid()) is None


@pytest.mark.parametrize("unit", [1e-3, 50.0])
def test_an_answer_does_not_depend_on_the_unit(unit):
    windows = bent_pair(0.015)
    (one, other) = (
        rigid_part(seen, lambda seen=seen: seen, Rigid(TURN.angle_rad, (3.0 * voxel, -2.5 * voxel)))
        for voxel in (1.0, unit)
        for seen in [compared(*windows, spacing=(voxel, voxel))]
    )
    assert off(one) < 0.6
    assert off(other.times(1 / unit), one) < 0.1


@torch.no_grad()
def test_it_works_where_a_caller_needs_no_slopes():
    windows = bent_pair(0.015)
    with torch.inference_mode():
        bend._freedom.cache_clear()
        found = register_pair(*windows, gap_layers=0)
    assert register_pair(*windows, gap_layers=0) == found
