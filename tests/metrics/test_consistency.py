"""Spread and its rank correlation with the error, against numbers worked out by hand and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from volpipe.metrics.consistency import consistency, error_of, spearman, spearman_interval, spread_of


def test_the_spread_is_the_root_of_the_variance_of_y_and_x_together():
    answers = [[(0, 0), (1, 2), (0, 3)], [(2, 0), (1, 2), (0, 0)], [(4, 0), (1, 2), (3, 0)]]
    # y of the first cell 0, 2, 4: variance 4. Of the third y 0, 0, 3 and x 3, 0, 0: 3 each
    np.testing.assert_allclose(spread_of(answers), [2, 0, math.sqrt(6)])


def test_the_error_is_how_far_an_answer_is_from_the_truth():
    np.testing.assert_allclose(error_of([(3.0, 0.0), (1.0, 1.0)], [(0.0, 4.0), (1.0, 1.0)]), [5, 0])


def test_spearman_by_hand():
    assert spearman([1, 2, 3, 4], [10, 20, 30, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)  # 1 - 6 * (0 + 1 + 1) / (3 * 8)
    assert spearman([1, 1, 2], [5, 6, 7]) == pytest.approx(math.sqrt(3) / 2)  # ranks 1.5, 1.5, 3


def test_spearman_is_scipys_and_knows_where_there_is_none():
    random = np.random.default_rng(0)
    x = random.integers(0, 20, 200).astype(float)
    y = x + random.normal(0, 10, 200)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert spearman(x, np.full(200, 3.0)) is None


def test_an_interval_of_blocks_is_wider_than_one_of_cells_that_repeat_each_other():
    random = np.random.default_rng(1)
    x, noise = random.normal(size=30), random.normal(size=30)
    spread, error = np.repeat(x, 20), np.repeat(x + noise, 20)
    low, high = spearman_interval(spread, error, np.repeat(np.arange(30), 20))
    narrow = spearman_interval(spread, error, np.arange(600))
    assert low < spearman(spread, error) < high
    assert high - low > 2 * (narrow[1] - narrow[0])
    assert spearman_interval(spread, error, np.zeros(600, int)) is None


def test_a_block_is_drawn_with_all_of_its_cells():
    spread, error = [1, 2, 3, 1, 2, 3], [1, 2, 3, 3, 2, 1]  # +1 in one block, -1 in the other, 0 over both
    assert spearman(spread, error) == pytest.approx(0)
    assert spearman_interval(spread, error, [0, 0, 0, 7, 7, 7]) == pytest.approx((-1, 1))


def test_what_is_known_within_pairs_and_between_them_is_told_apart():
    base = np.array([1.0, 2.0, 3.0])
    errors = [base, base + 10, base + 20]
    between = consistency([base[::-1], base[::-1] + 10, base[::-1] + 20], errors, [0, 1, 2])
    assert (between["within"], between["between"]) == (pytest.approx(-1), pytest.approx(1))
    within = consistency([base + 20, base + 10, base], errors, [0, 1, 2])
    assert (within["within"], within["between"]) == (pytest.approx(1), pytest.approx(-1))
    assert within["spearman"] < 0 < between["spearman"]
    assert (within["trials"], within["n"], within["error_median"], within["spread_median"]) == (3, 9, 12, 12)


def test_one_pair_has_no_interval_and_equal_spreads_no_correlation():
    row = consistency([np.zeros(3)], [np.arange(3.0)], [4])
    assert [row[name] for name in ("spearman", "spearman_low", "within", "between")] == [None] * 4
