"""Laws of blending: shares sum to one, and the product does not depend on blocks."""

import numpy as np
import pytest
from scipy import ndimage

from volpipe.geometry import AxisFootprint, BlockGrid, Box, Footprint
from volpipe.stitching import Assembly, Encoding, cropped, read_box, stitch
from volpipe.stitching.blend import Blend, shares
from volpipe.stitching.overlap import Overlap

PROFILES = pytest.mark.parametrize("profile", ["linear", "hann", "gaussian"])
SHAPE = (9, 14, 61)
NEED = Footprint((AxisFootprint(2, 2, 2),) * 3)
TILE = (8, 8, 12)


def smoothed(tiles):
    """A network that needs 2 voxels and takes what is outside for 0: each tile is wrong at its own faces."""
    return ndimage.uniform_filter(tiles, (0, 0, 5, 5, 5), mode="constant")


def blended(mode, volume, block, tile=TILE, footprint=NEED, network=smoothed, encoding="float64", batch=1):
    shape = volume.shape[1:]
    out = np.full((1, *shape), 99, Encoding(encoding, (-1, 1)).dtype(1))
    for one in BlockGrid(Box.from_shape(shape), block):
        tiles = mode.tiles(one.core, shape, tile, footprint)
        box = read_box(tiles, shape, mode.outside)
        stitch(
            volume[(slice(None), *box.slices)], box, tiles, cropped(network), volume=shape, outside=mode.outside,
            assembly=Assembly("3d"), encoding=Encoding(encoding, (-1, 1)), core=one.core, batch=batch,
            out=out[(slice(None), *one.core.slices)],
        )  # fmt: skip
    return out


def noise():
    return np.random.default_rng(0).normal(size=(1, *SHAPE))


@PROFILES
@pytest.mark.parametrize("rim", [(0, 0), (4, 4), (3, 9), (20, 20)])  # to beyond the neighbour's neighbour
@pytest.mark.parametrize("end", [7, 40, 43])
def test_shares_sum_to_one_and_are_those_of_tiles_that_reach(profile, rim, end):
    tile, total = 10, np.zeros(end)
    for cell in range(0, end, tile):
        own = max(0, cell - rim[0]), min(end, cell + tile + rim[1])
        share = shares(profile, own, cell, tile, rim, end)
        assert share.min() > 0
        total[slice(*own)] += share
    np.testing.assert_allclose(total, 1, atol=1e-14)


def test_hand_computed_shares():
    np.testing.assert_allclose(shares("linear", (6, 14), 0, 10, (4, 4), 20), 1 - np.arange(0.5, 8) / 8)
    np.testing.assert_allclose(shares("hann", (6, 14), 0, 10, (4, 4), 20), np.cos(np.pi / 16 * np.arange(0.5, 8)) ** 2)
    bells = [np.exp(-0.5 * ((np.arange(6.5, 14) - centre) / (18 / 8)) ** 2) for centre in (5, 15)]
    np.testing.assert_allclose(shares("gaussian", (6, 14), 0, 10, (4, 4), 20), bells[0] / sum(bells))


@PROFILES
def test_tiles_that_agree_are_left_as_they_are(profile):
    volume = noise()
    pointwise = blended(Blend(profile), volume, (5, 9, 31), network=np.tanh)
    np.testing.assert_allclose(pointwise, np.tanh(volume), atol=1e-14)


@PROFILES
def test_the_product_does_not_depend_on_blocks_or_batches(profile):
    volume = noise()
    whole = blended(Blend(profile), volume, SHAPE)
    for block, batch in (((8, 8, 12), 1), ((5, 9, 31), 1), ((3, 14, 7), 4)):
        np.testing.assert_allclose(blended(Blend(profile), volume, block, batch=batch), whole, rtol=0, atol=1e-13)


@PROFILES
def test_rims_that_see_too_little_count(profile):
    """Declared inexact, and rightly so: with a halo that makes cropping exact."""
    volume = noise()
    right = smoothed(np.pad(volume, [(0, 0), (0, 1), (0, 0), (0, 1)], mode="edge")[None])[0, :, :9, :, :61]
    np.testing.assert_allclose(blended(Overlap(), volume, (8, 8, 12)), right, atol=1e-14)
    assert np.abs(blended(Blend(profile), volume, (8, 8, 12)) - right).max() > 1e-3
    assert Blend(profile).inexact == f"blend {profile}: the rims of tiles, which see too little, count"


def test_voxels_are_encoded_after_they_are_summed():
    volume = noise() / 9
    mode = Blend("hann")
    expected = Encoding("uint8", (-1, 1)).encode(blended(mode, volume, SHAPE))
    np.testing.assert_array_equal(blended(mode, volume, (5, 9, 31), encoding="uint8"), expected)
