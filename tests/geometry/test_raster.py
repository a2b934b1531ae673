"""Laws of rasters, and points computed by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volpipe.errors import GeometryError
from volpipe.geometry import Box, Raster

spacings = st.tuples(st.floats(0.1, 10), st.floats(0.1, 10))
origins = st.tuples(st.floats(-100, 100), st.floats(-100, 100))
rasters = st.builds(Raster, st.tuples(st.integers(1, 20), st.integers(1, 20)), spacings, origins)


def test_points_computed_by_hand():
    raster = Raster((3, 4), (2.0, 0.5), (10.0, -1.0))
    np.testing.assert_array_equal(raster.points(raster.box)[2, 3], (14.0, 0.5))
    np.testing.assert_array_equal(Raster.centred((3, 4), (2.0, 0.5)).points(raster.box)[0, 0], (-2.0, -0.75))
    np.testing.assert_array_equal(Raster.centred((3, 4), (2.0, 0.5)).outline_um.max(0), (3.0, 1.0))


@given(rasters)
def test_places_undo_points(raster):
    rows, columns = raster.shape
    wanted = np.stack(np.meshgrid(range(rows), range(columns), indexing="ij"), axis=-1)
    np.testing.assert_allclose(raster.places(raster.points(raster.box)), wanted, atol=1e-9)


@given(rasters)
def test_a_point_is_the_same_in_any_box(raster):
    whole = raster.points(raster.box)
    for row in range(raster.shape[0]):
        one = raster.points(Box((row, 0), (row + 1, raster.shape[1])))
        np.testing.assert_array_equal(one[0], whole[row])


@given(rasters, st.lists(origins, min_size=1, max_size=5))
def test_a_raster_over_points_covers_them_and_no_more(raster, points):
    over = raster.over(points)
    places = over.places(points)
    edge = np.asarray(over.shape) - 0.5
    assert (places > -0.5 - 1e-5).all()
    assert (places < edge + 1e-5).all()
    assert (places.min(0) < 0.5 + 1e-5).all()
    assert (places.max(0) > edge - 1 - 1e-5).all()
    np.testing.assert_allclose(np.rint(raster.places(over.origin_um)), raster.places(over.origin_um), atol=1e-6)


@given(rasters)
def test_over_its_own_outline_it_is_itself(raster):
    over = raster.over(raster.outline_um)
    assert over.shape == raster.shape
    np.testing.assert_allclose(over.origin_um, raster.origin_um, atol=1e-9)


def test_a_cut_has_the_points_of_its_box():
    raster, box = Raster((5, 6), (2.0, 0.5), (10.0, -1.0)), Box((1, 2), (4, 6))
    np.testing.assert_allclose(raster.cut(box).points(Box.from_shape(box.shape)), raster.points(box))


@pytest.mark.parametrize(
    "broken", [((0, 3), (1.0, 1.0), (0.0, 0.0)), ((3, 3), (0.0, 1.0), (0.0, 0.0)), ((3, 3), (1.0, 1.0), (np.nan, 0.0))]
)
def test_what_is_no_raster_is_refused(broken):
    with pytest.raises(GeometryError, match="raster"):
        Raster(*broken)
