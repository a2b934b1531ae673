"""Laws of a slab's frame, and points computed by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volpipe.errors import GeometryError
from volpipe.geometry import Box, SlabFrame

frames = st.builds(
    SlabFrame,
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)),
)
levels = st.integers(0, 6)
places = st.tuples(st.integers(-200, 200), st.integers(-200, 200))
shapes = st.tuples(st.integers(1, 100), st.integers(1, 100))


@pytest.mark.parametrize(
    ("box", "level", "centre_um"),
    [
        (Box((0, 0), (5, 8)), 0, (0.0, 0.0)),
        (Box((0, 0), (1, 1)), 0, (-4.0, -10.5)),
        (Box((0, 0), (1, 1)), 1, (-3.0, -9.0)),  # voxels 0 and 1 of level 0
        (Box((2, 3), (3, 4)), 1, (5.0, 9.0)),  # hangs over in y, as voxel 4 to 6 of 5
    ],
)
def test_points_computed_by_hand(box, level, centre_um):
    assert SlabFrame((5, 8), (2.0, 3.0)).centre_um(box, level) == centre_um


def test_a_level_has_half_the_voxels_and_the_one_that_hangs_over():
    assert [SlabFrame((5, 8), (1.0, 1.0)).shape(level) for level in range(4)] == [(5, 8), (3, 4), (2, 2), (1, 1)]


@given(frames, places, shapes, levels)
def test_a_box_lies_around_its_own_centre(frame, start, shape, level):
    box = Box(start, (start[0] + shape[0], start[1] + shape[1]))
    assert frame.box_around(frame.centre_um(box, level), shape, level) == box


@given(frames, st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), shapes, levels)
def test_a_box_around_a_point_is_at_most_half_a_voxel_off(frame, point_um, shape, level):
    box = frame.box_around(point_um, shape, level)
    off = np.subtract(frame.centre_um(box, level), point_um) / frame.voxel_um_at(level)
    assert box.shape == shape
    assert (np.abs(off) <= 0.5 + 1e-6).all()


@given(frames, places, shapes, st.integers(1, 6))
def test_a_box_has_the_same_centre_at_every_level(frame, start, shape, level):
    coarse = Box(start, (start[0] + shape[0], start[1] + shape[1]))
    fine = Box(tuple(n << level for n in coarse.start), tuple(n << level for n in coarse.stop))
    assert frame.centre_um(coarse, level) == frame.centre_um(fine, 0)


@pytest.mark.parametrize("broken", [((0, 5), (1.0, 1.0)), ((5, 5), (1.0, 0.0)), ((5, 5, 5), (1.0, 1.0))])
def test_what_is_no_plane_is_refused(broken):
    with pytest.raises(GeometryError, match="slab"):
        SlabFrame(*broken)
