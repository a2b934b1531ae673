"""Pyramids: every level equals numpy on the whole level before it, and each item waits for what it reads."""

import json

import numpy as np
import pytest
import yaozarrs
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from volpipe.errors import BudgetError, ConfigError, ProductError, VolumeError
from volpipe.geometry import BlockGrid, Box
from volpipe.jobs import plain
from volpipe.jobs.pyramid import PyramidJob, pyramid_bytes, pyramid_tasks
from volpipe.plan import Budget
from volpipe.volume import Layout, create_product, open_product, open_source
from volpipe.volume.downsample import downsample
from volpipe.volume.validate import validate

PLENTY = Budget(worker_bytes=2**34)


def volume(tmp_path, shape=(37, 45, 53), channels=1, dtype="uint16", size=(0.03, 0.004, 0.004), chunk=8, shard=16):
    layout = Layout(shape, channels, np.dtype(dtype), size, unit="nanometer", chunk=(chunk,) * 3, shard=(shard,) * 3)
    product = create_product(str(tmp_path / "v.ome.zarr"), layout, {"provenance": {"made": "here"}})
    voxels = np.random.default_rng(0).integers(0, 200, (channels, *shape)).astype(dtype)
    product.write(product.grid().region, voxels)
    product.update(state="complete")
    return product, voxels


def by_numpy(voxels, factors):
    """Mean of the windows, ragged ones over the voxels that exist, through NaN padding."""
    pad = [(0, 0)] + [(0, -n % f) for n, f in zip(voxels.shape[1:], factors, strict=True)]
    padded = np.pad(voxels.astype(np.float64), pad, constant_values=np.nan)
    c, z, y, x = padded.shape
    fz, fy, fx = factors
    means = np.nanmean(padded.reshape(c, z // fz, fz, y // fy, fy, x // fx, fx), axis=(2, 4, 6))
    return np.floor(means + 0.5).astype(voxels.dtype)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("factors", ["1,2,2;2,2,2", "3,2,1", "2,2,2;2,2,2;2,2,2", "5,7,3;2,1,1"])
def test_levels_equal_numpy_over_the_whole_volume(tmp_path, run_serially, factors, channels):
    product, level = volume(tmp_path, channels=channels)
    _, receipts = run_serially(PyramidJob(volume=product.location, factors=factors))
    for number, text in enumerate(factors.split(";"), start=1):
        level = by_numpy(level, tuple(int(n) for n in text.split(",")))
        assert np.array_equal(product.read(product.grid(number).region, number), level)
        for block in product.grid(number):
            assert product.checksum(block.core, number) == receipts[f"level{number}", block.number].checksum
    assert validate(product.location, deep=True) == []
    yaozarrs.validate_zarr_store(product.location)


def test_labels_take_the_mode_by_themselves(tmp_path, run_serially):
    product, voxels = volume(tmp_path, dtype="uint64")
    run_serially(PyramidJob(volume=product.location, factors="2,2,2"))
    assert np.array_equal(product.read(product.grid(1).region, 1), downsample(voxels, (2, 2, 2), "mode"))
    ome = zarr.open_group(product.location, mode="r").attrs["ome"]
    assert ome["multiscales"][0]["type"] == "mode"


def test_classes_of_our_own_products_are_labels_whatever_their_dtype(tmp_path):
    product, _ = volume(tmp_path, dtype="uint8")
    assert PyramidJob(volume=product.location, factors="2,2,2").plan(PLENTY).key["settings"]["method"] == "mean"
    product.update(encoding="labels")
    assert PyramidJob(volume=product.location, factors="2,2,2").plan(PLENTY).key["settings"]["method"] == "mode"


def test_default_factors_and_scales_by_hand(tmp_path, run_serially):
    product, _ = volume(tmp_path)  # 30 x 4 x 4 nm: y and x are halved until 32, then all; chunks of 8
    run_serially(PyramidJob(volume=product.location))
    levels = [open_source(product.location, level=number) for number in range(4)]
    assert [level.shape for level in levels] == [(37, 45, 53), (37, 23, 27), (37, 12, 14), (37, 6, 7)]
    assert levels[3].voxel_size_um == pytest.approx((0.030, 0.032, 0.032))
    assert levels[3].translation_um == pytest.approx((0.0, 0.014, 0.014))
    datasets = zarr.open_group(product.location, mode="r").attrs["ome"]["multiscales"][0]["datasets"]
    assert datasets[4]["coordinateTransformations"][0]["scale"] == [60.0, 64.0, 64.0]
    assert datasets[4]["coordinateTransformations"][1]["translation"] == [15.0, 30.0, 30.0]


def test_levels_appear_together_at_the_end(tmp_path):
    product, _ = volume(tmp_path)
    job = PyramidJob(volume=product.location)
    plan = job.plan(PLENTY)
    job.begin(plan, fresh=True, replace=False)
    for task in plan.tasks():
        plan.works[task.work](task.item)
        assert product.levels == 1
    job.finish(plan, None)
    job.finish(plan, None)
    assert product.levels == 1 + len(plan.works)


def test_levels_that_exist_stay_unless_they_are_to_be_replaced(tmp_path, run_serially):
    product, voxels = volume(tmp_path)
    run_serially(PyramidJob(volume=product.location, factors="1,2,2;2,2,2"))
    again = PyramidJob(volume=product.location, factors="2,2,2")
    with pytest.raises(ProductError, match="has levels already"):
        run_serially(again)
    run_serially(again, replace=True)
    assert product.levels == 2
    assert np.array_equal(open_product(product.location).read(product.grid(1).region, 1), by_numpy(voxels, (2, 2, 2)))
    assert not (tmp_path / "v.ome.zarr" / "2").exists()


def test_a_run_that_goes_on_keeps_finished_shards_and_its_place(tmp_path):
    product, _ = volume(tmp_path)
    job = PyramidJob(volume=product.location, factors="2,2,2")
    plan = job.plan(PLENTY)
    job.begin(plan, fresh=True, replace=False)
    plan.works["level1"](0)
    done = product.read(product.grid(1)[0].core, 1)
    job = PyramidJob(volume=product.location, factors="2,2,2")
    assert job.plan(PLENTY).key == plan.key
    job.begin(plan, fresh=False, replace=False)
    assert done.any()
    assert np.array_equal(product.read(product.grid(1)[0].core, 1), done)
    with open(job.product) as mark:  # where the runtime looks whether there is something to go on with
        assert json.load(mark) == {"factors": [[2, 2, 2]], "method": "mean"}
    product.publish([(2, 2, 2)])
    product.remove_levels()
    assert not (tmp_path / "v.ome.zarr" / "1").exists()


def test_the_key_does_not_change_when_the_levels_are_listed(tmp_path, run_serially):
    product, _ = volume(tmp_path)
    plan, _ = run_serially(PyramidJob(volume=product.location))
    assert PyramidJob(volume=product.location).plan(PLENTY).key == plan.key
    assert PyramidJob(volume=product.location, method="first").plan(PLENTY).key != plan.key


triples = st.tuples(*[st.integers(1, 3)] * 3)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(1, 40)] * 3),
    st.lists(triples.filter(lambda f: max(f) > 1), min_size=1, max_size=3),
    st.tuples(*[st.integers(0, 30)] * 3),
    triples,
)
def test_an_item_needs_exactly_the_items_whose_voxels_it_covers(shape, factors, origin, shards):
    layout = Layout(shape, 1, np.dtype("uint8"), chunk=(4, 4, 4), shard=(8, 8, 8))
    region = Box.from_shape(shape).shift(origin)  # as with --bbox: the work's grid is in the input's voxels
    blocks = BlockGrid(region, tuple(s * n for s, n in zip(layout.shard, shards, strict=True)))
    levels = layout.levels(factors)
    grids = [BlockGrid(Box.from_shape(shape), blocks.shape), *(level.grid for level in levels[1:])]
    names = ["apply", *(f"level{number}" for number in range(1, len(levels)))]
    seen = {("apply", number) for number in range(len(blocks))}
    for task in pyramid_tasks(layout, factors, blocks):
        assert set(task.needs) <= seen
        seen.add(task.name)
        number = names.index(task.work)
        core, step = grids[number][task.item].core, factors[number - 1]
        fine = Box(*(tuple(a * f for a, f in zip(side, step, strict=True)) for side in (core.start, core.stop)))
        touched = [block.number for block in grids[number - 1] if not block.core.intersect(fine).is_empty]
        assert task.needs == tuple((names[number - 1], n) for n in touched)
    assert len(seen) == len(blocks) + sum(len(grid) for grid in grids[1:])


def test_a_finished_volume_needs_nothing_below_level_1(tmp_path):
    product, _ = volume(tmp_path)
    plan = PyramidJob(volume=product.location, factors="2,2,2;2,2,2").plan(PLENTY)
    tasks = list(plan.tasks())
    assert {task.needs for task in tasks if task.work == "level1"} == {()}
    assert all(task.needs for task in tasks if task.work == "level2")


def test_an_item_reads_each_finer_shard_once(tmp_path, monkeypatch):
    product, _ = volume(tmp_path)
    job = PyramidJob(volume=product.location, factors="2,2,2")
    plan = job.plan(PLENTY)
    job.begin(plan, fresh=True, replace=False)
    read, boxes = type(product).read, []
    monkeypatch.setattr(type(product), "read", lambda self, box, level=0: boxes.append(box) or read(self, box, level))
    for task in plan.tasks():
        plan.works[task.work](task.item)
    assert sorted(boxes, key=str) == sorted((block.core for block in product.grid(0)), key=str)


def test_another_programs_volume_grows_levels_in_place(tmp_path, run_serially):
    """Unsharded, another path, another name: what is there stays."""
    array = np.random.default_rng(0).integers(0, 255, (20, 21, 22), dtype=np.uint8)
    path = str(tmp_path / "foreign.ome.zarr")
    group = zarr.create_group(path, attributes={"mine": 1})
    group.create_array("s0", data=array, chunks=(8, 8, 8), dimension_names="zyx")
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    dataset = {"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": [5, 5, 5]}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [dataset], "name": "mine"}]}
    run_serially(PyramidJob(volume=path, factors="2,2,2"))
    assert validate(path, deep=True) == []
    yaozarrs.validate_zarr_store(path)
    attributes = zarr.open_group(path, mode="r").attrs.asdict()
    assert attributes["mine"] == 1
    assert attributes["ome"]["multiscales"][0]["name"] == "mine"
    assert np.array_equal(
        open_source(path, level=1).read(Box.from_shape((10, 11, 11))), by_numpy(array[None], (2, 2, 2))
    )


def test_what_cannot_have_levels_is_one_line(tmp_path):
    product, _ = volume(tmp_path)
    with pytest.raises(ConfigError, match="z,y,x for each level"):
        PyramidJob(volume=product.location, factors="2,2").plan(PLENTY)
    with pytest.raises(BudgetError, match="pyramid: shards"):
        PyramidJob(volume=product.location).plan(Budget(worker_bytes=plain.PROCESS_BYTES))
    with pytest.raises(ProductError, match="no zarr 3 group"):
        PyramidJob(volume=str(tmp_path / "nothing")).plan(PLENTY)
    product.update(state="running")
    with pytest.raises(VolumeError, match="is not finished"):
        PyramidJob(volume=product.location).plan(PLENTY)


def test_a_volume_in_one_chunk_says_so(tmp_path):
    product, _ = volume(tmp_path, shape=(5, 6, 7))
    with pytest.raises(ConfigError, match="one chunk"):
        PyramidJob(volume=product.location).plan(PLENTY)


def test_memory_is_that_of_the_largest_item():
    layout = Layout((512,) * 3, 1, np.dtype("uint8"))
    assert pyramid_bytes(layout, [(2, 2, 2)]) >= 256**3 * 5
    assert pyramid_bytes(layout, []) == 0
