"""The picture of a comparison: its size, its panels, what is drawn where, and where the faces are."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from volpipe.errors import ConfigError
from volpipe.geometry import Box
from volpipe.report import Faces, Output, comparison, comparison_figure
from volpipe.report.pictures import FACE_COLOUR, LOWEST_DIFFERENCE

SHAPE = (40, 60)
PIXEL_UM = (0.02, 0.01)
SMALLER = Box((8, 6), (36, 56))  # rows, columns of the third output


@pytest.fixture
def planes():
    """An input, and outputs: with a step, right, and of another network on a part of the input."""
    rng = np.random.default_rng(0)
    reference, other = (rng.random(shape).astype(np.float32) for shape in (SHAPE, SMALLER.shape))
    shifted = reference.copy()
    shifted[19:21] += 0.25
    return rng.integers(0, 256, SHAPE).astype(np.uint8), [
        Output("tile", shifted, reference),
        Output("overlap", reference, reference),
        Output("valid", other + np.float32(0.5), other, box=SMALLER),
    ]


def with_faces(outputs, block_faces, tile_faces=Faces()):  # noqa: B008
    return [replace(output, block_faces=block_faces, tile_faces=tile_faces) for output in outputs]


def panels(figure):
    return [axis for axis in figure.axes if axis.images]


def line_positions(axis, style):
    """(rows, columns) of the lines drawn across a panel."""
    lines = [line for line in axis.lines if line.get_linestyle() == style]
    rows = [line.get_ydata()[0] for line in lines if len(set(line.get_ydata())) == 1]
    columns = [line.get_xdata()[0] for line in lines if len(set(line.get_xdata())) == 1]
    return rows, columns


def drawn_at(axis):
    """The box of the input that a panel's image covers, in rows and columns."""
    left, right, bottom, top = (round(edge + 0.5) for edge in axis.images[0].get_extent())
    return Box((top, left), (bottom, right))


def hatched(axis):
    return [patch for patch in axis.patches if patch.get_hatch()]


def test_faces_lie_between_the_voxels_that_they_part(planes):
    stored, outputs = planes
    outputs = with_faces(outputs, Faces((20,), (16, 32)), Faces((10, 20), (8,)))
    shown = panels(comparison_figure(stored, outputs, pixel_size_um=PIXEL_UM))
    for axis in shown[5:8]:
        assert line_positions(axis, "-") == ([19.5], [15.5, 31.5])
        assert line_positions(axis, ":") == ([9.5, 19.5], [7.5])
    assert not any(axis.lines for axis in shown[:5])


def test_faces_end_with_the_output_that_they_cut(planes):
    stored, outputs = planes
    outputs = with_faces(outputs, Faces((20,), (16,)))
    for axis, output in zip(
        panels(comparison_figure(stored, outputs, pixel_size_um=PIXEL_UM))[5:], outputs, strict=True
    ):
        (top, left), (bottom, right) = output.place.start, output.place.stop
        row, column = axis.lines
        assert row.get_xdata().tolist() == [left - 0.5, right - 0.5]
        assert column.get_ydata().tolist() == [top - 0.5, bottom - 0.5]


def test_the_face_is_seen_in_the_pixels_of_the_picture(planes, tmp_path):
    from matplotlib.colors import to_rgb

    stored, outputs = planes
    with_face, without = tmp_path / "with.png", tmp_path / "without.png"
    comparison(with_face, stored, with_faces(outputs[:2], Faces((), (30,))), pixel_size_um=PIXEL_UM)
    comparison(without, stored, outputs[:2], pixel_size_um=PIXEL_UM)
    changed = np.abs(imread(with_face) - imread(without)).max(axis=2) > 0.2
    assert 2 <= changed.any(axis=0).sum() <= 8  # two panels, each a line a pixel or two wide
    colour = imread(with_face)[changed][:, :3].mean(axis=0)
    assert np.abs(colour - to_rgb(FACE_COLOUR)).max() < 0.5


def test_panels_show_input_outputs_first_reference_and_differences_in_order(planes):
    stored, outputs = planes
    shown = [axis.images[0].get_array() for axis in panels(comparison_figure(*planes, pixel_size_um=PIXEL_UM))]
    differences = [np.abs(o.plane.astype(np.float64) - o.reference).clip(LOWEST_DIFFERENCE) for o in outputs]
    wanted = [stored, *(output.plane for output in outputs), outputs[0].reference, *differences]
    for got, plane in zip(shown, wanted, strict=True):
        np.testing.assert_allclose(got, plane)


def test_each_difference_is_to_the_outputs_own_reference_on_one_shared_scale(planes):
    differences = panels(comparison_figure(*planes, pixel_size_um=PIXEL_UM))[5:]
    assert len({id(axis.images[0].norm) for axis in differences}) == 1
    assert [axis.get_title().partition("≤ ")[2] for axis in differences] == ["0.25", "0", "0.5"]


def test_a_smaller_output_lies_where_it_is_and_the_rest_is_visibly_empty(planes):
    shown = panels(comparison_figure(*planes, pixel_size_um=PIXEL_UM))
    for axis in (shown[3], shown[7]):  # the output and its difference
        assert drawn_at(axis) == SMALLER
        assert axis.get_xlim() == (-0.5, 59.5)
        assert axis.get_ylim() == (39.5, -0.5)
        (empty,) = hatched(axis)
        assert isinstance(empty, Rectangle)
        assert (*empty.get_xy(), empty.get_width(), empty.get_height()) == (-0.5, -0.5, 60, 40)
        assert empty.get_zorder() < axis.images[0].get_zorder()
    assert not any(hatched(axis) for axis in shown if axis not in (shown[3], shown[7]))


def test_how_much_is_empty_is_said_in_words_and_the_legend_knows_the_hatching(planes):
    stored, outputs = planes
    figure = comparison_figure(stored, outputs, pixel_size_um=PIXEL_UM)
    _, tile, overlap, valid, *_ = panels(figure)
    assert [text.get_text() for text in valid.texts] == ["no output: 42 % of the plane"]  # 1 - 28 * 50 / 2400
    assert not tile.texts + overlap.texts

    def legend(figure):
        return [text.get_text() for text in figure.legends[0].get_texts()]

    assert "no output here" in legend(figure)
    assert "no output here" not in legend(comparison_figure(stored, outputs[:2], pixel_size_um=PIXEL_UM))


def test_the_detail_is_the_box_enlarged_and_points_at_the_faces_within(planes):
    stored, outputs = planes
    box = Box((12, 20), (28, 50))
    outputs = with_faces(outputs, Faces((16,), ()), Faces((8, 16, 24), (32,)))
    shown = panels(comparison_figure(stored, outputs, pixel_size_um=PIXEL_UM, detail=box))
    for axis, output in zip(shown[9:], outputs, strict=True):
        place = box.relative_to(output.place.start)
        np.testing.assert_array_equal(axis.images[0].get_array(), output.plane[place.slices])
        assert drawn_at(axis) == box
        assert list(axis.get_yticks()) == [15.5, 23.5]
        assert list(axis.get_xticks()) == [31.5]
        assert not hatched(axis)


def test_what_shows_a_network_with_a_name_says_it(planes):
    stored, (tile, *_, valid) = planes
    outputs = [replace(tile, network="padded"), replace(valid, network="unpadded")]
    shown = panels(comparison_figure(stored, outputs, pixel_size_um=PIXEL_UM, detail=Box((12, 20), (28, 50))))
    titles = [shown[place].get_title() for place in (3, 6, 7, 8)]
    wanted = [
        "whole volume (padded)",
        "whole volume (padded), detail",
        "tile (padded), detail",
        "valid (unpadded), detail",
    ]
    assert titles == wanted
    assert panels(comparison_figure(*planes, pixel_size_um=PIXEL_UM))[4].get_title() == "whole volume"


def test_a_detail_beyond_an_output_is_hatched_there(planes):
    *_, tile, overlap, valid = panels(comparison_figure(*planes, pixel_size_um=PIXEL_UM, detail=Box((0, 0), (16, 24))))
    assert drawn_at(valid) == Box((8, 6), (16, 24))
    assert [len(hatched(axis)) for axis in (tile, overlap, valid)] == [0, 0, 1]


def test_voxels_are_drawn_with_their_physical_aspect(planes):
    for axis in panels(comparison_figure(*planes, pixel_size_um=PIXEL_UM)):
        assert axis.get_aspect() == pytest.approx(2.0)


def test_the_scale_bar_is_a_round_length_of_the_right_width(planes):
    first = panels(comparison_figure(*planes, pixel_size_um=PIXEL_UM))[0]
    (bar,) = first.patches
    assert [text.get_text() for text in first.texts] == ["100 nm"]  # of 600 nm
    assert bar.get_width() == pytest.approx(10)


def test_the_picture_has_the_size_asked_for(planes, tmp_path):
    for dpi in (50, 100):
        comparison(tmp_path / f"{dpi}.png", *planes, pixel_size_um=PIXEL_UM, dpi=dpi)
    small, large = (imread(tmp_path / f"{dpi}.png").shape for dpi in (50, 100))
    assert large[1] == pytest.approx(100 * (4 * 2.8 + 1), abs=1)
    assert np.allclose(large[:2], np.multiply(small[:2], 2), atol=2)


def test_planes_of_different_shapes_and_boxes_outside_are_refused(planes):
    stored, (tile, *_, valid) = planes
    for wrong in (
        replace(tile, plane=tile.plane[1:]),
        replace(tile, reference=tile.reference[1:]),
        replace(valid, box=None, reference=tile.reference),
        replace(valid, box=SMALLER.shift((5, 0))),
        replace(tile, plane=tile.plane[None], reference=tile.reference[None]),
    ):
        with pytest.raises(ConfigError, match="of the box's shape, inside the input"):
            comparison_figure(stored, [wrong], pixel_size_um=PIXEL_UM)
    with pytest.raises(ConfigError, match="one or more outputs"):
        comparison_figure(stored, [], pixel_size_um=PIXEL_UM)
