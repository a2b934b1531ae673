"""What every score keeps: the surface at a shift is the value of images moved by it; a dot lies where `Rigid` says."""

import gc
import weakref

import numpy as np
import pytest
import torch
from made_tissue import pair_of

from volpipe.geometry import Affine, Rigid
from volpipe.registration.comparison import centred
from volpipe.registration.pixels import Products
from volpipe.registration.resample import moved
from volpipe.registration.scores import SCORES
from volpipe.registration.search import Prior, canvas_of, landscape
from volpipe.registration.window import facing

SIZES = [(40, 53), (33, 48), (64, 64)]


def blob(size, at, spacing=(1.0, 1.0), canvas=None):
    """(1, h, w): a dot 2 voxels wide at `at`, from the centre, in the unit of shifts."""
    y, x = (
        (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) - p / s for n, p, s in zip(size, at, spacing, strict=True)
    )
    return torch.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / 8)[None].float()


def centroid(image, spacing):
    weight = image[0].double() / image.sum()
    y, x = (
        (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * s for n, s in zip(weight.shape, spacing, strict=True)
    )
    return float((weight.sum(1) * y).sum()), float((weight.sum(0) * x).sum())


def as_motion(motion):
    return tuple(torch.tensor(one) for one in (motion.angle_rad, *motion.shift))


@pytest.mark.parametrize(("size", "canvas"), [((61, 84), None), ((64, 49), (80, 65)), ((50, 50), (72, 64))])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.0, 0.7)])
def test_a_dot_lies_where_its_motion_says(size, canvas, spacing):
    at = (-6.0 * spacing[0], 9.0 * spacing[1])
    motion = Rigid(0.4, (3.3, -2.6))
    image = moved(blob(size, at, spacing), as_motion(motion), spacing, canvas)
    assert centroid(image, spacing) == pytest.approx(tuple(motion(at)), abs=0.02)


def test_images_keep_their_type():
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 30, 41)))
    by = torch.zeros(2, 30, 41)
    moving = moved(image, as_motion(Rigid(0.1, (2.0, -1.0))), (1.0, 1.0), by=by)
    assert moving.dtype == torch.float64
    single = moved(image.float(), as_motion(Rigid(0.1, (2.0, -1.0))), (1.0, 1.0))
    torch.testing.assert_close(moving.float(), single, atol=1e-3, rtol=0)


@pytest.mark.parametrize("score", SCORES)
def test_nothing_of_a_pair_outlives_it(score):
    """Spectra take megabytes, and what holds itself stays until the collector comes by."""
    prepared = SCORES[score](*facing(*pair_of(Rigid(), gap=1, size=(64, 64)), (1.0, 1.0)), 1)
    comparison = prepared(1)
    landscape(comparison, Prior(Rigid(), 0.02, (2.0, 2.0)), 4.0)
    comparison.value(comparison.moving)
    seen = weakref.ref(comparison)
    gc.disable()
    try:
        del prepared, comparison
        assert seen() is None
    finally:
        gc.enable()


def test_outside_an_image_is_nothing():
    image = moved(torch.ones(1, 20, 30), as_motion(Rigid(0.0, (5.0, -7.0))), (1.0, 1.0), (40, 40))[0]
    assert float(image[18:33, 2:26].min()) == pytest.approx(1)  # from 15 to 35 and from -2 to 28
    assert not image[:13].any()
    assert not image[37:].any()
    assert not image[:, 31:].any()


def test_a_dot_lies_where_its_stretch_says():
    spacing, at = (2.0, 0.7), (-14.0, 8.0)
    motion = Affine.of(Rigid(0.4, (3.3, -2.6))) @ Affine(((1.1, 0.2), (0.2, 0.9)))
    numbers = tuple(torch.tensor(one) for one in (0.4, 3.3, -2.6, 0.1, -0.1, 0.2))
    image = moved(blob((61, 84), at, spacing), numbers, spacing, (81, 90))
    assert centroid(image, spacing) == pytest.approx(tuple(motion(at)), abs=0.05)


@pytest.mark.parametrize("canvas", [None, (81, 90)])
def test_a_dot_lies_before_where_a_field_takes_it_from(canvas):
    """Sampled so much further on, an image shows a dot so much earlier."""
    spacing, at, motion = (2.0, 0.7), (-14.0, 8.0), Rigid(0.4, (3.3, -2.6))
    rows, columns = canvas or (61, 84)
    further = torch.tensor([4.0, -3.0])[:, None, None].expand(2, rows, columns)
    image = moved(blob((61, 84), at, spacing), as_motion(motion), spacing, canvas, by=further)
    assert centroid(image, spacing) == pytest.approx(tuple(motion((at[0] - 4.0, at[1] + 3.0))), abs=0.05)


@pytest.mark.parametrize("size", SIZES)
def test_a_canvas_has_the_windows_centre_and_room_for_all_shifts(size):
    for reach in (1, 4, 7, 20):
        canvas = canvas_of(size, (reach, reach + 1))
        assert all((m - n) % 2 == 0 for n, m in zip(size, canvas, strict=True))
        assert canvas[0] >= size[0] + reach
        assert canvas[1] >= size[1] + reach + 1
        laid = centred(blob(size, (5.0, -3.0)), canvas)
        assert laid.shape[1:] == canvas
        assert centroid(laid, (1.0, 1.0)) == pytest.approx((5.0, -3.0), abs=1e-3)


def test_a_surface_is_of_the_sums_that_it_stands_for():
    random = np.random.default_rng(0)
    fixed, moving = torch.from_numpy(random.normal(size=(2, 2, 7, 9)))
    products = Products(fixed, moving, (1.0, 1.0), (((0, 0),),), lambda sums, overlap: sums[0], lambda images: images)
    found = products.surface(moving, (12, 15))
    area = min(float(fixed[1].sum()), float(moving[1].sum()))
    for down, across in ((0, 0), (3, -2), (-4, 5), (1, 6)):
        image, weight = (
            sum(
                one[y, x] * other[y - down, x - across]
                for y in range(7)
                for x in range(9)
                if 0 <= y - down < 7 and 0 <= x - across < 9
            )
            for one, other in zip(fixed.numpy(), moving.numpy(), strict=True)
        )
        assert float(found.score[down, across]) == pytest.approx(image)
        assert float(found.overlap[down, across]) == pytest.approx(weight / max(area, 1e-6))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("score", SCORES)
def test_the_surface_at_a_shift_is_the_value_of_images_moved_by_it(score, factor, size):
    upper, lower = pair_of(Rigid(0.05, (2.0, -1.5)), gap=1, size=size, seed=5)
    upper[:, :9, :9], lower[1, 5:15, 20:] = np.nan, np.nan
    spacing = (1.0, 1.5)
    comparison = SCORES[score](*facing(upper, lower, spacing), 1)(factor)
    assert comparison.spacing == (factor * spacing[0], factor * spacing[1])
    turned = moved(comparison.moving, as_motion(Rigid(0.04)), comparison.spacing)
    canvas = canvas_of(turned.shape[1:], (6, 6))
    surface = comparison.surface(turned, canvas)
    scale = float(surface.score.std())
    for shift in ((0, 0), (3, -2), (-4, 5)):
        image = torch.roll(centred(turned, canvas), shift, (1, 2))
        assert float(surface.score[shift]) == pytest.approx(float(comparison.value(image)), abs=2e-3 * scale)


@pytest.mark.parametrize("score", SCORES)
def test_an_overlap_is_a_share_of_what_is_known(score):
    upper, lower = pair_of(Rigid(), size=(48, 144))
    upper[:, :, 72:] = np.nan  # half is known: all of it lies on the other
    comparison = SCORES[score](*facing(upper, lower, (1.0, 1.0)), 0)(1)
    overlap = comparison.surface(comparison.moving, (72, 216)).overlap
    assert 0.75 < float(overlap[0, 0]) <= float(overlap.max()) < 1.001
    assert float(overlap[0, 36]) == pytest.approx(0.5, abs=0.16)  # 36 of 72 columns
    assert float(overlap[0, -72]) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("score", SCORES)
def test_what_is_not_known_changes_no_score(score):
    """Noise under a mask of NaN; whole layers too."""
    upper, lower = pair_of(Rigid(0.02, (1.0, 2.0)), size=(40, 40))
    surfaces = []
    for seed in range(2):
        noise = np.random.default_rng(seed).normal(size=upper.shape)
        above, below = np.where(np.abs(noise) > 1e9, noise, upper), lower.copy()
        above[:, :10] = noise[:, :10]
        below[2] = noise[2]
        above[:, :10], below[2] = np.nan, np.inf
        comparison = SCORES[score](*facing(above, below, (1.0, 1.0)), 0)(1)
        surfaces.append(comparison.surface(comparison.moving, (54, 54)).score)
    torch.testing.assert_close(*surfaces)
    assert bool(surfaces[0].isfinite().all())


@pytest.mark.parametrize("score", SCORES)
def test_where_nothing_fits_a_score_scatters_alike_about_one_level_whatever_the_overlap(score):
    little, much = [], []
    for seed in range(8):
        upper, lower = (pair_of(Rigid(), size=(64, 64), seed=n, longest=20.0)[0] for n in (seed, seed + 50))
        comparison = SCORES[score](*facing(upper, lower, (1.0, 1.0)), 0)(1)
        surface = comparison.surface(comparison.moving, canvas_of((64, 64), (40, 40)))
        little.append(surface.score[(surface.overlap > 0.3) & (surface.overlap < 0.5)])
        much.append(surface.score[surface.overlap > 0.75])
    few, many = torch.cat(little), torch.cat(much)
    assert 0.8 < float(few.std() / many.std()) < 1.2
    assert abs(float((few.mean() - many.mean()) / many.std())) < 0.2


@pytest.mark.parametrize("score", ["pixel_ncc", "2d"])
def test_a_part_of_a_layer_that_is_nearly_flat_is_like_nothing(score):
    """Though it is the same in both windows to the last bit, and all that lies on each other."""
    (tissue,) = pair_of(Rigid(), size=(48, 48), layers=1)[0]
    tissue[:, :24] -= tissue[:, :24].mean()
    upper, lower = tissue.copy(), np.roll(tissue, -24, 1)
    upper[:, 24:] *= 1e-3
    lower[:, :24] *= 1e-3
    comparison = SCORES[score](*facing(upper[None], lower[None], (1.0, 1.0)), 0)(1)
    surface = comparison.surface(comparison.moving, (96, 96))
    assert float(surface.overlap[0, 24]) == pytest.approx(0.5)
    assert abs(float(surface.score[0, 24])) < 0.01


def test_a_patch_holds_the_upper_ones_last_layers_against_the_lower_ones_first_in_their_order():
    """Layers that have nothing in common: those of the two windows are paired one by one, and all fit at rest."""
    layers = np.random.default_rng(0).normal(size=(4, 40, 40))
    upper, lower = np.concatenate([layers[::-1], layers]), np.concatenate([layers, layers[::-1]])
    comparison = SCORES["trivial"](*facing(upper, lower, (1.0, 1.0)), 0)(1)
    score = comparison.surface(comparison.moving, (60, 60)).score
    assert float(score[0, 0]) == pytest.approx(40 * 40 / 4**2, rel=0.01)  # patches, each of which is its twin
