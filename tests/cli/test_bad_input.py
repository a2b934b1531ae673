"""What cannot be run is refused in one line, before anything is written."""

import os
import re
import shutil

import numpy as np
import pytest
import tifffile
import torch
import zarr
import zarr.storage._local

MODEL = "preset:unet3d_l3_w2"


@pytest.fixture
def refused(apply, tree):
    """`refused(*words, **places) -> its line`: exit status 2, and no file came, went or changed."""

    def go(*words, **places):
        before = tree()
        answer = apply(*words, **places)
        assert answer.code == 2
        assert tree() == before
        return answer.refusal

    return go


# ---------------------------------------------------------------------- the input


def test_a_missing_file(refused, tmp_path):
    assert re.search("VolumeError: .*nothing.zarr: no such file or folder", refused(input=tmp_path / "nothing.zarr"))


def test_a_file_that_is_no_volume(refused, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    assert "not a format that is read; give OME-Zarr" in refused(input=tmp_path / "notes.txt")


def test_a_plane_without_z(refused, tmp_path):
    zarr.create_array(tmp_path / "plane.zarr", shape=(8, 8), dtype="uint8", chunks=(8, 8))
    tifffile.imwrite(tmp_path / "plane.tif", np.zeros((8, 8), "uint8"))
    assert "z" in refused(input=tmp_path / "plane.zarr")
    assert "plane" in refused(input=tmp_path / "plane.tif")


def test_a_dtype_that_no_network_takes(refused, tmp_path):
    zarr.create_array(tmp_path / "complex.zarr", data=np.zeros((8, 8, 8), "complex64"), chunks=(8, 8, 8))
    assert "complex64" in refused(input=tmp_path / "complex.zarr")


def test_a_level_channel_or_time_that_is_not_there(refused):
    assert "--level 3 is not there; give 0 to 0" in refused("--level", 3)
    assert "--channel 2" in refused("--channel", 2)
    assert "--time 5" in refused("--time", 5)


def edit_ome(location, change):
    group = zarr.open_group(location)
    ome = group.attrs["ome"]
    change(ome["multiscales"][0])
    group.attrs["ome"] = ome


def test_a_voxel_size_of_zero(refused, source):
    assert "greater than 0 (given: 0.0)" in refused("--voxel-size-um", "0,4,4")
    edit_ome(source, lambda m: m["datasets"][0]["coordinateTransformations"][0].update(scale=[1, 1, 0, 4, 4]))
    assert "voxel size" in refused()


def test_the_unit_nm(refused, source):
    edit_ome(source, lambda m: m["axes"][2].update(unit="nm"))
    assert re.search('unit "nm" .*write "nanometer"', refused())


# ---------------------------------------------------------------------- the output


def test_an_output_that_exists(refused, output):
    output.mkdir(parents=True)
    (output / "precious").write_text("data")
    assert re.search("ProductError: .* exists already, and volpipe did not make it; give another place$", refused())


def test_an_output_that_exists_is_refused_before_the_input_is_opened(refused, output, tmp_path):
    output.mkdir(parents=True)
    (output / "precious").write_text("data")
    assert "exists already" in refused(input=tmp_path / "nothing.zarr")


def test_a_product_of_volpipe_without_its_ledger_may_be_made_anew(refused, apply, output):
    assert apply().code == 0
    shutil.rmtree(f"{output}.ledger")
    assert re.search("ProductError: .* exists already; give another place, or --restart to replace it$", refused())
    assert apply("--restart").code == 0


def test_restart_never_removes_what_volpipe_did_not_make(refused, output):
    output.mkdir(parents=True)
    (output / "precious").write_text("data")
    assert "volpipe did not make" in refused("--restart")


def test_an_output_inside_the_input(refused, source):
    assert "lies inside the input" in refused(output=f"{source}/out.zarr")
    assert "volpipe did not make it" in refused(output=source)
    assert "lies inside the input" in refused("--restart", output=source)


def test_an_input_inside_the_output(refused, tmp_path):
    assert "volpipe did not make it" in refused(output=tmp_path / "data")
    assert re.search("the input .* lies inside it", refused("--restart", output=tmp_path / "data"))


def test_an_output_below_a_file(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert f"{tmp_path}/file is a file" in refused(output=tmp_path / "file" / "deeper" / "out.zarr")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no folder in which none can be made")
def test_an_output_in_a_folder_that_cannot_be_made(apply, volpipe, source):
    nowhere = "WriteError: .*: there is no such folder, and none can be made; give an output where you may write"
    assert re.search(nowhere, apply(output="/proc/x.zarr").refusal)
    assert re.search(nowhere, volpipe("statistics", source, "--output", "/proc/x/y", "--serial").refusal)


# ---------------------------------------------------------------------- the model


def test_wrong_channels(refused, write_as, voxels, tmp_path):
    path = tmp_path / "two.zarr"
    zarr.create_array(path, data=np.stack([voxels, voxels]), chunks=(2, 8, 8, 8), dimension_names=("c", "z", "y", "x"))
    assert re.search(r"takes 1 channels, .* has 2; pick one with --channel", refused(input=path))


def test_a_model_of_the_wrong_dimension(refused):
    assert "a 2D network under --assembly 3d; give --assembly 2d" in refused(model="preset:unet2d_l4_w2")


def test_planes_that_lose_voxels_in_orthoslice(refused):
    line = refused("--assembly", "orthoslice", model="preset:unet2d_l4_valid_w2")
    assert re.search("ModelError: .*loses voxels.*give --assembly 2d, or a padded network", line)


def test_a_model_that_is_not_there(refused):
    assert "there is no such file" in refused(model="nothing.safetensors")
    assert "unet3d_l4" in refused(model="preset:unet9d")
    assert "give a .safetensors checkpoint" in refused(model="net.onnx")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2", ".pt"])
def test_a_model_that_cannot_be_read(refused, tmp_path, suffix):
    (tmp_path / f"net{suffix}").write_bytes(b"\x08\x00not a model")
    assert "ModelError" in refused("--halo", 8, "--period", 4, model=tmp_path / f"net{suffix}")


def test_a_python_pickle(refused, tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "net.pt")
    assert re.search("a Python pickle .* never loaded", refused(model=tmp_path / "net.pt"))


def test_a_halo_without_a_period(refused):
    assert "give --halo and --period together" in refused("--halo", "8,8,8")


def test_code_that_is_not_trusted(refused):
    assert "--trust-code" in refused(model="os:getcwd")


# ---------------------------------------------------------------------- the options


def test_a_mask_of_another_extent(refused, write_as, tmp_path):
    mask = write_as("ome-zarr-0.4", np.ones((4, 6, 11), "uint8"), tmp_path / "mask", (32.0, 16.0, 16.0))
    assert re.search(r"covers \(4, 6, 11\) voxels .* the volume \(16, 24, 40\)", refused("--mask", mask))


BOXES = {
    "0:8,8:8,0:8": "start below its stop",
    "0:8,0:8": "three ranges",
    "a:b": "give z0:z1",
    "0:99,0:8,0:8": "outside",
}


@pytest.mark.parametrize("box", BOXES)
def test_a_box_that_is_empty_or_outside(refused, box):
    assert BOXES[box] in refused("--bbox", box)


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (("--stitching", "blend"), "'overlap', 'tile'"),
        (("--precision", "fp8"), "'fp32'"),
        (("--block", "a,b"), "give Z,Y,X"),
        (("--block", "67,64,64"), "no divisor"),
        (("--block", "0,0,0"), "block"),
        (("--tile", "5,5,5"), "multiple of the period"),
        (("--batch", "0"), "batch"),
        (("--normalise", "range:9"), "range:LOW,HIGH"),
        (("--normalise", "standard"), "first run: volpipe statistics "),
        (("--output-dtype", "uint8"), "--output-range LOW,HIGH"),
        (("--output-range", "0,1"), "output_range: only --output-dtype uint8"),
        (("--axis", "y"), "axis: only --assembly 2d"),
        (("--memory-per-worker", "much"), "4GiB"),
        (("--workers", "0"), "workers"),
        (("--cluster", "cloud"), "tcp://ADDRESS"),
        (("--calibrate",), "--dry-run"),
        (("--no-such-option",), "--no-such-option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_option_that_cannot_be(refused, words, say):
    assert say in refused(*words, serial=())


@pytest.mark.parametrize("memory", ["910MiB", "1GiB"])
def test_memory_that_is_too_small_names_a_block_that_fits(refused, apply, tmp_path, memory):
    path = tmp_path / "large.zarr"
    zarr.create_array(path, shape=(512, 528, 512), dtype="uint8", chunks=(64, 64, 64))
    words = ("--memory-per-worker", memory, "--voxel-size-um", 1)
    line = refused(*words, "--block", "512,528,512", input=path)
    block = re.search(r"BudgetError: block .*: needs .* [GM]iB in a worker .* give --block (\d+,\d+,\d+)$", line)[1]
    assert apply(*words, "--block", block, "--dry-run", input=path).code == 0


def test_memory_for_no_block_names_the_memory_that_would_do(refused, apply):
    line = refused("--memory-per-worker", "300MiB")
    enough = re.search(r"give --memory-per-worker (\d+\.\dGiB)$", line)[1]
    assert apply("--memory-per-worker", enough, "--dry-run").code == 0


@pytest.mark.parametrize("command", ["info", "validate", "statistics", "pyramid", "import"])
def test_every_command_refuses_what_is_not_there(volpipe, tmp_path, command):
    answer = volpipe(command, tmp_path / "nothing.zarr", *([tmp_path / "out.zarr"] if command == "import" else []))
    assert answer.code == 2
    assert "nothing.zarr: " in answer.refusal
    assert list(tmp_path.iterdir()) == []


def test_levels_are_not_added_to_what_cannot_be_written_to(volpipe, write_as, voxels, tmp_path, tree):
    older = write_as("ome-zarr-0.4", voxels, tmp_path / "older")
    before = tree()
    answer = volpipe("pyramid", older, "--factors", "2,2,2")
    assert (answer.code, "ProductError" in answer.refusal) == (2, True)
    assert tree() == before


def test_a_pipeline_lists_every_error_with_its_path(volpipe, tmp_path, tree):
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        "run: {workers: none}\njobs:\n  - apply: {input: a.zarr, output: b.zarr, model: m.pt2, stitching: blend}\n"
        "  - apply: {input: a.zarr, model: m.pt2, colour: red}\n"
    )
    before = tree()
    answer = volpipe("submit", path)
    assert answer.code == 2
    assert tree() == before
    assert "Traceback" not in answer.err
    for place in ("run.workers", "jobs.0.apply.stitching", "jobs.1.apply.output", "jobs.1.apply.colour"):
        assert f"{path}: {place}: " in answer.err


def test_a_wrong_field_of_a_pipeline_is_one_line(volpipe, tmp_path):
    path = tmp_path / "pipeline.yaml"

    def refusal(text):
        path.write_text(text)
        return volpipe("submit", path).refusal

    job = "{input: a.zarr, model: m.pt2}"
    assert refusal(f"jobs: [apply: {job}]") == f"ConfigError: {path}: jobs.0.apply.output: missing; give it"
    two = refusal(f"jobs: [{{apply: {job[:-1]}, output: b.zarr}}, pyramid: {{volume: b.zarr}}}}]")
    assert two.endswith(
        "give one job per entry: apply, statistics, pyramid, audit, register, warp or import (given: apply, pyramid)"
    )
    assert refusal("jobs: []").endswith("jobs: give at least one job (given: [])")
    assert refusal("").startswith(f"ConfigError: {path}: must be a mapping")


def test_a_pipeline_is_refused_for_every_text_that_would_stop_one_of_its_jobs(volpipe, tmp_path):
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        "run: {memory_per_worker: much}\njobs:\n"
        "  - apply: {input: a.zarr, output: b.zarr, model: m.pt2, bbox: '1:2', normalise: foo}\n"
        "  - pyramid: {volume: b.zarr, factors: '2,2'}\n  - import: {input: a.zarr, output: c.zarr, unit: nm}\n"
    )
    answer = volpipe("submit", path)
    assert answer.code == 2
    places = ["run.memory_per_worker", *(f"jobs.{job}" for job in ("0.apply.normalise", "0.apply.bbox"))]
    places += ["jobs.1.pyramid.factors", "jobs.2.import.unit"]
    lines = answer.err.removeprefix("ConfigError: ").splitlines()
    assert [line.split(": ")[:2] for line in lines] == [[str(path), place] for place in places]


def test_a_pipeline_that_is_missing_or_no_yaml(volpipe, tmp_path):
    assert "cannot be read" in volpipe("submit", tmp_path / "none.yaml").refusal
    (tmp_path / "bad.yaml").write_text("jobs: [")
    assert "is not YAML" in volpipe("submit", tmp_path / "bad.yaml").refusal
    (tmp_path / "bad.yaml").write_bytes(b"\x00\xff")
    assert "is not text in UTF-8" in volpipe("submit", tmp_path / "bad.yaml").refusal


def test_the_traceback_is_shown_with_debug_only(apply, tmp_path):
    missing = {"input": tmp_path / "nothing.zarr"}
    assert "Traceback" not in apply(**missing).err
    answer = apply("--debug", **missing)
    assert answer.code == 2
    assert "Traceback" in answer.err
    assert "VolumeError" in answer.err.splitlines()[-1]


def test_the_traceback_of_a_failing_block_is_shown_with_debug(apply, monkeypatch):
    def broken(*_):
        raise ValueError("three is not four")

    monkeypatch.setattr("volpipe.jobs.apply_work.ApplyWork.__call__", broken)
    assert "in broken" not in apply().err
    answer = apply("--debug")
    assert answer.code == 3
    assert "in broken" in answer.err
    assert answer.err.splitlines()[-1].startswith("BlocksFailed: ")
