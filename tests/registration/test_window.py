"""Windows that face each other: layers count from the gap, joined voxels keep the centre, blank layers are none."""

import numpy as np
import pytest
import torch

from volpipe.registration.window import facing, faded, pooled, taper

RANDOM = np.random.default_rng(3)
SIZES = [(96, 130), (255, 301), (33, 48), (64, 17)]


def ramps(size):
    """(2, h, w): y and x of each voxel, from the centre."""
    y, x = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in size)
    return torch.stack([y[:, None].expand(size), x[None, :].expand(size)])


def window_of(layers):
    return facing(layers, layers, (1.0, 1.0))[1]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5])
def test_joined_voxels_lie_about_the_same_centre(size, factor):
    joined = pooled(ramps(size), factor)
    torch.testing.assert_close(joined, factor * ramps(joined.shape[1:]))
    assert all(0 <= n - factor * m < factor for n, m in zip(size, joined.shape[1:], strict=True))


def test_layers_are_numbered_from_the_gap_outward():
    layers = RANDOM.normal(size=(4, 20, 24))
    upper, lower = facing(layers, layers, (1.0, 1.0))
    torch.testing.assert_close(upper.layers, lower.layers.flip(0))
    assert upper.layers[0].numpy() == pytest.approx((layers[3] - layers[3].mean()) / layers[3].std(), abs=1e-6)


def test_blank_layers_are_left_out_and_the_others_keep_their_depth():
    layers = RANDOM.normal(size=(6, 20, 24))
    layers[0], layers[2], layers[5] = np.nan, 7.0, np.inf
    upper, lower = facing(layers, layers, (1.0, 1.0))
    assert lower.depth.tolist() == [1, 3, 4]
    assert upper.depth.tolist() == [1, 2, 4]
    assert (len(upper.layers), len(upper.known), upper.given) == (3, 3, 6)
    torch.testing.assert_close(lower.layers, window_of(layers[[1, 3, 4]]).layers)


def test_a_layer_that_is_hardly_known_is_none():
    layers = RANDOM.normal(size=(2, 20, 20))
    layers[1, 1:] = np.nan  # a twentieth is left
    assert window_of(layers).depth.tolist() == [0]


@pytest.mark.parametrize(
    "change", [lambda v: 1e-6 * v, lambda v: 1e25 * v, lambda v: 3 * v + 1e6, lambda v: 1e-300 * v]
)
def test_each_layer_has_mean_0_and_deviation_1_whatever_its_unit(change):
    layers = RANDOM.normal(size=(3, 20, 24))
    layers[1, :, :5] = np.nan
    plain, changed = window_of(layers), window_of(change(layers))
    torch.testing.assert_close(changed.layers, plain.layers, atol=1e-6, rtol=1e-6)
    inside = changed.layers[1][changed.known[1] > 0].numpy()
    assert (len(inside), inside.mean(), inside.std()) == (20 * 19, pytest.approx(0, abs=1e-6), pytest.approx(1))


def test_a_part_of_16_bits_far_from_zero_is_kept():
    layers = 60000 + RANDOM.integers(0, 3, (2, 20, 24))
    plain = window_of(layers - 60000).layers
    torch.testing.assert_close(window_of(layers.astype(np.uint16)).layers, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("value", [0.1, 1e25, -3.7e-9])
def test_rounding_of_a_constant_is_no_structure(value):
    layers = RANDOM.normal(size=(2, 37, 41))
    layers[0] = value
    assert window_of(layers).depth.tolist() == [1]


@pytest.mark.parametrize(("lost", "known"), [([], 1), ([0], 1), ([1, 2], 1), ([0, 1, 3], 0)])
def test_joined_voxels_are_means_of_what_is_known_and_not_known_where_a_quarter_is_all(lost, known):
    """Two by two alike; of each four some are lost, by their number."""
    layers = np.tile(np.kron(RANDOM.normal(size=(10, 12)), np.ones((2, 2))), (1, 1, 1))
    spoiled = layers.copy()
    for place in lost:
        spoiled[:, place // 2 :: 2, place % 2 :: 2] = np.nan
    whole, part = window_of(layers).pooled(2), window_of(spoiled).pooled(2)
    torch.testing.assert_close(part.layers, known * whole.layers, atol=1e-5, rtol=1e-5)
    assert bool((part.known == known).all())
    assert (whole.spacing, whole.factor, whole.size) == ((2.0, 2.0), 2, (10, 12))


def test_a_pattern_that_is_gone_when_voxels_are_joined_leaves_no_rounding():
    fours = RANDOM.permuted(np.tile(RANDOM.normal(size=(8, 1, 1, 4)), (1, 37, 41, 1)), axis=3)  # alike, in any order
    layers = fours.reshape(8, 37, 41, 2, 2).swapaxes(2, 3).reshape(8, 74, 82)
    assert not window_of(layers).pooled(2).layers.any()


def test_a_window_is_faded_at_its_sides_alone():
    fade = taper((96, 200))
    torch.testing.assert_close(fade, fade.flip(0, 1))
    assert bool((fade[16:80, 16:184] == 1).all())
    assert float(fade[0].max()) < 0.01
    assert float(fade[:, 0].max()) < 0.01
    assert bool((fade[:17, 100].diff() >= 0).all())


def test_joined_voxels_fade_over_the_same_length():
    fine, coarse = taper((96, 96)), taper((48, 48), 2)
    torch.testing.assert_close(pooled(fine[None], 2)[0], coarse, atol=0.02, rtol=0)


def test_what_is_known_is_faded_towards_what_is_not_each_layer_by_itself():
    known = torch.ones(2, 120, 100)
    known[0, :, 60:] = 0
    inner = faded(known)
    assert torch.equal(inner[1], known[1])
    assert not inner[0, :, 60:].any()
    from_edge = torch.arange(60).flip(0) + 1.0
    expected = 0.5 - 0.5 * torch.cos(torch.pi * (from_edge / 16).clamp(max=1))
    assert torch.allclose(inner[0, 30, :60], expected, atol=1e-6)


def test_small_windows_are_faded_over_a_sixth():
    known = torch.ones(1, 60, 48)
    known[:, 40:] = 0
    column = faded(known)[0, :, 24]
    assert column[:32].eq(1).all()
    assert 0 < column[39] < column[33] < 1


def test_beside_spots_and_cracks_nothing_is_faded():
    known = torch.ones(1, 100, 100)
    known[0, ::10, ::10] = 0
    known[0, :, 50:56] = 0
    assert torch.equal(faded(known), known)
    assert faded(torch.ones(1, 20, 20)).all()
