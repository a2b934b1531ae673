"""Errors counted by hand, intervals and rank statistics against their definitions."""

import math

import numpy as np
import pytest

from volpipe.geometry import Rigid
from volpipe.metrics.registration import (
    ANGLE_WITHIN_RAD,
    SHIFT_WITHIN,
    Errors,
    auroc,
    bootstrap_interval,
    errors_of,
    identity_errors,
    kept,
    summary,
)


def test_errors_are_those_counted_by_hand():
    estimates = [Rigid(0.05, (3, -4)), Rigid(-math.pi + 0.01, (0, 0))]
    truths = [Rigid(0.02, (0, 0)), Rigid(math.pi - 0.01, (-10, 5))]
    found = errors_of(estimates, truths, 100)
    np.testing.assert_allclose(found.shift, [(0.03, 0.04), (0.1, 0.05)])
    np.testing.assert_allclose(found.length, [0.05, math.hypot(0.1, 0.05)])
    np.testing.assert_allclose(found.angle_rad, [0.03, 0.02])


def test_the_identity_errs_by_the_truth():
    truths = [Rigid(0.02, (3, -4)), Rigid(-0.1, (0, 10))]
    found = identity_errors(truths, 50)
    np.testing.assert_allclose(found.length, [0.1, 0.2])
    np.testing.assert_allclose(found.angle_rad, [0.02, 0.1])


@pytest.mark.parametrize(
    ("shift", "angle", "right"),
    [
        ((0.9, 0), 0.9, True),
        ((0.8, 0.8), 0, False),  # each axis within, the length not
        ((0, 1.1), 0, False),
        ((0, 0), 1.1, False),
        ((0, 0), 0, True),
    ],
)
def test_a_success_is_right_in_the_length_of_the_shift_and_in_the_angle(shift, angle, right):
    errors = Errors(np.array([shift]) * SHIFT_WITHIN, np.array([angle * ANGLE_WITHIN_RAD]))
    assert errors.success.tolist() == [right]


def test_a_summary_counts_what_was_given():
    errors = Errors(np.array([[0.01, 0], [0, 0.01], [0.3, 0.4], [0, 0]]), np.array([0.001, 0.002, 0.5, 0.02]))
    found = summary(errors, [0, 1, 2, 3], [0.9, 0.8, 0.1, 0.85])
    assert found["n"] == 4
    assert found["success"] == 0.5
    assert 0 <= found["success_low"] < 0.5 < found["success_high"] <= 1
    assert found["shift_mean"] == pytest.approx(0.52 / 4)
    assert found["shift_median"] == pytest.approx(0.01)
    assert found["y_mean"] == pytest.approx(0.31 / 4)
    assert found["x_mean"] == pytest.approx(0.41 / 4)
    assert found["angle_rad_p95"] == pytest.approx(np.percentile([0.001, 0.002, 0.5, 0.02], 95))
    assert found["auroc"] == 0.75  # of four pairs only (0.8, 0.85) is the wrong way round
    assert found["kept"] == 0.5
    assert summary(errors, [0, 1, 2, 3])["auroc"] is None


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    random = np.random.default_rng(0)
    success = random.random(60) < 0.6
    sure = np.round(random.random(60) + 0.3 * success, 1)  # with ties
    pairs = [(a > b) + 0.5 * (a == b) for a in sure[success] for b in sure[~success]]
    assert auroc(sure, success) == pytest.approx(np.mean(pairs))
    assert auroc(-sure, success) == pytest.approx(1 - np.mean(pairs))


@pytest.mark.parametrize("of", [auroc, kept])
def test_where_all_succeed_or_all_fail_nothing_is_told_apart(of):
    assert of([0.1, 0.9], [True, True]) is None
    assert of([0.1, 0.9], [False, False]) is None


def test_at_most_the_given_share_of_failures_passes():
    random = np.random.default_rng(1)
    success = np.arange(600) < 400
    sure = random.normal(size=600) + 1.5 * success
    for share in (0, 0.01, 0.05, 0.3):
        found = kept(sure, success, share)
        admissible = [t for t in np.append(sure, -np.inf) if (sure[~success] > t).mean() <= share]
        assert found == pytest.approx(max((sure[success] > t).mean() for t in admissible))
    assert kept([0.9, 0.5], [True, False]) == 1
    assert kept([0.5, 0.5], [True, False]) == 0


def test_an_interval_of_independent_blocks_covers_as_often_as_it_says():
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        blocks = np.repeat(np.arange(30), 5)
        values = np.repeat(random.random(30) < 0.7, 5)  # five trials of a block succeed or fail together
        low, high = bootstrap_interval(values, blocks)
        covered += low <= 0.7 <= high
    assert 0.88 <= covered / 200 <= 0.98


def test_where_all_succeed_the_interval_is_the_exact_one():
    low, high = bootstrap_interval([1.0] * 10, range(10))
    assert high == 1
    assert low**10 == pytest.approx(0.025)  # so many successes in a row are just this likely
    assert bootstrap_interval([0.0] * 10, range(10)) == pytest.approx((0, 1 - low))


def test_trials_that_go_together_make_the_interval_wider():
    values = np.repeat(np.arange(20) % 2, 10)
    narrow = np.subtract(*bootstrap_interval(values, np.arange(200)))
    wide = np.subtract(*bootstrap_interval(values, np.repeat(np.arange(20), 10)))
    assert abs(wide) > 2.5 * abs(narrow)


def test_an_interval_does_not_depend_on_how_blocks_are_named():
    values, blocks = np.arange(12) % 3 == 0, np.arange(12) // 2
    assert bootstrap_interval(values, blocks) == bootstrap_interval(values, 7 * blocks + 100)
