"""The last fraction of a voxel: Adam comes to the top of a hill, stays within bounds, and never ends lower."""

import numpy as np
import pytest
import torch
from made_tissue import pair_of

from volpipe.geometry import Rigid
from volpipe.registration.refine import MOST, refined
from volpipe.registration.scores import SCORES
from volpipe.registration.search import Prior
from volpipe.registration.window import facing

TRUTH = Rigid(0.031, (2.37, -1.81))
WIDE = Prior(Rigid(), 0.2, (20.0, 20.0))


def comparison_of(score="likelihood", spacing=(1.0, 1.0), truth=TRUTH):
    windows = pair_of(
        truth, size=(80, 72), spacing=spacing, drift=0.01, shortest=5.0 * spacing[0], longest=60 * spacing[0]
    )
    return SCORES[score](*facing(*windows, spacing), 0)(1)


@pytest.mark.parametrize(
    ("score", "within"), [("likelihood", 0.15), ("pixel_ncc", 0.25), ("ncc", 0.5), ("mutual-information", 0.25)]
)
@pytest.mark.parametrize("off", [(0.0, 0.0, 0.0), (0.012, 0.6, -0.4), (-0.01, -0.5, 0.7)])
def test_a_start_within_a_voxel_comes_to_the_truth(score, within, off):
    start = Rigid(TRUTH.angle_rad + off[0], (TRUTH.shift[0] + off[1], TRUTH.shift[1] + off[2]))
    found = refined(comparison_of(score), start, WIDE)
    assert found.shift == pytest.approx(TRUTH.shift, abs=within)
    assert found.angle_rad == pytest.approx(TRUTH.angle_rad, abs=within / 36)


def test_in_micrometres_too():
    spacing = (0.5, 0.5)
    found = refined(comparison_of(spacing=spacing, truth=Rigid(0.03, (1.1, -0.8))), Rigid(0.04, (0.9, -0.6)), WIDE)
    assert found.shift == pytest.approx((1.1, -0.8), abs=0.07)


def test_all_starts_come_to_one_place():
    comparison = comparison_of()
    starts = [Rigid(TRUTH.angle_rad + 0.01 * y, (TRUTH.shift[0] + y, TRUTH.shift[1] - y)) for y in (-0.4, 0.1, 0.4)]
    ends = np.array(
        [(80 * end.angle_rad / 2, *end.shift) for end in (refined(comparison, one, WIDE) for one in starts)]
    )
    assert np.ptp(ends, axis=0).max() < 0.07


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_the_unit_of_a_score_changes_nothing(unit):
    plain, scaled = comparison_of(), comparison_of()
    value = scaled.value
    scaled.value = lambda moved: unit * value(moved)
    start = Rigid(TRUTH.angle_rad, (TRUTH.shift[0] + 0.4, TRUTH.shift[1] - 0.3))
    one, other = (refined(each, start, WIDE) for each in (plain, scaled))
    assert other.shift == pytest.approx(one.shift, abs=1e-3)


class Slope:
    """A score that rises for ever with the shift in y, and says nothing of the rest; `value` counts."""

    spacing = (1.0, 1.0)
    moving = torch.stack([torch.arange(40.0)[:, None].expand(40, 40), torch.ones(40, 40)])

    def value(self, moved):
        return -moved[0, 10:30, 10:30].mean()


def test_no_step_leaves_the_prior_or_goes_further_than_some_voxels():
    far = refined(Slope(), Rigid(0.0, (1.0, 0.0)), WIDE)
    assert 1.5 < far.shift[0] <= 1 + MOST
    near = Prior(Rigid(), 0.0, (1.25, 0.0))
    held = refined(Slope(), Rigid(0.0, (1.0, 0.0)), near)
    assert held.shift == pytest.approx((1.25, 0.0), abs=1e-6)
    assert held.shift[0] <= 1.25
    assert held.angle_rad == 0


@pytest.mark.parametrize("seed", range(4))
def test_where_it_ends_is_no_lower_than_where_it_began(seed):
    comparison = comparison_of("mutual-information")
    start = Rigid(*(lambda a, y, x: (a / 50, (y, x)))(*np.random.default_rng(seed).normal(0, 4, 3).tolist()))
    assert value_of(comparison, refined(comparison, start, WIDE)) >= value_of(comparison, start)


def value_of(comparison, motion):
    from volpipe.registration.resample import moved

    at = tuple(torch.tensor(one, dtype=torch.float64).float() for one in (motion.angle_rad, *motion.shift))
    return float(comparison.value(moved(comparison.moving, at, comparison.spacing))) + 1e-6
