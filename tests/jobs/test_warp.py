"""Warp: the reconstruction is the scene that the slabs were cut from, whatever the blocks; gaps are empty and told."""

import json
import math
import pickle
from collections import Counter

import numpy as np
import pytest
import yaozarrs

from volpipe import RunSettings, WarpJob, run
from volpipe.errors import BudgetError, ConfigError, GeometryError, ProductError, VolumeError
from volpipe.geometry import Box, Raster, Rigid
from volpipe.jobs import plain
from volpipe.jobs.field_store import load_field, store_field
from volpipe.jobs.pyramid import PyramidJob
from volpipe.jobs.transforms import Pose, Slab, Transforms, load_transforms
from volpipe.jobs.warp_work import WarpWork
from volpipe.plan import Budget
from volpipe.registration.field import Field
from volpipe.runtime.pipeline import load_pipeline
from volpipe.volume import open_product, open_source
from volpipe.volume.downsample import downsample
from volpipe.volume.validate import validate

SIZE_UM = (0.5, 0.2, 0.1)
SERIAL = RunSettings(serial=True, threads=1, memory_per_worker="4GiB")
SMALL = {"chunk": (4, 24, 32), "shard": (8, 24, 32), "pyramid": False}
PLENTY = Budget(worker_bytes=2**40)


def scene(z_um, points):
    """What the tissue looks like at points (..., 2) of the reconstruction; another one in each layer."""
    y, x = np.moveaxis(points, -1, 0)
    return 100 + 60 * np.sin(y / 0.9 + z_um) * np.cos(x / 0.7) + 10 * z_um


def bent(pose, shape):
    """A field over a slab that turns and stretches by some percent."""
    raster = Raster.centred((7, 7), (1.5, 1.5))
    y, x = np.moveaxis(raster.points(raster.box), -1, 0)
    displacement = np.stack([0.2 * np.sin(x / 1.7), 0.15 * np.cos(y / 2.1)]).astype(np.float32)
    return Field(pose, displacement, raster.origin_um, raster.spacing_um, np.ones((7, 7), np.float32))


def cut(push, first_layer, layers, shape=(30, 44)):
    """A slab as it was cut from the scene: each of its voxels is what lies where it belongs."""
    raster = Raster.centred(shape, SIZE_UM[1:])
    points = push(raster.points(raster.box))
    return np.stack([scene((first_layer + z) * SIZE_UM[0], points) for z in range(layers)])


@pytest.fixture
def stack(volume, tmp_path):
    """`stack(entries, name) -> path`: a transforms file of slabs given as (voxels or None, fields of `Slab`)."""

    def make(entries, name="transforms.json", size_um=SIZE_UM):
        slabs = []
        for number, (voxels, more) in enumerate(entries):
            place = f"{name}{number}.ome.zarr"
            if voxels is not None:
                volume(voxels, name=place, voxel_size_um=size_um)
            slabs.append(Slab(volume=None if voxels is None else place, **more))
        path = tmp_path / name
        Transforms(version=1, voxel_size_um=size_um, slabs=slabs).store(path)
        return str(path)

    return make


POSES = (Rigid(), Rigid(0.2, (0.3, -0.4)), Rigid(-0.15, (-0.7, 0.5)))


def pose_of(rigid):
    return Pose(angle_rad=rigid.angle_rad, shift_um=rigid.shift)


@pytest.fixture
def tissue(stack, tmp_path):
    """A transforms file of three slabs of the scene with two gaps; the second one has a field.

    Layers: slab 0 has 0..3, lost 4 and 5, slab 1 has 6..8, lost 9, slab 2 has 10..14.
    """

    def make(dtype="float32", name="transforms.json"):
        field = bent(POSES[1], (30, 44))
        store_field(str(tmp_path / "bent.field.zarr"), field)
        cuts = [cut(POSES[0], 0, 4), cut(field.push, 6, 3), cut(POSES[2], 10, 5)]
        more = [{"gap_layers": 2}, {"gap_layers": 1, "field": "bent.field.zarr"}, {}]
        poses = ({"pose": pose_of(pose)} for pose in POSES)
        entries = [(voxels.astype(dtype), one | pose) for voxels, one, pose in zip(cuts, more, poses, strict=True)]
        return stack(entries, name)

    return make


@pytest.fixture
def rendered(tmp_path):
    """`rendered(transforms, **options) -> (voxels, product)`."""
    count = Counter()

    def make(transforms, settings=SERIAL, **options):
        count["out"] += 1
        out = str(tmp_path / f"out{count['out']}.ome.zarr")
        run(WarpJob(transforms=transforms, output=out, **SMALL | options), settings, progress=None)
        product = open_product(out)
        return product.read(product.layout.grid.region)[0], product

    return make


def known_of(product):
    return open_source(f"{product.location}/labels/known").read(Box.from_shape(product.layout.shape))[0]


def product_factors(product):
    """Of its first coarser level."""
    finer, coarser = (product.grid(level).region.shape for level in (0, 1))
    return tuple(-(-n // m) for n, m in zip(finer, coarser, strict=True))


def expected_of(product):
    layout = product.layout
    raster = Raster(layout.shape[1:], layout.voxel_size_um[1:], layout.translation_um[1:])
    heights = (np.arange(layout.shape[0]) * layout.voxel_size_um[0] + layout.translation_um[0]).tolist()
    return np.stack([scene(z, raster.points(raster.box)) for z in heights])


# ---------------------------------------------------------------------- what is rendered


def test_transforms_of_nothing_give_back_the_slabs(stack, rendered, noise):
    voxels = [noise((4, 30, 44), "uint8", seed) for seed in range(2)]
    made, product = rendered(stack([(voxels[0], {"gap_layers": 3}), (voxels[1], {})]))
    np.testing.assert_array_equal(made[:4], voxels[0])
    np.testing.assert_array_equal(made[7:], voxels[1])
    assert not made[4:7].any()
    known = known_of(product)
    assert known[:4].all()
    assert not known[4:7].any()
    assert known[7:].all()
    assert product.attributes["gaps"] == [{"first_layer": 4, "layers": 3, "slab": None}]
    assert product.layout.voxel_size_um == pytest.approx(SIZE_UM)
    assert product.layout.translation_um == pytest.approx((0, -29 / 2 * 0.2, -43 / 2 * 0.1))


def test_slabs_come_together_to_the_scene_that_they_were_cut_from(tissue, rendered):
    made, product = rendered(tissue())
    known, expected = known_of(product).astype(bool), expected_of(product)
    assert made.shape[0] == 15
    for layers in (range(4), range(6, 9), range(10, 15)):
        for layer in layers:
            assert 0.45 < known[layer].mean() < 0.75
            # the outermost voxels lean on the slab's edge
            assert np.percentile(np.abs(made - expected)[layer][known[layer]], 90) < 0.25
    assert not known[[4, 5, 9]].any()
    assert not made[~known].any()
    assert [gap["first_layer"] for gap in product.attributes["gaps"]] == [4, 9]


@pytest.mark.parametrize(("dtype", "order"), [("uint8", 3), ("float32", 1), ("uint32", 0)])
def test_the_voxels_do_not_depend_on_the_blocks(tissue, rendered, dtype, order):
    path = tissue(dtype)
    whole, product = rendered(path, chunk=(15, 40, 66), shard=(15, 40, 66), order=order, fill=3)
    for shard in ((4, 24, 40), (7, 11, 66)):
        made, other = rendered(path, chunk=shard, shard=shard, order=order, fill=3)
        np.testing.assert_array_equal(made, whole)
        np.testing.assert_array_equal(known_of(other), known_of(product))
    assert (whole[known_of(product) == 0] == 3).all()


def test_labels_are_copied_and_never_mixed(stack, rendered, noise):
    labels = (noise((3, 30, 44), "uint8") % 5).astype("uint32") * 1000 + 7
    made, product = rendered(stack([(labels, {"pose": pose_of(POSES[1])})]), pyramid=True)
    assert set(np.unique(made)) == {0, *np.unique(labels)}
    assert set(np.unique(product.read(product.grid(1).region, 1))) <= {0, *np.unique(labels)}


def test_a_missing_slab_keeps_its_place_and_is_told(tissue, rendered, tmp_path):
    path = tissue()
    content = json.loads((tmp_path / "transforms.json").read_text())
    whole, _ = rendered(path)
    content["slabs"][1] |= {"volume": None, "field": None, "layers": [0, 3]}
    (tmp_path / "missing.json").write_text(json.dumps(content))
    made, product = rendered(str(tmp_path / "missing.json"))
    places = product.layout.translation_um[1:], product.layout.voxel_size_um[1:]
    raster = Raster(product.layout.shape[1:], places[1], places[0])
    assert raster.shape != whole.shape[1:]  # what the slab reached farther than the others
    known = known_of(product).astype(bool)
    assert not known[4:10].any()
    assert product.attributes["gaps"] == [
        {"first_layer": 4, "layers": 2, "slab": None},
        {"first_layer": 6, "layers": 3, "slab": 1},
        {"first_layer": 9, "layers": 1, "slab": None},
    ]
    assert np.percentile(np.abs(made - expected_of(product))[known], 90) < 0.25


def test_slabs_may_be_cut_planes_of_one_volume(volume, rendered, noise, tmp_path):
    voxels = noise((9, 30, 44), "uint8")
    volume(voxels, name="one.ome.zarr", voxel_size_um=SIZE_UM)
    slabs = [Slab(volume="one.ome.zarr", layers=layers, gap_layers=gap) for layers, gap in (((0, 4), 2), ((6, 9), 0))]
    Transforms(version=1, voxel_size_um=SIZE_UM, slabs=slabs).store(tmp_path / "t.json")
    made, _ = rendered(str(tmp_path / "t.json"))
    np.testing.assert_array_equal(made, np.where(np.isin(np.arange(9), (4, 5))[:, None, None], 0, voxels))


@pytest.mark.parametrize("factors", ["1,2,2", "2,2,2"])
def test_any_level_shows_the_same_scene(tissue, rendered, tmp_path, factors):
    path = tissue()
    for number in range(3):
        run(
            PyramidJob(volume=str(tmp_path / f"transforms.json{number}.ome.zarr"), factors=factors),
            SERIAL,
            progress=None,
        )
    made, product = rendered(path, level=1)
    fz = int(factors[0])
    assert product.layout.voxel_size_um == pytest.approx((0.5 * fz, 0.4, 0.2))
    assert made.shape[0] == -(-15 // fz)
    assert product.layout.translation_um[0] == pytest.approx((fz - 1) / 2 * 0.5)
    expected, known = expected_of(product), known_of(product).astype(bool)
    assert known.mean() > 0.3
    allowed = {1: 3, 2: 12}[fz]  # voxels are means, of layers that may lie one beside
    assert np.percentile(np.abs(made - expected)[known], 80) < allowed
    empty = [layer for layer in range(made.shape[0]) if not known[layer].any()]
    assert empty == ([4, 5, 9] if fz == 1 else [2, 4])  # of layers 8 and 9 the centre is where the lost one begins


def test_registered_at_a_coarser_level_it_is_rendered_at_a_finer_one(volume, rendered, noise, tmp_path):
    """The slab's centre is that of the coarser level, which covers half a voxel more than an odd finer one."""
    voxels = noise((7, 31, 44), "uint8")
    place = volume(voxels, name="fine.ome.zarr", voxel_size_um=SIZE_UM)
    run(PyramidJob(volume=place, factors="2,2,2"), SERIAL, progress=None)
    slabs = [Slab(volume="fine.ome.zarr", level=1)]
    Transforms(version=1, voxel_size_um=(1.0, 0.4, 0.2), slabs=slabs).store(tmp_path / "t.json")
    made, product = rendered(str(tmp_path / "t.json"), level=0)
    np.testing.assert_array_equal(made[:7], voxels)
    assert product.layout.translation_um == pytest.approx((-0.25, -15 / 2 * 0.4 - 0.1, -21 / 2 * 0.2 - 0.05))
    coarse, _ = rendered(str(tmp_path / "t.json"))
    np.testing.assert_array_equal(coarse, open_source(place, level=1).read(Box.from_shape((4, 16, 22)))[0])


def test_a_field_that_stretches_is_priced_for(stack, rendered, noise, tmp_path):
    """A block needs a box of the slab that is half as wide again."""
    raster = Raster.centred((5, 5), (2.0, 2.0))
    displacement = np.moveaxis(raster.points(raster.box) * (0, 0.5), -1, 0).astype(np.float32)
    field = Field(Rigid(), displacement, raster.origin_um, raster.spacing_um, np.ones((5, 5), np.float32))
    store_field(str(tmp_path / "wide.zarr"), field)
    voxels = noise((2, 30, 44), "uint8")
    made, _ = rendered(stack([(voxels, {"field": "wide.zarr"})]), order=0, chunk=(4, 56, 32), shard=(4, 56, 32))
    width = made.shape[2]
    at = np.rint((np.arange(width) - (width - 1) / 2) * 1.5 + 43 / 2).astype(int)
    inside = (at >= 1) & (at < 43)
    centre = (made.shape[1] - 30) // 2
    np.testing.assert_array_equal(made[:, centre : centre + 30, inside], voxels[..., at[inside]])


def test_a_part_is_cut_from_the_whole(tissue, rendered):
    path, box = tissue(), Box((3, 5, 9), (14, 31, 50))
    whole, product = rendered(path)
    made, part = rendered(path, bbox=str(box))
    np.testing.assert_array_equal(made, whole[box.slices])
    assert [gap["first_layer"] for gap in part.attributes["gaps"]] == [1, 6]
    moved = np.subtract(part.layout.translation_um, product.layout.translation_um)
    np.testing.assert_allclose(moved, np.multiply((3, 5, 9), SIZE_UM))


def test_channels_are_warped_alike(stack, rendered, noise):
    voxels = noise((2, 3, 30, 44), "uint16")
    _, both = rendered(stack([(voxels, {"pose": pose_of(POSES[2])})]))
    made = both.read(both.layout.grid.region)
    for channel in range(2):
        alone, _ = rendered(stack([(voxels[channel], {"pose": pose_of(POSES[2])})], name=f"channel{channel}"))
        np.testing.assert_array_equal(made[channel], alone)


# ---------------------------------------------------------------------- how it is run


def test_the_product_is_whole_and_others_can_read_it(tissue, rendered):
    _, product = rendered(tissue(), pyramid=True, chunk=(8, 24, 32))
    assert product.levels > 1
    assert validate(product.location, deep=True) == []
    assert validate(f"{product.location}/labels/known", deep=True) == []
    yaozarrs.validate_zarr_store(product.location)
    yaozarrs.validate_zarr_store(f"{product.location}/labels/known")
    known = open_product(f"{product.location}/labels/known")
    assert known.levels == product.levels
    halves = downsample(known_of(product)[None], product_factors(product), "mode")
    np.testing.assert_array_equal(known.read(known.grid(1).region, 1), halves)
    assert halves.any()


@pytest.mark.parametrize("killed_at", [3, 9])
def test_a_killed_run_goes_on_with_what_is_missing(tissue, rendered, tmp_path, monkeypatch, killed_at):
    path, done, right = tissue(), Counter(), WarpWork.__call__
    job = WarpJob(transforms=path, output=str(tmp_path / "killed.ome.zarr"), **SMALL)

    def counted(self, item):
        if done.total() == killed_at and not done["killed"]:
            done["killed"] = 1
            raise KeyboardInterrupt
        done[item] += 1
        return right(self, item)

    monkeypatch.setattr(WarpWork, "__call__", counted)
    with pytest.raises(KeyboardInterrupt):
        run(job, SERIAL, progress=None)
    with pytest.raises(VolumeError, match="finished"):
        open_source(job.output)
    summary = run(job, SERIAL, progress=None)
    del done["killed"]
    assert summary.before >= killed_at - 1  # one was done and its receipt not yet taken
    assert done.total() == summary.before + summary.done + (summary.before < killed_at)
    assert len(done) == job.plan(PLENTY).count
    product = open_product(job.output)
    np.testing.assert_array_equal(product.read(product.layout.grid.region)[0], rendered(path)[0])
    assert known_of(product).any()


def test_another_transform_field_or_option_is_refused_with_what_changed(tissue, tmp_path):
    path = tissue()
    job = WarpJob(transforms=path, output=str(tmp_path / "out.ome.zarr"), **SMALL)
    run(job, SERIAL, progress=None)
    assert run(WarpJob(**job.model_dump()), SERIAL, progress=None).done == 0
    with pytest.raises(ProductError, match=r"settings\.order: 3 -> 1"):
        run(WarpJob(**job.model_dump() | {"order": 1}), SERIAL, progress=None)
    field = load_field(str(tmp_path / "bent.field.zarr"))
    store_field(
        str(tmp_path / "bent.field.zarr"),
        Field(field.pose, 0.5 * field.displacement, field.origin_um, field.spacing_um, field.confidence),
    )
    with pytest.raises(ProductError, match="fields"):
        run(WarpJob(**job.model_dump()), SERIAL, progress=None)
    store_field(str(tmp_path / "bent.field.zarr"), field)
    content = json.loads((tmp_path / "transforms.json").read_text())
    content["slabs"][2]["pose"]["angle_rad"] += 1e-3
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(ProductError, match="transforms"):
        run(WarpJob(**job.model_dump()), SERIAL, progress=None)


def test_a_field_that_changes_under_a_run_is_not_mixed_with_the_one_before(tissue, tmp_path):
    job = WarpJob(transforms=tissue(), output=str(tmp_path / "out.ome.zarr"), **SMALL)
    plan = job.plan(PLENTY)
    job.begin(plan, fresh=True, replace=False)
    place = str(tmp_path / "bent.field.zarr")
    field = load_field(place)
    store_field(place, Field(field.pose, field.displacement / 2, field.origin_um, field.spacing_um, field.confidence))
    with pytest.raises(ProductError, match="another field than when the run began"):
        list(map(plan.works["warp"], range(len(plan.works["warp"].grid))))


def test_a_block_is_the_same_anywhere_and_reads_no_more_than_it_was_priced_at(tissue, run_serially, tmp_path):
    job = WarpJob(transforms=tissue(), output=str(tmp_path / "out.ome.zarr"), **SMALL)
    plan, receipts = run_serially(job)
    work = pickle.loads(pickle.dumps(plan.works["warp"]))  # as another process has it
    assert work(1).checksum == receipts["warp", 1].checksum
    read = [receipt.bytes_read for receipt in receipts.values()]
    assert 0 < sum(read) <= plan.price.bytes_read
    assert min(read) == 0 or sum(read) < 4 * sum(receipt.bytes_written for receipt in receipts.values())
    product = open_product(job.output)
    grid = plan.works["warp"].grid
    assert all(product.checksum(grid[item].core) == receipt.checksum for (_, item), receipt in receipts.items())


def test_a_block_that_does_not_fit_is_refused_with_what_would(tissue, tmp_path):
    job = WarpJob(transforms=tissue(), output=str(tmp_path / "out.ome.zarr"))
    with pytest.raises(BudgetError, match=r"--shard .* MiB"):
        job.plan(Budget(worker_bytes=plain.PROCESS_BYTES + 1000))
    assert not (tmp_path / "out.ome.zarr").exists()


def test_a_pipeline_and_numbers_of_orders(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("jobs: [{warp: {transforms: t.json, output: o.zarr, order: 1, shard: 64}}]")
    assert load_pipeline(path).job_list == [WarpJob(transforms="t.json", output="o.zarr", order="1", shard=(64,) * 3)]


# ---------------------------------------------------------------------- what is refused


def test_a_field_that_folds_is_refused_when_it_is_loaded(tissue, tmp_path):
    import zarr

    path = tissue()
    array = zarr.open_group(str(tmp_path / "bent.field.zarr"))["displacement"]
    array[1, :, 4:] = -5.0
    with pytest.raises(GeometryError, match="folds at y"):
        WarpJob(transforms=path, output=str(tmp_path / "out")).plan(PLENTY)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"bbox": "0:15,0:41,0:60"}, GeometryError, "reaches outside the reconstruction"),
        ({"fill": 256}, ConfigError, "no value of uint8; give a whole number from 0 to 255"),
        ({"fill": 0.5}, ConfigError, "no value of uint8"),
        ({"fill": math.nan}, ConfigError, "no value of uint8"),
        ({"level": 1}, VolumeError, "slab 0: .*--level 1 is not there"),
        ({"order": 2}, ConfigError, "order: Input should be '0', '1' or '3'"),
        ({"shard": (20, 20, 20), "chunk": 8}, GeometryError, "whole chunks"),
        ({"output": "transforms.json0.ome.zarr/out"}, ProductError, "inside the input"),
        ({"output": "bent.field.zarr"}, ProductError, "inside the input"),
        ({"output": "."}, ProductError, "the input .*transforms.json lies inside it"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_written(tissue, tmp_path, change, error, said):
    path = tissue("uint8")
    before = sorted(tmp_path.rglob("*"))
    options = {"output": "out.ome.zarr"} | change
    with pytest.raises(error, match=said):
        WarpJob(**options | {"transforms": path, "output": str(tmp_path / options["output"])}).plan(PLENTY)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda c: c.update(voxel_size_um=[0.5, 0.2, 0.2]), VolumeError, "slab 0, .*the transforms file says"),
        (lambda c: c["slabs"][2].update(layers=[0, 6]), VolumeError, "slab 2, .*it has 5"),
        (lambda c: c["slabs"][1].update(volume=None), ConfigError, r"slabs\.1: a missing slab .*give its layers"),
        (lambda c: c["slabs"][1].update(layers=[2, 2]), ConfigError, r"slabs\.1: layers \[2, 2\]"),
        (lambda c: c["slabs"][0].update(gap_layers=-1), ConfigError, r"slabs\.0\.gap_layers: .*greater than or equal"),
        (lambda c: c["slabs"][0].update(colour="red"), ConfigError, r"slabs\.0\.colour: Extra"),
        (
            lambda c: c["slabs"][0]["pose"].update(angle_rad=math.nan),
            ConfigError,
            r"slabs\.0\.pose\.angle_rad: .*finite",
        ),
        (lambda c: c["slabs"][1]["pose"].update(angle_rad=0.3), ConfigError, "slab 1: .*fitted to"),
        (lambda c: c["slabs"][1].update(field="nothing.zarr"), ProductError, "no zarr 3 group"),
        (lambda c: c["slabs"][1].update(volume="nothing.zarr"), VolumeError, "slab 1: .*no such file"),
        (lambda c: c.update(slabs=[]), ConfigError, "slabs: "),
        (lambda c: c.update(version=2), ConfigError, "version: Input should be 1"),
    ],
)
def test_a_wrong_transforms_file_is_refused_in_one_line(tissue, tmp_path, change, error, said):
    path = tissue("uint8")
    content = json.loads((tmp_path / "transforms.json").read_text())
    change(content)
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(error, match=said) as refusal:
        WarpJob(transforms=path, output=str(tmp_path / "out")).plan(PLENTY)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", [None, "{", "[1, 2]", b"\xff\xfe"])
def test_what_is_no_transforms_file_is_refused(tmp_path, text):
    path = tmp_path / "t.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=r"t\.json: "):
        load_transforms(path)


def test_slabs_of_different_kinds_are_refused(stack, noise, tmp_path):
    for other in (noise((3, 30, 44), "uint16"), noise((2, 3, 30, 44), "uint8")):
        path = stack([(noise((3, 30, 44), "uint8"), {}), (other, {})], name=f"{other.ndim}.json")
        with pytest.raises(VolumeError, match="give slabs that are alike"):
            WarpJob(transforms=path, output=str(tmp_path / "out")).plan(PLENTY)


def test_transforms_go_through_their_file_and_back(tissue, tmp_path):
    loaded = load_transforms(tissue())
    assert [slab.pose.rigid for slab in loaded.slabs] == list(POSES)
    assert loaded.slabs[1].field == str(tmp_path / "bent.field.zarr")
    loaded.store(tmp_path / "again.json")
    assert load_transforms(tmp_path / "again.json") == loaded
