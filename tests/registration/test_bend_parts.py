"""What bends are climbed by: along what a window is free, when log p says that it is bent, and how that is climbed."""

import math

import numpy as np
import pytest
import torch
from bent_tissue import SQUARES, TURN, compared
from made_tissue import pair_of

from volpipe.geometry import Rigid
from volpipe.registration import bend
from volpipe.registration.bend import rigid_part
from volpipe.registration.comparison import Surface
from volpipe.registration.freedom import log_likely


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
        promises, start, least = True, 0 * near, 3.0

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
