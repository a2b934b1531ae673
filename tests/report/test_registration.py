"""The pictures of a registration: planes lie where poses and fields say, what is unknown stays so, nothing is large."""

import re

import numpy as np
import pytest
import yaml
from matplotlib.collections import PolyCollection
from matplotlib.colors import same_color
from matplotlib.quiver import Quiver
from warp_scene import POSES, SIZE_UM, bent, cut, scene

from volpipe import RegisterJob
from volpipe.errors import ProductError
from volpipe.geometry import Rigid
from volpipe.jobs.field_store import store_field
from volpipe.jobs.register_setup import Setup
from volpipe.jobs.slab_reader import SlabReader
from volpipe.report import registration_planes
from volpipe.report.registration import page, report
from volpipe.report.registration_figures import (
    BRIDGED,
    FAINT,
    ROSE,
    SQUARES,
    UNKNOWN,
    Board,
    Cut,
    Seam,
    Stack,
    board,
    checkerboard,
    cut_figure,
    drift_figure,
    field_figure,
    seams_figure,
    sheet_figure,
)  # fmt: skip
from volpipe.report.registration_planes import Planes
from volpipe.volume import Layout, create_product

LAYERS, GAP, SHAPE = 4, 2, (30, 44)
FIELD = bent(POSES[1], SHAPE)
PUSHES = (POSES[0], FIELD.push, POSES[2])


def stored(folder, name, voxels):
    layout = Layout(voxels.shape, 1, voxels.dtype, SIZE_UM, chunk=(4, 16, 16), shard=(4, 32, 48))
    product = create_product(str(folder / name), layout, {})
    for block in product.grid():
        product.write(block.core, np.ascontiguousarray(voxels[None][:, *block.core.slices]))
    product.publish(())
    product.update(state="complete")
    return product.location


@pytest.fixture(scope="module")
def planes(tmp_path_factory):
    """Three slabs of one scene, the second one bent, and a missing one between the second and the third."""
    folder = tmp_path_factory.mktemp("slabs")
    tops = [0, LAYERS + GAP, 3 * (LAYERS + GAP)]
    cuts = [cut(push, top, LAYERS, SHAPE).astype(np.float32) for push, top in zip(PUSHES, tops, strict=True)]
    entries = [stored(folder, f"{number}.ome.zarr", voxels) for number, voxels in enumerate(cuts)]
    entries.insert(2, {"layers": LAYERS})
    (folder / "slabs.yaml").write_text(yaml.safe_dump({"slabs": entries, "gap_layers": GAP}))
    store_field(str(folder / "field.zarr"), FIELD)
    stack = Setup(RegisterJob(slabs=str(folder / "slabs.yaml"), output=str(folder / "out"), window=30)).stack
    return Planes(stack, (POSES[0], POSES[1], Rigid(), POSES[2]), {1: str(folder / "field.zarr")})


def far(plane, wanted):
    """The largest difference where something is known; by the slab's edge, where its last voxel goes on, 6."""
    known = np.isfinite(plane)
    assert known.mean() > 0.5
    return np.abs(plane - wanted)[known].max()


# ---------------------------------------------------------------------- planes


@pytest.mark.parametrize(("upper", "lower", "layer"), [(0, 1, LAYERS + GAP), (1, 3, 3 * (LAYERS + GAP))])
def test_faces_show_what_lies_at_one_place_once_they_are_registered(planes, upper, lower, layer):
    raster = planes.raster(upper)
    points = planes.poses[upper](raster.points(raster.box))
    before, after = (planes.faces(upper, lower, registered=registered) for registered in (False, True))
    last = 6 * upper + LAYERS - 1
    for plane, z in zip(after, (last, layer), strict=True):
        assert far(plane, scene(z * SIZE_UM[0], points)) < 7
    assert far(before[1], scene(layer * SIZE_UM[0], points)) > 20
    held = planes.stack.reader(upper).read(0, raster.box, range(LAYERS - 1, LAYERS))[0]
    np.testing.assert_array_equal(before[0], held)  # as it lies


def test_a_cut_shows_each_layer_at_its_depth_and_nothing_where_nothing_is(planes):
    assert planes.tops == (0, 6, 12, 18)
    found = planes.cut(registered=True)
    points = planes.across.points(planes.across.box)[0]
    assert len(found) == 4 * LAYERS + 3 * GAP
    for top in (0, 6, 18):
        for layer in range(top, top + LAYERS):
            assert far(found[layer], scene(layer * SIZE_UM[0], points)) < 7
    for lost in (range(4, 6), range(10, 18)):
        assert np.isnan(found[lost]).all()
    assert far(planes.cut(registered=False)[6], scene(6 * SIZE_UM[0], points)) > 20


def test_a_cut_of_many_layers_is_every_so_manieth_of_them(planes, monkeypatch):
    whole = planes.cut(registered=True)
    monkeypatch.setattr(registration_planes, "MOST_ROWS", 5)
    assert planes.step == 5
    np.testing.assert_array_equal(planes.cut(registered=True), whole[::5])


def test_a_cut_does_not_depend_on_how_many_layers_are_read_at_once(planes, monkeypatch):
    whole, read, most = planes.cut(registered=True), SlabReader.read, []
    monkeypatch.setattr(registration_planes, "TOGETHER", 3)
    monkeypatch.setattr(
        SlabReader, "read", lambda self, level, box, n: most.append(len(n)) or read(self, level, box, n)
    )
    np.testing.assert_array_equal(planes.cut(registered=True), whole)
    assert max(most) == 3


def test_no_slab_is_read_at_more_pixels_than_a_picture_has(planes, monkeypatch):
    seen = []

    def spy(self, level, box, layers):
        seen.append((level, box.size))
        return read(self, level, box, layers)

    read = SlabReader.read
    monkeypatch.setattr(SlabReader, "read", spy)
    coarse = Planes(planes.stack, planes.poses, planes.fields, most=200)
    coarse.faces(0, 1, registered=True)
    coarse.cut(registered=True)
    assert max(size for _, size in seen) <= 200
    assert {level for level, _ in seen} == {2}
    assert coarse.raster(0).shape == (8, 11)


# ---------------------------------------------------------------------- figures


def test_a_checkerboard_shows_both_by_turns_and_what_is_unknown_in_either():
    upper, lower = np.zeros((16, 24), np.float32), np.ones((16, 24), np.float32)
    lower[:, -3:] = np.nan
    board = checkerboard(upper, lower)
    side = 16 // SQUARES
    assert (board[:side, :side] == 0).all()
    assert (board[:side, side : 2 * side] == 1).all()
    assert (board[side : 2 * side, :side] == 1).all()
    assert np.isnan(board[:side, -side:]).all()
    assert (board[side : 2 * side, -side:] == 0).all()


def test_seams_are_drawn_in_micrometres_and_each_slab_in_its_own_greys():
    gain, bias = 50, 7
    tissue = np.random.default_rng(0).random((20, 30)).astype(np.float32)
    faces = (tissue, gain * tissue + bias)
    figure = seams_figure([Seam("slabs 0 | 1", faces, faces, (2.0, 1.0))])
    left, right = figure.axes
    np.testing.assert_allclose(left.images[0].get_array(), left.images[0].get_array().clip(0, 1))
    wanted = checkerboard(tissue, tissue)
    assert np.corrcoef(right.images[0].get_array().ravel(), wanted.ravel())[0, 1] > 0.99
    assert left.images[0].get_extent() == [-15, 15, 20, -20]
    assert same_color(left.get_facecolor(), UNKNOWN)
    assert [panel.get_title() for panel in figure.axes] == ["slabs 0 | 1: before", "slabs 0 | 1: after"]


def test_drift_has_poses_at_slabs_weights_between_them_and_shades_what_is_bridged():
    stack = Stack(
        angles_rad=[0, 0.001, 0.002, 0.003],
        shifts_um=[(0, 0), (1, -1), (2, -2), (3, -3)],
        bridged=[1, 2],
        missing=[2],
        weights={(0, 1): 0.0, (0, 3): 0.7, (1, 3): 0.2},
        moved_um={3: (1.0, 5.0)},
    )
    figure = drift_figure(stack)
    shift, angle, weights, bend = figure.axes
    assert [line.get_ydata().tolist() for line in shift.lines] == [[0, 1, 2, 3], [0, -1, -2, -3]]
    np.testing.assert_allclose(angle.lines[0].get_ydata(), [0, 1, 2, 3])  # mrad
    points = [tuple(at) for dots in weights.collections for at in dots.get_offsets().tolist()]
    assert sorted(points) == [(0.5, 0.0), (1.5, 0.7), (2.0, 0.2)]
    np.testing.assert_array_equal(bend.lines[1].get_ydata(), [np.nan, np.nan, np.nan, 5.0])
    for panel in figure.axes:
        shades = [(patch.get_x(), patch.get_hatch()) for patch in panel.patches]
        assert shades == [(0.5, None), (1.5, "////")]
        assert all(same_color(patch.get_facecolor(), BRIDGED) for patch in panel.patches)


def test_drift_from_starts_says_so():
    figure = drift_figure(Stack([0, 0], [(0, 0), (0, 0)], [], [], {(0, 1): 1.0}, {}, from_starts=True))
    assert [panel.get_ylabel() for panel in figure.axes[:2]] == [
        "shift from its start, µm",
        "angle from its start, mrad",
    ]


def test_a_sheet_has_a_panel_of_each_board_and_marks_some():
    plane = np.random.default_rng(0).random((20, 30)).astype(np.float32)
    boards = [Board(f"slab {n}", plane, (2.0, 1.0), n in (2, 6)) for n in range(7)]
    figure = sheet_figure(boards, "what is seen")
    shown, empty = figure.axes[:7], figure.axes[7:]
    assert [panel.get_title() for panel in shown] == [each.title for each in boards]
    assert [same_color(panel.title.get_color(), ROSE) for panel in shown] == [each.marked for each in boards]
    assert shown[0].images[0].get_extent() == [-15, 15, 20, -20]
    np.testing.assert_array_equal(shown[3].images[0].get_array(), plane)
    assert len(empty) == 3
    assert not any(panel.axison for panel in empty)
    assert figure.get_suptitle() == "what is seen"
    tall = (
        sheet_figure(boards[:5], "").get_size_inches()[1]
        - sheet_figure([Board("", plane.T, (1.0, 2.0), False)], "").get_size_inches()[1]
    )
    assert tall > 0.5  # as tall as what is drawn
    assert len(sheet_figure(boards[:1], "").axes) == 1


def test_a_board_has_each_face_in_greys_of_its_own():
    upper, lower = np.random.default_rng(0).random((2, 40, 40)).astype(np.float32)
    made = board((upper, 50 * lower + 7))
    assert (made.min(), made.max()) == (0, 1)
    assert np.corrcoef(made.ravel(), checkerboard(upper, lower).ravel())[0, 1] > 0.99


def test_without_fields_drift_has_no_empty_panel():
    stack = Stack([0, 0], [(0, 0), (0, 0)], [], [], {(0, 1): 1.0}, {})
    assert len(drift_figure(stack).axes) == 3


def test_arrows_lead_from_where_the_pose_puts_tissue_to_where_the_field_does():
    field = bent(Rigid(0.1, (1.0, -2.0)), SHAPE)
    field.confidence[:, 0] = 0
    figure = field_figure(3, field, np.zeros((4, 2)))
    panel, confidence = figure.axes[:2]
    (arrows,) = (each for each in panel.collections if isinstance(each, Quiver))
    times = float(re.search(r"× (\S+),", panel.get_title())[1])
    points = arrows.get_offsets()[:, ::-1]
    slab = field.pull(points)
    moved = (field.push(slab) - field.pose(slab)) * times
    np.testing.assert_allclose(np.stack([arrows.V, arrows.U], axis=-1), moved, atol=1e-5)
    assert isinstance(arrows, PolyCollection)
    faint = [same_color(colour, FAINT) for colour in arrows.get_facecolor()]
    assert faint == (points[:, 1] == field.origin_um[1]).tolist()
    assert confidence.images[0].get_array().mask[:, 0].all()


def test_a_cut_is_as_deep_as_it_says_and_numbers_what_is_bridged():
    rows = np.random.default_rng(1).random((10, 6)).astype(np.float32)
    figure = cut_figure(Cut(rows, rows, [0, 4, 8], (4.0, 0.5), -1.5, [1]))
    for panel in figure.axes:
        assert panel.images[0].get_extent() == [-1.5, 1.5, 40.0, 0.0]
        assert [(text.get_text(), text.xy) for text in panel.texts] == [("1", (1.0, 16.0))]


# ---------------------------------------------------------------------- the page


def test_a_page_names_its_pictures_and_takes_no_text_for_html():
    text = page("a <b>", [("slabs", "3 & 4")], [("one.png", 'a "line"')])
    assert "<h1>a &lt;b&gt;</h1>" in text
    assert "3 &amp; 4" in text
    assert '<img src="one.png" alt="a &quot;line&quot;">' in text


def test_a_report_of_what_is_not_finished_is_refused(tmp_path):
    with pytest.raises(ProductError, match="holds no finished registration"):
        report(RegisterJob(slabs="slabs.yaml", output=str(tmp_path / "none")))
