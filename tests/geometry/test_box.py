"""Laws of boxes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volpipe.errors import GeometryError
from volpipe.geometry import Box

edges = st.integers(-20, 20)
boxes = st.builds(
    lambda a, n: Box(tuple(a), tuple(x + y for x, y in zip(a, n, strict=True))),
    st.lists(edges, min_size=3, max_size=3),
    st.lists(st.integers(0, 15), min_size=3, max_size=3),
)


def voxels(box):
    axes = [range(a, b) for a, b in zip(box.start, box.stop, strict=True)]
    return {(z, y, x) for z in axes[0] for y in axes[1] for x in axes[2]}


@given(boxes, boxes)
def test_intersection_holds_the_voxels_in_both(one, other):
    assert voxels(one.intersect(other)) == voxels(one) & voxels(other)


@given(boxes, boxes)
def test_hull_holds_every_voxel_of_either(one, other):
    assert one.hull(other).contains(one)
    assert one.hull(other).contains(other)


@given(boxes)
def test_size_counts_the_voxels(box):
    assert box.size == len(voxels(box))
    assert box.is_empty == (box.size == 0)


@given(boxes, st.lists(edges, min_size=3, max_size=3))
def test_shifting_there_and_back_changes_nothing(box, by):
    assert box.shift(by).relative_to(by) == box


def test_slices_cut_the_box_out_of_an_array():
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    assert array[Box((1, 2, 3), (3, 4, 6)).slices].shape == (2, 2, 3)


def test_text_is_read_back():
    assert str(Box.parse("0:64,128:256,3:5")) == "0:64,128:256,3:5"


@pytest.mark.parametrize("text", ["", "0:1", "0:1,0:1", "0:1,0:1,5:5", "0:1,0:1,9:5", "a:b,0:1,0:1", "0:1,0:1,0:1,0:1"])
def test_a_text_that_is_no_box_is_refused(text):
    with pytest.raises(GeometryError, match="box"):
        Box.parse(text)
