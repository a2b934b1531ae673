"""`bench`: every way in which a network can be stitched is a case, and each is run for real."""

import json
import math
import warnings

import pytest
import torch

from volpipe.errors import ConfigError, GeometryError, ProductError
from volpipe.report.bench_text import bench_text
from volpipe.report.throughput import throughput_figure
from volpipe.runtime import bench as benching
from volpipe.runtime.bench import bench
from volpipe.runtime.bench_cases import BenchOptions, cases
from volpipe.runtime.machine import machine, table
from volpipe.runtime.settings import RunSettings

SERIAL = RunSettings(serial=True, threads=1, memory_per_worker="4GiB")


def ways(model, **options):
    found = list(cases(BenchOptions(model=model, **options), 1))
    return [(case.stitching, case.assembly, case.engine, case.precision) for case in found]


def test_a_network_is_run_in_every_way_that_fits_it():
    one = {"engines": ("blocks",), "precisions": ("fp32",)}
    padded = [("tile", "3d"), ("overlap", "3d"), ("exact", "3d"), ("overlap, gaussian", "3d")]
    assert [way[:2] for way in ways("preset:unet3d_l3_w2", **one)] == padded
    planes = [(name, assembly) for assembly in ("2d", "orthoslice") for name, _ in padded]
    assert [way[:2] for way in ways("preset:unet2d_l4_w2", **one)] == planes
    assert [way[:2] for way in ways("preset:unet2d_l4_valid_w2", **one)] == [("valid", "2d"), ("valid, reflect", "2d")]
    assert [way[:2] for way in ways("preset:mae3d_p4_w12", **one)] == [("windows", "3d")]
    assert len(ways("preset:unet3d_l3_w2")) == 4 * 2 * 2


def test_a_network_of_other_channels_is_refused():
    with pytest.raises(ConfigError, match="takes 2 channels, the volume has 1"):
        list(cases(BenchOptions(model="preset:siamese3d_similarity_w12"), 1))


def test_blends_are_those_asked_for():
    one = {"engines": ("blocks",), "precisions": ("fp32",), "model": "preset:unet3d_l3_w2"}
    every = [way[0] for way in ways(**one, blends=("linear", "hann", "gaussian"))]
    assert every == ["tile", "overlap", "exact", "overlap, linear", "overlap, hann", "overlap, gaussian"]
    assert [way[0] for way in ways(**one, blends=())] == ["tile", "overlap", "exact"]


def test_axes_that_a_network_does_not_tell_are_given(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(torch.nn.Sigmoid()).save(str(tmp_path / "net.pt"))
    assert {way[1] for way in ways(str(tmp_path / "net.pt"), ndim=3)} == {"3d"}
    assert {way[1] for way in ways(str(tmp_path / "net.pt"), ndim=2)} == {"2d", "orthoslice"}
    with pytest.raises(ConfigError, match="our own networks tell their axes; leave it out, or give --model"):
        BenchOptions(ndim=2)


def test_every_case_is_planned_before_the_first_one_runs(tmp_path, monkeypatch):
    """And before anything is written; what is refused leaves no folder."""
    monkeypatch.setattr(benching, "run", pytest.fail)
    monkeypatch.setattr(benching, "fill_with_noise", pytest.fail)
    with pytest.raises(GeometryError, match=r"tile \(33, 33, 33\): every edge must be a multiple of the period"):
        bench(BenchOptions(model="preset:unet2d_l4_w2", size=64, tile=33), SERIAL, tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(ProductError, match="file is a file; give an output in a folder"):
        bench(BenchOptions(size=64), SERIAL, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(what bench gives, what it said, the boxes of the jobs that it ran)."""
    folder, said, boxes = tmp_path_factory.mktemp("bench"), [], []
    shape = {"size": 64, "block": (32, 64, 64), "tile": (32, 64, 64)}
    options = BenchOptions(model="preset:unet3d_l3_w2", precisions=("fp32",), blends=(), repeats=2, **shape)

    def run(job, *arguments, **options):
        boxes.append(getattr(job, "bbox", "audit"))
        return ran(job, *arguments, **options)

    ran = benching.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benching, "run", run)
        result = bench(options, SERIAL, folder / "not" / "there", said.append)
    assert not list(folder.iterdir())  # what was made is gone
    return result, said, boxes


def test_one_block_of_each_engine_is_made_first_and_counts_for_nothing(found):
    result, said, boxes = found
    assert said[:2] == ["warm-up: one block, blocks", "warm-up: one block, map-overlap"]
    assert boxes[:2] == ["0:32,0:64,0:64"] * 2
    assert boxes[2:] == [None, "audit"] * 2 * len(result["rows"])


def test_every_case_has_figures_beside_the_limits(found):
    result, said, _ = found
    assert len(said) - 2 == 2 * len(result["rows"]) == 2 * 2 * 3
    for row in result["rows"]:
        assert all(row[name] > 0 for name in ("Mvoxel/s", "of the network alone", "CPU-s", "wall s", "peak MiB"))
        assert 0 < row["useful"] <= 1
        assert row["exact"] is (row["stitching"] in ("overlap", "exact"))
        assert (row["promised MiB"] is None) is (row["engine"] == "map-overlap")
        assert row["slots"] == 1
    assert all(limit[name] > 1e3 for limit in result["limits"] for name in ("forward", "copy", "read", "write"))
    tile, overlap = (next(r for r in result["rows"] if r["stitching"] == name) for name in ("tile", "overlap"))
    assert tile["useful"] == pytest.approx(1)
    assert overlap["useful"] < 0.7  # half of the volume, and its halo
    assert overlap["audit"] < 1e-3 < tile["audit"]
    keys = [
        tuple(limit[name] for name in ("network", "stitching", "assembly", "precision")) for limit in result["limits"]
    ]
    assert len(set(keys)) == 3
    assert {key[0] for key in keys} == {row["network"] for row in result["rows"]}


def test_the_result_is_json_a_table_and_a_plot(found):
    result, _, _ = found
    assert json.loads(json.dumps({"machine": machine(), **result}))["rows"] == result["rows"]
    lines = table(result["rows"]).splitlines()
    assert len(lines) == 1 + len(result["rows"])
    assert lines[0].startswith("network")
    figure = throughput_figure(result["rows"])
    rates, seconds = figure.axes
    widths = [bar.get_width() for bar in rates.patches]
    assert widths == [row["Mvoxel/s"] for row in result["rows"]]
    assert rates.get_yticklabels()[0].get_text() == "unet3d_l3_w2\ntile, 3d"
    told = sum(bar.get_width() for bar in seconds.patches if math.isfinite(bar.get_width()))
    assert told > 0


def test_the_text_fits_a_terminal_and_holds_every_column_and_the_limits(found):
    result, _, _ = found
    large = {"CPU-s": 12345.6, "read s": 1234.5, "compute s": 12345.6, "write s": 1234.5, "promised MiB": 12345.0,
             "peak MiB": 12345.0, "audit": 1.23e-06, "precision": "bf16", "network": "/a/long/path" * 9}  # fmt: skip
    text = bench_text({**result, "rows": [*result["rows"], *({**row, **large} for row in result["rows"])]})
    lines = text.splitlines()
    assert max(len(line) for line in lines if "/a/long/path" not in line) <= 140
    heads = [line.split() for line in lines[:2]]
    assert heads[0] == ["preci-", "Mvoxel", "of", "net", "CPU", "read", "compute", "write", "use-", "promise", "peak"]
    assert heads[1][:4] == ["stitching", "assembly", "engine", "sion"]
    assert [line for line in lines if not line.startswith(" ")][:2] == ["unet3d_l3_w2", large["network"]]
    assert lines[3].split()[:4] == ["tile", "3d", "blocks", "fp32"]
    limits = lines[lines.index("limits of this machine, all slots together") + 1 :]
    assert limits[0].split() == ["preci-", "forward", "copy", "read", "write"]
    assert len(limits) == 2 + 1 + 3


def test_memory_of_gpus_is_told_where_there_are_any(found):
    result, _, _ = found
    assert "GPU" not in bench_text(result)
    on_gpu = {"GPU promised MiB": 12345.0, "GPU peak MiB": 6789.0, "CPU-s": 12345.6, "precision": "bf16"}
    lines = bench_text({**result, "rows": [{**row, **on_gpu} for row in result["rows"]]}).splitlines()
    assert lines[0].split()[-4:] == ["GPU", "pro-", "GPU", "peak"]
    assert max(map(len, lines)) <= 140


def test_numbers_of_a_table_have_three_digits_and_no_exponent_below_a_million():
    text = table(
        [
            {"name": "a", "long\nvalue": 1234.5},
            {"name": "bcd", "long\nvalue": 0.98765},
            {"name": "e", "long\nvalue": None},
        ]
    )
    assert text.splitlines() == ["       long", "name  value", "a      1234", "bcd   0.988", "e         -"]
