"""Workers of this machine: how they are started, and that nothing of them is left."""

import os
import re
import signal
import sys
import tempfile

import numpy as np
import psutil
import pytest
import zarr

from volpipe.jobs.apply import ApplyJob
from volpipe.jobs.importing import ImportJob
from volpipe.jobs.pyramid import PyramidJob
from volpipe.jobs.statistics import StatisticsJob
from volpipe.runtime import allocator, cluster
from volpipe.runtime.run import run
from volpipe.runtime.settings import RunSettings
from volpipe.volume.ledger import Ledger
from volpipe.volume.validate import validate
from volpipe.volume.verify import receipts_of, verify

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


def receipts(place):
    return {(receipt["work"], receipt["item"]): receipt for receipt in Ledger(place).receipts()}


def test_a_run_that_was_interrupted_and_killed_goes_on_and_equals_another(
    processes, members_of, eventually, write_as, tmp_path
):
    voxels = np.random.default_rng(0).integers(0, 255, SHAPE).astype("uint8")
    source, place = write_as("ome-zarr-0.5", voxels, tmp_path), str(tmp_path / "out.ome.zarr")
    (tmp_path / "scratch").mkdir()
    words = [source, place, "--model", "preset:unet3d_l3_w2", "--stitching", "overlap", "--block", 32, "--tile", 32]
    words += ["--precision", "fp64"]  # slow: some blocks must still be missing when a signal comes
    words += ["--workers", 1, "--threads", 1, "--memory-per-worker", "4GiB"]

    def start():
        return processes.start("apply", "volpipe", "apply", *words, TMPDIR=str(tmp_path / "scratch"))

    process = start()
    eventually(lambda: receipts(place))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    assert process.wait(timeout=30) == 130
    said = processes.log("apply").read_text()
    assert said.endswith("interrupted; the same command goes on where this one stopped\n")
    assert "1 local worker(s) of 1 slot(s), dashboard http://127.0.0.1:" in said  # the default
    assert "Traceback" not in said
    eventually(lambda: not members_of(process), within_s=5)
    assert not [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()]
    interrupted = receipts(place)
    assert 0 < len(interrupted) < BLOCKS

    process = start()
    eventually(lambda: len(receipts(place)) > len(interrupted))
    process.kill()  # no handler runs, and no worker stays
    process.wait()
    eventually(lambda: not members_of(process), within_s=20)
    killed = receipts(place)
    assert len(killed) < BLOCKS
    assert "state is 'running'" in validate(place)[0]

    said, fields = [], {"input": str(source), "model": "preset:unet3d_l3_w2", "stitching": "overlap"}
    fields |= {"block": (32, 32, 32), "tile": (32, 32, 32), "precision": "fp64"}
    local = RunSettings(workers=1, threads=1, memory_per_worker="4GiB")
    summary = run(ApplyJob(output=place, **fields), local, on_start=said.append, progress=None)
    assert re.match(r"1 local worker\(s\) of 1 slot\(s\), dashboard http://127.0.0.1:\d+", said[0])
    done = receipts(place)
    assert (summary.done, summary.before) == (len(done) - len(killed), len(killed))
    assert len(list(Ledger(place).receipts())) == len(done)  # none was done twice
    assert all(done[name] == receipt for name, receipt in killed.items())

    whole = str(tmp_path / "whole.ome.zarr")
    run(ApplyJob(output=whole, **fields), RunSettings(serial=True, threads=1), progress=None)
    found, expected = (dict(zarr.open_group(each, mode="r").arrays()) for each in (place, whole))
    assert found.keys() == expected.keys() == {"0", "1", "2"}
    for level, array in expected.items():
        np.testing.assert_array_equal(found[level][:], array[:])
    assert verify(place, receipts_of(place)) == []
