"""Laws of fixed windows: they lie in the volume on the lattice of tokens, and the product does not depend on blocks."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volpipe.geometry import AxisFootprint, BlockGrid, Box, Footprint
from volpipe.stitching import Assembly, Encoding, cropped, read_box, stitch
from volpipe.stitching.windows import Windows

WINDOW, TOKEN = 8, 2
IMAGE = AxisFootprint(period=TOKEN, window=WINDOW)
TOKENS = AxisFootprint(period=TOKEN, window=WINDOW, scale=Fraction(1, TOKEN))


def ramped(windows):
    """A network whose answer depends on the place in the window: it adds a ramp along x."""
    assert windows.shape[2:] == (WINDOW,) * 3
    return windows + np.arange(WINDOW)


def tokens_of(windows):
    """The mean of each token, and the ramp of tokens along x."""
    n, c = windows.shape[:2]
    k = WINDOW // TOKEN
    return windows.reshape(n, c, k, TOKEN, k, TOKEN, k, TOKEN).mean((3, 5, 7)) + np.arange(k)


def made(volume, axis, network, tile, block):
    shape, footprint = volume.shape[1:], Footprint((axis,) * 3)
    region = Windows().region(shape, footprint)
    out = np.full((1, *region.shape), np.nan)
    for one in BlockGrid(region, block):
        tiles = Windows().tiles(one.core, shape, tile, footprint)
        box = read_box(tiles, shape, "edge")
        stitch(
            volume[(slice(None), *box.slices)], box, tiles, cropped(network), volume=shape, outside="edge",
            assembly=Assembly("3d"), encoding=Encoding("float64"), core=one.core, batch=2,
            out=out[(slice(None), *one.core.slices)],
        )  # fmt: skip
    return out


@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 30))
def test_windows_lie_in_the_volume_and_hold_what_they_own(length, stride, cell):
    stride *= TOKEN
    own = Box((cell * stride,), (min(length, (cell + 1) * stride),))
    if own.is_empty:
        return
    read = Windows().alone(Box(own.start, (own.start[0] + stride,)), (length,), Footprint((IMAGE,))).read
    assert read.shape == (WINDOW,)
    assert read.contains(own)
    assert read.start[0] % TOKEN == 0
    assert read.start[0] >= 0
    assert read.stop[0] <= max(WINDOW, -(-length // TOKEN) * TOKEN)


def test_hand_computed_windows():
    volume = np.zeros((1, 8, 8, 20))
    by_window = made(volume, IMAGE, ramped, (8, 8, 8), (8, 8, 20))[0, 0, 0]
    assert by_window.tolist() == [*range(8), *range(8), *range(4, 8)]  # the last one is moved back into the volume
    by_half = made(volume, IMAGE, ramped, (8, 8, 4), (8, 8, 20))[0, 0, 0]
    assert by_half.tolist() == [0, 1, 2, 3, 2, 3, 4, 5, 2, 3, 4, 5, 2, 3, 4, 5, 4, 5, 6, 7]  # the middles, and the ends
    by_token = made(volume, TOKENS, tokens_of, (4, 4, 4), (4, 4, 10))[0, 0, 0]
    assert by_token.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 2, 3]


@pytest.mark.parametrize("shape", [(8, 11, 21), (3, 5, 16)])
@pytest.mark.parametrize(
    ("axis", "network", "tile"),
    [
        (IMAGE, ramped, (8, 8, 8)),
        (IMAGE, ramped, (2, 6, 4)),
        (TOKENS, tokens_of, (4, 4, 4)),
        (TOKENS, tokens_of, (1, 4, 2)),
    ],
)
def test_the_product_does_not_depend_on_blocks(shape, axis, network, tile):
    volume = np.random.default_rng(0).normal(size=(1, *shape))
    whole = made(volume, axis, network, tile, (32, 32, 32))
    assert not np.isnan(whole).any()
    for block in ((4, 4, 4), (3, 5, 7), (1, 32, 2)):
        np.testing.assert_array_equal(made(volume, axis, network, tile, block), whole)
