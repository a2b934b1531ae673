"""Assemblies: there and back, and which axis the planes are cut across."""

import numpy as np
import pytest

from volpipe.errors import ConfigError
from volpipe.geometry import AxisFootprint, Footprint
from volpipe.stitching import Assembly

TILES = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
PLANE = {"z": (8, 3, 5, 6), "y": (10, 3, 4, 6), "x": (12, 3, 4, 5)}


@pytest.mark.parametrize("axis", "zyx")
def test_planes_come_back_where_they_were(axis):
    assembly = Assembly("2d", axis)
    planes = assembly.to_network(TILES)
    assert planes.shape == PLANE[axis]
    np.testing.assert_array_equal(assembly.from_network(planes, 2), TILES)


def test_the_planes_across_an_axis_are_the_volumes_planes():
    planes = Assembly("2d", "y").to_network(TILES)
    np.testing.assert_array_equal(planes[0], TILES[0, :, :, 0])
    np.testing.assert_array_equal(planes[7], TILES[1, :, :, 2])


@pytest.mark.parametrize("axis", "zyx")
def test_the_network_is_priced_on_what_it_will_see(axis):
    assembly = Assembly("2d", axis)
    inputs, shape = assembly.network_shape((4, 5, 6))
    assert (2 * inputs, 3, *shape) == PLANE[axis]
    assert Assembly("3d").network_shape((4, 5, 6)) == (1, (4, 5, 6))


def test_a_2d_footprint_has_no_context_across_the_planes():
    network = Footprint((AxisFootprint(4, 4, 2), AxisFootprint(6, 6, 2)))
    assert Assembly("2d", "x").footprint(network).halo == ((4, 4), (6, 6), (0, 0))


@pytest.mark.parametrize(("name", "axis"), [("4d", "z"), ("2d", "t")])
def test_an_unknown_assembly_is_refused(name, axis):
    with pytest.raises(ConfigError, match="2d or 3d"):
        Assembly(name, axis)
