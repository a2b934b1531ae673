"""What `register` is given: slabs that are blank, cut planes, poses by hand; and what it refuses, in one line."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from register_scene import FOUND, GAP, LAYERS, PLENTY, POSES, SERIAL, SHAPES, SIZE_UM, off, poses_of, register

from volpipe import RegisterJob, WarpJob, register_slabs, run
from volpipe.errors import BlocksFailed, BudgetError, ConfigError, GeometryError, VolumeError
from volpipe.geometry import Box, Rigid
from volpipe.jobs.register_stack import FOUND as STACK
from volpipe.jobs.register_stack import FoundStack, put, told_solution
from volpipe.jobs.transforms import load_transforms
from volpipe.plan import Budget
from volpipe.registration.estimate import NOTHING, PairEstimate
from volpipe.registration.solve import Edge, StackSolution
from volpipe.report.registration import report
from volpipe.volume import open_source
from volpipe.volume.folder import open_folder


def test_a_slab_without_tissue_is_bridged(slabs_file, store, tmp_path):
    blank = store(np.zeros((LAYERS, *SHAPES[2]), np.uint8))
    transforms, summary = register(slabs_file({2: blank}), tmp_path / "out", tree=False)
    assert summary.result.endswith("; no tissue at their gaps: slabs 2; bridged: slabs 2")
    poses = poses_of(transforms)
    assert all(off(poses[n], POSES[n]) < 1 for n in (1, 3, 4, 5))
    assert transforms.slabs[2].volume == blank
    assert [slab.bridged for slab in transforms.slabs] == [False, False, True, False, False, False]


def test_a_slab_that_no_tree_tells_the_bend_of_is_named(slabs_file, store, tmp_path):
    noise = store(np.random.default_rng(3).integers(0, 255, (LAYERS, *SHAPES[2])).astype(np.uint8))
    transforms, summary = register(slabs_file({2: noise}), tmp_path / "out", window=48)
    assert [slab.field is None for slab in transforms.slabs] == [True, False, True, False, False, False]
    assert summary.result.endswith("; bridged: slabs 2; without a field: slabs 2")


def test_slabs_cut_from_one_volume_are_found_as_volumes_of_their_own_and_as_arrays(store, cuts, tmp_path):
    """Also through noise in the layers that are cut out, and above and below the slabs: none of it is read."""
    shape = tuple(min(SHAPES[0][axis], SHAPES[1][axis]) for axis in (0, 1))
    own = [voxels[:, : shape[0], : shape[1]] for voxels in cuts[:2]]
    above, lost, below = np.random.default_rng(0).integers(0, 255, (3, GAP, *shape)).astype(np.uint8)
    content = {"slabs": [store(voxels) for voxels in own], "gap_layers": GAP}
    whole = {
        "volume": store(np.concatenate([above, own[0], lost, own[1], below])),
        "cuts": [[GAP, LAYERS + GAP], [LAYERS + 2 * GAP, 2 * (LAYERS + GAP)]],
    }
    made = []
    for number, fields in enumerate((content, whole)):
        path = tmp_path / f"slabs{number}.yaml"
        path.write_text(yaml.safe_dump(fields))
        made.append(register(path, tmp_path / f"out{number}", window=96)[0])
    assert poses_of(made[0]) == poses_of(made[1])
    arrays = register_slabs(own, gap_layers=GAP, voxel_size_um=SIZE_UM)
    assert off(poses_of(made[0])[1], arrays[1]) < 1e-4
    assert [(slab.layers, slab.gap_layers) for slab in made[1].slabs] == [((1, 5), 1), ((6, 10), 0)]


def test_slabs_of_several_dtypes_are_told_before_warp_refuses_them(slabs_file, store, cuts, tmp_path):
    other = slabs_file({1: store(cuts[1].astype(np.uint16))})
    told = dict(RegisterJob(slabs=str(other), output=str(tmp_path / "out")).plan(PLENTY).facts)
    assert told["dtypes"] == "uint16, uint8: registered as they are, but warp wants slabs of one"
    same = RegisterJob(slabs=str(slabs_file()), output=str(tmp_path / "out")).plan(PLENTY)
    assert "dtypes" not in dict(same.facts)


def test_poses_by_hand_are_held(two, tmp_path):
    by_hand = Rigid(0.1, (2.0, -1.0))
    anchors = {1: {"angle_rad": 0.1, "shift_um": [2.0, -1.0]}}
    transforms, _ = register(two(anchors=anchors), tmp_path / "out", tree=False)
    assert poses_of(transforms) == [Rigid(), by_hand]


def test_slabs_that_are_not_alike_are_one_line_of_error(slabs_file, store, cuts, tmp_path):
    other = store(cuts[2], (0.5, 0.2, 0.2))
    with pytest.raises(
        VolumeError, match=r"slab 2: voxels of \(0.5, 0.2, 0.2\) um, slab 0: .*give slabs of one voxel size"
    ):
        register(slabs_file({2: other}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_slabs_that_no_pair_joins_are_refused_with_what_may_help(two, store, cuts, tmp_path):
    path = tmp_path / "slabs.yaml"
    noise = np.random.default_rng(0).integers(0, 255, (LAYERS, *SHAPES[1])).astype(np.uint8)
    path.write_text(yaml.safe_dump({"slabs": [store(cuts[0]), store(noise)], "gap_layers": GAP}))
    with pytest.raises(
        BlocksFailed, match=r"no pair of slabs was trusted, the best had a confidence of 0.\d\d; give a"
    ):
        register(path, tmp_path / "out", tree=False)


def test_of_a_slab_that_is_blank_at_one_gap_alone_no_tissue_is_missed(tmp_path):
    sure = PairEstimate(Rigid(), 0.9, True)
    edges = [Edge(0, 1, 1, NOTHING, blank=(1,)), Edge(1, 2, 1, sure), Edge(0, 3, 1, NOTHING, blank=(3,))]
    weights, folder = {(0, 1): 0.0, (1, 2): 0.9, (0, 3): 0.0}, open_folder(str(tmp_path))
    put(folder, STACK, told_solution(edges, StackSolution((Rigid(),) * 4, weights, ()), {}))
    assert FoundStack.read(folder).blank == (3,)


def test_where_all_slabs_are_blank_that_is_said(store, tmp_path):
    path = tmp_path / "slabs.yaml"
    blank = store(np.zeros((LAYERS, *SHAPES[1]), np.uint8))
    path.write_text(yaml.safe_dump({"slabs": [blank, blank], "gap_layers": GAP}))
    with pytest.raises(BlocksFailed, match="register: no slab shows tissue at its gaps; give slabs that do"):
        register(path, tmp_path / "out", tree=False)


def test_the_fill_of_what_was_not_imaged_is_not_known(two, tmp_path):
    path = two()
    content = yaml.safe_load(Path(path).read_text())
    reader = RegisterJob(slabs=path, output=str(tmp_path / "out")).plan(PLENTY).works["pair"].stage.stack.reader(0)
    plane = reader.frame.shape(0)
    seen = reader.read(0, Box((0, 0), plane), range(2))
    value = float(np.bincount(seen.astype(int).ravel()).argmax())
    Path(path).write_text(yaml.safe_dump(content | {"fill": value}))
    stage = RegisterJob(slabs=path, output=str(tmp_path / "out")).plan(PLENTY).works["pair"].stage
    filled = stage.stack.reader(0).read(0, Box((0, 0), plane), range(2))
    np.testing.assert_array_equal(np.isnan(filled), seen == value)
    np.testing.assert_array_equal(filled[seen != value], seen[seen != value])
    assert stage.stack.reader(0).turned_over.fill == value
    down, across = (n // 2 for n in plane)
    coarser = stage.stack.reader(0).read(1, Box((0, 0), (down, across)), range(1))
    blocks = seen[:1].reshape(1, down, 2, across, 2)
    known = blocks != value
    share = known.mean((2, 4))
    assert {0.5, 0.75} & set(share.ravel().tolist())  # single voxels take no block with them
    wanted = np.where(share < 0.5, np.nan, (blocks * known).sum((2, 4)) / np.maximum(known.sum((2, 4)), 1))
    np.testing.assert_allclose(coarser, wanted, rtol=1e-5)


def test_slabs_that_look_filled_are_told_with_what_to_say(store, cuts, tmp_path):
    upper, lower = (np.maximum(voxels, 4) for voxels in cuts[:2])
    lower[:, :12] = 3
    path, content = tmp_path / "slabs.yaml", {"slabs": [store(upper), store(lower)], "gap_layers": GAP}
    path.write_text(yaml.safe_dump(content))
    _, summary = register(path, tmp_path / "out", tree=False)
    first, hint = summary.result.splitlines()
    assert first == "1 of 1 pairs trusted"
    share = round(100 * 12 / SHAPES[1][0])
    assert hint.startswith(f"exactly 3 is up to {share} % of slabs 1: if that was not imaged")
    assert hint.endswith("say fill: 3 in the slabs file")
    path.write_text(yaml.safe_dump(content | {"fill": 3}))
    assert register(path, tmp_path / "filled", tree=False)[1].result == "1 of 1 pairs trusted"


def test_another_fill_is_another_registration(two, tmp_path):
    keys = [RegisterJob(slabs=two(fill=fill), output=str(tmp_path / "out")).plan(PLENTY).key for fill in (None, 0, 1)]
    assert keys[0] != keys[1] != keys[2]


def test_slabs_without_tissue_are_named_where_no_pair_is_trusted(store, cuts, tmp_path):
    path = tmp_path / "slabs.yaml"
    blank = store(np.full((LAYERS, *SHAPES[1]), 7, np.uint8))
    path.write_text(yaml.safe_dump({"slabs": [blank, store(cuts[0]), blank], "gap_layers": GAP}))
    with pytest.raises(BlocksFailed, match=r"of 0\.00; no tissue at their gaps: slabs 0, 2; give a wider max_shift or"):
        register(path, tmp_path / "out", tree=False)


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"gap_layers": 5}, ConfigError, "gap_layers 5 between slabs 0 and 1, which have 4 and 4 layers"),
        ({"gap_layers": [1, 1]}, ConfigError, "gap_layers: 2 given for 5 seams"),
        ({"channel": 1}, VolumeError, "slab 0: .*--channel 1 is not there"),
        ({"level": 1}, VolumeError, "slab 0: .*--level 1 is not there"),
        ({"anchors": {0: {}}}, ConfigError, r"anchors: slab 0; give numbers from 1 to 5"),
        ({"anchors": {7: {}}}, ConfigError, r"anchors: slab 7"),
        ({"voxel_size_um": [1, 1, 1]}, VolumeError, "slab 0: voxels of .*, the slabs file: "),
        ({"max_shift": 2}, ConfigError, "max_shift: must be less than or equal to 0.5"),
        (
            {"fill": -1},
            ConfigError,
            "slab 0: fill -1: no value of uint8; give a whole number from 0 to 255",
        ),
        ({"fill": 0.5}, ConfigError, "slab 0: fill 0.5: no value of uint8"),
        ({"fill": float("nan")}, ConfigError, "fill: must be a finite number"),
        ({"fill": True}, ConfigError, "fill: give a number, as 0"),
    ],
)
def test_what_cannot_be_registered_is_refused_before_anything_is_written(slabs_file, tmp_path, fields, error, said):
    job = RegisterJob(slabs=slabs_file(**fields), output=str(tmp_path / "out"))
    with pytest.raises(error, match=said):
        run(job, SERIAL, progress=None)
    assert not (tmp_path / "out").exists()


def test_slabs_too_far_apart_to_be_paired_are_refused_before_anything_is_written(slabs_file, tmp_path):
    path = slabs_file({number: {"layers": LAYERS} for number in (1, 2, 3, 4)})
    with pytest.raises(ConfigError, match="no two slabs that are there lie within 3 of each other"):
        RegisterJob(slabs=path, output=str(tmp_path / "out")).plan(PLENTY)
    assert not (tmp_path / "out").exists()


def test_a_worker_that_is_too_small_is_refused_with_what_would_do(slabs_file, tmp_path):
    job = RegisterJob(slabs=slabs_file(), output=str(tmp_path / "out"))
    with pytest.raises(
        BudgetError, match=r"register: a pair of .* needs .* it has 512.00 MiB; give a smaller --window"
    ):
        job.plan(Budget(worker_bytes=2**29))
    promised = job.plan(PLENTY).price.worker_bytes
    assert job.plan(Budget(worker_bytes=promised)).count
    with pytest.raises(BudgetError):
        job.plan(Budget(worker_bytes=promised - 1))


def test_slabs_that_are_too_narrow_are_refused(store, tmp_path):
    path = tmp_path / "slabs.yaml"
    narrow = store(np.zeros((LAYERS, 12, 300), np.uint8))
    path.write_text(yaml.safe_dump({"slabs": [narrow, narrow], "gap_layers": GAP}))
    with pytest.raises(GeometryError, match=r"\(12, 300\) voxels .* 16 are needed"):
        RegisterJob(slabs=str(path), output=str(tmp_path / "out"), window=16).plan(PLENTY)


def test_a_registration_on_an_object_store_is_drawn_and_rendered_there(two, bucket, tmp_path):
    job = RegisterJob(slabs=two(), output=f"{bucket}/out", window=40)
    run(job, SERIAL, progress=None)
    transforms = load_transforms(f"{bucket}/out/{FOUND}")
    assert transforms.slabs[1].field == f"{bucket}/out/slab001.field.zarr"
    assert [slab.volume for slab in transforms.slabs] == yaml.safe_load(Path(two()).read_text())["slabs"]
    assert report(job) == f"{bucket}/out/pictures/index.html"
    assert "pictures/field001.png" in open_folder(f"{bucket}/out").keys("pictures/")
    warp = {"transforms": f"{bucket}/out/{FOUND}", "shard": 64, "chunk": 64, "pyramid": False}
    made = []
    for output in (f"{bucket}/made.ome.zarr", str(tmp_path / "made.ome.zarr")):
        run(WarpJob(output=output, **warp), SERIAL, progress=None)
        source = open_source(output)
        made.append(source.read(Box.from_shape(source.shape)))
    np.testing.assert_array_equal(*made)
    assert made[0].any()
    with pytest.raises(ConfigError, match=r"s3://.*/none.json: cannot be read \(No such file or directory\)"):
        load_transforms(f"{bucket}/out/none.json")
