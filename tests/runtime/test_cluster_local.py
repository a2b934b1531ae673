"""Workers of this machine: how they are started, and that nothing of them is left."""

import json
import os
import signal
import sys
import tempfile

import numpy as np
import psutil
import pytest

from volpipe.jobs.importing import ImportJob
from volpipe.jobs.pyramid import PyramidJob
from volpipe.jobs.statistics import StatisticsJob
from volpipe.runtime import allocator, cluster
from volpipe.runtime.run import run
from volpipe.runtime.settings import RunSettings

SHAPE, BLOCKS = (64, 64, 80), 12  # of 32 a side


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """Where temporary files go."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("scratch")
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder


@pytest.fixture(scope="module")
def crew(scratch):
    crew = cluster.local_crew(RunSettings(workers=2, threads=3, memory_per_worker="1GiB"))
    yield crew
    crew.close()


def facts_of_worker(dask_worker):
    memory = dask_worker.memory_manager
    return {
        "environment": dict(os.environ),
        "slots": dask_worker.state.nthreads,
        "limit": memory.memory_limit,
        "pauses": [memory.memory_pause_fraction, memory.memory_spill_fraction, memory.memory_target_fraction],
        "deaf": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
    }


def test_workers_have_the_settings_that_the_plan_counts_on(crew):
    found = crew._client.run(facts_of_worker)
    assert len(found) == 2
    for worker in found.values():
        expected = allocator.ENVIRONMENT | allocator.thread_environment(1)
        assert {name: worker["environment"].get(name) for name in expected} == expected
        assert (worker["slots"], worker["limit"]) == (3, 2**30)
        assert worker["pauses"] == [False, False, False]
        assert worker["deaf"]
    assert crew.width == 6


def test_a_worker_that_is_started_again_has_them_too(crew, eventually):
    first = crew._client.run(facts_of_worker)
    victim = psutil.Process().children(recursive=True)[-1]
    victim.kill()
    eventually(lambda: set(crew._client.scheduler_info()["workers"]) - set(first))
    crew._client.wait_for_workers(2)
    assert all(worker["deaf"] for worker in crew._client.run(facts_of_worker).values())


def test_jobs_on_plain_volumes_keep_their_promise_and_import_no_torch(write_as, tmp_path):
    source = write_as("ome-zarr-0.5", np.random.default_rng(0).integers(0, 255, SHAPE).astype("uint8"), tmp_path)
    copy = str(tmp_path / "copy.ome.zarr")
    settings = RunSettings(workers=1, threads=2, memory_per_worker="1GiB")
    for job in (ImportJob(input=str(source), output=copy, chunk=32, shard=64), PyramidJob(volume=copy, factors="2,2,2"),
                StatisticsJob(volume=copy)):  # fmt: skip
        summary = run(job, settings, progress=None)
        assert max(summary.peak_bytes.values()) <= summary.plan.price.worker_bytes
    crew = cluster.local_crew(settings)
    assert not any(crew._client.run(lambda: "torch" in sys.modules).values())
    crew.close()


def test_the_next_crew_has_its_own_threads_and_the_environment_is_put_back(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # a user's own; a worker's follow from its slots
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    for slots in (1, 2):
        settings = RunSettings(workers=1, threads=slots, memory_per_worker="1GiB")
        crew = cluster.local_crew(settings)
        (worker,) = crew._client.run(facts_of_worker).values()
        crew.close()
        assert worker["environment"]["OMP_NUM_THREADS"] == str(settings.local_budget().threads)
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MALLOC_ARENA_MAX" not in os.environ


def test_nothing_is_left_of_a_crew(crew, scratch):
    assert list(scratch.iterdir())
    before = psutil.Process().children(recursive=True)
    crew.close()
    left = [p for p in before if p.is_running() and "resource_tracker" not in " ".join(p.cmdline())]
    assert not left
    assert not list(scratch.iterdir())


@pytest.fixture
def command(processes, write_as, tmp_path):
    """`command() -> process`: `volpipe apply` over 12 blocks, in a session of its own."""
    voxels = np.random.default_rng(0).integers(0, 255, SHAPE).astype("uint8")
    source = write_as("ome-zarr-0.5", voxels, tmp_path)
    (tmp_path / "scratch").mkdir()

    def start():
        options = {
            "--model": "preset:unet3d_l3_w2",
            "--stitching": "overlap",
            "--precision": "fp64",  # slow: some blocks must still be missing when the signal comes
            "--block": "32,32,32",
            "--tile": "32,32,32",
            "--workers": 1,
            "--threads": 1,
            "--memory-per-worker": "4GiB",
        }
        words = [word for option in options.items() for word in option]
        output = tmp_path / "out.ome.zarr"
        return processes.start(
            "apply", "volpipe", "apply", source, output, *words, "--no-pyramid", TMPDIR=str(tmp_path / "scratch")
        )

    return start


def receipts(tmp_path):
    parts = sorted((tmp_path / "out.ome.zarr.ledger").glob("receipts-*"))
    lines = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    return [line["item"] for line in lines if line["work"] == "apply"]


def test_what_an_interrupted_and_a_killed_run_leave(command, processes, members_of, eventually, tmp_path):
    process = command()
    eventually(lambda: receipts(tmp_path))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    assert process.wait(timeout=30) == 130
    said = processes.log("apply").read_text()
    assert said.endswith("interrupted; the same command goes on where this one stopped\n")
    assert "Traceback" not in said
    eventually(lambda: not members_of(process), within_s=5)
    assert not [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()]

    done = receipts(tmp_path)
    assert 0 < len(done) < BLOCKS

    process = command()
    eventually(lambda: len(receipts(tmp_path)) > len(done))
    process.kill()  # no handler runs, and no worker stays
    process.wait()
    eventually(lambda: not members_of(process), within_s=20)
    assert len(set(receipts(tmp_path))) == len(receipts(tmp_path)) < BLOCKS  # it went on: nothing was done twice
