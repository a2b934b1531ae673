"""register_pair with scores of one's own: what it asks of them, and what it makes of scales that see other things."""

import numpy as np
import pytest
import torch
from made_tissue import pair_of

from volpipe import register_pair
from volpipe.geometry import Rigid
from volpipe.registration import pair
from volpipe.registration.comparison import Surface, centred
from volpipe.registration.search import landscape


class Overlaid:
    """A score in ten lines: products of two facing layers."""

    def __init__(self, upper, lower):
        self.fixed, self.moving, self.spacing = upper.layers[:1], lower.layers[:1], lower.spacing

    def surface(self, turned, canvas):
        products = torch.fft.rfft2(self.fixed[0], s=canvas) * torch.fft.rfft2(turned[0], s=canvas).conj()
        return Surface(torch.fft.irfft2(products, s=canvas), torch.ones(canvas))

    def value(self, moved):
        return (centred(self.fixed, moved.shape[1:]) * moved).sum()


def test_a_score_of_ones_own_stands_beside_the_others():
    gaps = []

    def overlaid(upper, lower, gap):
        gaps.append(gap)
        return lambda factor: Overlaid(upper.pooled(factor), lower.pooled(factor))

    found = register_pair(*pair_of(Rigid(0.06, (5.3, -3.8)), 2, drift=0.02), gap_layers=2, score=overlaid)
    assert found.transform.shift == pytest.approx((5.3, -3.8), abs=0.7)
    assert gaps == [2, 2]  # as cut, and in the middle


def test_a_score_may_be_learned():
    """Its features carry gradients to parameters, which are not asked for."""
    features = torch.nn.Conv2d(1, 1, 3, padding=1)
    with torch.no_grad():
        features.weight.copy_(torch.tensor([[[[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]]]))

    class Learned(Overlaid):
        def __init__(self, upper, lower):
            super().__init__(upper, lower)
            self.fixed, self.moving = features(self.fixed[None])[0], features(self.moving[None])[0]

    def learned(upper, lower, gap):
        return lambda factor: Learned(upper.pooled(factor), lower.pooled(factor))

    found = register_pair(*pair_of(Rigid(0.06, (5.3, -3.8)), 2, drift=0.02), gap_layers=2, score=learned)
    assert found.transform.shift == pytest.approx((5.3, -3.8), abs=0.7)


def dots(size, places):
    """(1, size, size): round dots at places from the centre, each as high as is said."""
    image, at = torch.zeros(size, size), torch.arange(size) - (size - 1) / 2
    for (row, column), height in places.items():
        image += height * torch.exp(-((at[:, None] - row) ** 2 + (at - column) ** 2) / 2)
    return image[None]


class Dots(Overlaid):
    """A score of noise, with places where it is as high as is said."""

    def __init__(self, size, places, spacing):
        noise, high = 0.1 * torch.randn(size, size, generator=torch.Generator().manual_seed(0)), dots(size, places)
        self.fixed, self.moving = torch.where(high > 1e-6, high, noise), dots(size, {(0, 0): 1.0})
        self.spacing = (spacing, spacing)


def told(coarse, fine, **options):
    """What is found of windows of 256 of which the two scales see this; the coarse one has voxels twice as wide."""
    scales = {2: Dots(128, coarse, 2.0), 1: Dots(256, fine, 1.0)}
    windows = np.random.default_rng(0).normal(size=(2, 2, 256, 256))
    return register_pair(
        *windows, gap_layers=0, score=lambda *_: scales.get, max_angle_rad=0, **options
    ).transform.shift


def test_of_places_that_the_coarse_scale_cannot_tell_apart_the_fine_one_decides():
    found = told({(5, 5): 1.01, (-6, -4): 1.0}, {(-12, -8): 1.0})
    assert found == pytest.approx((-12.0, -8.0), abs=0.2)


def test_the_fine_scale_looks_further_around_a_place_than_a_success_is_wide():
    assert told({(5, 5): 1.0}, {(16, 4): 1.0}) == pytest.approx((16.0, 4.0), abs=0.2)


def test_of_two_places_near_each_other_that_are_as_likely_the_answer_is_the_middle():
    assert told({(5, 5): 1.0}, {(10, 8): 1.0, (10, 12): 1.0}) == pytest.approx((10.0, 10.0), abs=0.5)


@pytest.mark.parametrize(("size", "asked"), [(96, {1}), (256, {2, 1}), (400, {3, 2}), (520, {4, 2})])
def test_the_scales_are_about_128_and_256_voxels_across(size, asked):
    factors = set()

    def spying(factor):
        factors.add(factor)
        return Dots(size // factor, {(0, 0): 1.0}, float(factor))

    windows = np.random.default_rng(0).normal(size=(2, 1, size, size))
    register_pair(*windows, gap_layers=0, score=lambda *_: spying, max_angle_rad=0, max_shift=0.02)
    assert factors == asked


def test_from_closer_a_peak_says_less(monkeypatch):
    tempers = []
    monkeypatch.setattr(pair, "landscape", lambda *given: tempers.append(given[-1]) or landscape(*given))
    told({(5, 5): 1.0}, {(5, 5): 1.0}, carry=False)
    assert tempers == [4.0, 8.0]


def test_along_long_voxels_a_place_is_as_sharp_as_along_short_ones():
    """What lies between two voxels of the coarse scale is looked at by the fine one, however long voxels are."""
    factors = set()

    def spying(factor):
        factors.add(factor)
        scale = Dots(256 // factor, {(0, 0.5): 1.0}, float(factor))
        scale.spacing = (float(factor), 3.0 * factor)
        return scale

    windows = np.random.default_rng(0).normal(size=(2, 2, 256, 256))
    options = {"max_angle_rad": 0, "voxel_size_um": (1.0, 3.0), "carry": False}
    register_pair(*windows, gap_layers=0, score=lambda *_: spying, **options)
    assert factors == {2, 1}


@pytest.mark.parametrize(("wide", "height", "asked"), [(0, 1.0, {2, 1}), (6, 0.04, {2})])
def test_where_a_place_is_wide_the_fine_scale_is_not_asked(wide, height, asked):
    """A place as wide as this many voxels of the coarse scale to both sides; the fine one would say another."""
    around = {(row, column): height for row in range(-wide, wide + 1) for column in range(-wide, wide + 1)}
    scales, factors = {2: Dots(128, around, 2.0), 1: Dots(256, {(9, 9): 1.0}, 1.0)}, set()

    def spying(factor):
        factors.add(factor)
        return scales[factor]

    windows = np.random.default_rng(0).normal(size=(2, 2, 256, 256))
    found = register_pair(*windows, gap_layers=0, score=lambda *_: spying, max_angle_rad=0, carry=False).transform.shift
    assert factors == asked
    assert found == pytest.approx((9.0, 9.0) if 1 in asked else (0.0, 0.0), abs=0.5)
