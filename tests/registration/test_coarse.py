"""Laws of the coarse stage, on shapes placed by hand."""

import math

import numpy as np
import pytest

from volpipe.errors import GeometryError, VolumeError
from volpipe.geometry import Rigid
from volpipe.registration.coarse import _confidence, coarse_alignment

TOLERANCE = 0.02  # of the window: a pixel of the grid that is searched


def mitten(y, x):
    """A shape that is like none of its turns and mirror images, with bright spots in it; 100 units of window."""
    body = (y / 30) ** 2 + (x / 18) ** 2 < 1
    thumb = ((y - 8) / 7) ** 2 + ((x - 20) / 12) ** 2 < 1
    return 200.0 * (body | thumb) + spots(y, x, ((-15, 3), (5, -6), (14, 6))) * body


def egg(y, x):
    """A shape that is its own mirror image, left and right, and so is what is in it."""
    inside = (y / 30) ** 2 + (x / (18 + y / 4)) ** 2 < 1
    return inside * (200.0 + spots(y, x, ((-10, 7), (-10, -7), (12, 0))))


def egg_with_a_mark(y, x):
    """The same silhouette, but what is in it has a left and a right."""
    return egg(y, x) + (egg(y, x) > 0) * spots(y, x, ((12, 9), (-16, -4)))


def spots(y, x, places):
    return sum(150.0 * np.exp(-((y - a) ** 2 + (x - b) ** 2) / 18) for a, b in places)


def slab(shape, motion=None, *, flipped=False, size=(100, 100), um=(1.0, 1.0), seed=0):
    """Three layers (z, y, x); `motion` (upper_from_lower) lays their tissue on that of a slab without one."""
    y, x = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * s for n, s in zip(size, um, strict=True)), indexing="ij")
    place = (motion or Rigid())(np.stack([y, -x if flipped else x], -1))
    noise = np.random.default_rng(seed).normal(5, 2, (3, *size))
    return shape(place[..., 0], place[..., 1]) + noise


def off(estimate, motion, flipped):
    """How far corners of a window of 100 are laid from where they belong, as a fraction of the window."""
    corners = np.array([(y, x) for y in (-50, 50) for x in (-50, 50)])
    return np.hypot(*(estimate(corners) - motion(corners * ((1, -1) if flipped else (1, 1)))).T).max() / 100


# Halfway between the angles that are tried first, in steps of 4 degrees.
MOTIONS = [Rigid(a, shift) for a, shift in ((0.733, (6, -9)), (2.478, (-4, 0)), (-1.606, (0, 8)))]


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("motion", MOTIONS)
def test_any_turn_and_either_side_is_found(motion, flipped):
    estimate = coarse_alignment(slab(mitten), slab(mitten, motion, flipped=flipped, seed=1))
    assert estimate.flipped == flipped
    assert off(estimate, motion, flipped) < TOLERANCE
    assert estimate.confidence > 0.9


def test_a_mirrored_array_is_flipped_and_not_moved():
    estimate = coarse_alignment(slab(mitten), slab(mitten)[..., ::-1])
    assert estimate.flipped
    assert off(estimate, Rigid(), True) < TOLERANCE / 2


def test_a_mirror_in_y_is_one_in_x_turned_by_half():
    estimate = coarse_alignment(slab(mitten), slab(mitten)[:, ::-1])
    assert estimate.flipped
    assert abs(estimate.transform.angle_rad) == pytest.approx(math.pi, abs=0.01)
    np.testing.assert_allclose(estimate((3.0, 4.0)), (-3.0, 4.0), atol=1)


def test_an_array_turned_by_a_quarter_is_turned_back():
    lower = np.rot90(slab(mitten), axes=(1, 2))  # what lay at (y, x) lies at (-x, y) now
    estimate = coarse_alignment(slab(mitten), lower)
    np.testing.assert_allclose(estimate((-4.0, 3.0)), (3.0, 4.0), atol=0.5)
    assert not estimate.flipped


def test_micrometres_and_voxels_that_are_not_square():
    motion, um = Rigid(1.0, (5.0, 7.0)), (2.0, 0.8)
    lower = slab(mitten, motion, flipped=True, size=(50, 125), um=um, seed=1)
    estimate = coarse_alignment(slab(mitten, size=(50, 125), um=um), lower, voxel_size_um=(9.0, *um))
    assert estimate.flipped
    assert off(estimate, motion, True) < TOLERANCE


def test_windows_may_differ_in_shape():
    motion = Rigid(-2.0, (3.0, 4.0))
    estimate = coarse_alignment(slab(mitten, size=(110, 90)), slab(mitten, motion, size=(95, 120), seed=1))
    assert off(estimate, motion, False) < TOLERANCE


@pytest.mark.parametrize("flipped", [False, True])
def test_content_decides_where_silhouettes_are_symmetric(flipped):
    motion = Rigid(0.5, (3.0, -2.0))
    estimate = coarse_alignment(slab(egg_with_a_mark), slab(egg_with_a_mark, motion, flipped=flipped, seed=1))
    assert estimate.flipped == flipped
    assert off(estimate, motion, flipped) < TOLERANCE
    assert estimate.confidence > 0.9


def test_where_nothing_tells_left_from_right_the_confidence_is_low():
    motion = Rigid(0.5, (3.0, -2.0))
    estimate = coarse_alignment(slab(egg), slab(egg, motion, seed=1))
    assert estimate.confidence < 0.3
    sure = coarse_alignment(slab(egg), slab(egg, motion, seed=1), flips=False)
    assert not sure.flipped
    assert sure.confidence > 0.9
    assert off(sure, motion, False) < TOLERANCE


def test_slabs_of_different_tissue_are_not_trusted():
    rng = np.random.default_rng(3)

    def disc(y, x):
        return 200.0 * (np.hypot(y, x) < 30) + spots(y, x, rng.uniform(-18, 18, (6, 2)))

    assert coarse_alignment(slab(disc), slab(disc, seed=1)).confidence < 0.7


def test_what_fits_nowhere_is_not_trusted_because_nothing_else_does():
    """Specks cover no half of each other at nearly any angle: then there is nothing to fit worse."""
    random = np.random.default_rng(0)

    def specks(places):
        return lambda y, x: sum(900.0 * ((abs(y - a) < 2) & (abs(x - b) < 2)) for a, b in places)

    for _ in range(4):
        upper, lower = (slab(specks(random.uniform(-40, 40, (25, 2)))) for _ in range(2))
        assert coarse_alignment(upper, lower).confidence < 0.3


def test_confidence_falls_with_the_fit_and_with_what_fits_as_well():
    told = [
        _confidence(*scores) for scores in ((0.9, 0.5), (0.9, 0.88), (0.9, 0.9), (0.4, 0.0), (0.3, -1.0), (-1.0, -1.0))
    ]
    assert told == pytest.approx([0.993, 0.483, 0, 0.5, 0.269, 0], abs=2e-3)


def test_only_the_layers_at_the_gap_count():
    motion = Rigid(0.7, (6, -9))
    away = slab(egg_with_a_mark, Rigid(2.0)) * 3
    upper, lower = slab(mitten), slab(mitten, motion, seed=1)
    near = coarse_alignment(np.concatenate([upper[:1], upper]), np.concatenate([lower, lower[2:]]))
    far = coarse_alignment(np.concatenate([away, upper[:1], upper]), np.concatenate([lower, lower[2:], away]))
    assert (near.transform, near.flipped) == (far.transform, far.flipped)


def test_of_a_slab_that_lies_upside_down_the_last_layers_face_the_gap():
    motion = Rigid(0.7, (6, -9))
    lower = np.concatenate([slab(mitten, motion, seed=1), slab(egg_with_a_mark, Rigid(2.0))])
    lower = np.concatenate([lower[:3], lower[:1], lower[3:], lower[3:]])  # as many layers as are averaged
    turned_over = lower[::-1, :, ::-1]
    estimate = coarse_alignment(slab(mitten), turned_over)
    assert estimate.flipped
    assert off(estimate, motion, True) < TOLERANCE
    assert estimate.confidence > 0.9
    upright = coarse_alignment(slab(mitten), lower)
    assert not upright.flipped
    assert upright.transform == estimate.transform


def test_contrast_specks_and_what_is_not_known_change_little():
    motion = Rigid(0.7, (6, -9))
    lower = 40 + 0.3 * slab(mitten, motion, flipped=True, seed=1)
    lower[:, 20:24, 70:74], lower[:, 60:64, 70:74] = 3e4, 1e4
    lower[:, :25] = lower[:, :, 90:] = np.nan
    lower[1, 40:60] = np.nan
    estimate = coarse_alignment(slab(mitten), lower)
    assert estimate.flipped
    assert off(estimate, motion, True) < 2 * TOLERANCE


@pytest.mark.parametrize("shift", [(4.0, 6.0), (-5.0, -3.0)])
def test_tissue_that_fills_its_window_is_laid_by_its_content(shift):
    def cells(y, x):
        rng = np.random.default_rng(7)
        return sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / 30) for a, b in rng.uniform(-75, 75, (300, 2))) * 100

    motion = Rigid(-0.9, shift)
    estimate = coarse_alignment(slab(cells), slab(cells, motion, flipped=True, seed=1))
    assert estimate.flipped
    assert off(estimate, motion, True) < TOLERANCE


@pytest.mark.parametrize("blank", [np.zeros((3, 40, 40)), np.full((3, 40, 40), np.nan), np.ones((3, 40, 40), np.uint8)])
def test_a_slab_without_tissue_is_refused(blank):
    with pytest.raises(VolumeError, match="lower slab has no tissue"):
        coarse_alignment(slab(mitten), blank)


def test_a_slab_that_is_no_stack_of_layers_is_refused():
    with pytest.raises(VolumeError, match="give layers"):
        coarse_alignment(np.zeros((40, 40)), slab(mitten))


@pytest.mark.parametrize("other", [slab(mitten).astype(complex), slab(mitten).astype(str)])
def test_a_slab_that_is_no_real_numbers_is_refused(other):
    with pytest.raises(VolumeError, match="give layers of real numbers"):
        coarse_alignment(other, slab(mitten))


def test_a_choice_may_be_numpys():
    assert not coarse_alignment(slab(mitten), slab(mitten)[..., ::-1], flips=np.bool_(False)).flipped


@pytest.mark.parametrize("flips", ["no", 0, None])
def test_a_choice_that_is_none_is_refused(flips):
    with pytest.raises(GeometryError, match=r"flips is .*; give True or False"):
        coarse_alignment(slab(mitten), slab(mitten), flips=flips)


@pytest.mark.parametrize("size", [(1.0, -1.0), (1.0, 0.0, 1.0), (1.0, 1.0, math.nan), (1.0,), 0.5])
def test_a_voxel_without_size_is_refused(size):
    with pytest.raises(GeometryError, match=r"give \(z, y, x\) or \(y, x\), above 0"):
        coarse_alignment(slab(mitten), slab(mitten), voxel_size_um=size)


def test_lists_serve_and_the_distance_of_layers_may_be_left_out():
    given = slab(mitten), slab(mitten, MOTIONS[0], seed=1)
    plain = coarse_alignment(*given, voxel_size_um=(9.0, 2.0, 2.0))
    assert coarse_alignment(*(one.tolist() for one in given), voxel_size_um=(2.0, 2.0)) == plain
