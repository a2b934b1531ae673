"""Assemblies: there and back, and which axis the planes are cut across."""

import numpy as np
import pytest
from zoo import on_all

from volpipe.errors import ConfigError, GeometryError
from volpipe.geometry import AxisFootprint, Box, Footprint
from volpipe.stitching import Assembly, Tile, cropped

TILES = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
PLANE = {"z": (8, 3, 5, 6), "y": (10, 3, 4, 6), "x": (12, 3, 4, 5)}


def seen(assembly, tiles=TILES):
    """What the network is given."""
    given = []
    on_all(assembly, lambda planes: given.append(planes) or planes, tiles)
    return given


@pytest.mark.parametrize("axis", "zyx")
def test_planes_come_back_where_they_were(axis):
    assembly = Assembly("2d", axis)
    assert seen(assembly)[0].shape == PLANE[axis]
    np.testing.assert_array_equal(on_all(assembly, lambda planes: planes, TILES), TILES)


def test_the_planes_across_an_axis_are_the_volumes_planes():
    (planes,) = seen(Assembly("2d", "y"))
    np.testing.assert_array_equal(planes[0], TILES[0, :, :, 0])
    np.testing.assert_array_equal(planes[7], TILES[1, :, :, 2])


def test_an_orthoslice_is_the_mean_of_the_three():
    def network(planes):  # along the last axis alone, and with another number of channels
        return np.cumsum(planes[:, :2], axis=-1, dtype=np.float64)

    three = [on_all(Assembly("2d", axis), network, TILES) for axis in "zyx"]
    mean = on_all(Assembly("orthoslice"), network, TILES)
    assert mean.shape == (2, 2, 4, 5, 6)
    np.testing.assert_array_equal(mean, (three[0] + three[1] + three[2]) / 3)
    assert np.abs(three[0] - three[2]).max() > 0


@pytest.mark.parametrize("axis", "zyx")
def test_the_network_is_priced_on_what_it_will_see(axis):
    tile = Tile(Box.from_shape((4, 5, 6)), Box.from_shape((4, 5, 6)))
    ((inputs, seen, across),) = Assembly("2d", axis).passes(tile)
    assert (2 * inputs, 3, *seen.read.shape) == PLANE[axis]
    assert "zyx"[across] == axis
    assert Assembly("3d").passes(tile) == [(1, tile, None)]


@pytest.mark.parametrize("axis", "zyx")
def test_planes_that_a_tile_reads_and_does_not_own_are_left_out(axis):
    tile = Tile(Box((11, 12, 12), (13, 14, 15)), Box((10, 10, 10), (14, 15, 16)))
    seen = []

    def network(images, plane, across):
        seen.append((images.shape, plane.own, plane.read, "zyx"[across]))
        return cropped(lambda planes: planes)(images, plane, across)

    values = Assembly("2d", axis).run(network, TILES, tile)
    np.testing.assert_array_equal(values, TILES[:, :, 1:3, 2:4, 2:5])
    planes = {"z": (4, 3, 5, 6), "y": (4, 3, 4, 6), "x": (6, 3, 4, 5)}[axis]
    plane = tile.across("zyx".index(axis))
    assert seen == [(planes, plane.own, plane.read, axis)]
    (inputs, priced, across), *_ = Assembly("orthoslice").passes(tile)
    assert (inputs, priced.read.shape, across) == (2, (5, 6), 0)


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
