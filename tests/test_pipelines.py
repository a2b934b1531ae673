"""What stands in pipelines/ works from a clone alone: the pipelines load, the volumes and weights are what they say."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from volpipe import Budget, RunSettings, load_checkpoint, load_pipeline, open_source, run
from volpipe.geometry import Box
from volpipe.volume.validate import validate

ROOT = Path(__file__).parents[1]
PIPELINES = ROOT / "pipelines"
WEIGHTS = {
    "same": PIPELINES / "weights" / "medulla_boundaries.safetensors",
    "valid": PIPELINES / "weights" / "medulla_boundaries_valid.safetensors",
}
VOLUMES = sorted((PIPELINES / "data").glob("*.ome.zarr"))


def script(name):
    """A script of pipelines/ as a module."""
    spec = importlib.util.spec_from_file_location(name, PIPELINES / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def stored_bytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", sorted(PIPELINES.rglob("*.yaml")), ids=lambda p: p.name)
def test_every_pipeline_loads(path):
    assert load_pipeline(path).job_list


def test_the_demo_runs_four_modes_on_what_is_shipped(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    jobs = script("demo").jobs_into(tmp_path)
    assert [job.stitching for job in jobs] == ["tile", "overlap", "exact", "valid"]
    for job in jobs[:3]:
        assert job.settings() == jobs[0].settings() | {"stitching": job.stitching}
    assert [Path(job.model).name for job in jobs] == [
        WEIGHTS[padding].name for padding in ("same", "same", "same", "valid")
    ]
    for job in jobs:
        assert Path(job.output).parent == tmp_path
        plan = job.plan(Budget(worker_bytes=4 << 30))
        assert sum(task.work == "apply" for task in plan.tasks()) == 8


def test_what_a_worker_imports_of_the_demo_is_neither_torch_nor_matplotlib():
    code = "import demo, sys; print({'torch', 'matplotlib'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PIPELINES,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("path", VOLUMES, ids=lambda p: p.name)
def test_shipped_volumes_are_valid_and_state_their_voxel_size(path):
    source = open_source(path)
    assert validate(str(path), deep=True) == []
    assert source.shape == (125, 250, 250)
    assert source.voxel_size_um == pytest.approx((0.01, 0.01, 0.01))


def test_no_axis_of_the_sample_is_a_multiple_of_the_period():
    for path in WEIGHTS.values():
        period = load_checkpoint(path).architecture.footprint().period
        assert all(n % p for n, p in zip(open_source(VOLUMES[0]).shape, period, strict=True))


def test_a_clone_stays_small():
    assert stored_bytes(PIPELINES / "data") < 8_000_000
    assert all(path.stat().st_size < 500_000 for path in WEIGHTS.values())
    assert stored_bytes(PIPELINES / "weights") < 2_000_000


@pytest.mark.parametrize("padding", WEIGHTS)
def test_data_and_weights_name_source_and_licence(padding):
    provenance = load_checkpoint(WEIGHTS[padding]).provenance
    assert "neuroproof_examples" in provenance["source"]
    assert "CC-BY" in provenance["licence"]
    assert provenance["held_out"]["f1"] > 0.75
    readme = (PIPELINES / "data" / "README.md").read_text()
    assert all(word in readme for word in ("neuroproof_examples", "Creative Commons Attribution", "Janelia", "10 nm"))
    assert "Creative Commons" in (PIPELINES / "data" / "LICENSE-CC-BY.txt").read_text().title()


def test_both_networks_are_the_same_but_for_their_padding():
    padded, valid = (load_checkpoint(path) for path in WEIGHTS.values())
    assert replace(valid.architecture, padding="same") == padded.architecture
    assert valid.normalisation == padded.normalisation


def test_the_readme_tells_the_scores_that_the_weights_carry():
    readme = (PIPELINES / "weights" / "README.md").read_text()
    padded, valid = (load_checkpoint(path).provenance["held_out"] for path in WEIGHTS.values())
    for value in (padded["f1"], valid["f1"], valid["f1_of_the_padded_network_there"]):
        assert f"**{value:.3f}**" in readme


@pytest.mark.parametrize("padding", WEIGHTS)
def test_the_weights_find_boundaries_that_they_were_not_trained_on(padding):
    training, checkpoint = script("train_boundaries"), load_checkpoint(WEIGHTS[padding])
    corner = (slice(0, 60), slice(0, 128))
    raw = training.read(training.RAW).astype(np.float32)[corner]
    image = (raw * checkpoint.normalisation.scale[0] + checkpoint.normalisation.offset[0]).astype(np.float32)
    target = training.boundaries(training.read(training.NEURONS))[corner]
    found = training.score(checkpoint.network.eval(), checkpoint.architecture, image, target)
    assert found["f1"] > 0.75


def test_a_crop_of_a_valid_network_has_the_targets_of_its_outputs():
    training = script("train_boundaries")
    numbers = training.architecture("valid")
    lost = training.margin(numbers)
    image = np.random.default_rng(0).random((125, 108, 110), dtype=np.float32)
    inputs, targets = next(training.batches(image, image.copy(), np.random.default_rng(1), lost))
    assert targets.shape[2:] == (training.CROP,) * 3
    assert all(axis.admissible(n) == n for axis, n in zip(numbers.footprint().axes, inputs.shape[2:], strict=True))
    for seen, wanted in zip(inputs[:, 0].numpy(), targets[:, 0].numpy(), strict=True):
        middle = seen[lost:-lost, lost:-lost, lost:-lost]
        assert np.corrcoef(middle.ravel(), wanted.ravel())[0, 1] > 0.9  # the jitter adds noise


@pytest.mark.parametrize("padding", WEIGHTS)
def test_no_trained_voxel_is_within_reach_of_a_scored_one(padding):
    training = script("train_boundaries")
    numbers = training.architecture(padding)
    reach = training.margin(numbers) + numbers.footprint().axes[2].need_before
    assert training.HELD_OUT_X.start - reach >= training.TRAINED_X.stop


def test_boundaries_are_faces_between_labels_and_unlabelled_voxels_dilated_once():
    training = script("train_boundaries")
    labels = np.ones((1, 1, 16), np.uint16)
    labels[..., 5:] = 2
    labels[..., 10:] = 0
    boundary = training.boundaries(labels)[0, 0]
    assert boundary.tolist() == [0] * 3 + [1] * 4 + [0] + [1] * 8


@pytest.mark.parametrize("padding", WEIGHTS)
def test_whole_volume_inference_is_padded_to_the_period_by_its_last_voxel(padding):
    demo, checkpoint = script("demo"), load_checkpoint(WEIGHTS[padding])
    raw = open_source(VOLUMES[0]).read(Box((0, 0, 0), (53, 58, 56)))[0]
    padded = np.pad(raw, [(0, 3), (0, 2), (0, 0)], mode="edge")
    got, wanted = (demo.forward(checkpoint, volume) for volume in (raw, padded))
    lost = checkpoint.architecture.footprint().axes[0].lost
    assert got.shape == tuple(n - lost for n in raw.shape)
    np.testing.assert_array_equal(got, wanted[: got.shape[0], : got.shape[1]])


def test_the_row_of_the_whole_volume_differs_from_itself_by_nothing_and_has_no_audit():
    demo = script("demo")
    row = demo.whole_volume(load_checkpoint(WEIGHTS["same"]), np.zeros((8, 8, 8), np.uint8))
    *_, difference, audit = row.text(row.voxels).split()
    assert (difference, audit) == ("0", "-")


def test_the_demo_finds_a_valid_product_where_it_lies_and_equal_to_its_own_network(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    demo, checkpoint = script("demo"), load_checkpoint(WEIGHTS["valid"])
    serial = RunSettings(serial=True, threads=1, memory_per_worker="4GiB")
    monkeypatch.setattr(demo, "run", lambda job, restart: run(job, serial, restart=restart, progress=None))
    small = {"bbox": "36:52,52:84,52:116", "block": (16, 32, 32), "tile": (16, 32, 32)}
    row = demo.apply(demo.jobs_into(tmp_path)[-1].model_copy(update=small))
    assert row.box == Box((36, 52, 52), (52, 84, 116))
    read = Box((16, 32, 32), (72, 104, 136))  # 20 voxels more on each side: all that these outputs see
    whole = demo.forward(checkpoint, open_source(VOLUMES[0]).read(read)[0])
    assert whole.shape == row.voxels.shape
    assert float(row.text(whole).split()[3]) < 1e-4  # in std: float32's rounding
    assert row.audit.startswith("yes, ")


def test_faces_in_the_picture_are_counted_from_the_products_first_voxel():
    faces = script("demo")._faces(Box((20, 20, 20), (105, 230, 230)), (64, 128, 64))
    assert (list(faces.rows), list(faces.columns)) == ([148], [84, 148, 212])
