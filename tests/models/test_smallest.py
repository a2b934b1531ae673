"""The shortest length that a network takes, per axis."""

import pytest
import torch
from torch import nn

from volpipe.geometry import AxisFootprint, Footprint
from volpipe.models import load_model, preset, resolve_model
from volpipe.models.smallest import with_smallest


class Pooled(nn.Module):
    """Period 4 along y, 2 along x."""

    def forward(self, image):
        small = nn.functional.max_pool2d(image, (4, 2))
        return image + nn.functional.interpolate(small, scale_factor=(4.0, 2.0))


POOLED = Footprint.from_halo((0, 0), (4, 2))


def lengths(network, footprint):
    return [axis.smallest for axis in with_smallest(network, 1, footprint).axes]


def program(network, shape):
    dims = dict.fromkeys(range(2, len(shape)), torch.export.Dim.AUTO)
    return torch.export.export(network, (torch.zeros(shape),), dynamic_shapes=(dims,)).module()


def test_an_export_takes_no_length_of_one_period():
    assert lengths(program(Pooled(), (1, 1, 32, 24)), POOLED) == [8, 4]


def test_where_the_shortest_length_is_taken_the_footprint_is_as_it_was():
    assert with_smallest(Pooled(), 1, POOLED) == POOLED


@pytest.mark.parametrize("network", [lambda net: net, torch.jit.script], ids=["factory", "script"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_mirror_must_fit(network):
    mirrored = nn.Conv2d(1, 1, (9, 1), padding=(4, 0), padding_mode="reflect")
    assert lengths(network(mirrored), Footprint.from_halo((4, 0), (1, 1))) == [5, 1]
    assert lengths(network(mirrored), Footprint.from_halo((4, 0), (2, 2))) == [6, 1]


@pytest.mark.parametrize("name", ["unet3d_l3", "unet3d_l3_valid", "resnet6_2d"])
def test_ours_take_what_they_say(name):
    model = load_model(resolve_model(f"preset:{name}_w2"))
    found = with_smallest(model.network, 1, preset(name).footprint())
    least = [axis.admissible(int(axis.lost) + 1) for axis in found.axes]
    assert least == (list(model.network._smallest))


def test_a_network_that_takes_nothing_is_left_as_it_was():
    assert with_smallest(nn.Conv2d(2, 1, 3), 1, POOLED) == POOLED
    window = Footprint((AxisFootprint(period=4, window=16),) * 2)
    assert with_smallest(Pooled(), 1, window) is window
