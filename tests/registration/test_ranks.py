"""Normal scores: what a layer's ranks are as quantiles of a Gaussian."""

import numpy as np
import pytest
import torch
from scipy import stats

from volpipe.registration.ranks import normal_scores
from volpipe.registration.window import Window


def scores(layer, known=None):
    layer = torch.as_tensor(layer, dtype=torch.float32)[None]
    known = torch.ones_like(layer) if known is None else torch.as_tensor(known, dtype=torch.float32)[None]
    return normal_scores(Window(layer, known, torch.tensor([0]), (1.0, 1.0), 1))[0].numpy()


def test_by_hand():
    """1 is above none of four, and half itself: 1/8. The two 2 are above one, and half of two: 1/2. 3: 7/8."""
    assert scores([[3, 1], [2, 2]]) == pytest.approx(stats.norm.ppf([[7 / 8, 1 / 8], [1 / 2, 1 / 2]]), abs=1e-6)


@pytest.mark.parametrize("levels", [3, 50, 10**6])
def test_ranks_are_those_of_scipy(levels):
    layer = np.random.default_rng(0).integers(0, levels, (40, 50))
    rank = (stats.rankdata(layer) - 0.5) / layer.size
    assert scores(layer).ravel() == pytest.approx(stats.norm.ppf(rank), abs=1e-4)


def test_no_rising_change_of_contrast_changes_them():
    layer = np.random.default_rng(1).normal(size=(30, 31)).astype(np.float32)
    for change in (np.exp, np.cbrt, lambda v: v**3, lambda v: np.arctan(9 * v), lambda v: 1e-9 * v + 1e-7):
        np.testing.assert_array_equal(scores(change(layer.astype(np.float64)).astype(np.float32)), scores(layer))


def test_what_is_not_known_has_no_rank_and_takes_none():
    layer = np.random.default_rng(2).normal(size=(20, 20))
    known = np.ones_like(layer)
    known[:, :7] = 0
    spoiled = np.where(known > 0, layer, 1e9 * layer)
    np.testing.assert_array_equal(scores(spoiled, known)[:, 7:], scores(layer[:, 7:]))
    assert not scores(spoiled, known)[:, :7].any()


def test_a_layer_that_is_constant_or_not_known_has_none():
    assert not scores(np.full((5, 5), 3)).any()
    assert not scores(np.eye(5), np.zeros((5, 5))).any()
