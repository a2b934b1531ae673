"""Statistics of a volume equal numpy on the whole array, with and without a mask."""

import json
import pickle

import numpy as np
import pytest
import zarr

from volpipe.errors import BudgetError, VolumeError
from volpipe.jobs import plain
from volpipe.jobs import statistics as job_module
from volpipe.jobs.statistics import StatisticsJob, cell_of
from volpipe.plan import Budget
from volpipe.volume import open_source
from volpipe.volume.statistics import load_statistics, read_statistics

SHAPE = (21, 30, 43)
PLENTY = Budget(worker_bytes=2**34)


def write(path, array, chunk=8):
    names = ("c", "z", "y", "x")[-array.ndim :]
    chunks = (1, chunk, chunk, chunk)[-array.ndim :]
    zarr.create_array(str(path), data=array, chunks=chunks, dimension_names=names)
    return str(path)


def random_array(dtype, channels=2):
    rng = np.random.default_rng(0)
    if dtype == "float32":
        return rng.normal(100, 30, (channels, *SHAPE)).astype(np.float32)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, (channels, *SHAPE), dtype=dtype)


@pytest.fixture
def many_items(monkeypatch):
    """Small cells, several an item."""
    monkeypatch.setattr(job_module, "CELL_BYTES", 20_000)
    monkeypatch.setattr(job_module, "MOST_ITEMS", 5)


@pytest.mark.usefixtures("many_items")
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_statistics_equal_numpy_on_the_whole(tmp_path, run_serially, dtype):
    array = random_array(dtype)
    path = write(tmp_path / "v.zarr", array)
    plan, receipts = run_serially(StatisticsJob(volume=path))
    assert 1 < plan.count <= 5
    assert sum(receipt.bytes_read for receipt in receipts.values()) == array.nbytes == plan.price.bytes_read
    found = load_statistics(open_source(path))
    wide = array.astype(np.float64).reshape(2, -1)
    assert found.mean == pytest.approx(wide.mean(axis=1), rel=1e-12)
    assert found.std == pytest.approx(wide.std(axis=1), rel=1e-12)
    tolerance = 1 / 128 if dtype == "float32" else 1e-12
    for percent in (1, 50, 99.9):
        assert found.percentile(percent) == pytest.approx(np.percentile(wide, percent, axis=1), rel=tolerance)
    assert [histogram.count for histogram in found.channels] == [wide.shape[1]] * 2


@pytest.mark.usefixtures("many_items")
@pytest.mark.parametrize("factor", [1, 4])
def test_only_voxels_under_the_mask_count(tmp_path, run_serially, factor):
    array = random_array("uint16")
    coarse = np.zeros(tuple(-(-n // factor) for n in SHAPE), np.uint8)
    coarse[:2, 1:5] = 1
    on = coarse
    for axis in range(3):
        on = on.repeat(factor, axis)
    on = on[tuple(slice(n) for n in SHAPE)] != 0
    path, mask = write(tmp_path / "v.zarr", array), write(tmp_path / "mask.zarr", coarse)
    _, receipts = run_serially(StatisticsJob(volume=path, mask=mask))
    found = load_statistics(open_source(path))
    assert found.mean == pytest.approx(array[:, on].mean(axis=1), rel=1e-12)
    assert found.channels[0].count == on.sum()
    assert found.mask["location"] == mask
    assert {receipt.skipped for receipt in receipts.values()} == {"", "mask"}
    assert sum(receipt.bytes_read for receipt in receipts.values()) < array.nbytes


def test_a_mask_of_another_extent_is_refused(tmp_path):
    path = write(tmp_path / "v.zarr", random_array("uint8"))
    mask = write(tmp_path / "mask.zarr", np.ones((21, 30, 30), np.uint8))
    with pytest.raises(VolumeError, match="covers"):
        StatisticsJob(volume=path, mask=mask).plan(PLENTY)


def test_nan_is_told_and_spoils_nothing(tmp_path, run_serially):
    array = random_array("float32")
    array[0, 3, 4, 5], array[1, 0, 0, :7] = np.nan, np.inf
    path = write(tmp_path / "v.zarr", array)
    run_serially(StatisticsJob(volume=path))
    found = json.loads((tmp_path / "v.zarr.statistics.json").read_text())["channels"]
    assert [(channel["nan"], channel["infinite"]) for channel in found] == [(1, 0), (0, 7)]
    assert found[0]["mean"] == pytest.approx(np.nanmean(array[0].astype(np.float64)))


def test_a_level_a_channel_and_a_place_may_be_picked(tmp_path, run_serially):
    array = random_array("uint8")
    path = write(tmp_path / "v.zarr", array)
    run_serially(StatisticsJob(volume=path, channel=1))
    assert load_statistics(open_source(path, channel=1)).mean == pytest.approx([array[1].mean()])
    with pytest.raises(VolumeError, match=f"first run: volpipe statistics {path}$"):
        load_statistics(open_source(path))
    place = str(tmp_path / "elsewhere" / "s.json")
    run_serially(StatisticsJob(volume=path, output=place))
    assert len(read_statistics(place).channels) == 2


def test_counting_again_replaces_the_file(tmp_path, run_serially):
    path = write(tmp_path / "v.zarr", random_array("uint8"))
    run_serially(StatisticsJob(volume=path))
    first = (tmp_path / "v.zarr.statistics.json").read_bytes()
    run_serially(StatisticsJob(volume=path))
    assert (tmp_path / "v.zarr.statistics.json").read_bytes() == first
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["v.zarr", "v.zarr.statistics.json"]


def test_cells_are_whole_chunks_of_bounded_size():
    class Source:
        channels, dtype = 1, np.dtype("uint8")

        def __init__(self, shape, chunk):
            self.shape, self.chunk = shape, chunk

    assert cell_of(Source((1000, 2000, 2000), (1, 2000, 2000))) == (16, 2000, 2000)
    assert cell_of(Source((4096, 4096, 4096), (64, 64, 64))) == (512, 512, 256)
    assert cell_of(Source((10, 9, 8), (64, 64, 64))) == (10, 9, 8)


def test_labels_are_not_counted_and_little_memory_is_refused(tmp_path):
    path = write(tmp_path / "labels.zarr", np.zeros((4, 4, 4), np.uint64))
    with pytest.raises(VolumeError, match="uint8, uint16, int16, float32"):
        StatisticsJob(volume=path).plan(PLENTY)
    path = write(tmp_path / "v.zarr", random_array("uint8"))
    with pytest.raises(BudgetError, match="statistics"):
        StatisticsJob(volume=path).plan(Budget(worker_bytes=plain.PROCESS_BYTES))


def test_works_and_receipts_travel(tmp_path):
    path = write(tmp_path / "v.zarr", random_array("uint8"))
    plan = StatisticsJob(volume=path).plan(PLENTY)
    receipt = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(plan.works["statistics"]))(0)))
    assert receipt.value[0].count == np.prod(SHAPE)
