"""Every command once, as a user gives it: what it prints, what it makes, and what it leaves alone."""

import json
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
import zarr

from volpipe.cli import COMMANDS

ROOT = Path(__file__).parents[2]
MODEL = "preset:unet3d_l3_w2"


def test_apply_prints_its_plan_and_what_it_did(apply, output):
    answer = apply("--block", "8,16,16")
    assert answer.code == 0
    assert answer.out.startswith(f"apply {MODEL} to ")
    assert "blocks       12 of 8 x 16 x 16" in answer.out
    assert re.search(r"read, write  \d+\.\d\d KiB, 60\.00 KiB uncompressed", answer.out)
    assert "exact, 3d: equals whole-volume inference" in answer.out
    assert "this process, 1 thread" in answer.out
    assert re.search(
        r"done: \d+ tasks in .* s \(read .* compute .* write .*\); largest worker \d+\.\d\d [GM]iB", answer.out
    )
    assert re.search(r"^tasks \d+/\d+, ", answer.err)  # a plain line of progress, since this is no terminal
    assert zarr.open(output)["0"].shape == (16, 24, 40)


def test_the_same_command_again_does_nothing(apply, tree):
    apply()
    before = tree()
    answer = apply()
    assert (answer.code, answer.err) == (0, "")
    assert "nothing to do: all" in answer.out
    assert tree().keys() == before.keys()


def test_another_setting_is_refused_and_restart_takes_it(apply, output):
    apply("--output-dtype", "float16")
    assert "settings.output_dtype: float16 -> float32" in apply().refusal
    assert apply("--restart").code == 0
    assert zarr.open(output)["0"].dtype == "float32"


def test_a_dry_run_prints_the_plan_and_writes_nothing(apply, tree):
    before = tree()
    answer = apply("--dry-run")
    assert (answer.code, answer.err) == (0, "")
    assert "promised per worker" in answer.out
    assert "runs on" not in answer.out
    assert tree() == before


def test_calibrating_prints_a_range_and_leaves_nothing(apply, tree, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before, folders = tree(), sorted(tmp_path.rglob("*"))
    answer = apply("--dry-run", "--calibrate", "--block", "8,16,16")
    assert answer.code == 0
    assert re.search(r"time +\d+ s \(\d+ s to \d+ s\), from 3 blocks", answer.out)
    assert tree() == before
    assert sorted(tmp_path.rglob("*")) == folders


def test_calibrating_looks_past_masked_and_finished_blocks(apply, write_as, voxels, tmp_path):
    lower = np.zeros_like(voxels)
    lower[8:] = 1
    words = ("--block", "8,16,16", "--mask", write_as("ome-zarr-0.5", lower, tmp_path / "mask"), "--dry-run")
    assert "12 of 12 blocks left, the mask skips 6 of 12 looked up" in apply(*words, "--calibrate").out
    assert apply(*words[:-1]).code == 0
    assert "from 0 blocks; 0 of 12 blocks left" in apply(*words, "--calibrate").out
    assert "12 of 12 blocks left" in apply(*words, "--calibrate", "--restart").out


def test_only_what_can_be_calibrated_offers_it(volpipe):
    commands = ("apply", "import", "statistics", "pyramid")
    assert ["--calibrate" in volpipe(command, "--help").out for command in commands] == [True, True, False, False]


def test_calibrating_leaves_nothing_when_it_fails(apply, tmp_path, voxels):
    path = tmp_path / "nan.zarr"
    zarr.create_array(path, data=np.full(voxels.shape, np.nan, "float32"), chunks=(8, 8, 8))
    folders = sorted(tmp_path.rglob("*"))
    answer = apply("--dry-run", "--calibrate", input=path)
    assert (answer.code, "NaN" in answer.refusal) == (1, True)
    assert sorted(tmp_path.rglob("*")) == folders


def test_import_copies_a_volume(volpipe, write_as, voxels, tmp_path):
    tiff, place = write_as("tiff-folder", voxels, tmp_path / "data"), tmp_path / "raw.ome.zarr"
    words = ("--voxel-size", "8,4,4", "--unit", "nanometer", "--chunk", "8", "--shard", "16", "--serial")
    assert "give its --unit too" in volpipe("import", tiff, place, *words[:2]).refusal
    assert 'write "nanometer"' in volpipe("import", tiff, place, "--voxel-size", "8,4,4", "--unit", "nm").refusal
    assert not place.exists()
    answer = volpipe("import", tiff, place, *words)
    assert answer.code == 0
    assert "done: " in answer.out
    group = zarr.open(place)
    np.testing.assert_array_equal(group["0"][:], voxels)
    assert (group["0"].chunks, group["0"].shards) == ((8, 8, 8), (16, 16, 16))
    multiscale = group.attrs["ome"]["multiscales"][0]
    assert {axis["unit"] for axis in multiscale["axes"]} == {"nanometer"}
    assert multiscale["datasets"][0]["coordinateTransformations"][0]["scale"] == [8, 4, 4]
    assert volpipe("validate", "--deep", place).code == 0


def test_statistics_are_printed_and_stored(volpipe, source, voxels):
    answer = volpipe("statistics", source, "--serial")
    assert answer.code == 0
    mean = float(re.search(r"channel 0: mean ([\d.]+), std", answer.out)[1])
    assert mean == pytest.approx(voxels.mean(), rel=1e-5)  # six figures are printed
    place = Path(answer.out.splitlines()[-1])
    assert place == Path(f"{source}.statistics.json")
    assert json.loads(place.read_text())["channels"][0]["count"] == voxels.size


def test_statistics_tell_what_they_left_out(volpipe, tmp_path, voxels):
    spoilt = voxels.astype("float32")
    spoilt[0, 0, :3], spoilt[1, 0, 0] = np.nan, np.inf
    zarr.create_array(tmp_path / "spoilt.zarr", data=spoilt)
    assert ", 3 nan, 1 infinite" in volpipe("statistics", str(tmp_path / "spoilt.zarr"), "--serial").out


def test_a_pyramid_is_added(volpipe, apply, output):
    apply("--no-pyramid")
    answer = volpipe("pyramid", output, "--factors", "1,2,2;2,2,2", "--serial")
    assert answer.code == 0
    assert [zarr.open(output)[level].shape for level in "012"] == [(16, 24, 40), (16, 12, 20), (8, 6, 10)]
    assert volpipe("validate", "--deep", output).code == 0
    assert "settings.factors: " in volpipe("pyramid", output, "--factors", "2,2,2", "--serial").refusal


def test_levels_that_are_there_are_replaced_only_when_asked(volpipe, apply, output, tree):
    apply("--block", "8,8,8")
    before = tree()
    words = ("pyramid", output, "--factors", "2,2,2", "--serial")
    answer = volpipe(*words)
    assert (answer.code, "has levels already; give --restart" in answer.refusal) == (2, True)
    assert tree() == before
    assert volpipe(*words, "--restart").code == 0
    assert sorted(zarr.open(output).array_keys()) == ["0", "1"]  # there were three
    assert volpipe("validate", "--deep", output).code == 0


def test_info_of_a_product_is_short_and_of_json_complete(volpipe, apply, output, source):
    apply()
    text = volpipe("info", output).out
    assert max(map(len, text.splitlines())) < 160
    for line in ("shape            16 x 24 x 40", "state            complete", f"model            {MODEL}"):
        assert line in text
    assert re.search(r"made by +volpipe \d", text)
    assert re.search(f"made from +{source}", text)
    everything = json.loads(volpipe("info", output, "--json").out)
    assert everything["provenance"]["settings"]["precision"] == "fp32"
    assert everything["shape"] == [16, 24, 40]


def test_info_of_any_volume(volpipe, source, write_as, voxels, tmp_path):
    text = volpipe("info", source).out
    assert "voxel_size_um    0.008 x 0.004 x 0.004" in text
    assert "made by" not in text
    assert "shape            16 x 24 x 40" in volpipe("info", write_as("hdf5", voxels, tmp_path / "h5")).out
    assert "no such file" in volpipe("info", tmp_path / "nothing").refusal


def test_info_of_a_series_tells_how_many_time_points_there_are(volpipe, voxels, tmp_path):
    place = tmp_path / "series.zarr"
    zarr.create_array(place, data=np.stack([voxels] * 3), chunks=(1, 8, 8, 8), dimension_names=("t", "z", "y", "x"))
    answer = volpipe("info", place)
    assert (answer.code, answer.err) == (0, "")
    assert "time_points      3" in answer.out
    assert "described_time   0" in answer.out
    assert "described_time   2" in volpipe("info", place, "--time", 2).out
    assert "--time 3 is not there; give 0 to 2" in volpipe("info", place, "--time", 3).refusal


def test_validate_names_what_is_wrong(volpipe, apply, output):
    apply()
    assert volpipe("validate", output).out.strip() == f"{output}: valid"
    group = zarr.open_group(output)
    group.attrs["ome"] = {**group.attrs["ome"], "version": "0.9"}
    answer = volpipe("validate", output)
    assert answer.code == 1
    assert "ome.version is '0.9'" in answer.out
    assert answer.refusal == f"RunError: {output}: 1 problem(s)"


def test_a_pipeline_runs_its_jobs_in_order(volpipe, source, output, tmp_path):
    path = tmp_path / "pipeline.yaml"
    apply = {"input": source, "output": str(output), "model": MODEL, "normalise": "percentiles:1,99", "pyramid": False}
    pyramid = {"volume": str(output), "factors": "2,2,2"}
    jobs = [{"statistics": {"volume": source}}, {"apply": apply}, {"pyramid": pyramid}]
    path.write_text(yaml.safe_dump({"run": {"serial": True, "threads": 1}, "jobs": jobs}))
    before = sorted(tmp_path.rglob("*"))
    assert volpipe("submit", path, "--dry-run").code == 0
    assert sorted(tmp_path.rglob("*")) == before
    answer = volpipe("submit", path)
    assert answer.code == 0
    assert [line.split()[0] for line in answer.out.splitlines() if line.startswith(("stat", "apply", "pyr"))] == [
        "statistics", "apply", "pyramid",
    ]  # fmt: skip
    assert zarr.open(output)["1"].shape == (8, 12, 20)


def test_the_schema_knows_what_the_demo_uses(volpipe):
    schema = json.loads(volpipe("config", "schema").out)
    assert schema["properties"].keys() == {"run", "jobs"}
    steps = schema["$defs"]["Step"]["properties"]
    assert steps.keys() == {"apply", "import", "statistics", "pyramid", "audit", "register", "warp"}
    apply = schema["$defs"]["ApplyJob"]
    for job in yaml.safe_load((ROOT / "pipelines" / "demo.yaml").read_text())["jobs"]:
        ((name, fields),) = job.items()
        assert name in steps
        assert fields.keys() <= apply["properties"].keys()
        assert set(apply["required"]) <= fields.keys()
        assert fields["stitching"] in apply["properties"]["stitching"]["anyOf"][0]["enum"]
    assert apply["additionalProperties"] is False
    assert all("description" in field for field in apply["properties"].values())


HELP_AND_MODULES = """
import sys
from volpipe.cli import main
try:
    main(["--help"])
except SystemExit:
    print({"torch", "dask", "distributed", "zarr", "numpy"} & set(sys.modules), file=sys.stderr)
"""


def test_help_names_every_command_and_is_quick(volpipe):
    answer = volpipe("--help")
    assert answer.code == 0
    assert all(command in answer.out for command in COMMANDS)
    loaded = subprocess.run([sys.executable, "-c", HELP_AND_MODULES], capture_output=True, text=True, check=True)
    assert loaded.stderr.strip() == "set()"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(volpipe, command):
    answer = volpipe(command, "--help")
    assert answer.code == 0
    assert "Usage: volpipe " + command in answer.out


def test_defaults_are_shown_as_they_are_given(volpipe):
    helps = {command: " ".join(volpipe(command, "--help").out.split()) for command in COMMANDS}
    assert "[default: 64,64,64]" in helps["import"]
    assert not [command for command, text in helps.items() if "default: (" in text]


def test_no_command_prints_the_help(volpipe):
    answer = volpipe()
    assert answer.code == 2
    assert "Usage: volpipe" in answer.err


def test_an_interrupted_run_says_how_to_go_on(apply, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("volpipe.jobs.apply_work.ApplyWork.__call__", interrupted)
        answer = apply()
    assert answer.code == 130
    assert "interrupted; the same command goes on" in answer.err
    assert apply().code == 0


def test_info_tells_what_the_audit_said(volpipe, source, tmp_path):
    for stitching, told in (("overlap", "yes, 2 boxes audited"), ("tile", "no: tile: tiles see nothing of each other")):
        place = tmp_path / f"{stitching}.ome.zarr"
        assert volpipe("apply", source, place, "--model", MODEL, "--block", "16", "--stitching", stitching, "--serial",
                       "--audit", 2).code == 0  # fmt: skip
        (line,) = [line for line in volpipe("info", place).out.splitlines() if line.startswith("exact ")]
        assert told in line
        assert json.loads(volpipe("info", place, "--json").out)["exact"] is (stitching == "overlap")
    assert "exact" not in volpipe("info", source).out


def test_probe_tells_what_apply_reads(volpipe):
    answer = volpipe("probe", "preset:unet3d_l3_w2")
    assert answer.code == 0
    assert "axis  need before, after  halo before, after  period  lengths  lost  scale" in answer.out
    assert "x     22, 22              24, 24              4       4 n      0     1" in answer.out
    assert "--stitching overlap is exact" in answer.out
    axes = json.loads(volpipe("probe", "preset:unet2d_l4_valid_w2", "--json").out)["axes"]
    assert axes["x"] | {"scale": "1"} == axes["x"]
    assert (axes["y"]["lost"], axes["y"]["need_after"], axes["y"]["period"], axes["y"]["size_class"]) == (88, 92, 8, 4)


def saved_for_export(tmp_path, *layers):
    network, dims = torch.nn.Sequential(*layers).eval(), torch.export.Dim.AUTO
    program = torch.export.export(network, (torch.rand(2, 1, 32, 32),), dynamic_shapes=({0: dims, 2: dims, 3: dims},))
    torch.export.save(program, tmp_path / "net.pt2")
    return str(tmp_path / "net.pt2")


def test_probe_names_the_module_of_an_exported_network_that_cannot_be_tiled(volpipe, tmp_path):
    net = saved_for_export(tmp_path, torch.nn.Conv2d(1, 2, 3), torch.nn.InstanceNorm2d(2))
    answer = volpipe("probe", net)
    assert answer.code == 2
    assert "module 1: InstanceNorm2d, operation instance_norm" in answer.err
    answer = volpipe("probe", net, "--json")
    assert answer.code == 2
    assert "InstanceNorm2d" in json.loads(answer.out)["refusal"]


def test_probe_tells_what_apply_would_do(volpipe, tmp_path):
    net = saved_for_export(tmp_path, torch.nn.Conv2d(1, 2, 4, stride=2, padding=1))
    assert "--stitching overlap is exact, at 1/2 x 1/2 of the resolution" in volpipe("probe", net).out
    assert "self-test in float64, remembered" in volpipe("probe", net).out


@pytest.fixture
def untold(tmp_path):
    """A TorchScript network without a weight that would tell its input."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(torch.nn.Sigmoid()).save(str(tmp_path / "net.pt"))
    return str(tmp_path / "net.pt")


def test_a_network_that_does_not_tell_its_input_is_asked_for_by_options(volpipe, untold, source, tmp_path):
    assert "give --ndim 2 or 3 and --in-channels N (" in volpipe("probe", untold).refusal
    assert "give --in-channels N (" in volpipe("probe", untold, "--ndim", 3).refusal
    assert volpipe("probe", untold, "--ndim", 3, "--in-channels", 1).code == 0
    bench = ("bench", "--model", untold, "--volume", source, "--serial", "--out", tmp_path / "out")
    assert "give --ndim 2 or 3 (" in volpipe(*bench).refusal
    assert not (tmp_path / "out").exists()


def test_probe_of_a_network_with_a_fixed_input_promises_nothing(volpipe, tmp_path):
    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = torch.nn.Linear(256, 256)

        def forward(self, image):
            return self.mix(image.flatten(1)).reshape(image.shape)

    torch.jit.trace(Fixed().eval(), torch.zeros(2, 1, 16, 16)).save(tmp_path / "fixed.pt")
    answer = volpipe("probe", str(tmp_path / "fixed.pt"), "--ndim", "2", "--in-channels", "1")
    assert "takes one length alone, so that it has no whole-volume result" in answer.out
    assert "--stitching windows" in answer.out
    assert "exact," not in answer.out
