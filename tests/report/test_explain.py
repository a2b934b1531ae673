"""The table and the picture of intervals: shares of halo counted by hand, bars where the intervals are."""

from types import SimpleNamespace

import pytest
from matplotlib.colors import to_rgba
from torch import nn

from volpipe.geometry import Box
from volpipe.inference.intervals import capture
from volpipe.inference.intervals.explain import explain, layers
from volpipe.report.explain_text import explain_text
from volpipe.report.intervals import HALO_COLOUR, OWN_COLOUR, intervals_figure


@pytest.fixture(scope="module")
def found():
    """Half the resolution and back, on a block of 8 x 16 of 64 x 64."""
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 3, 2, stride=2), nn.ConvTranspose2d(3, 1, 2, stride=2)
    )
    model = SimpleNamespace(network=network, footprint=None)
    return explain(model, capture(network, (64, 64)), Box((16, 32), (24, 48)))


def test_the_halo_is_what_lies_outside_the_own_part(found):
    first = found.layers[0]
    assert (first.box, first.own) == (Box((15, 31), (25, 49)), Box((16, 32), (24, 48)))
    assert [layer.halo_share for layer in found.layers] == [pytest.approx(1 - 8 * 16 / (10 * 18)), 0, 0, 0]
    assert [layer.operations for layer in found.layers[1:]] == [("conv2d", "relu"), ("conv2d",), ("conv_transpose2d",)]
    assert found.layers[2].box == Box((8, 16), (12, 24))
    assert [layer.on_ruler(layer.box, 0) for layer in found.layers[1:]] == [(16, 24)] * 3


def test_floating_point_operations_are_those_of_each_layer(found):
    own = 8 * 16
    assert [layer.flops for layer in found.layers] == [0, 2 * 9 * 2 * own, 2 * 4 * 6 * own / 4, 2 * 4 * 3 * own / 4]
    assert sum(layer.flops for layer in found.layers) == found.price.flops


def test_a_valid_network_is_drawn_in_its_middle():
    plan = capture(nn.Sequential(*(nn.Conv2d(1, 1, 5) for _ in range(3))), (40, 40)).plan(Box((10, 10), (20, 20)))
    assert [layer.on_ruler(layer.box, 0) for layer in layers(plan)] == [(4, 26), (6, 24), (8, 22), (10, 20)]
    assert {layer.on_ruler(layer.own, 1) for layer in layers(plan)} == {(10, 20)}


def test_an_unknown_footprint_is_said(found):
    assert explain_text(found).endswith("so overlap has no price; volpipe probe says why")


def test_bars_lie_where_the_intervals_are(found):
    figure = intervals_figure(found)
    first, second = figure.axes  # y and x differ
    for panel, axis in ((first, 0), (second, 1)):
        bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in panel.patches]
        drawn = [layer.on_ruler(box, axis) for layer in found.layers for box in (layer.box, layer.own)]
        assert bars == drawn
    labels = [text.get_text() for text in first.get_yticklabels()]
    assert labels == ["input", "0  conv2d", "2  conv2d", "3  conv_transpose2d"]
    colours = [bar.get_facecolor() for bar in first.patches[:2]]
    assert colours == [to_rgba(HALO_COLOUR), to_rgba(OWN_COLOUR)]


def test_axes_that_are_alike_share_a_panel():
    network = nn.Conv2d(1, 1, 3, padding=1)
    model = SimpleNamespace(network=network, footprint=None)
    program = capture(network, (64, 64))
    assert len(intervals_figure(explain(model, program, Box((8, 8), (16, 16)))).axes) == 1
