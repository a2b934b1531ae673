"""A landscape and what is read from it: heights in units of the scatter, places with mean, spread and mass."""

import math

import numpy as np
import pytest
import torch

from volpipe.geometry import Rigid
from volpipe.registration.comparison import Surface
from volpipe.registration.search import Landscape, Prior, landscape, modes

TEMPER = 4.0
ROWS, COLUMNS = torch.arange(-10.0, 11.0), torch.arange(-12.0, 13.0)
ANGLES = torch.arange(-4, 5, dtype=torch.float64) * 0.01


class Noise:
    """Two windows that have nothing in common: a score of noise about any level, in any unit."""

    spacing = (1.0, 2.0)

    def __init__(self, level=0.0, scatter=1.0, overlap=1.0, size=(48, 60)):
        self.level, self.scatter, self.overlap = level, scatter, overlap
        self.moving = torch.ones(1, *size)
        self.random = torch.Generator().manual_seed(1)

    def surface(self, turned, canvas):
        score = self.level + self.scatter * torch.randn(canvas, generator=self.random)
        return Surface(score, torch.full(canvas, self.overlap))


def of_posterior(share):
    """A landscape with this posterior: the heights that would say it."""
    height = torch.as_tensor(share).clamp_min(1e-30).log()
    top = 8.0
    scaled = (height - height.max()) * TEMPER / top + top  # log p = peak height / TEMPER + constant
    return Landscape(ANGLES, ROWS, COLUMNS, scaled, TEMPER)


def bump(angle, row, column, spread=(0.008, 1.0)):
    turn = torch.exp(-((ANGLES - angle) ** 2) / (2 * spread[0] ** 2))
    down, across = (torch.exp(-((a - c) ** 2) / (2 * spread[1] ** 2)) for a, c in ((ROWS, row), (COLUMNS, column)))
    made = turn[:, None, None] * down[None, :, None] * across[None, None, :]
    return made / made.sum()


@pytest.mark.parametrize(("level", "scatter"), [(0.0, 1.0), (-40.0, 1e-3), (0.0, 1e-9), (1e6, 300.0)])
def test_noise_has_scatter_1_about_0(level, scatter):
    found = landscape(Noise(level, scatter), Prior(Rigid(), 0.1, (10.0, 20.0)), TEMPER)
    assert float(found.height.std()) == pytest.approx(1, abs=0.05)
    assert float(found.height.median()) == pytest.approx(0, abs=0.05)


def test_a_peak_does_not_move_the_scatter():
    comparison = Noise()
    plain = comparison.surface

    def peaked(turned, canvas):
        found = plain(turned, canvas)
        found.score[:6, :6] = 1000.0
        return found

    comparison.surface = peaked
    found = landscape(comparison, Prior(Rigid(), 0.1, (10.0, 20.0)), TEMPER)
    assert found.peak == pytest.approx(1000, rel=0.05)


def test_a_landscape_covers_the_prior_and_no_more_than_a_little_beyond():
    prior = Prior(Rigid(0.3, (100.0, -50.0)), 0.1, (7.0, 9.0))
    found = landscape(Noise(), prior, TEMPER)
    for axis, (low, high), step in zip(
        (found.angles, found.rows, found.columns), prior.bounds, (1 / 60, 1.0, 2.0), strict=True
    ):
        assert low - 2.001 * step <= float(axis[0]) <= low + 1e-6
        assert high - 1e-6 <= float(axis[-1]) <= high + 2.001 * step
        assert float(axis.diff().max()) <= step + 1e-6
    assert float(found.rows[0]) <= prior.bounds[1][0] - 1
    assert float(found.columns[-1]) >= prior.bounds[2][1] + 2


def test_where_the_windows_do_not_overlap_all_is_alike():
    found = landscape(Noise(overlap=0.1), Prior(Rigid(), 0.1, (10.0, 20.0)), TEMPER)
    share = found.posterior()
    assert float(share.sum()) == pytest.approx(1)
    assert float(share.max()) == pytest.approx(float(share.min()))


def test_a_score_that_says_nothing_gives_the_middle_of_the_prior():
    found = landscape(Noise(scatter=0.0), Prior(Rigid(0.02, (3.0, 4.0)), 0.05, (10.0, 20.0)), TEMPER)
    for reach in ((1.0, 100.0), (0.01, 1.0)):
        (place,) = modes(found, 1, *reach)
        assert place.motion.angle_rad == pytest.approx(0.02, abs=1e-6)
        assert place.motion.shift == pytest.approx((3.0, 4.0), abs=1e-5)


@pytest.mark.parametrize("level", [0.0, -3.0])
def test_where_all_that_is_searched_is_no_better_than_noise_all_of_it_is_as_likely(level):
    """What the windows do not see there stays out."""
    height = torch.full((len(ANGLES), len(ROWS), len(COLUMNS)), level)
    height[:, :, :5] = -math.inf
    height[2, 3, 7] -= 1.0
    share = Landscape(ANGLES, ROWS, COLUMNS, height, TEMPER).posterior()
    assert not share[:, :, :5].any()
    seen = share[:, :, 5:]
    assert float(seen.sum()) == pytest.approx(1)
    assert float(seen.min()) == pytest.approx(float(seen.max()), rel=1e-3)
    assert int(share.argmin()) == 0
    assert float(share[2, 3, 7]) < float(seen.max())


def test_two_bumps_are_two_places_with_mean_spread_and_mass():
    first, second = (-0.01, -4.0, 5.0), (0.0, 6.0, -6.0)
    found = of_posterior(0.7 * bump(*first) + 0.3 * bump(*second))
    torch.testing.assert_close(found.posterior(), 0.7 * bump(*first) + 0.3 * bump(*second), atol=1e-6, rtol=1e-3)
    one, other, *rest = modes(found, 3, 0.02, 2.5)
    for place, (angle, *shift), mass in ((one, first, 0.7), (other, second, 0.3)):
        assert place.motion.angle_rad == pytest.approx(angle, abs=1e-3)
        assert place.motion.shift == pytest.approx(tuple(shift), abs=0.05)
        assert place.mass == pytest.approx(mass, abs=0.02)
        assert place.spread == (pytest.approx(0.008, rel=0.1), pytest.approx(math.sqrt(2), rel=0.1))
    assert one.mass + other.mass + sum(place.mass for place in rest) == pytest.approx(1, abs=0.02)


def test_a_place_is_the_mean_over_it_and_not_its_peak():
    share = torch.zeros(len(ANGLES), len(ROWS), len(COLUMNS), dtype=torch.float64)
    share[4, 10, 12], share[4, 10, 14] = 0.6, 0.4  # at columns 0 and 2
    (place,) = modes(of_posterior(share), 1, 0.01, 2.0)
    assert place.motion.shift == pytest.approx((0.0, 0.8), abs=1e-3)
    assert place.spread[1] == pytest.approx(2 * math.sqrt(0.24), abs=1e-2)


def test_a_broad_place_outweighs_a_higher_peak():
    share = 0.6 * bump(0.0, 5.0, 5.0, (0.008, 2.0)) + 0.4 * bump(0.0, -5.0, -5.0, (0.002, 0.4))
    assert int(share.argmax()) == int((0.4 * bump(0.0, -5.0, -5.0, (0.002, 0.4))).argmax())
    assert modes(of_posterior(share), 1, 0.02, 4.0)[0].motion.shift == pytest.approx((5.0, 5.0), abs=0.3)


def test_a_cell_counts_by_how_much_of_it_is_near():
    near = of_posterior(bump(0, 0, 0)).near(Rigid(), 0.015, 2.25)
    assert near[4, 10, 10:15].tolist() == pytest.approx([0.75, 1, 1, 1, 0.75])
    assert near[2:7, 10, 12].tolist() == pytest.approx([0.0, 1, 1, 1, 0.0], abs=1e-6)


def test_a_single_angle_is_all_there_is():
    share = bump(0.0, 2.0, 1.0)[4:5]
    found = of_posterior(share / share.sum())
    alone = Landscape(torch.tensor([0.3]), ROWS, COLUMNS, found.height, TEMPER)
    places = modes(alone, 3, 0.01, 4.0)
    assert places[0].mass == pytest.approx(1, abs=0.01)
    assert places[0].motion.angle_rad == pytest.approx(0.3)


PRIOR = Prior(Rigid(0.1, (5.0, -5.0)), 0.05, (2.0, 3.0))


def test_a_motion_of_a_prior_stays_and_another_comes_to_its_edge():
    assert PRIOR.clamped(Rigid(0.12, (4.0, -7.0))) == Rigid(0.12, (4.0, -7.0))
    assert PRIOR.clamped(Rigid(-1.0, (9.0, -9.0))) == Rigid(PRIOR.bounds[0][0], (7.0, -8.0))


def test_what_lies_near_a_motion_of_a_prior_lies_in_both():
    part = PRIOR.near(Rigid(0.14, (5.0, -7.5)), 0.03, 1.0)
    assert np.array(part.bounds) == pytest.approx(np.array([(0.11, 0.15), (4.0, 6.0), (-8.0, -6.5)]))
    assert PRIOR.times(2).bounds[1] == (1.0, 9.0)


def test_with_twice_the_temper_a_peak_says_half_as_much():
    height = torch.rand(len(ANGLES), len(ROWS), len(COLUMNS), generator=torch.Generator().manual_seed(0)) * 6
    one, two = (Landscape(ANGLES, ROWS, COLUMNS, height, temper) for temper in (3.0, 6.0))
    torch.testing.assert_close(two.log_likely(5.0), one.log_likely(5.0) / 2)
    assert landscape(Noise(), Prior(Rigid(), 0.02, (3.0, 3.0)), 7.0).temper == 7.0
