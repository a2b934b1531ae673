"""Assemblies: there and back, and which axis the planes are cut across."""

import numpy as np
import pytest

from volpipe.errors import ConfigError, GeometryError
from volpipe.geometry import AxisFootprint, Footprint
from volpipe.stitching import Assembly

TILES = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
PLANE = {"z": (8, 3, 5, 6), "y": (10, 3, 4, 6), "x": (12, 3, 4, 5)}


def seen(assembly, tiles=TILES):
    """What the network is given."""
    given = []
    assembly.run(lambda planes: given.append(planes) or planes, tiles)
    return given


@pytest.mark.parametrize("axis", "zyx")
def test_planes_come_back_where_they_were(axis):
    assembly = Assembly("2d", axis)
    assert seen(assembly)[0].shape == PLANE[axis]
    np.testing.assert_array_equal(assembly.run(lambda planes: planes, TILES), TILES)


def test_the_planes_across_an_axis_are_the_volumes_planes():
    (planes,) = seen(Assembly("2d", "y"))
    np.testing.assert_array_equal(planes[0], TILES[0, :, :, 0])
    np.testing.assert_array_equal(planes[7], TILES[1, :, :, 2])


def test_an_orthoslice_is_the_mean_of_the_three():
    def network(planes):  # along the last axis alone, and with another number of channels
        return np.cumsum(planes[:, :2], axis=-1, dtype=np.float64)

    three = [Assembly("2d", axis).run(network, TILES) for axis in "zyx"]
    mean = Assembly("orthoslice").run(network, TILES)
    assert mean.shape == (2, 2, 4, 5, 6)
    np.testing.assert_array_equal(mean, (three[0] + three[1] + three[2]) / 3)
    assert np.abs(three[0] - three[2]).max() > 0


@pytest.mark.parametrize("axis", "zyx")
def test_the_network_is_priced_on_what_it_will_see(axis):
    ((inputs, shape),) = Assembly("2d", axis).network_shapes((4, 5, 6))
    assert (2 * inputs, 3, *shape) == PLANE[axis]
    assert Assembly("3d").network_shapes((4, 5, 6)) == [(1, (4, 5, 6))]
    assert Assembly("orthoslice").network_shapes((4, 5, 6)) == [(4, (5, 6)), (5, (4, 6)), (6, (4, 5))]


def test_an_orthoslice_needs_what_any_of_its_planes_needs():
    network = Footprint((AxisFootprint(4, 5, 2), AxisFootprint(6, 3, 3)))
    found = Assembly("orthoslice").footprint(network).axes
    assert found == (AxisFootprint(4, 5, 2), AxisFootprint(6, 5, 6), AxisFootprint(6, 3, 3))
    with pytest.raises(GeometryError, match="give padded ones that do not"):
        Assembly("orthoslice").footprint(Footprint((AxisFootprint(0, 8, 2, 0, 8),) * 2))


def test_a_2d_footprint_has_no_context_across_the_planes():
    network = Footprint((AxisFootprint(4, 4, 2), AxisFootprint(6, 6, 2)))
    assert Assembly("2d", "x").footprint(network).halo == ((4, 4), (6, 6), (0, 0))


@pytest.mark.parametrize(("name", "axis"), [("4d", "z"), ("2d", "t")])
def test_an_unknown_assembly_is_refused(name, axis):
    with pytest.raises(ConfigError, match="give 2d, 3d, orthoslice"):
        Assembly(name, axis)
