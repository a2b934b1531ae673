"""Laws of aligning one layer with another: to a hundredth of a voxel, or not at all."""

import numpy as np
import pytest
from made_tissue import Waves
from scipy import ndimage

from volpipe.geometry import Rigid
from volpipe.registration.faces import ALIKE, aligned

SIZE = (96, 80)
TRUTH = Rigid(0.03, (1.37, -2.61))
START = Rigid(0.02, (0.5, -1.5))
SQUARE = (1.0, 1.0)


def layers_of(truth, *, spacing=SQUARE, size=SIZE, seed=0, **waves):
    tissue = Waves(seed, **{"shortest": 6.0, "drift": 0.05} | waves)
    return tissue.window([0], size, spacing=spacing)[0], tissue.window([1], size, truth, spacing)[0]


def off(found, truth, size=SIZE, spacing=SQUARE):
    """At the corners, in voxels."""
    corners = np.array(size) * spacing / 2 * np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)])
    return float(np.abs((found(corners) - truth(corners)) / spacing).max())


@pytest.mark.parametrize("truth", [Rigid(), TRUTH, Rigid(-0.025, (0.5, 0.5)), Rigid(0.0, (-1.75, 1.25))])
def test_a_layer_is_found_to_a_hundredth_of_a_voxel(truth):
    found = aligned(
        *layers_of(truth, drift=0.0), Rigid(truth.angle_rad - 0.01, tuple(np.add(truth.shift, 0.8))), SQUARE
    )
    assert off(found, truth) < 0.01


def test_it_is_not_drawn_to_the_voxel_grid():
    """Shifts over a voxel: a kernel with gains between the voxels would err with its period."""
    for part in np.linspace(-0.5, 0.5, 5):
        truth = Rigid(0.0, (part, -part))
        assert off(aligned(*layers_of(truth, drift=0.0, shortest=4.0), Rigid(), SQUARE), truth) < 0.01


def test_in_layers_that_change_it_errs_by_little():
    errors = [off(aligned(*layers_of(TRUTH, seed=seed), START, SQUARE), TRUTH) for seed in range(5)]
    assert np.median(errors) < 0.1


def test_in_micrometres_of_voxels_that_are_no_squares():
    spacing = (0.5, 0.8)
    truth, start = Rigid(0.03, (0.7, -1.3)), Rigid(0.02, (0.3, -0.8))
    pair = layers_of(truth, spacing=spacing, drift=0.0, shortest=4.0)
    assert off(aligned(*pair, start, spacing), truth, spacing=spacing) < 0.01


def test_gain_and_offset_change_nothing():
    upper, lower = layers_of(TRUTH)
    one, other = aligned(upper, lower, START, SQUARE), aligned(3 * upper + 100, 0.1 * lower - 4, START, SQUARE)
    assert off(one, other) < 1e-3


def test_what_is_not_known_says_nothing_of_how_alike_they_are():
    upper, lower = layers_of(TRUTH, drift=0.0)
    upper[:, :52] = np.nan
    assert off(aligned(upper, lower, START, SQUARE), TRUTH) < 0.02


def test_lines_that_are_not_known_do_not_draw():
    """They lie still, and what fills them has a rim."""
    upper, lower = layers_of(TRUTH, drift=0.0)
    upper[:, ::12], lower[:, ::12] = np.nan, np.inf
    assert off(aligned(upper, lower, START, SQUARE), TRUTH) < 0.03


def test_from_a_few_voxels_away():
    """Further than half a wave of what is fine: blurred layers go first."""
    pair = layers_of(TRUTH, drift=0.0, shortest=4.0, longest=14.0, size=(160, 160))
    assert off(aligned(*pair, Rigid(0.03, (4.57, -0.21)), SQUARE), TRUTH, (160, 160)) < 0.01


def test_noise_does_not_draw_to_where_sampling_blurs_it():
    """Noise is weaker between voxels than at them: layers as they are would be drawn by 0.18 voxels."""
    truth, random = Rigid(0.0, (0.25, 0.25)), np.random.default_rng(0)
    upper, lower = layers_of(truth, drift=0.0)
    noise = random.normal(0, 0.8 * lower.std(), (12, *SIZE))
    errors = [np.subtract(aligned(upper, lower + one, truth, SQUARE).shift, truth.shift) for one in noise]
    assert np.abs(np.mean(errors, axis=0)).max() < 0.06


def test_only_what_the_third_window_shows_counts():
    """The left half of the tissue moves by one motion, the right by another; the third window lies far to the left."""
    left, right = Rigid(0.0, (1.0, 0.0)), Rigid(0.0, (-1.0, 0.0))
    (upper, moved), (_, other) = (layers_of(truth, size=(96, 120), drift=0.0) for truth in (left, right))
    lower = np.concatenate([moved[:, :60], other[:, 60:]], axis=1)
    for within, truth in ((Rigid(0.0, (0.0, -70.0)), left), (Rigid(0.0, (0.0, 70.0)), right)):
        assert off(aligned(upper, lower, Rigid(), SQUARE, within), truth) < 0.1


def test_a_part_that_is_brighter_in_both_is_not_alike_for_that():
    random = np.random.default_rng(0)
    upper, lower = random.normal(size=(2, 96, 120))
    upper[:, :60] += 5
    lower[:, :60] += 5
    assert aligned(upper, lower, Rigid(), SQUARE, Rigid(0.0, (0.0, -70.0))) is None


@pytest.mark.parametrize("other", ["tissue", "noise", "blank", "nothing"])
def test_layers_that_are_not_alike_do_not_tell(other):
    upper, _ = layers_of(TRUTH)
    lower = {
        "tissue": layers_of(TRUTH, seed=1)[1],
        "noise": np.random.default_rng(0).normal(size=SIZE),
        "blank": np.full(SIZE, 3.0),
        "nothing": np.full(SIZE, np.nan),
    }[other]
    assert aligned(upper, lower, START, SQUARE) is None
    assert aligned(lower, upper, START, SQUARE) is None


def test_how_alike_they_must_be():
    """Noise of variance v in one layer, as coarse as tissue, leaves a correlation of 1 / sqrt(1 + v)."""
    upper, lower = layers_of(TRUTH, drift=0.0)
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SIZE), 2)
    noise *= lower.std() / noise.std()
    for correlation, told in ((ALIKE + 0.08, True), (ALIKE - 0.08, False)):
        found = aligned(upper, lower + noise * np.sqrt(1 / correlation**2 - 1), START, SQUARE)
        assert (found is not None) == told


@pytest.mark.parametrize("start", [Rigid(0.03, (9.0, 6.0)), Rigid(0.12, (1.4, -2.6))])
def test_an_answer_far_from_where_it_began_is_none(start):
    """Twice what counts as a success: who began there was wrong, and what was climbed may be another hill."""
    assert aligned(*layers_of(TRUTH, drift=0.0), start, SQUARE) is None
