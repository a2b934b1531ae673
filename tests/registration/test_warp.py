"""Laws of warping: no seams, the identity gives back the slab, and no more is read than is needed."""

import math

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from volpipe.errors import GeometryError
from volpipe.geometry import BlockGrid, Box, Raster, Rigid
from volpipe.registration.warp import default_order, taps_around, warp_block

SLAB = Raster.centred((41, 57), (1.5, 1.0))
OUT = Raster((50, 60), (1.5, 1.0), (-37.0, -31.0))
POSE = Rigid(math.radians(20), (2.25, -3.5))


def voxels_of(dtype, shape=SLAB.shape):
    random = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return random.standard_normal((2, *shape)).astype(dtype)
    ends = np.iinfo(dtype)
    return random.integers(ends.min, ends.max, (2, *shape), dtype, endpoint=True)


def warped(voxels, pull, box=OUT.box, slab=SLAB, out=OUT, **options):
    read = []

    def reader(part):
        assert slab.box.contains(part)
        read.append(part)
        return voxels[..., *part.slices]

    kind = {"dtype": voxels.dtype, "lead": voxels.shape[:-2], "order": 1}
    made = warp_block(reader, slab, pull, out, box, **kind | options)
    assert read == [made.source] * (not made.source.is_empty)
    return made


def smooth(raster):
    y, x = np.moveaxis(raster.points(raster.box), -1, 0)
    return np.sin(y / 9) * np.cos(x / 7)


def well_inside(slab, out):
    """Where every tap of any order is a voxel of the slab, under POSE."""
    places = slab.places(POSE.inverse(out.points(out.box)))
    found = ((places > 2) & (places < np.asarray(slab.shape) - 3)).all(-1)
    assert found.mean() > 0.3
    return found


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", "float64"])
def test_blocks_have_no_seams(bent, order, dtype):
    """To the last bit, for blocks of several sizes and places."""
    voxels = voxels_of(dtype)
    whole = warped(voxels, bent.pull, order=order, fill=7)
    assert 0.2 < whole.known.mean() < 0.95
    for shape in ((50, 13), (7, 60), (16, 16), (1, 1)):
        grid = BlockGrid(OUT.box, shape)
        for block in list(grid)[:: max(1, len(grid) // 40)]:
            part = warped(voxels, bent.pull, block.core, order=order, fill=7)
            np.testing.assert_array_equal(part.voxels, whole.voxels[..., *block.core.slices])
            np.testing.assert_array_equal(part.known, whole.known[block.core.slices])


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
def test_the_identity_gives_back_the_slab(order, dtype):
    voxels = voxels_of(dtype)
    made = warped(voxels, Rigid().inverse, SLAB.box, out=SLAB, order=order)
    np.testing.assert_array_equal(made.voxels, voxels)
    assert made.known.all()
    assert made.source == SLAB.box
    assert made.voxels_read == 41 * 57


@pytest.mark.parametrize("dtype", ["uint64", "int64", "bool"])
def test_labels_of_any_size_are_copied(dtype):
    voxels = voxels_of("uint64").astype(dtype)
    made = warped(voxels, POSE.inverse, order=0)
    assert set(np.unique(made.voxels)) <= {0, *np.unique(voxels)}
    assert made.voxels.dtype == dtype
    with pytest.raises(GeometryError, match="give order 0"):
        warped(voxels, POSE.inverse, order=1)


def test_whole_voxels_of_shift_move_voxels():
    voxels = voxels_of("uint8")
    for order in (0, 1, 3):
        made = warped(voxels, Rigid(0.0, (3.0, -4.0)).inverse, SLAB.box, out=SLAB, order=order, fill=9)
        np.testing.assert_array_equal(made.voxels[:, 2:, :-4], voxels[:, :-2, 4:])  # 3 um are 2 voxels of y
        assert (made.voxels[:, :2] == 9).all()
        assert (made.voxels[..., -4:] == 9).all()
        assert not made.known[:2].any()
        assert made.known[2:, :-4].all()


@pytest.mark.parametrize("order", [0, 1])
def test_it_is_scipys_interpolation(order):
    voxels = voxels_of("float64")[0]
    made = warped(voxels, POSE.inverse, order=order)
    places = SLAB.places(POSE.inverse(OUT.points(OUT.box)))
    expected = map_coordinates(voxels, np.moveaxis(places, -1, 0), order=order, mode="nearest", prefilter=False)
    np.testing.assert_allclose(made.voxels, np.where(made.known, expected, 0), atol=1e-12)


def test_cubic_convolution_gives_back_parabolas():
    """Keys 1981, section III: a = -1/2 is the one that is exact to the second order."""
    y, x = np.moveaxis(SLAB.points(SLAB.box), -1, 0)

    def parabola(y, x):
        return 0.3 + 0.1 * y - 0.2 * x + 0.05 * y * x + 0.02 * x * x - 0.03 * y * y

    out = Raster((20, 20), (0.7, 0.6), (-6.0, -6.0))
    made = warped(parabola(y, x), POSE.inverse, out.box, out=out, order=3)
    there = np.moveaxis(POSE.inverse(out.points(out.box)), -1, 0)
    np.testing.assert_allclose(made.voxels, parabola(*there), atol=1e-12)


def test_a_higher_order_is_nearer_to_a_smooth_image():
    truth = np.moveaxis(POSE.inverse(OUT.points(OUT.box)), -1, 0)
    truth = np.sin(truth[0] / 9) * np.cos(truth[1] / 7)
    errors = []
    for order in (0, 1, 3):
        made = warped(smooth(SLAB), POSE.inverse, order=order)
        errors.append(np.abs(made.voxels - truth)[well_inside(SLAB, OUT)].mean())
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


def test_any_level_lies_at_the_same_place():
    """A coarser level has other voxels, and an origin that is half a voxel off: the image does not move."""
    fine = Raster.centred((80, 96), (0.5, 0.25))
    coarse = Raster((40, 48), (1.0, 0.5), (fine.origin_um[0] + 0.25, fine.origin_um[1] + 0.125))
    out = Raster((30, 40), (0.9, 0.45), (-13.0, -9.0))
    one = warped(smooth(fine), POSE.inverse, out.box, slab=fine, out=out, order=3)
    other = warped(smooth(coarse), POSE.inverse, out.box, slab=coarse, out=out, order=3)
    both = well_inside(coarse, out)
    assert (one.known & other.known)[both].all()
    np.testing.assert_allclose(one.voxels[both], other.voxels[both], atol=2e-4)


def test_integers_are_rounded_and_clipped():
    step = np.zeros((1, 1, 8), np.uint8)
    step[..., 4:] = 255
    slab, out = Raster((1, 8), (1.0, 1.0), (0.0, 0.0)), Raster((1, 28), (1.0, 0.25), (0.0, 0.0))
    exact = warped(step.astype(float), Rigid().inverse, out.box, slab=slab, out=out, order=3).voxels
    assert exact.min() < -1
    assert exact.max() > 256
    made = warped(step, Rigid().inverse, out.box, slab=slab, out=out, order=3).voxels
    np.testing.assert_array_equal(made, np.clip(np.rint(exact), 0, 255))


@pytest.mark.parametrize("box", [Box((20, 25), (30, 34)), Box((5, 0), (15, 12))], ids=["inside", "at a corner"])
@pytest.mark.parametrize("order", [0, 1, 3])
def test_no_more_is_read_than_is_needed(order, box):
    """What lies outside the source box changes nothing, and each of its edges is looked at."""
    voxels = voxels_of("float64")
    made = warped(voxels, POSE.inverse, box, order=order)
    assert made.source.size < SLAB.box.size
    height, width = 10 * 1.5, 12
    turned = [(height + 0.35 * width) / 1.5, width + 0.35 * height]  # sin 20 degrees = 0.342
    assert all(side <= n + taps_around(order) for side, n in zip(made.source.shape, turned, strict=True))
    assert 0 < made.known.mean() < 1 or box.start[1]
    for axis in (0, 1):
        for edge in (made.source.start[axis], made.source.stop[axis] - 1):
            other = voxels.copy()
            other[(slice(None), *((slice(None),) * axis), edge)] = np.nan
            assert warped(other, POSE.inverse, box, order=order).known.sum() < made.known.sum()
    outside = np.full_like(voxels, np.nan)
    outside[:, *made.source.slices] = voxels[:, *made.source.slices]
    np.testing.assert_array_equal(warped(outside, POSE.inverse, box, order=order).voxels, made.voxels)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_what_is_not_finite_is_not_known_nor_what_its_taps_reach(order):
    """In its own layer; of channels, all are known or none."""
    voxels = np.random.default_rng(0).normal(size=(2, 3, *SLAB.shape))
    whole = warped(voxels, POSE.inverse, order=order, fill=-9)
    voxels[1, 2, 14:18, 20:24] = np.nan, np.inf, -np.inf, np.nan
    made = warped(voxels, POSE.inverse, order=order, fill=-9)
    assert made.known.shape == whole.known.shape == (3, *OUT.shape)
    np.testing.assert_array_equal(made.known[:2], whole.known[:2])
    lost = whole.known[2] & ~made.known[2] & 1
    ground = 16 * SLAB.spacing_um[0] * SLAB.spacing_um[1] / (OUT.spacing_um[0] * OUT.spacing_um[1])
    assert 0.7 * ground < lost.sum() < (0.7 + 0.5 * taps_around(order)) ** 2 * ground
    assert (made.voxels[1, 2][lost == 1] == -9).all()
    rest = np.ones(made.voxels.shape, bool)
    rest[1, 2] = lost == 0
    np.testing.assert_array_equal(made.voxels[rest], whole.voxels[rest])


def test_far_from_the_slab_nothing_is_known():
    made = warped(voxels_of("int16"), Rigid(0.0, (500.0, 0.0)).inverse, fill=-3)
    assert made.source.is_empty
    assert made.voxels_read == 0
    assert (made.voxels == -3).all()
    assert made.voxels.shape == (2, *OUT.shape)
    assert not made.known.any()


@pytest.mark.parametrize(
    ("pull", "options", "said"),
    [
        (POSE.inverse, {"most": 100}, "more than the 100 that a block may read"),
        (lambda points: points * np.nan, {}, "not finite"),
        (POSE.inverse, {"order": 2}, "order 2; give 0"),
    ],
)
def test_what_cannot_be_warped_is_refused(pull, options, said):
    with pytest.raises(GeometryError, match=said):
        warp_block(None, SLAB, pull, OUT, OUT.box, **{"order": 1, "dtype": np.dtype("uint8")} | options)


@pytest.mark.parametrize(
    ("dtype", "order"),
    [("uint8", 3), ("uint16", 3), ("int16", 3), ("float32", 3), ("bool", 0), ("uint32", 0), ("uint64", 0)],
)
def test_images_are_cubic_and_labels_nearest_unless_asked(dtype, order):
    assert default_order(np.dtype(dtype)) == order
