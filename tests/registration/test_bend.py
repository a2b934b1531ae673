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
from volpipe.registration.comparison import Surface
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
    monkeypatch.setattr(pair, "rigid_part", lambda *_: Rigid(0.02, (1.0, 1.0)))
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
    monkeypatch.setattr(pair, "rigid_part", lambda *given: looked_at.append(1) or real(*given))
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
    monkeypatch.setattr(pair, "rigid_part", lambda *_: next(bends))
    monkeypatch.setattr(pair, "slant_inside", lambda *_: Rigid())
    monkeypatch.setattr(pair._Look, "within", lambda *_: 0.8)
    monkeypatch.setattr(pair._Look, "spread", 4.0)
    found = register_pair(*pair_of(TURN, 1, drift=0.02), gap_layers=1).transform.shift[0]
    assert (3.1 < found < 2.9 + further) == joined


def test_bends_are_looked_for_at_the_coarse_scale_and_a_wide_one(monkeypatch):
    shown = []
    monkeypatch.setattr(pair, "rigid_part", lambda one, wide, _: shown.extend([one.spacing, wide().spacing]))
    register_pair(*pair_of(TURN, size=(256, 256), drift=0.02), gap_layers=0)
    assert shown == [(2.0, 2.0), (8.0, 8.0)]


def test_bent_or_not_what_is_within_a_prior_of_no_width_is_all_of_it(monkeypatch):
    monkeypatch.setattr(pair, "rigid_part", lambda *_: Rigid(0.05, (9.0, 9.0)))
    found = register_pair(*pair_of(TURN, drift=0.02), gap_layers=0, max_shift=0, max_angle_rad=0)
    assert (found.confidence, found.transform, found.as_cut) == (1.0, Rigid(), None)


def test_the_same_answer_is_as_sure_by_a_bend(monkeypatch):
    """Sharp as it is: it was climbed to between the places that are looked at."""
    windows = pair_of(TURN, drift=0.05)
    stiffly = stiff(monkeypatch, *windows, gap_layers=0)
    monkeypatch.setattr(pair, "rigid_part", lambda _, __, seen: seen)
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


def quadratic(best, free, height, first=50.0):
    """log p that rises from `first` by `height` at `best`, curved as a window is; and how often it was asked."""
    asked = []
    curved = 0.3 * free.alike + torch.diag(free.precision)
    top = best * math.sqrt(height / float(best @ curved @ best / 2))

    def value(numbers):
        asked.append(1)
        away = numbers - top
        return height + first - (away @ curved @ away) / 2

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


@pytest.mark.parametrize(("height", "first", "bent"), [
    (2.7, 50.0, False), (3.3, 50.0, True), (5.3, 110.0, False), (5.7, 110.0, True),
])  # fmt: skip
def test_tissue_is_bent_where_log_p_rises_by_enough_and_by_a_share_of_what_it_is(monkeypatch, height, first, bent):
    free = bend._freedom((40, 40), SQUARES)
    waves = torch.tensor(np.random.default_rng(1).normal(size=len(free.precision)) * 0.05)
    waves[:3] = 0
    value, asked = quadratic(waves, free, height, first)
    climb = bend._Ascent.about(value, free, 1.0)
    monkeypatch.setattr(bend._Ascent, "of", lambda *_: climb)
    seen = compared(*pair_of(TURN, size=(40, 40)))
    assert 0 < climb.expected <= height
    assert (rigid_part(seen, lambda: seen, Rigid()) is not None) == (climb.expected > climb.least)
    assert (len(asked) == 3) == (climb.expected <= climb.least)  # none of its steps is made
    monkeypatch.setattr(bend._Ascent, "expected", 9.0)  # a part of what is gained is told before
    assert (rigid_part(seen, lambda: seen, Rigid()) is not None) == bent


def test_the_prior_and_the_score_are_climbed_together(monkeypatch):
    monkeypatch.setattr(bend, "log_likely", lambda *_: lambda images: 0 * images.double().sum() + 7)
    ascent = bend._Ascent.of(compared(*pair_of(TURN)), TURN)
    numbers = torch.linspace(-1, 1, len(ascent.start), dtype=torch.float64)
    falls = 0.5 * float((ascent.free.precision * numbers**2).sum())
    assert float(ascent.value(numbers)) == pytest.approx(7 - falls)
    assert falls > 1
    assert (bend.LIKELY, ascent.voxel) == (0.02, 1.0)


def test_a_value_that_curves_upwards_is_climbed_by_its_slope_a_voxel_at_most():
    free = bend._freedom((40, 40), SQUARES)
    ascent = bend._Ascent.about(lambda n: n[0] + n[0] ** 2 + n[3] - (free.precision * n**2).sum() / 2, free, 1.0)
    assert bool((torch.linalg.eigvalsh(ascent.curved) > 0).all())
    assert ascent.climbed(ascent.start)[1] > 1


def test_how_log_p_curves_is_told_within_half_a_voxel():
    free = bend._freedom((40, 40), (2.0, 2.0))
    ascent = bend._Ascent.about(lambda n: -(n[:2] ** 4).sum() - 0 * n.sum(), free, 2.0)
    assert float(ascent.curved[0, 0]) == pytest.approx(2.0)  # 2 x^4 / x^2 at x = 1, half of 2


def test_no_place_is_asked_twice():
    """Steps are cut to a voxel, and after one that led down to a third of themselves."""
    free, asked = bend._freedom((40, 40), SQUARES), []

    def value(numbers):
        asked.append(tuple(numbers.detach().tolist()))
        return 30 - 40 * (numbers[3] - 0.3).abs() - (free.precision * numbers**2).sum() / 2

    ascent = bend._Ascent.about(value, free, 1.0)
    ascent.climbed(ascent.start)
    assert len(asked) > 10
    assert len(set(asked)) == len(asked) - 1  # the start


@pytest.mark.parametrize("size", [(64, 64), (16, 20)])
def test_log_p_is_a_square_of_the_height_with_its_sign(size):
    class Flat:
        """A score whose level is 5 and whose scatter is 2."""

        spacing, moving = SQUARES, torch.ones(1, *size)

        def surface(self, turned, canvas):
            count = canvas[0] * canvas[1]
            score = 5 + 2 * 2**0.5 * torch.erfinv(2 * (torch.arange(count) + 0.5) / count - 1)
            return Surface(score[torch.randperm(count)].view(canvas), torch.ones(canvas))

        def value(self, moved):
            return moved.sum()

    likely = log_likely(Flat(), Rigid())
    told = [float(likely(torch.tensor([5 + 2.0 * height]))) for height in (-3, 0, 3)]
    assert told == pytest.approx([-9 / 8, 0, 9 / 8], abs=0.1)


def test_what_the_wide_scale_finds_counts_if_it_is_clearly_higher(monkeypatch):
    """Of two tops the one that a climb from the stiff answer misses."""
    free = bend._freedom((40, 40), SQUARES)
    near, far = (torch.eye(len(free.precision), dtype=torch.float64)[i] for i in (3, 4))
    climbs = {"near": (near, 10.0), "far": (far, 12.9)}

    class Ascent:
        expected, start, least = 5.0, 0 * near, 3.0

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
