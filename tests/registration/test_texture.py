"""Texture: how lively tissue is, whatever its structures and their contrast; and what it tells where they are gone."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from volpipe import register_pair
from volpipe.registration import likelihood
from volpipe.registration.ranks import normal_scores
from volpipe.registration.texture import texture
from volpipe.registration.window import facing


def noise(shape, seed, blur=0.0):
    made = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), (0, blur, blur))
    return made / made.std()


def lively(shape, seed, where):
    """Layers (z, y, x) of structures of their own, as strong as a map (y, x) says."""
    return noise(shape, seed, 0.8) * np.exp(where)


def texture_of(layers):
    window, _ = facing(layers, layers, (1.0, 1.0))  # the upper one is turned: the last layer comes first
    return texture(window, normal_scores(window)).numpy()[::-1]


def alike(one, other):
    return np.corrcoef(one.ravel(), other.ravel())[0, 1]


@pytest.mark.parametrize("size", [(96, 128), (97, 131), (16, 16)])
def test_it_is_as_large_as_the_layers_and_of_deviation_1(size):
    found = texture_of(noise((2, *size), 0))
    assert found.shape == (2, *size)
    assert np.abs(found.mean((1, 2))).max() < 0.1
    assert found.std((1, 2)) == pytest.approx(1, abs=0.25)


def test_it_is_where_structures_are_strong_and_not_what_they_are():
    where = 0.7 * noise((1, 160, 160), 1, blur=12)[0]
    one, other = texture_of(lively((2, 160, 160), 2, where))
    assert alike(one, other) > 0.7
    assert alike(one, where) > 0.8
    still = texture_of(lively((2, 160, 160), 2, np.zeros((160, 160))))
    assert abs(alike(*still)) < 0.3  # by chance


@pytest.mark.parametrize("change", [lambda v: -v, lambda v: 3 * v + 100, np.tanh, lambda v: v**3])
def test_contrast_does_not_change_it(change):
    layers = lively((1, 128, 128), 3, 0.7 * noise((1, 128, 128), 4, blur=10)[0])
    assert alike(texture_of(change(layers)), texture_of(layers)) > 0.999


def test_what_is_not_known_is_0_and_changes_nothing_beside():
    layers = lively((1, 128, 128), 5, 0.7 * noise((1, 128, 128), 6, blur=10)[0])
    holed = layers.copy()
    holed[:, :, :40] = np.nan
    found = texture_of(holed)
    assert not found[:, :, :40].any()
    assert alike(found[:, :, 60:], texture_of(layers)[:, :, 60:]) > 0.98


def test_the_edge_of_what_is_known_is_no_structure():
    """Scores that are high wherever they are known: beside a hole they fall to 0. Here in one layer of two."""
    layers = noise((2, 128, 128), 10, 0.8)
    layers[0, 60:, 60:] = np.nan
    window, _ = facing(layers, layers, (1.0, 1.0))
    found = texture(window, (normal_scores(window) + 5) * window.known)[1].numpy()
    assert abs(found[70:, 50:60].mean() - found[70:, :40].mean()) < 0.5


def test_where_no_structure_is_left_it_tells_the_motion(monkeypatch):
    """No layer has anything of another but how lively it is; the lower slab lies (6, -5) from the upper one."""
    where = noise((1, 288, 288), 7, blur=9)[0]
    upper = lively((6, 288, 288), 8, where)[:, 16:272, 16:272]
    lower = lively((6, 288, 288), 9, where)[:, 22:278, 11:267]
    found = register_pair(upper, lower, gap_layers=4).transform
    assert np.hypot(found.shift[0] - 6, found.shift[1] + 5) < 3
    monkeypatch.setattr(likelihood, "texture", lambda window, scores: torch.zeros_like(scores))
    blind = register_pair(upper, lower, gap_layers=4).transform
    assert np.hypot(blind.shift[0] - 6, blind.shift[1] + 5) > 4
