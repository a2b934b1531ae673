"""Warp: the reconstruction is the scene that the slabs were cut from, whatever the blocks; gaps are empty and told."""

import json
import pickle
from collections import Counter

import numpy as np
import pytest
import yaozarrs
from warp_scene import PLENTY, POSES, SERIAL, SIZE_UM, SMALL, pose_of, scene

from volpipe import WarpJob, run
from volpipe.errors import BudgetError, ProductError, VolumeError
from volpipe.geometry import Box, Raster, Rigid
from volpipe.jobs import plain
from volpipe.jobs.field_store import load_field, store_field
from volpipe.jobs.pyramid import PyramidJob
from volpipe.jobs.transforms import Slab, Transforms
from volpipe.jobs.warp_work import WarpWork
from volpipe.plan import Budget
from volpipe.registration.field import Field
from volpipe.runtime.pipeline import load_pipeline
from volpipe.volume import open_product, open_source
from volpipe.volume.downsample import downsample
from volpipe.volume.validate import validate


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


def test_a_slab_whose_pose_is_a_guess_is_told(tissue, rendered, tmp_path):
    tissue()
    content = json.loads((tmp_path / "transforms.json").read_text())
    content["slabs"][1]["bridged"] = True
    (tmp_path / "guess.json").write_text(json.dumps(content))
    _, product = rendered(str(tmp_path / "guess.json"))
    assert product.attributes["bridged"] == [{"first_layer": 6, "layers": 3, "slab": 1}]
    assert [gap["first_layer"] for gap in product.attributes["gaps"]] == [4, 9]


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
