"""How tissue changes with depth: the model is found again, and what it says of a gap."""

import numpy as np
import pytest
import torch

from volpipe.registration.coherence import ORDERS, RINGS, SUREST, Coherence, _fitted, coherence, rings, weights

SIZE = (128, 128)
FREQUENCY = (torch.arange(RINGS, dtype=torch.float64) + 0.5) / RINGS

MANY = slice(4, None)  # rings of some 70 frequencies and more


def model_of(share=0.9, rate=1.0, corner=0.05, order=2):
    ones = torch.ones(RINGS, dtype=torch.float64)
    return Coherence(ones, share * ones, rate * torch.hypot(torch.tensor(corner), FREQUENCY), order)


def layers_of(model, depth, seed):
    """Spectra (k, h, w // 2 + 1) of layers at depths, as the model says: each ring by the root of its covariance."""
    random = np.random.default_rng(seed)
    ring = rings(SIZE, (1.0, 1.0))
    root = torch.linalg.cholesky(model.at(depth[:, None] - depth[None, :]).permute(2, 0, 1))
    root = torch.cat([root, torch.zeros_like(root[:1])])
    noise = torch.from_numpy(random.normal(size=(*ring.shape, len(depth), 2)) @ (1, 1j)) / 2**0.5
    return torch.einsum("hwij,hwj->ihw", root[ring].to(noise.dtype), noise), ring


def fitted(model, *depths):
    made = [layers_of(model, depth, seed) for seed, depth in enumerate(depths)]
    return coherence([spectra for spectra, _ in made], depths, made[0][1])


@pytest.mark.parametrize("order", range(len(ORDERS)))
@pytest.mark.parametrize(("rate", "corner"), [(0.3, 0.2), (1.5, 0.05), (2.0, 0.3), (4.0, 0.0)])
def test_a_known_model_is_found_again(order, rate, corner):
    model = model_of(rate=rate, corner=corner, order=order)
    found = fitted(model, torch.arange(8), torch.arange(6))
    distance = torch.arange(1, 8)
    assert found.at(distance)[:, MANY].numpy() == pytest.approx(model.at(distance)[:, MANY].numpy(), abs=0.08)
    assert found.power[MANY].numpy() == pytest.approx(1, abs=0.15)


def test_layers_that_are_missing_do_not_change_the_distance_of_others():
    model = model_of(rate=1.0)
    found = fitted(model, torch.tensor([0, 1, 4, 5, 7]), torch.tensor([1, 3, 4, 7]))
    distance = torch.arange(1, 8)
    assert found.at(distance)[:, MANY].numpy() == pytest.approx(model.at(distance)[:, MANY].numpy(), abs=0.08)


def test_a_single_layer_a_side_says_nothing_of_another():
    found = fitted(model_of(), torch.tensor([0]), torch.tensor([0]))
    assert not weights(found, 0, torch.tensor([0]), torch.tensor([0])).any()


def test_layers_that_are_the_opposite_of_their_neighbours_say_nothing_of_others():
    (layer, *_), ring = layers_of(model_of(), torch.arange(1), 0)
    found = coherence([torch.stack([layer, -layer]), torch.stack([layer, -layer])], [torch.arange(2)] * 2, ring)
    assert not weights(found, 0, torch.arange(2), torch.arange(2)).any()


def test_layers_that_hardly_change_are_not_taken_to_be_surer_than_their_noise():
    near = torch.arange(4)
    assert float(weights(model_of(share=0.999, rate=1e-3), 0, near, near).abs().max()) < 1 / 0.03


@pytest.mark.parametrize("gap", [0, 1, 3])
def test_one_layer_a_side_weighs_as_the_closed_form_says(gap):
    """The inverse of [[1, r], [r, 1]] has -r / (1 - r^2) beside its diagonal."""
    model = model_of(share=0.9, rate=2.0)
    rho = model.at(torch.tensor([gap + 1]))[0]
    found = weights(model, gap, torch.tensor([0]), torch.tensor([0]))[:, 0, 0]
    assert float(1 - rho.max()) > SUREST
    torch.testing.assert_close(found, torch.where(rho / (1 - rho**2) > 1e-9, rho / (1 - rho**2), 0))


def test_a_layer_deeper_is_a_layer_more_of_gap():
    model, near = model_of(), torch.arange(3)
    torch.testing.assert_close(weights(model, 2, near, near), weights(model, 0, near + 1, near + 1))
    torch.testing.assert_close(weights(model, 1, near, near + 2), weights(model, 3, near, near))


def test_weights_fall_with_frequency_across_a_gap():
    weight = weights(model_of(rate=3.0), 2, torch.arange(4), torch.arange(4)).abs().amax((1, 2))
    assert float(weight[0]) > 100 * float(weight[-1])
    assert bool((weight[10:].diff() <= 1e-12).all())


@pytest.mark.parametrize("gap", [10**4, 10**9])
def test_across_a_gap_that_leaves_nothing_no_layer_weighs(gap):
    assert not weights(model_of(rate=0.5), gap, torch.arange(4), torch.arange(4)).any()


@pytest.mark.parametrize("order", range(len(ORDERS)))
def test_the_model_is_a_covariance_for_every_order(order):
    place = torch.cat([torch.arange(8), torch.arange(10, 18)])
    for rate in (0.01, 0.5, 20.0):
        matrix = model_of(share=0.999, rate=rate, order=order).at(place[:, None] - place[None, :])
        assert float(torch.linalg.eigvalsh(matrix.permute(2, 0, 1)).min()) > -1e-9


@pytest.mark.parametrize(("order", "power"), [(0, 1), (1, 2), (2, 3), (3, 4)])
def test_the_orders_are_those_of_spectra_that_fall_by_a_power(order, power):
    """M(x) is the Fourier transform of (1 + k^2)^-power, of which it has the name; 1 at 0."""
    k = torch.linspace(-400, 400, 400001, dtype=torch.float64)
    spectrum = (1 + k**2) ** -float(power)
    x = torch.tensor([0.0, 0.5, 1.0, 3.0], dtype=torch.float64)
    transform = torch.stack([torch.trapezoid(spectrum * torch.cos(k * one), k) for one in x])
    torch.testing.assert_close(ORDERS[order](x), transform / transform[0], atol=2e-3, rtol=0)


def test_the_last_order_is_a_gaussian():
    x = torch.tensor([0.0, 1.0, 2.0])
    torch.testing.assert_close(ORDERS[-1](x), torch.tensor([1.0, np.exp(-0.5), np.exp(-2.0)], dtype=torch.float32))


def test_rings_of_a_coarser_kind_end_at_its_own_edge():
    ring = rings((64, 64), (1.0, 1.0), finest=4.0)
    far = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64)[None, :])
    np.testing.assert_array_equal(ring.numpy() == RINGS, (far > 1 / 8 - 1e-9) | (far == 0))
    torch.testing.assert_close(rings((64, 64), (8.0, 8.0), finest=4.0), rings((64, 64), (8.0, 8.0)))


def test_a_pattern_that_stands_still_does_not_carry_what_is_forgotten():
    """Details that are alike by 0.1 at any distance, as a camera's noise is, do not slow what the coarse rings tell."""
    model = model_of(share=0.9, rate=6.0, corner=0.04)
    depth = torch.arange(8)
    layers, ring = layers_of(model, depth, 0)
    still, _ = layers_of(model, torch.arange(1), 9)
    fine = (ring >= RINGS // 2) & (ring < RINGS)
    layers = torch.where(fine, (1 - 0.1) ** 0.5 * layers + 0.1**0.5 * still, layers)
    found, told = coherence([layers] * 2, [depth] * 2, ring), model.at(depth[1:])
    assert found.at(depth[1:])[:, 4:10].numpy() == pytest.approx(told[:, 4:10].numpy(), abs=0.08)


def test_what_is_measured_counts_by_how_sure_it_is():
    """Layers that are near each other say one thing, and those that are half forgotten another."""
    distance = torch.arange(1, 8)
    told = model_of(share=0.999, rate=0.8, corner=0.2, order=2).at(distance)
    rho = torch.where(told > 0.8, told, told + 0.25 * (0.8 - told))
    share, rate, order = _fitted(rho, torch.ones_like(rho))
    found = Coherence(torch.ones_like(share), share, rate, order).at(distance)
    assert float((found - told)[told > 0.8].abs().max()) < 0.03


def test_rings_are_round_in_micrometres_and_end_at_the_edge_of_both_axes():
    ring = rings((60, 40), (1.0, 2.0))
    edge = 1 / (2 * 2.0)
    down, across = np.fft.fftfreq(60, 1.0), np.fft.rfftfreq(40, 2.0)
    far = np.hypot(down[:, None], across[None, :]) / edge
    np.testing.assert_array_equal(ring.numpy() == RINGS, (far > 1 - 1e-6) | (far == 0))  # the mean is no frequency
    assert (np.abs(ring.numpy() - far * RINGS)[(far < 0.99) & (far > 0)] <= 1.001).all()
