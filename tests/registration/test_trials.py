"""Inverse problems: the truth is the motion that was made, and nothing but tissue tells it."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from volpipe.errors import ConfigError, VolumeError
from volpipe.geometry import Rigid
from volpipe.registration.intact import Intact
from volpipe.registration.trials import BASE_ANGLE_RAD, MARGIN, TrialOptions, draw

WINDOW = 48
OPTIONS = TrialOptions(gap_layers=2, window=WINDOW, layers=3, max_angle_rad=0.1)
SHAPE = (14, 96, 90)


def centred(window):
    """Positions (y, x) of a window's voxels, from its centre."""
    axis = np.arange(window) - (window - 1) / 2
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)


def seen(layer, pose):
    """A layer of a window, seen from another one: voxel p of that, from its centre, is at pose(p)."""
    at = pose(centred(len(layer))) + (len(layer) - 1) / 2
    return ndimage.map_coordinates(layer, np.moveaxis(at, -1, 0), order=3, cval=np.nan)


def correlation(trial, lower_from_upper):
    """Of the upper window's last layer with the lower one's first, moved."""
    moved = seen(trial.lower[0], lower_from_upper)
    known = np.isfinite(moved)
    return np.corrcoef(trial.upper[-1][known], moved[known])[0, 1]


def smooth_noise(shape, seed=0, sigma=2.0):
    noise = np.random.default_rng(seed).normal(size=shape)
    return np.stack([ndimage.gaussian_filter(layer, sigma) for layer in noise])


def peak(layer):
    """Of the only dot of a layer: (y, x) from the centre, to a part of a voxel."""
    y, x = np.unravel_index(layer.argmax(), layer.shape)
    cut = np.log(layer[y - 1 : y + 2, x - 1 : x + 2] - layer.min() + 1e-3)

    def part(low, middle, high):
        return (low - high) / (2 * (low - 2 * middle + high))

    found = np.array([y + part(*cut[:, 1]), x + part(*cut[1])])
    return found - (len(layer) - 1) / 2


@pytest.mark.parametrize("dot", [(40.0, 52.0), (50.5, 38.0), (47.0, 45.0)])
@pytest.mark.parametrize("number", range(3))
def test_a_dot_of_the_lower_window_is_at_the_truth_of_it_in_the_upper_one(dot, number):
    y, x = np.indices(SHAPE[1:])
    plane = 1000 * np.exp(-((y - dot[0]) ** 2 + (x - dot[1]) ** 2) / (2 * 2.5**2))
    intact = Intact.of(np.broadcast_to(plane, SHAPE), WINDOW, flatten=False)
    intact = dataclasses.replace(intact, tissue=np.ones_like(intact.tissue))
    trial = draw(intact, OPTIONS, number)
    assert trial.truth(peak(trial.lower[0])) == pytest.approx(peak(trial.upper[-1]), abs=0.1)
    assert abs(trial.truth.angle_rad) + max(map(abs, trial.truth.shift)) > 0.1  # else nothing was tested


@pytest.mark.parametrize("gap", [0, 1, 4])
def test_only_the_layers_on_both_sides_of_the_gap_are_read(gap):
    options = dataclasses.replace(OPTIONS, gap_layers=gap)
    intact = Intact.of(smooth_noise(SHAPE), WINDOW)
    for number in range(5):
        trial = draw(intact, options, number)
        first = int(trial.corner[0])
        lower = first + 3 + gap
        emptied = np.full_like(intact.coefficients, np.nan)
        for layers in (slice(first, first + 3), slice(lower, lower + 3)):
            emptied[layers] = intact.coefficients[layers]
        again = draw(dataclasses.replace(intact, coefficients=emptied), options, number)
        np.testing.assert_array_equal(again.upper, trial.upper)
        np.testing.assert_array_equal(again.lower, trial.lower)
        emptied[lower] += 1  # the layer that faces the gap is the lower window's first
        changed = draw(dataclasses.replace(intact, coefficients=emptied), options, number)
        assert (changed.lower[0] != trial.lower[0]).mean() > 0.9
        np.testing.assert_array_equal(changed.lower[1:], trial.lower[1:])


def test_nothing_of_a_window_comes_from_beyond_the_border():
    intact = Intact.of(smooth_noise(SHAPE), WINDOW)
    near = MARGIN - 2  # a cubic spline reads two voxels around
    bordered = np.full_like(intact.coefficients, np.nan)
    bordered[:, near:-near, near:-near] = intact.coefficients[:, near:-near, near:-near]
    for number in range(40):
        trial = draw(dataclasses.replace(intact, coefficients=bordered), OPTIONS, number)
        assert np.isfinite(trial.upper).all()
        assert np.isfinite(trial.lower).all()


def test_a_trial_is_the_same_whichever_others_were_drawn():
    intact = Intact.of(smooth_noise(SHAPE), WINDOW)
    forward = [draw(intact, OPTIONS, number) for number in range(4)]
    for number in (3, 1):
        again = draw(intact, OPTIONS, number)
        assert again.truth == forward[number].truth
        assert again.corner == forward[number].corner
        np.testing.assert_array_equal(again.lower, forward[number].lower)
    assert len({trial.truth for trial in forward}) == 4
    assert draw(intact, dataclasses.replace(OPTIONS, seed=1), 0).truth != forward[0].truth


def test_truths_fill_the_prior_and_windows_are_off_the_grid():
    intact = Intact.of(smooth_noise(SHAPE), WINDOW)
    trials = [draw(intact, OPTIONS, number) for number in range(150)]
    shifts = np.array([trial.truth.shift for trial in trials]) / WINDOW
    angles = np.array([trial.truth.angle_rad for trial in trials])
    assert 0.09 < np.abs(shifts).max() <= 0.1
    assert 0.09 < np.abs(angles).max() <= 0.1
    assert np.abs(shifts.mean(axis=0)).max() < 0.02
    assert {trial.corner[0] for trial in trials} == set(range(SHAPE[0] - 8 + 1))
    parts = np.array([trial.corner[1:] for trial in trials]) % 1
    assert np.histogram(parts, bins=4, range=(0, 1))[0].min() > 40


def ramp_angle(layer):
    """By how much a window on a plane that rises along x is turned."""
    y, x = np.gradient(layer)
    return np.arctan2(-y.mean(), x.mean())


def test_both_windows_are_turned_alike_and_neither_centre_is_on_the_grid():
    plane = np.broadcast_to(np.arange(90.0), SHAPE)
    intact = dataclasses.replace(Intact.of(plane, WINDOW, flatten=False), tissue=np.ones((SHAPE[0], 24, 23), bool))
    trials = [draw(intact, OPTIONS, number) for number in range(80)]
    turns = np.array([[ramp_angle(window[0]) for window in (trial.upper, trial.lower)] for trial in trials])
    truths = [trial.truth.angle_rad for trial in trials]
    np.testing.assert_allclose(turns[:, 1] - turns[:, 0], truths, atol=0.01)  # gamma bends a ramp a little
    low, high = 0.8 * BASE_ANGLE_RAD / 3**0.5, 1.3 * BASE_ANGLE_RAD / 3**0.5
    assert ((low < turns.std(axis=0)) & (turns.std(axis=0) < high)).all()
    half = (WINDOW - 1) / 2
    for part in (0, 1):  # of the truth's shift: the upper window's centre, the lower one's
        centres = [
            Rigid(turn, trial.corner[1:])(np.add((half, half), np.multiply(part, trial.truth.shift)))
            for trial, turn in zip(trials, turns[:, 0], strict=True)
        ]
        assert np.histogram(np.array(centres) % 1, bins=4, range=(0, 1))[0].min() > 20


def test_where_a_window_is_on_the_grid_it_holds_the_volumes_own_voxels():
    volume = smooth_noise(SHAPE, sigma=0.7)
    intact = Intact.of(volume, WINDOW, flatten=False)
    for layer, own in zip(intact.coefficients, volume, strict=True):
        again = ndimage.affine_transform(layer, np.eye(2), order=3, mode="mirror", prefilter=False)
        np.testing.assert_allclose(again, own, atol=1e-5)


def test_windows_of_a_volume_of_equal_layers_agree_best_at_the_truth():
    plane = smooth_noise((1, *SHAPE[1:]), sigma=1.5)[0]
    intact = Intact.of(np.broadcast_to(plane, SHAPE), WINDOW, flatten=False)
    for number in range(4):
        trial = draw(intact, OPTIONS, number)
        truth = trial.truth.inverse
        best = correlation(trial, truth)
        assert best > 0.98
        for wrong in (Rigid(0.03), Rigid(-0.03), Rigid(0, (0.7, 0)), Rigid(0, (0, -0.7)), truth.inverse):
            assert correlation(trial, truth @ wrong) < best - 0.005


def at_the_truth(volume, *, flatten=True, of=lambda window: window):
    """Mean correlation at the truth over trials."""
    intact = dataclasses.replace(
        Intact.of(volume, WINDOW, flatten=flatten), tissue=np.ones((len(volume), 25, 25), bool)
    )
    trials = [draw(intact, OPTIONS, number) for number in range(60)]
    found = [
        correlation(dataclasses.replace(trial, upper=of(trial.upper), lower=of(trial.lower)), trial.truth.inverse)
        for trial in trials
    ]
    return np.mean(found)


def noise_volume(seed=3):
    return np.random.default_rng(seed).normal(size=(40, 96, 96)) + 20


def test_nothing_is_found_in_layers_of_independent_noise():
    means = [at_the_truth(noise_volume(seed)) for seed in range(6)]
    assert abs(np.mean(means)) < 0.006  # 3.5 standard errors, of 0.0016 over eight other seeds


def illumination(strength):
    y, x = np.indices((96, 96)) / 96
    return 1 + strength * np.sin(3 * y + 1) * np.cos(4 * x)


def test_illumination_that_is_fixed_to_the_camera_is_not_found():
    noisy = noise_volume() * illumination(0.15)
    assert at_the_truth(noisy, flatten=False) > 0.5  # it would be
    assert abs(at_the_truth(noisy)) < 0.02


def energy(window):
    return np.stack(
        [ndimage.gaussian_filter(layer**2, 3) for layer in window - window.mean(axis=(1, 2), keepdims=True)]
    )


def test_contrast_that_is_fixed_to_the_camera_is_not_found():
    noisy = 20 + (noise_volume() - 20) * illumination(0.4)
    assert at_the_truth(noisy, flatten=False, of=energy) > 0.3  # it would be
    assert abs(at_the_truth(noisy, of=energy)) < 0.15


def test_sampling_blurs_both_windows_alike():
    intact = Intact.of(noise_volume(), WINDOW)
    plain = dataclasses.replace(OPTIONS, max_shift=0.0)
    trials = [draw(intact, plain, number) for number in range(80)]

    def fine(window):
        unit = (window - window.mean()) / window.std()
        return np.mean(np.diff(unit, axis=2) ** 2)

    differences = [fine(trial.upper) - fine(trial.lower) for trial in trials]
    assert abs(np.mean(differences)) < 4 * np.std(differences) / len(differences) ** 0.5
    assert np.std(differences) < 0.2


def test_slabs_differ_in_contrast():
    intact = Intact.of(smooth_noise(SHAPE), WINDOW)
    stds = np.array(
        [[window.std() for window in (t.upper, t.lower)] for t in (draw(intact, OPTIONS, n) for n in range(20))]
    )
    assert np.log(stds[:, 0] / stds[:, 1]).std() > 0.2


def test_windows_without_tissue_are_not_drawn():
    volume = smooth_noise(SHAPE) + 5
    volume[:, :, 45:] = 0
    intact = Intact.of(volume, WINDOW)
    shares = []
    for number in range(20):
        trial = draw(intact, OPTIONS, number)
        for layer in (trial.upper[-1], trial.lower[0]):
            flat = np.abs(layer - np.median(layer)) < 1e-4
            shares.append(1 - flat.mean())
    assert min(shares) > 0.4
    assert np.isfinite(intact.coefficients).all()


def test_a_volume_without_tissue_is_refused():
    with pytest.raises(VolumeError, match="half tissue"):
        draw(Intact.of(np.full(SHAPE, 7), WINDOW), OPTIONS, 0)


@pytest.mark.parametrize("shape", [(7, 96, 96), (14, 70, 96), (14, 96, 70)])
def test_a_volume_too_small_is_refused_with_what_is_needed(shape):
    with pytest.raises(VolumeError, match="need 8 x 8"):
        draw(Intact.of(smooth_noise(shape), WINDOW), OPTIONS, 0)


def test_sizes_that_cannot_be_are_refused():
    for wrong in ({"gap_layers": -1}, {"gap_layers": 0, "layers": 0}, {"gap_layers": 0, "max_shift": 1.5}):
        with pytest.raises(ConfigError):
            TrialOptions(**wrong)


def test_blocks_join_trials_of_one_place():
    intact = Intact.of(smooth_noise((40, 130, 130)), WINDOW)
    trials = [draw(intact, OPTIONS, number) for number in range(60)]
    for one in trials:
        for other in trials:
            if one.block == other.block:
                assert abs(one.corner[0] - other.corner[0]) < OPTIONS.span
    assert len({trial.block for trial in trials}) > 8
