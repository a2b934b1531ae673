"""The picture of a comparison: its size, its panels, and where the faces are drawn."""

import numpy as np
import pytest
from matplotlib.image import imread

from volpipe.errors import ConfigError
from volpipe.geometry import Box
from volpipe.report import Faces, comparison, comparison_figure
from volpipe.report.pictures import FACE_COLOUR, LOWEST_DIFFERENCE

SHAPE = (40, 60)
PIXEL_UM = (0.02, 0.01)


@pytest.fixture
def planes():
    rng = np.random.default_rng(0)
    reference = rng.random(SHAPE).astype(np.float32)
    shifted = reference.copy()
    shifted[19:21] += 0.25
    return rng.integers(0, 256, SHAPE).astype(np.uint8), {"tile": shifted, "overlap": reference}, reference


def panels(figure):
    return [axis for axis in figure.axes if axis.images]


def line_positions(axis, style):
    """(rows, columns) of the lines drawn across a panel."""
    lines = [line for line in axis.lines if line.get_linestyle() == style]
    rows = [line.get_ydata()[0] for line in lines if len(set(line.get_ydata())) == 1]
    columns = [line.get_xdata()[0] for line in lines if len(set(line.get_xdata())) == 1]
    return rows, columns


def test_faces_lie_between_the_voxels_that_they_part(planes):
    figure = comparison_figure(
        *planes, Faces((20,), (16, 32)), tile_faces=Faces((10, 20), (8,)), pixel_size_um=PIXEL_UM
    )
    _, *outputs, whole, tile, overlap = panels(figure)
    for axis in (tile, overlap):
        assert line_positions(axis, "-") == ([19.5], [15.5, 31.5])
        assert line_positions(axis, ":") == ([9.5, 19.5], [7.5])
    assert not any(axis.lines for axis in (*outputs, whole))


def test_the_face_is_seen_in_the_pixels_of_the_picture(planes, tmp_path):
    from matplotlib.colors import to_rgb

    with_face, without = tmp_path / "with.png", tmp_path / "without.png"
    comparison(with_face, *planes, Faces((), (30,)), pixel_size_um=PIXEL_UM)
    comparison(without, *planes, Faces(), pixel_size_um=PIXEL_UM)
    changed = np.abs(imread(with_face) - imread(without)).max(axis=2) > 0.2
    assert 2 <= changed.any(axis=0).sum() <= 8  # two panels, each a line a pixel or two wide
    colour = imread(with_face)[changed][:, :3].mean(axis=0)
    assert np.abs(colour - to_rgb(FACE_COLOUR)).max() < 0.5


def test_panels_show_input_outputs_reference_and_differences_in_order(planes):
    stored, outputs, reference = planes
    shown = [axis.images[0].get_array() for axis in panels(comparison_figure(*planes, Faces(), pixel_size_um=PIXEL_UM))]
    difference = np.abs(outputs["tile"].astype(np.float64) - reference)
    wanted = [stored, outputs["tile"], outputs["overlap"], reference, np.maximum(difference, LOWEST_DIFFERENCE)]
    for got, plane in zip(shown, wanted, strict=False):
        np.testing.assert_allclose(got, plane)
    assert len(shown) == 6


def test_all_differences_share_one_scale_and_state_their_largest(planes):
    *_, tile, overlap = panels(comparison_figure(*planes, Faces(), pixel_size_um=PIXEL_UM))
    assert tile.images[0].norm is overlap.images[0].norm
    assert tile.get_title().endswith("at most 0.25")
    assert overlap.get_title().endswith("at most 0")


def test_the_detail_is_the_box_enlarged_and_points_at_the_tile_faces_within(planes):
    box = Box((12, 20), (28, 50))
    faces = Faces((8, 16, 24), (32,))
    figure = comparison_figure(*planes, Faces(), tile_faces=faces, pixel_size_um=PIXEL_UM, detail=box)
    tile = panels(figure)[7]
    np.testing.assert_array_equal(tile.images[0].get_array(), planes[1]["tile"][12:28, 20:50])
    assert list(tile.get_yticks()) == [3.5, 11.5]
    assert list(tile.get_xticks()) == [11.5]


def test_voxels_are_drawn_with_their_physical_aspect(planes):
    for axis in panels(comparison_figure(*planes, Faces(), pixel_size_um=PIXEL_UM)):
        assert axis.get_aspect() == pytest.approx(2.0)


def test_the_scale_bar_is_a_round_length_of_the_right_width(planes):
    first = panels(comparison_figure(*planes, Faces(), pixel_size_um=PIXEL_UM))[0]
    (bar,) = first.patches
    assert [text.get_text() for text in first.texts] == ["100 nm"]  # of 600 nm
    assert bar.get_width() == pytest.approx(10)


def test_the_picture_has_the_size_asked_for(planes, tmp_path):
    for dpi in (50, 100):
        comparison(tmp_path / f"{dpi}.png", *planes, Faces(), pixel_size_um=PIXEL_UM, dpi=dpi)
    small, large = (imread(tmp_path / f"{dpi}.png").shape for dpi in (50, 100))
    assert large[1] == pytest.approx(100 * (3 * 3.3 + 1), abs=1)
    assert np.allclose(large[:2], np.multiply(small[:2], 2), atol=2)


def test_planes_of_different_shapes_are_refused(planes):
    stored, outputs, reference = planes
    with pytest.raises(ConfigError, match="all of one 2D shape"):
        comparison_figure(stored[1:], outputs, reference, Faces(), pixel_size_um=PIXEL_UM)
    with pytest.raises(ConfigError, match="one or more outputs"):
        comparison_figure(stored, {}, reference, Faces(), pixel_size_um=PIXEL_UM)
