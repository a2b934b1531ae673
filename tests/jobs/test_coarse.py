"""Slabs that lie at any angle or upside down are laid out, registered and rendered."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from made_tissue import Waves
from register_scene import SERIAL, poses_of, register

from volpipe import PyramidJob, RegisterJob, WarpJob, run
from volpipe.cli import cli
from volpipe.errors import ConfigError, ProductError, VolumeError
from volpipe.geometry import Box, Raster, Rigid
from volpipe.jobs import coarse
from volpipe.jobs.coarse import LaidOut, lay_out
from volpipe.jobs.register_setup import SlabStack
from volpipe.jobs.slabs import load_slabs
from volpipe.jobs.transforms import Slab, Transforms, load_transforms
from volpipe.registration.coarse import CoarseEstimate
from volpipe.report import laid_out as picture
from volpipe.report import registration as page
from volpipe.volume import open_source
from volpipe.volume.folder import open_folder

SIZE, SIZE_UM, LAYERS, GAP = (112, 96), (1.0, 0.4, 0.5), 4, 1
CUT = {"chunk": (4, 24, 32), "shard": (8, 24, 32), "pyramid": False}
POSES = [Rigid(), Rigid(2.1, (2.0, -1.5)), Rigid(-0.8, (-1.0, 2.0)), Rigid(), Rigid(3.0, (0.5, 0.5))]
UPSIDE_DOWN, MISSING = (1, 4), 3
TISSUE = Waves(shortest=3.0, longest=25.0, drift=0.06)


def right_way_up(number, pose):
    """A slab of one tissue in the shape of a mitten, in which no turn and no mirror image lies on another."""
    raster = Raster.centred(SIZE, SIZE_UM[1:])
    y, x = np.moveaxis(pose(raster.points(raster.box)), -1, 0)
    tissue = ((y / 17) ** 2 + (x / 10) ** 2 < 1) | (((y - 5) / 4) ** 2 + ((x - 11) / 7) ** 2 < 1)
    first = number * (LAYERS + GAP)
    layers = TISSUE.window(range(first, first + LAYERS), SIZE, pose, SIZE_UM[1:])
    return np.where(tissue, np.clip(120 + 40 * layers / layers.std(), 20, 255), 2).astype(np.uint8)


@pytest.fixture(scope="module")
def laid_down(tmp_path_factory, store_slab):
    """The slabs file of five: two upside down, one of them with two layers too many, one missing."""
    folder, entries = tmp_path_factory.mktemp("laid"), []
    for number, pose in enumerate(POSES):
        slab = right_way_up(number, pose)
        if number in UPSIDE_DOWN:
            slab = slab[::-1, :, ::-1]
        if number == 4:
            slab = np.concatenate([slab, np.full((2, *SIZE), 255, np.uint8)])
        entries.append({"volume": store_slab(folder / f"{number}.ome.zarr", slab), "layers": [0, LAYERS]})
    entries[MISSING] = {"layers": LAYERS}
    path = folder / "slabs.yaml"
    path.write_text(yaml.safe_dump({"slabs": entries, "gap_layers": GAP, "max_angle_rad": 0.15}))
    return path


@pytest.fixture(scope="module")
def store_slab():
    """`store_slab(path, voxels) -> location`."""
    from volpipe.volume import Layout, create_product

    def store(path, voxels, size_um=SIZE_UM):
        layout = Layout(voxels.shape, 1, voxels.dtype, voxel_size_um=size_um, chunk=(4, 24, 24), shard=(4, 48, 48))
        product = create_product(str(path), layout, {})
        for block in product.grid():
            product.write(block.core, voxels[None][:, *block.core.slices])
        product.publish(())
        product.update(state="complete")
        return product.location

    return store


@pytest.fixture(scope="module")
def laid_out(laid_down):
    """The slabs file that `coarse` wrote, and what it found."""
    output = laid_down.with_name("laid.yaml")
    return output, lay_out(str(laid_down), str(output))


def off(pose, truth):
    """At the corners of the tissue, micrometres."""
    corners = 15 * np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)])
    return float(np.hypot(*(pose(corners) - truth(corners)).T).max())


def test_angle_place_and_side_are_found_and_a_missing_slab_is_passed_by(laid_out):
    output, found = laid_out
    assert [one.flipped for one in found] == [number in UPSIDE_DOWN for number in range(5)]
    assert [one.confidence is None for one in found] == [number in (0, MISSING) for number in range(5)]
    there = [number for number in range(5) if number != MISSING]
    assert max(off(found[number].start, POSES[number]) for number in there) < 3
    written = load_slabs(output).entries
    assert [entry.start.rigid for entry in written] == [one.start for one in found]
    assert [entry.flipped for entry in written] == [one.flipped for one in found]
    assert [entry.run for entry in written] == [(0, LAYERS)] * 5


def test_what_is_laid_out_is_registered_and_rendered(laid_out, tmp_path, monkeypatch):
    transforms, _ = register(laid_out[0], tmp_path / "out", window=112, tree=False)
    stacks, real = [], page.drift_figure
    monkeypatch.setattr(page, "drift_figure", lambda stack: stacks.append(stack) or real(stack))
    page.report(RegisterJob(slabs=str(laid_out[0]), output=str(tmp_path / "out"), window=112, tree=False))
    beyond = np.subtract([pose.shift for pose in poses_of(transforms)], [one.start.shift for one in laid_out[1]])
    np.testing.assert_allclose(stacks[0].shifts_um, beyond)
    assert np.abs(stacks[0].angles_rad).max() < 0.1  # counted from starts of up to half a turn
    assert stacks[0].from_starts
    there = [number for number in range(5) if number != MISSING]
    assert max(off(poses_of(transforms)[number], POSES[number]) for number in there) < 0.5
    assert [slab.flipped for slab in transforms.slabs] == [number in UPSIDE_DOWN for number in range(5)]
    made = tmp_path / "made.ome.zarr"
    run(WarpJob(transforms=str(tmp_path / "out" / "transforms.json"), output=str(made), **CUT), SERIAL, progress=None)
    source = open_source(str(made))
    voxels, middle = source.read(Box.from_shape(source.shape))[0].astype(float), np.array(source.shape[1:]) // 2
    window = [slice(m - 30, m + 30) for m in middle]
    shift = np.array(source.translation_um[1:]) + middle * SIZE_UM[1:]
    for number in there:
        truth = right_way_up(number, Rigid(0.0, tuple(shift))).astype(float)
        top = number * (LAYERS + GAP)
        for layer in range(LAYERS):
            seen, known = voxels[top + layer][*window], truth[layer, 26:86, 18:78]
            assert np.corrcoef(seen.ravel(), known.ravel())[0, 1] > 0.95


def test_a_slab_whose_flip_the_file_knows_is_left_as_it_is(laid_out, tmp_path):
    again = lay_out(str(laid_out[0]), str(tmp_path / "again.yaml"))
    assert [one.flipped for one in again] == [one.flipped for one in laid_out[1]]
    assert max(off(one.start, other.start) for one, other in zip(again, laid_out[1], strict=True)) < 1


def test_cuts_of_one_volume_become_slabs(store_slab, tmp_path):
    location = store_slab(tmp_path / "in.ome.zarr", np.concatenate([right_way_up(n, Rigid()) for n in (0, 1)]))
    path, output = tmp_path / "cuts.yaml", tmp_path / "out.yaml"
    path.write_text(yaml.safe_dump({"volume": location, "cuts": [[0, 4], [5, 8]]}))
    lay_out(str(path), str(output))
    written = load_slabs(output)
    assert written.volume is None
    assert [(entry.volume, entry.run) for entry in written.entries] == [(location, (0, 4)), (location, (5, 8))]
    assert written.gaps == (1,)


def test_the_command_tells_what_it_found_and_writes_over_nothing(laid_down, tmp_path):
    output = tmp_path / "laid.yaml"
    words = ["coarse", str(laid_down), str(output), "--no-pictures"]
    told = CliRunner().invoke(cli, words, catch_exceptions=False).output.splitlines()
    assert len(told) == 1 + 5 + 1
    assert not output.with_suffix(".png").exists()
    assert told[1].endswith("first")
    assert [line.split()[4] for line in told[2:4]] == ["yes", "no"]
    assert told[4].endswith("none: missing or without tissue")
    before = output.read_bytes()
    with pytest.raises(ProductError, match="exists already"):
        lay_out(str(laid_down), str(output))
    assert output.read_bytes() == before


def test_the_picture_shows_each_slab_on_the_one_it_was_laid_on(laid_down, laid_out, tmp_path, monkeypatch):
    """Outlines go on: what is dark is dark in both. The least sure are shown, and marked."""
    found, drawn = (
        [replace(one, confidence=sure) for one, sure in zip(laid_out[1], (None, 0.6, 0.49, None, 0.5), strict=True)],
        [],
    )
    real = picture.sheet_figure
    monkeypatch.setattr(picture, "sheet_figure", lambda *given: drawn.append(given) or real(*given))
    place = str(tmp_path / "laid.png")
    assert picture.report(str(laid_down), place, found) == place
    assert (tmp_path / "laid.png").read_bytes()[:4] == b"\x89PNG"
    ((boards, text),) = drawn
    titles = ["slab 1 on 0: 0.60\n(turned over)", "slab 2 on 1: 0.49", "slab 4 on 2: 0.50\n(turned over)"]
    assert [each.title for each in boards] == titles
    assert [each.marked for each in boards] == [False, True, False]
    assert "not shown: slabs 3" in text
    for each in boards:
        assert each.pixel_um == SIZE_UM[1:]
        around = each.plane[[0, -1]], each.plane[:, [0, -1]]
        assert np.nanmax(around[0]) < 0.2
        assert np.nanmean(each.plane[46:66, 38:58]) > 0.4
        edges = np.abs(np.diff(np.nan_to_num(each.plane) > 0.25, axis=1)).sum(1)
        assert np.median(edges) <= 2  # of a row: in and out of the tissue
    monkeypatch.setattr(picture, "MOST", 2)
    with pytest.raises(ProductError, match=r"laid.png"):
        picture.report(str(laid_down), place, found)
    drawn.pop()
    picture.report(str(laid_down), str(tmp_path / "fewer.png"), found)
    assert [each.title for each in drawn[1][0]] == titles[1:]
    assert "The 2 least sure of 3 slabs." in drawn[1][1]


def test_the_command_draws_the_picture_beside_its_file_and_over_nothing(laid_down, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for output, drawn in {"laid.out.yaml": "laid.out.png", f"{tmp_path}/b.yml": f"{tmp_path}/b.png"}.items():
        told = CliRunner().invoke(cli, ["coarse", str(laid_down), output], catch_exceptions=False).output
        assert told.splitlines()[-2] == drawn
        assert (tmp_path / drawn).read_bytes()[:4] == b"\x89PNG"
    (tmp_path / "mine.png").write_text("mine")
    with pytest.raises(ProductError, match=r"mine.png: exists already; give another name"):
        CliRunner().invoke(cli, ["coarse", str(laid_down), "mine.yaml"], catch_exceptions=False, standalone_mode=False)
    assert (tmp_path / "mine.png").read_text() == "mine"
    assert not (tmp_path / "mine.yaml").exists()


@pytest.mark.parametrize("name", ["laid", "laid.png", "laid.yaml.txt", ".yaml", "laid.YAML"])
def test_what_does_not_end_as_a_slabs_file_is_refused(laid_down, tmp_path, name):
    with pytest.raises(ConfigError, match=r"give a name that ends in \.yaml"):
        lay_out(str(laid_down), str(tmp_path / name))


def test_a_file_on_an_object_store_has_its_picture_there_and_is_read_from_there(laid_out, laid_down, bucket):
    CliRunner().invoke(cli, ["coarse", str(laid_down), f"{bucket}/laid.yaml"], catch_exceptions=False)
    assert set(open_folder(bucket).keys("")) == {"laid.yaml", "laid.png"}
    assert load_slabs(f"{bucket}/laid.yaml") == load_slabs(str(laid_out[0]))
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read \(No such file or directory\)"):
        load_slabs(f"{bucket}/none.yaml")


def test_where_fewer_than_two_slabs_hold_tissue_nothing_is_written(laid_down, store_slab, tmp_path):
    blank = store_slab(tmp_path / "blank.ome.zarr", np.zeros((LAYERS, *SIZE), np.uint8))
    content = yaml.safe_load(laid_down.read_text())
    for number in (0, 1, 2):
        content["slabs"][number] = blank
    path, output = tmp_path / "slabs.yaml", tmp_path / "laid.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(VolumeError, match=r"slabs.yaml: fewer than two slabs hold tissue"):
        lay_out(str(path), str(output))
    assert not output.exists()


@pytest.mark.parametrize("blank", [slice(None, 4), slice(-4, None)])
def test_a_slab_that_is_blank_at_one_end_is_laid_by_the_other(store_slab, tmp_path, blank):
    thick = np.concatenate([right_way_up(1, POSES[1])] * 3)
    thick[blank] = 0
    slabs = [right_way_up(0, POSES[0]), thick, right_way_up(2, POSES[2])]
    entries = [store_slab(tmp_path / f"{number}.ome.zarr", slab) for number, slab in enumerate(slabs)]
    path = tmp_path / "slabs.yaml"
    path.write_text(yaml.safe_dump({"slabs": entries, "gap_layers": GAP}))
    found = lay_out(str(path), str(tmp_path / "laid.yaml"))
    assert max(off(found[number].start, POSES[number]) for number in (1, 2)) < 4


def test_the_first_slab_with_tissue_is_the_frame(laid_down, store_slab, tmp_path):
    content = yaml.safe_load(laid_down.read_text())
    content["slabs"][0] = store_slab(tmp_path / "blank.ome.zarr", np.zeros((LAYERS, *SIZE), np.uint8))
    path, output = tmp_path / "slabs.yaml", tmp_path / "laid.yaml"
    path.write_text(yaml.safe_dump(content))
    told = CliRunner().invoke(cli, ["coarse", str(path), str(output)], catch_exceptions=False).output.splitlines()
    assert [line.split()[-1] for line in told[1:3]] == ["tissue", "first"]
    assert "# slab 0: missing or without tissue" in output.read_text()
    entries = load_slabs(output).entries
    assert entries[1].start.rigid == Rigid()
    between = entries[2].start.rigid  # of slab 1, which was taken to lie the right way up, and did not
    mirror = lambda points: points * (1, -1)  # noqa: E731
    assert off(between, lambda points: mirror(POSES[1].inverse(POSES[2](mirror(points))))) < 3


def test_the_file_says_which_slabs_are_guesses(laid_down, tmp_path, monkeypatch):
    monkeypatch.setattr(coarse, "_ways", lambda *given: iter(
        [LaidOut(False, Rigid(), {1: 0.5, 2: 0.49, 4: 0.9}[given[-1]])] if given[-1] else []))  # fmt: skip
    output = tmp_path / "laid.yaml"
    lay_out(str(laid_down), str(output))
    guesses = [line for line in output.read_text().splitlines() if line.startswith("#")]
    assert guesses[1:] == ["# slab 2: 0.49 sure", "# slab 3: missing or without tissue, not compared"]
    assert len(load_slabs(str(output)).entries) == 5


def test_where_nothing_is_a_guess_the_file_says_nothing(laid_down, tmp_path, monkeypatch):
    monkeypatch.setattr(coarse, "_ways", lambda *given: iter([LaidOut(False, Rigid(), 0.5)] if given[-1] else []))
    content = yaml.safe_load(laid_down.read_text())
    del content["slabs"][MISSING]
    path = tmp_path / "slabs.yaml"
    path.write_text(yaml.safe_dump(content))
    lay_out(str(path), str(tmp_path / "laid.yaml"))
    assert "#" not in (tmp_path / "laid.yaml").read_text()


def test_a_slab_is_said_to_lie_on_the_one_that_was_surest():
    ways = [LaidOut(False, Rigid(), 0.1, 4), LaidOut(False, Rigid(0.1), 0.9, 3), LaidOut(True, Rigid(), 0.2, 2)]
    found = coarse._agreed(ways)
    assert (found.on, found.start) == (3, Rigid(0.1))


@pytest.mark.parametrize("seed", range(2))
def test_a_slab_of_noise_turns_none_below_it(store_slab, tmp_path, seed):
    noise = np.random.default_rng(seed).normal(100, 30, (LAYERS, *SIZE)).clip(0, 255).astype(np.uint8)
    slabs = [right_way_up(0, POSES[0]), noise, right_way_up(0, POSES[2]), right_way_up(0, POSES[4])[::-1, :, ::-1]]
    entries = [store_slab(tmp_path / f"{number}.ome.zarr", slab) for number, slab in enumerate(slabs)]
    path = tmp_path / "slabs.yaml"
    path.write_text(yaml.safe_dump({"slabs": entries, "gap_layers": GAP}))
    found = lay_out(str(path), str(tmp_path / "laid.yaml"))
    assert [found[2].flipped, found[3].flipped] == [False, True]
    assert max(off(found[2].start, POSES[2]), off(found[3].start, POSES[4])) < 3
    assert found[1].confidence < min(found[2].confidence, found[3].confidence)


def test_a_slab_is_read_once_each_way_up(laid_down, tmp_path, monkeypatch):
    """However many slabs below are laid on it; what is stored without a pyramid is read whole."""
    read, on_canvas = Counter(), SlabStack.on_canvas

    def counted(stack, slab, reader, layers):
        read[slab, reader.first, layers] += 1
        return on_canvas(stack, slab, reader, layers)

    monkeypatch.setattr(SlabStack, "on_canvas", counted)
    lay_out(str(laid_down), str(tmp_path / "laid.yaml"))
    assert sorted({slab for slab, *_ in read}) == [0, 1, 2, 4]
    assert sum(read.values()) == 4 + 1  # slab 1 also turned over


def test_an_output_that_is_a_folder_is_refused_in_one_line(laid_down, tmp_path):
    (tmp_path / "out.yaml").mkdir()
    with pytest.raises(ProductError, match=r"out.yaml: exists already"):
        lay_out(str(laid_down), str(tmp_path / "out.yaml"))


def test_a_slab_without_tissue_has_nothing_to_compare(laid_down, store_slab, tmp_path):
    content = yaml.safe_load(laid_down.read_text())
    content["slabs"][2]["volume"] = store_slab(tmp_path / "blank.ome.zarr", np.zeros((LAYERS, *SIZE), np.uint8))
    path = tmp_path / "slabs.yaml"
    path.write_text(yaml.safe_dump(content))
    found = lay_out(str(path), str(tmp_path / "laid.yaml"))
    assert found[2].confidence is None
    assert found[2].start == found[1].start
    assert found[4].confidence is not None  # against slab 1


def test_starts_that_lay_slabs_beside_each_other_are_refused_before_anything_is_written(laid_down, tmp_path):
    content = yaml.safe_load(laid_down.read_text())
    content["slabs"][1]["start"] = {"angle_rad": 0.1, "shift_um": [0.0, 60.0]}
    path = tmp_path / "slabs.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"slabs 0 and 1 overlap by 0\.00"):
        register(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_slab_that_no_pair_joins_lies_as_its_start_says(laid_out, store_slab, tmp_path):
    """Not between the angles of its neighbours, 2.1 and 3.0."""
    content = yaml.safe_load(laid_out[0].read_text())
    content["slabs"][2]["volume"] = store_slab(tmp_path / "blank.ome.zarr", np.zeros((LAYERS, *SIZE), np.uint8))
    path = tmp_path / "slabs.yaml"
    path.write_text(yaml.safe_dump(content))
    transforms, summary = register(path, tmp_path / "out", window=112, tree=False)
    assert summary.result.splitlines()[0].endswith("bridged: slabs 2, 3")
    assert off(poses_of(transforms)[2], POSES[2]) < 5


def test_slab_0_has_no_start(laid_down, tmp_path):
    content = yaml.safe_load(laid_down.read_text())
    content["slabs"][0]["start"] = {"angle_rad": 0.1}
    path = tmp_path / "slabs.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="start: of slab 0"):
        load_slabs(path)


def test_another_start_or_side_is_another_registration(laid_out, tmp_path):
    register(laid_out[0], tmp_path / "out", window=112, tree=False)
    content = yaml.safe_load(laid_out[0].read_text())
    content["slabs"][2]["flipped"] = True
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ProductError, match=r"layout.slab 2.flipped|layout\.slab 2"):
        register(path, tmp_path / "out", window=112, tree=False)


def test_a_level_that_joins_layers_is_refused_where_these_do_not_come_out_even(store_slab, tmp_path):
    """Layers 2k and 2k + 1 of seven, counted from the other end, are other pairs."""
    location = store_slab(tmp_path / "in.ome.zarr", np.ones((7, 48, 48), np.uint8), (0.4, 0.4, 0.4))
    run(PyramidJob(volume=location), SERIAL, progress=None)
    slab = Slab(volume=location, flipped=True)
    Transforms(version=1, voxel_size_um=(0.4, 0.4, 0.4), slabs=(slab,)).store(tmp_path / "t.json")
    assert load_transforms(tmp_path / "t.json").slabs[0].flipped
    with pytest.raises(VolumeError, match="upside down, and its 7 layers are no multiple of the 2"):
        run(WarpJob(transforms=str(tmp_path / "t.json"), output=str(tmp_path / "o"), level=1), SERIAL, progress=None)


@pytest.mark.parametrize("flipped", [False, True])
def test_what_is_found_between_canvases_is_told_between_slabs(store_slab, tmp_path, monkeypatch, flipped):
    """A slab narrower by an odd number of voxels has its centre beside its canvas'; upside down, on the other side."""
    whole = right_way_up(0, Rigid())
    entries = [store_slab(tmp_path / "a.ome.zarr", whole), store_slab(tmp_path / "b.ome.zarr", whole[:, 3:, :91])]
    path = tmp_path / "slabs.yaml"
    path.write_text(yaml.safe_dump({"slabs": entries, "gap_layers": GAP}))
    turn = Rigid(0.3, (1.0, -2.0))
    monkeypatch.setattr("volpipe.jobs.coarse.coarse_alignment", lambda *_, **__: CoarseEstimate(turn, flipped, 1.0))
    found = lay_out(str(path), str(tmp_path / "laid.yaml"))[1]
    assert found.flipped == flipped
    centre = SIZE_UM[1] * -0.5, SIZE_UM[2] * -0.5 * (-1 if flipped else 1)  # of the canvas, from that of slab 1
    np.testing.assert_allclose(found.start(centre), turn((0.0, 0.0)), atol=1e-9)
