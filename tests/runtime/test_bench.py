"""`bench`: every way in which a network can be stitched is a case, and each is run for real."""

import json
import math

import pytest

from volpipe.errors import ConfigError
from volpipe.report.throughput import throughput_figure
from volpipe.runtime.bench import BenchOptions, bench, cases
from volpipe.runtime.machine import machine, table
from volpipe.runtime.settings import RunSettings

SERIAL = RunSettings(serial=True, threads=1, memory_per_worker="4GiB")


def ways(model, **options):
    found = list(cases(BenchOptions(model=model, **options), 1))
    return [(case.stitching, case.assembly, case.engine, case.precision) for case in found]


def test_a_network_is_run_in_every_way_that_fits_it():
    one = {"engines": ("blocks",), "precisions": ("fp32",)}
    padded = [("tile", "3d"), ("overlap", "3d"), ("overlap, gaussian", "3d")]
    assert [way[:2] for way in ways("preset:unet3d_l3_w2", **one)] == padded
    planes = [(name, assembly) for assembly in ("2d", "orthoslice") for name, _ in padded]
    assert [way[:2] for way in ways("preset:unet2d_l4_w2", **one)] == planes
    assert [way[:2] for way in ways("preset:unet2d_l4_valid_w2", **one)] == [("valid", "2d"), ("valid, reflect", "2d")]
    assert [way[:2] for way in ways("preset:mae3d_p4_w12", **one)] == [("windows", "3d")]
    assert len(ways("preset:unet3d_l3_w2")) == 3 * 2 * 2


def test_a_network_of_other_channels_is_refused():
    with pytest.raises(ConfigError, match="takes 2 channels, the volume has 1"):
        list(cases(BenchOptions(model="preset:siamese3d_similarity_w12"), 1))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder, said = tmp_path_factory.mktemp("bench"), []
    options = BenchOptions(model="preset:unet2d_l4_w2", size=64, block=64, tile=64, precisions=("fp32",), repeats=2)
    result = bench(options, SERIAL, folder, said.append)
    assert not list(folder.iterdir())  # what was made is gone
    return result, said


def test_every_case_has_figures_beside_the_limits(found):
    result, said = found
    assert len(said) == 2 * len(result["rows"]) == 2 * 2 * 6
    for row in result["rows"]:
        assert all(row[name] > 0 for name in ("Mvoxel/s", "of the network alone", "CPU-s", "wall s", "peak MiB"))
        assert 0 < row["useful"] <= 1
        assert row["exact"] is (row["stitching"] == "overlap")
        assert (row["promised MiB"] is None) is (row["engine"] == "map-overlap")
        assert row["slots"] == 1
    assert all(limit[name] > 1e3 for limit in result["limits"] for name in ("forward", "copy", "read", "write"))
    tile, overlap = (next(r for r in result["rows"] if r["stitching"] == name) for name in ("tile", "overlap"))
    assert tile["useful"] == pytest.approx(1)
    assert overlap["useful"] == pytest.approx(1)  # one tile of the whole volume needs no halo
    assert tile["audit"] == 0  # and has no faces


def test_the_result_is_json_a_table_and_a_plot(found):
    result, _ = found
    assert json.loads(json.dumps({"machine": machine(), **result}))["rows"] == result["rows"]
    lines = table(result["rows"]).splitlines()
    assert len(lines) == 1 + len(result["rows"])
    assert lines[0].startswith("network")
    figure = throughput_figure(result["rows"])
    rates, seconds = figure.axes
    widths = [bar.get_width() for bar in rates.patches]
    assert widths == [row["Mvoxel/s"] for row in result["rows"]]
    assert rates.get_yticklabels()[0].get_text() == "unet2d_l4_w2\ntile, 2d"
    told = sum(bar.get_width() for bar in seconds.patches if math.isfinite(bar.get_width()))
    assert told > 0
