"""Import: the same voxels, each page of the source decoded once per row of shards, within the memory given."""

import math
import pickle
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
import tifffile
import yaozarrs
import zarr

from volpipe import RunSettings, run
from volpipe.errors import BudgetError, ConfigError, GeometryError, ProductError, VolumeError
from volpipe.geometry import BlockGrid, Box, lattice_cells
from volpipe.jobs import plain
from volpipe.jobs.import_work import ImportWork, block_bytes, choose_block, decodes_per_chunk, slab_of
from volpipe.jobs.importing import ImportJob
from volpipe.plan import Budget
from volpipe.runtime.calibrate import dry_run
from volpipe.volume import Layout, Product, create_product, open_product, open_source
from volpipe.volume.ledger import Ledger
from volpipe.volume.validate import validate

SHAPE = (37, 45, 53)
NANOMETRES = {"voxel_size": (8.0, 4.0, 4.0), "unit": "nanometer"}
SMALL = {"chunk": (8, 8, 8), "shard": (16, 16, 16)}


def array_of(dtype="uint16", shape=SHAPE):
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def write_tiff(path, array, **more):
    tifffile.imwrite(path, array, photometric="minisblack", metadata={"axes": "ZYX"}, **more)
    return str(path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_every_voxel_arrives(tmp_path, run_serially, dtype):
    array = array_of(dtype)
    source = write_tiff(tmp_path / "v.tif", array)
    out = str(tmp_path / "out.ome.zarr")
    plan, receipts = run_serially(ImportJob(input=source, output=out, **NANOMETRES, **SMALL))
    product = open_product(out)
    assert np.array_equal(product.read(product.layout.grid.region)[0], array)
    grid = plan.works["import"].grid
    assert all(product.checksum(grid[item].core) == receipt.checksum for (_, item), receipt in receipts.items())
    assert sum(receipt.bytes_written for receipt in receipts.values()) == array.nbytes == plan.price.bytes_written
    assert product.layout.voxel_size_um == pytest.approx((0.008, 0.004, 0.004))
    assert validate(out, deep=True) == []
    yaozarrs.validate_zarr_store(out)
    assert np.array_equal(open_source(out).read(Box.from_shape(SHAPE))[0], array)


def test_channels_and_the_place_of_the_input_are_kept(tmp_path, run_serially):
    array = np.random.default_rng(0).integers(0, 255, (2, 10, 12, 14), dtype=np.uint8)
    group = zarr.create_group(str(tmp_path / "in.ome.zarr"))
    group.create_array("0", data=array, chunks=(1, 4, 4, 4))
    transforms = [
        {"type": "scale", "scale": [1, 2.0, 1.0, 1.0]},
        {"type": "translation", "translation": [0, 20.0, 5.0, 0.0]},
    ]
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    dataset = {"path": "0", "coordinateTransformations": transforms}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [dataset]}]}
    out = str(tmp_path / "out.ome.zarr")
    run_serially(ImportJob(input=str(tmp_path / "in.ome.zarr"), output=out, **SMALL))
    product = open_product(out)
    assert np.array_equal(product.read(product.layout.grid.region), array)
    assert product.layout.voxel_size_um == (2.0, 1.0, 1.0)
    assert product.layout.translation_um == (20.0, 5.0, 0.0)
    assert product.attributes["state"] == "complete"
    assert product.attributes["provenance"]["job"]["input"].endswith("in.ome.zarr")


@dataclass
class Pages:
    """A source of whole pages that counts how often each of its chunks is decoded, and how much at a time."""

    array: np.ndarray
    chunk: tuple = (1, 45, 53)
    decoded: Counter = field(default_factory=Counter)
    largest: int = 0
    location: str = "pages"
    channels: int = 1
    voxel_size_um: tuple = (1.0, 1.0, 1.0)
    translation_um: tuple = (0.0, 0.0, 0.0)

    @property
    def shape(self):
        return self.array.shape

    @property
    def dtype(self):
        return self.array.dtype

    def read(self, box):
        cells = list(lattice_cells(box, self.chunk))
        self.decoded.update(cell.start for cell in cells)
        self.largest = max(self.largest, sum(cell.size for cell in cells) * self.array.itemsize)
        return self.array[box.slices][None]


def copy(source, tmp_path, budget):
    layout = Layout(source.shape, 1, source.dtype, source.voxel_size_um, chunk=(8, 8, 8), shard=(16, 16, 16))
    block = choose_block(source, layout, budget)
    grid = BlockGrid(Box.from_shape(source.shape), block)
    product = create_product(str(tmp_path / "out.zarr"), layout, {})
    work = ImportWork(source, product, grid, slab_of(source, block))
    for item in range(len(grid)):
        work(item)
    assert np.array_equal(product.read(Box.from_shape(source.shape))[0], source.array)
    return block, layout


PLENTY = Budget(worker_bytes=2**40)


@pytest.mark.parametrize(
    ("chunk", "block"),
    [
        ((1, 45, 53), (16, 48, 64)),  # pages: a whole row of shards
        ((1, 5, 53), (16, 16, 64)),  # strips: rows of whole strips
        ((1, 16, 16), (16, 16, 16)),  # tiles that fit into a shard
        ((8, 8, 8), (16, 16, 16)),  # cubes
        ((37, 8, 8), (48, 16, 16)),  # columns
    ],
)
def test_blocks_cover_the_chunks_of_the_source(tmp_path, chunk, block):
    source = Pages(array_of(), chunk)
    assert copy(source, tmp_path, PLENTY)[0] == block


def test_each_page_is_decoded_once_if_a_row_fits(tmp_path):
    source = Pages(array_of())
    block, _ = copy(source, tmp_path, PLENTY)
    assert set(source.decoded.values()) == {1}
    assert decodes_per_chunk(source, block) == 1


def test_a_row_that_does_not_fit_is_cut_and_the_decodes_are_told(tmp_path):
    source = Pages(array_of())
    layout = Layout(SHAPE, 1, np.dtype("uint16"), (1, 1, 1), chunk=(8, 8, 8), shard=(16, 16, 16))
    need = block_bytes(source, layout, (16, 32, 64))
    block, _ = copy(source, tmp_path, Budget(worker_bytes=plain.worker_bytes(need, 1)))
    assert block == (16, 32, 64)
    assert sum(source.decoded.values()) / len(source.decoded) == decodes_per_chunk(source, block) == 2


def test_the_promise_counts_pages_that_are_larger_than_a_shard():
    source = Pages(np.zeros((32, 1000, 1000), np.uint8), (1, 1000, 1000))
    layout = Layout(source.shape, 1, np.dtype("uint8"), (1, 1, 1), chunk=(8, 8, 8), shard=(16, 16, 16))
    assert block_bytes(source, layout, (16, 16, 16)) >= 16**3 + 2 * 1000 * 1000


def test_what_is_read_at_a_time_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("volpipe.jobs.import_work.SLAB_BYTES", 4 * 45 * 53 * 2)
    source = Pages(array_of())
    copy(source, tmp_path, PLENTY)
    assert source.largest == 4 * 45 * 53 * 2
    assert set(source.decoded.values()) == {1}


def test_a_shard_that_does_not_fit_is_refused_with_what_would(tmp_path):
    job = ImportJob(input=write_tiff(tmp_path / "v.tif", array_of()), output=str(tmp_path / "out"), **NANOMETRES)
    with pytest.raises(BudgetError, match=r"--shard .* MiB"):
        job.plan(Budget(worker_bytes=plain.PROCESS_BYTES + 1000))
    assert not (tmp_path / "out").exists()


def test_a_plan_keeps_its_promise_to_the_budget(tmp_path):
    job = ImportJob(input=write_tiff(tmp_path / "v.tif", array_of()), output=str(tmp_path / "out"), **NANOMETRES)
    budget = Budget(worker_bytes=2**30, slots=2)
    plan = job.plan(budget)
    assert plan.price.worker_bytes <= budget.worker_bytes
    assert pickle.loads(pickle.dumps(plan.works["import"])).grid == plan.works["import"].grid
    assert not (tmp_path / "out").exists()


def test_the_voxel_size_must_be_known(tmp_path):
    source, out = write_tiff(tmp_path / "v.tif", array_of()), str(tmp_path / "out")
    for given, error, text in [
        ({}, VolumeError, "--voxel-size"),
        ({"voxel_size": (8, 4, 4)}, ConfigError, "--unit"),
        ({"voxel_size": (8, 0, 4), "unit": "nanometer"}, ConfigError, "greater than 0"),
        ({"voxel_size": (8, 4, 4), "unit": "nm"}, ConfigError, "nanometer"),
    ]:
        with pytest.raises(error, match=text):
            ImportJob(input=source, output=out, **given).plan(PLENTY)


def test_what_cannot_be_imported_is_refused_before_anything_is_written(tmp_path):
    zarr.create_array(str(tmp_path / "labels.zarr"), data=np.zeros((4, 4, 4), np.uint64), dimension_names="zyx")
    labels, tiff = str(tmp_path / "labels.zarr"), write_tiff(tmp_path / "v.tif", array_of())
    for given, error, text in [
        ({"input": labels, "output": "out"}, VolumeError, "uint64 is not imported"),
        ({"input": labels, "output": "labels.zarr/out"}, ProductError, "inside the input"),
        ({"input": "nothing.tif", "output": "out"}, VolumeError, "no such TIFF file"),
        ({"input": tiff, "output": "out", "shard": (20, 20, 20)}, GeometryError, "whole chunks"),
    ]:
        place = {"output": str(tmp_path / given["output"])}
        with pytest.raises(error, match=text):
            ImportJob(**(NANOMETRES | given | place)).plan(PLENTY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.zarr", "v.tif"]


def test_the_key_tells_what_changed(tmp_path):
    source, out = write_tiff(tmp_path / "v.tif", array_of()), str(tmp_path / "out")
    one = ImportJob(input=source, output=out, **NANOMETRES).plan(PLENTY).key
    assert ImportJob(input=source, output=out, **NANOMETRES).plan(PLENTY).key == one
    assert ImportJob(input=source, output=out, **NANOMETRES, **SMALL).plan(PLENTY).key != one
    write_tiff(tmp_path / "v.tif", array_of(shape=(38, 45, 53)))
    assert ImportJob(input=source, output=out, **NANOMETRES).plan(PLENTY).key != one


def test_a_run_that_goes_on_keeps_the_product(tmp_path):
    job = ImportJob(input=write_tiff(tmp_path / "v.tif", array_of()), output=str(tmp_path / "o"), **NANOMETRES, **SMALL)
    plan = job.plan(PLENTY)
    job.begin(plan, fresh=True, replace=False)
    plan.works["import"](0)
    job.begin(plan, fresh=False, replace=False)
    box = plan.works["import"].grid[0].core
    assert Product(job.output).read(box).any()
    assert Product(job.output).attributes["state"] == "running"
    with pytest.raises(VolumeError, match="finished"):
        open_source(job.output)


def test_a_run_that_goes_on_keeps_the_block_that_it_began_with(tmp_path, monkeypatch):
    """Receipts are numbered by blocks: counted for another grid they would leave holes in a complete product."""
    job = ImportJob(
        input=write_tiff(tmp_path / "v.tif", array_of()), output=str(tmp_path / "out"), **NANOMETRES, **SMALL
    )
    run(job, RunSettings(serial=True))
    begun = job.plan(PLENTY)
    monkeypatch.setattr("volpipe.jobs.import_work.choose_block", lambda source, layout, budget: layout.shard)
    assert begun.count < math.prod(-(-n // s) for n, s in zip(job.layout.shape, job.layout.shard, strict=True))
    again = job.plan(PLENTY)
    assert (again.key, again.count) == (begun.key, begun.count)
    assert job.plan(PLENTY, anew=True).count > begun.count  # thrown away
    monkeypatch.setattr("volpipe.jobs.import_work.plain.fits", lambda nbytes, budget: False)
    assert job.plan(PLENTY).key != begun.key  # and a run of another key is refused


def test_calibrating_an_import_that_goes_on_runs_blocks_of_the_grid_that_it_began_with(tmp_path, monkeypatch):
    source = write_tiff(tmp_path / "v.tif", array_of())
    job = ImportJob(input=source, output=str(tmp_path / "out"), **NANOMETRES, **SMALL)
    plan = job.plan(PLENTY)
    job.begin(plan, fresh=True, replace=False)
    Ledger(job.output).begin(plan.key)
    monkeypatch.setattr("volpipe.jobs.import_work.choose_block", lambda source, layout, budget: layout.shape)
    assert plan.count > 1
    _, estimate = dry_run(job, RunSettings(serial=True), calibrate=True)
    assert estimate.note == f"{plan.count} of {plan.count} blocks left"
