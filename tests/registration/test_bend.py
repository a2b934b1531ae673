"""Tissue that comes back bent is found at its mean motion, and what is not bent is left as it was seen."""

import math

import numpy as np
import pytest
import torch
from made_tissue import Waves, pair_of
from scipy import ndimage

from volpipe import register_pair
from volpipe.geometry import Rigid
from volpipe.registration import bend, pair
from volpipe.registration.bend import rigid_part
from volpipe.registration.freedom import log_likely
from volpipe.registration.scores import SCORES
from volpipe.registration.window import facing

TURN = Rigid(0.04, (3.3, -2.8))
SQUARES = (1.0, 1.0)


def without_motion(field, spacing=SQUARES):
    """A field (2, y, x) less the shift and the turn that fit it best."""
    lines = [(np.arange(n) - (n - 1) / 2) * voxel for n, voxel in zip(field.shape[1:], spacing, strict=True)]
    y, x = np.meshgrid(*lines, indexing="ij")
    turn = np.stack([x, -y])
    still = field - field.mean((1, 2), keepdims=True)
    return still - turn * (still * turn).sum() / (turn**2).sum()


def bent_by(share, size, spacing=SQUARES):
    """Of the width: a field (2, y, x) in the unit, waves as long as the window, that moves nothing as a whole."""
    y, x = np.indices(size) / np.reshape(size, (2, 1, 1))
    waves = np.stack([np.sin(6 * x + 1) + np.cos(4 * y), np.cos(5 * (x + y)) - np.sin(6 * y + 2)])
    field = without_motion(waves, spacing)
    width = min(n * voxel for n, voxel in zip(size, spacing, strict=True))
    return share * width * field / np.sqrt((field**2).sum(0).mean())


def bent_pair(share, *, gap=0, size=(128, 128), spacing=SQUARES, truth=TURN, layers=6):
    """(upper, lower) of one tissue; the lower one is bent."""
    tissue, edge = Waves(shortest=5.0 * min(spacing), longest=60.0, drift=0.02), 12

    def slab(depths, pose, around):
        across = tuple(n + 2 * around for n in size)
        return tissue.window(depths, across, pose, spacing)

    lower = slab(range(gap + 1, gap + 1 + layers), truth, edge)
    at = np.indices(size) + edge + bent_by(share, size, spacing) / np.reshape(spacing, (2, 1, 1))
    bent = np.stack([ndimage.map_coordinates(layer, at, order=5) for layer in lower])
    return slab(range(-layers + 1, 1), Rigid(), 0), bent


def off(found, truth=TURN, size=(128, 128), spacing=SQUARES):
    """How far a corner is from the truth, at most, in voxels."""
    corners = np.array([(y, x) for y in (-0.5, 0.5) for x in (-0.5, 0.5)]) * size * spacing
    return float(np.hypot(*((found(corners) - truth(corners)) / spacing).T).max())


def stiff(monkeypatch, *windows, **given):
    with monkeypatch.context() as stiffly:
        stiffly.setattr(pair, "rigid_part", lambda *_: None)
        return register_pair(*windows, **given)


def compared(upper, lower, gap=0, score="likelihood", spacing=SQUARES):
    return SCORES[score](*facing(upper, lower, spacing), gap)(1)


# ------------------------------------------------------------------ what is found


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


def test_the_slant_is_taken_off_bent_tissue_and_told_beside_it(monkeypatch):
    slant, mean = Rigid(0.01, (-0.8, 0.6)), Rigid(0.045, (2.0, -2.0))
    monkeypatch.setattr(pair, "rigid_part", lambda *_: mean)
    monkeypatch.setattr(pair, "slant_inside", lambda *_: slant)
    found = register_pair(*pair_of(TURN, 1, drift=0.02), gap_layers=1)
    without = slant.inverse @ mean
    assert found.as_cut == mean
    assert (found.transform.angle_rad, *found.transform.shift) == pytest.approx((without.angle_rad, *without.shift))


def test_an_answer_is_as_sure_as_what_was_seen_and_stretch_is_climbed_from_there(monkeypatch):
    """A bend moves the answer, and nothing else: not what a stiff look knows of where it saw it."""
    windows, started = pair_of(TURN, 0, drift=0.02), []
    monkeypatch.setattr(pair, "stretched", lambda scales, start, *_: started.append(start))
    seen = stiff(monkeypatch, *windows, gap_layers=0, affine=True)
    monkeypatch.setattr(pair, "rigid_part", lambda *_: Rigid(0.02, (1.0, 1.0)))
    found = register_pair(*windows, gap_layers=0, affine=True)
    assert found.transform != seen.transform
    assert found.confidence == pytest.approx(seen.confidence, abs=0.03)
    stiffly, bent = ((start.angle_rad, *start.shift) for start in started)
    assert bent == pytest.approx(stiffly, abs=0.3)


@pytest.mark.parametrize("gap", [0, 1])
def test_bent_slabs_are_carried_where_layers_are_lost_as_others_are(monkeypatch, gap):
    """Tissue that changes across lost layers looks bent as well: the other look is not to be done without."""
    looked_at = []
    monkeypatch.setattr(pair, "_carried", lambda *_: looked_at.append(1))
    register_pair(*bent_pair(0.015, gap=gap), gap_layers=gap)
    assert len(looked_at) == gap


# ------------------------------------------------------------------ its parts


@pytest.mark.parametrize(("size", "spacing"), [((60, 60), SQUARES), ((50, 80), (2.0, 0.7))])
def test_a_bend_that_is_likely_is_as_large_as_the_prior_says(size, spacing):
    free = bend._freedom(size, spacing)
    width = min(n * voxel for n, voxel in zip(size, spacing, strict=True))
    assert not free.precision[:3].any()
    draws = np.random.default_rng(0).standard_normal((400, len(free.precision) - 3)) / free.precision[3:].sqrt().numpy()
    fields = np.einsum("nm,mchw->nchw", draws, free.along[3:].numpy())
    assert np.sqrt((fields**2).sum(1).mean()) == pytest.approx(bend.LIKELY * width, rel=0.05)


def test_a_window_is_free_along_shifts_a_turn_and_waves():
    size, spacing = (50, 80), (2.0, 0.7)
    along = bend._freedom(size, spacing).along.double().numpy()
    assert len(along) == 3 + 2 * 9  # of i + j = 1, 2, 3 there are 2, 3, 4
    assert np.allclose(along[0], np.reshape([1, 0], (2, 1, 1)))
    assert np.allclose(along[1], np.reshape([0, 1], (2, 1, 1)))
    small = Rigid(1e-4)
    lines = [(np.arange(n) - (n - 1) / 2) * voxel for n, voxel in zip(size, spacing, strict=True)]
    places = np.stack(np.meshgrid(*lines, indexing="ij"), -1)
    moved = np.moveaxis((small(places) - places) / 1e-4, -1, 0)
    assert np.allclose(along[2] * 50, moved, atol=0.01)  # half the longer side is 50
    waves = along[3::2, 0]
    assert np.allclose(along[4::2, 1], waves)
    assert not along[3::2, 1].any()
    assert not along[4::2, 0].any()
    products = np.einsum("ihw,jhw->ij", waves, waves)
    assert np.allclose(products, np.diag(np.diag(products)), atol=1e-3)
    across = np.sum(np.diff(np.sign(waves[:, 0]), axis=1) != 0, axis=1)
    down = np.sum(np.diff(np.sign(waves[:, :, 0]), axis=1) != 0, axis=1)
    assert sorted(zip(down, across, strict=True)) == [(i, j) for i in range(4) for j in range(4) if 0 < i + j < 4]


@pytest.mark.parametrize("to", [Rigid(0.05, (4.0, -3.0)), Rigid(math.pi + 0.01, (4.0, -3.0))])
def test_the_nearest_motion_to_another_one_is_that_one(to):
    size, spacing = (50, 80), (2.0, 0.7)
    seen = Rigid(to.angle_rad - 0.03, (5.0, -1.0))
    lines = [(np.arange(n) - (n - 1) / 2) * voxel for n, voxel in zip(size, spacing, strict=True)]
    places = np.stack(np.meshgrid(*lines, indexing="ij"), -1)
    field = np.moveaxis(to.inverse(places) - seen.inverse(places), -1, 0)
    found = bend._nearest(seen, torch.from_numpy(field).float(), spacing)
    assert (found.angle_rad, *found.shift) == pytest.approx((to.angle_rad, *to.shift), abs=1e-5)


def quadratic(best, free, height):
    """log p that rises to `height` at `best`, curved as a window is; and how often it was asked."""
    asked = []
    curved = 0.3 * free.alike + torch.diag(free.precision)
    top = best * math.sqrt(height / float(best @ curved @ best / 2))

    def value(numbers):
        asked.append(1)
        away = numbers - top
        return height + 50 - (away @ curved @ away) / 2

    return value, asked


@pytest.mark.parametrize("height", [3.3, 40.0])
def test_log_p_is_climbed_to_its_top(height):
    free = bend._freedom((40, 40), SQUARES)
    best = torch.tensor(np.random.default_rng(1).normal(size=len(free.precision)) * 0.05)
    value, _ = quadratic(best, free, height)
    ascent = bend._Ascent.about(value, free, 1.0)
    numbers, gain = ascent.climbed(ascent.start)
    assert height - 2 * bend.ENOUGH < gain <= height
    assert float(value(numbers)) == pytest.approx(50 + gain)


def test_what_a_shift_and_a_turn_would_gain_is_no_bend():
    free = bend._freedom((40, 40), SQUARES)
    rigid = torch.zeros(len(free.precision), dtype=torch.float64)
    rigid[:3] = torch.tensor([0.1, -0.2, 0.1])
    value, asked = quadratic(rigid, free, 15.0)
    ascent = bend._Ascent.about(value, free, 1.0)
    assert len(asked) == 3  # once with its slope, and two shifts that tell how it curves
    assert ascent.expected == pytest.approx(0, abs=1e-6)
    assert ascent.climbed(ascent.start)[1] > 14


@pytest.mark.parametrize(("height", "bent"), [(2.7, False), (3.3, True)])
def test_tissue_is_bent_where_log_p_rises_by_enough(monkeypatch, height, bent):
    free = bend._freedom((40, 40), SQUARES)
    waves = torch.tensor(np.random.default_rng(1).normal(size=len(free.precision)) * 0.05)
    waves[:3] = 0
    climb = bend._Ascent.about(quadratic(waves, free, height)[0], free, 1.0)
    monkeypatch.setattr(bend._Ascent, "of", lambda *_: climb)
    seen = compared(*pair_of(TURN, size=(40, 40)))
    expected = climb.expected
    monkeypatch.setattr(bend._Ascent, "expected", bend.LEAST)  # half of what is gained is told before
    assert (rigid_part(seen, lambda: seen, Rigid()) is not None) == bent
    assert 0 < expected <= height


def test_what_the_wide_scale_finds_counts_if_it_is_clearly_higher(monkeypatch):
    """Of two tops the one that a climb from the stiff answer misses."""
    free = bend._freedom((40, 40), SQUARES)
    near, far = (torch.eye(len(free.precision), dtype=torch.float64)[i] for i in (3, 4))
    climbs = {"near": (near, 10.0), "far": (far, 12.9)}

    class Ascent:
        expected, start = 5.0, 0 * near

        def __init__(self, scale):
            self.scale, self.free = scale, free

        def climbed(self, here):
            return climbs["far" if here is far or self.scale == "wide" else "near"]

    monkeypatch.setattr(bend._Ascent, "of", lambda scale, _: Ascent(scale))
    monkeypatch.setattr(bend, "_nearest", lambda _, field, __: field)
    scale = type("Scale", (str,), {"spacing": SQUARES})
    found = lambda wide: rigid_part(coarse, lambda: wide, Rigid())  # noqa: E731
    coarse = scale("coarse")
    assert torch.equal(found(scale("wide")), free.field(near))
    climbs["far"] = (far, 13.1)
    assert torch.equal(found(scale("wide")), free.field(far))
    assert torch.equal(found(coarse), free.field(near))
