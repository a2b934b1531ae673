"""What stands in pipelines/ works from a clone alone: the pipelines load, the volumes and weights are what they say."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from volpipe import Budget, load_checkpoint, load_pipeline, open_source
from volpipe.geometry import Box
from volpipe.volume.validate import validate

ROOT = Path(__file__).parents[1]
PIPELINES = ROOT / "pipelines"
WEIGHTS = PIPELINES / "weights" / "medulla_boundaries.safetensors"
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


def test_the_demo_runs_both_modes_on_what_is_shipped(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    tile, overlap = script("demo").jobs_into(tmp_path)
    assert (tile.stitching, overlap.stitching) == ("tile", "overlap")
    assert tile.settings() | {"stitching": "overlap"} == overlap.settings()
    for job in (tile, overlap):
        assert Path(job.output).parent == tmp_path
        plan = job.plan(Budget(worker_bytes=4 << 30))
        assert sum(task.work == "apply" for task in plan.tasks()) == 8


@pytest.mark.parametrize("path", VOLUMES, ids=lambda p: p.name)
def test_shipped_volumes_are_valid_and_state_their_voxel_size(path):
    source = open_source(path)
    assert validate(str(path), deep=True) == []
    assert source.shape == (125, 250, 250)
    assert source.voxel_size_um == pytest.approx((0.01, 0.01, 0.01))


def test_no_axis_of_the_sample_is_a_multiple_of_the_period():
    period = load_checkpoint(WEIGHTS).architecture.footprint().period
    assert all(n % p for n, p in zip(open_source(VOLUMES[0]).shape, period, strict=True))


def test_a_clone_stays_small():
    assert stored_bytes(PIPELINES / "data") < 8_000_000
    assert stored_bytes(PIPELINES / "weights") < 2_000_000


def test_data_and_weights_name_source_and_licence():
    provenance = load_checkpoint(WEIGHTS).provenance
    assert "neuroproof_examples" in provenance["source"]
    assert "CC-BY" in provenance["licence"]
    assert provenance["held_out"]["f1"] > 0.75
    readme = (PIPELINES / "data" / "README.md").read_text()
    assert all(word in readme for word in ("neuroproof_examples", "Creative Commons Attribution", "Janelia", "10 nm"))
    assert "Creative Commons" in (PIPELINES / "data" / "LICENSE-CC-BY.txt").read_text().title()


def test_the_weights_find_boundaries_that_they_were_not_trained_on():
    training, checkpoint = script("train_boundaries"), load_checkpoint(WEIGHTS)
    corner = (slice(0, 48), slice(0, 128))
    raw = training.read(training.RAW).astype(np.float32)[corner]
    image = raw * checkpoint.normalisation.scale[0] + checkpoint.normalisation.offset[0]
    predicted = training.predict_held_out(checkpoint.network.eval(), image.astype(np.float32))
    target = training.boundaries(training.read(training.NEURONS))[*corner, training.HELD_OUT_X]
    assert training.scores(predicted, target)["f1"] > 0.75


def test_no_trained_voxel_is_within_reach_of_a_scored_one():
    training = script("train_boundaries")
    need = training.ARCHITECTURE.footprint().axes[2].need_before
    assert training.HELD_OUT_X.start - need >= training.TRAINED_X.stop


def test_boundaries_are_faces_between_labels_and_unlabelled_voxels_dilated_once():
    training = script("train_boundaries")
    labels = np.ones((1, 1, 16), np.uint16)
    labels[..., 5:] = 2
    labels[..., 10:] = 0
    boundary = training.boundaries(labels)[0, 0]
    assert boundary.tolist() == [0] * 3 + [1] * 4 + [0] + [1] * 8


def test_whole_volume_inference_is_padded_to_the_period_by_its_last_voxel():
    demo, checkpoint = script("demo"), load_checkpoint(WEIGHTS)
    raw = open_source(VOLUMES[0]).read(Box((0, 0, 0), (13, 18, 16)))[0]
    padded = np.pad(raw, [(0, 3), (0, 2), (0, 0)], mode="edge")
    got, wanted = (demo.whole_volume(checkpoint, volume).voxels for volume in (raw, padded))
    assert got.shape == raw.shape
    np.testing.assert_array_equal(got, wanted[:13, :18])
