"""What stands outside a volume: numpy's own padding, for any read."""

import numpy as np
import pytest

from volpipe.geometry import Box
from volpipe.stitching.outside import cut, seen, stands_for


@pytest.mark.parametrize("length", [1, 2, 5, 12])
@pytest.mark.parametrize(("start", "stop"), [(-7, 20), (-30, -20), (3, 5), (9, 40)])
@pytest.mark.parametrize("outside", ["edge", "reflect"])
def test_a_voxel_outside_stands_for_that_of_numpys_padding(length, start, stop, outside):
    volume, far = np.arange(length), 50
    padded = np.pad(volume, far, mode=outside if length > 1 else "edge")
    assert stands_for(start, stop, length, outside).tolist() == padded[far + start : far + stop].tolist()


@pytest.mark.parametrize("outside", ["edge", "reflect"])
@pytest.mark.parametrize("read", [Box((-3, 1, 0), (4, 6, 9)), Box((1, 1, 1), (3, 4, 5)), Box((2, -4, 3), (9, 2, 14))])
def test_a_read_is_cut_from_what_it_needs(outside, read):
    shape = (5, 6, 7)
    volume = np.random.default_rng(0).normal(size=(2, *shape))
    box = seen(read, shape, outside)
    assert Box.from_shape(shape).contains(box)
    window = volume[(slice(None), *box.slices)]
    padded = np.pad(volume, [(0, 0), *[(20, 20)] * 3], mode=outside)
    expected = padded[(slice(None), *read.shift((20, 20, 20)).slices)]
    np.testing.assert_array_equal(cut(window, box, read, shape, outside), expected)
