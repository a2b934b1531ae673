"""Workers that someone else started: separate processes in folders of their own, as on other machines."""

import itertools
import os
import signal
import threading

import numpy as np
import pytest

from volpipe.errors import ConfigError, RunError
from volpipe.jobs.apply import ApplyJob
from volpipe.runtime import cluster, worker_facts
from volpipe.runtime.run import run
from volpipe.runtime.settings import RunSettings
from volpipe.volume import open_product

DASK_YAML = os.path.join(os.path.dirname(__file__), "..", "..", "deploy", "dask.yaml")
APPLY = {"model": "preset:unet3d_l3_w2", "block": (32, 32, 32), "tile": (32, 32, 32)}


@pytest.fixture(scope="module")
def workers(start_scheduler, processes):
    """Two workers, one as deploy/README.md says and one as Dask makes them: (address, their processes)."""
    _, address = start_scheduler()
    as_told = processes.start(
        "as-told", "dask", "worker", address, "--nthreads", 1, "--memory-limit", "1GiB", DASK_CONFIG=DASK_YAML
    )
    plain = processes.start("plain", "dask", "worker", address, "--nthreads", 2, "--memory-limit", "2GiB")
    return address, (as_told, plain)


@pytest.fixture
def settings(workers):
    return RunSettings(cluster=workers[0], workers=2, memory_per_worker="1GiB")


def go(job, settings, **options):
    return run(job, settings, progress=None, **options)


def test_relative_paths_work_for_workers_in_other_folders(settings, write_as, tmp_path, monkeypatch):
    voxels = np.random.default_rng(0).integers(0, 255, (40, 70, 64)).astype("uint8")
    write_as("ome-zarr-0.5", voxels, tmp_path)
    monkeypatch.chdir(tmp_path)
    go(ApplyJob(input="volume0.5.ome.zarr", output="far.ome.zarr", **APPLY), settings)
    go(ApplyJob(input="volume0.5.ome.zarr", output="near.ome.zarr", **APPLY), RunSettings(serial=True, threads=1))
    far, near = (open_product(f"{name}.ome.zarr") for name in ("far", "near"))
    for level in range(2):
        for block in near.grid(level):
            np.testing.assert_array_equal(far.read(block.core, level), near.read(block.core, level))


def test_a_plan_counts_on_what_every_worker_has(settings):
    crew = cluster.remote_crew(settings.model_copy(update={"memory_per_worker": None}))
    crew.close()
    assert crew.width == 1 + 2
    assert (crew.budget.slots, crew.budget.threads, crew.budget.device) == (2, 1, "cpu")
    assert crew.budget.worker_bytes == 2**30  # the other has 80 % of 2 GiB: there Dask pauses it


def test_what_a_worker_lacks_is_said_with_what_to_set(job, settings):
    said = []
    go(job(count=2), settings, on_start=said.append)
    place, *warnings = said[0].splitlines()
    assert place.startswith(f"2 worker(s) of 3 slot(s) in all at {settings.cluster}, dashboard http://")
    assert [warning[:40] for warning in warnings] == [
        "1 of 2 workers give freed memory back to",
        "Dask pauses 1 of 2 workers near their me",
    ]
    assert "MALLOC_ARENA_MAX=1" in warnings[0]
    assert "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE=False" in warnings[1]


def test_other_software_on_the_workers_is_refused(job, settings, monkeypatch):
    monkeypatch.setattr(worker_facts, "__version__", "9.9")
    one = job()
    with pytest.raises(ConfigError, match=r"worker tcp:\S+ has volpipe 0\S* and torch 2\S*, this process volpipe 9\.9"):
        go(one, settings)
    assert not one.begun


def test_too_few_workers_is_one_line(job, settings, monkeypatch):
    monkeypatch.setattr(cluster, "WAIT_FOR_WORKERS_S", 0.5)
    with pytest.raises(ConfigError, match=r"2 of 3 worker\(s\) within 0.5 s; start them"):
        go(job(), settings.model_copy(update={"workers": 3}))


def test_the_address_of_a_worker_is_no_scheduler(job, settings):
    from distributed import Client

    with Client(settings.cluster) as client:
        worker = next(iter(client.scheduler_info()["workers"]))
    with pytest.raises(ConfigError, match="a Dask Worker answers there; give the scheduler's address"):
        go(job(), settings.model_copy(update={"cluster": worker}))


def test_a_killed_worker_costs_only_what_it_had_in_hand(job, settings, workers, members_of, eventually):
    one = job(count=120, seconds=0.05)
    killer = threading.Thread(target=kill_worker, args=(one, workers[1][0], members_of, eventually))
    killer.start()
    go(one, settings)
    killer.join()
    calls = one.work("block").calls()
    assert set(calls) == set(range(120))
    assert len(calls) < 120 + 40  # two batches of at most ten, and what was moved


def kill_worker(job, nanny, members_of, eventually):
    eventually(lambda: len(job.work("block").calls()) > 20)
    victims = [pid for pid in members_of(nanny) if pid != nanny.pid]
    assert victims
    for victim in victims:
        os.kill(victim, signal.SIGKILL)


def test_a_scheduler_that_dies_ends_the_run_in_one_line(job, start_scheduler, processes, eventually, tmp_path):
    scheduler, address = start_scheduler()
    processes.start("lonely", "dask", "worker", address, "--nthreads", 1, "--memory-limit", "1GiB")
    one = job(count=1000, seconds=0.02, product=str(tmp_path / "out.zarr"))
    calls = one.work("block").calls
    killer = threading.Thread(target=lambda: (eventually(lambda: len(calls()) > 20), scheduler.kill()))
    killer.start()
    with pytest.raises(RunError, match=r"lost 1 worker\(s\).*; what is done is kept") as stop:
        go(one, RunSettings(cluster=address))
    killer.join()
    assert stop.value.exit_code == 1
    again = job(count=1000, product=str(tmp_path / "out.zarr"))
    assert go(again, RunSettings(serial=True)).before > 0


@pytest.mark.parametrize("kind", ["nobody", "something else"])
def test_an_address_without_a_scheduler_is_one_line(job, monkeypatch, free_port, processes, kind):
    """Dask's own client waits for ever on the port of a dashboard."""
    monkeypatch.setattr(cluster, "ANSWER_WITHIN_S", 1.5)
    port = free_port()
    if kind == "something else":
        processes.start(f"web-{port}", "http.server", port, "--bind", "127.0.0.1")
    with pytest.raises(ConfigError, match=f"cluster tcp://127.0.0.1:{port}: no scheduler answers within 1.5 s"):
        go(job(), RunSettings(cluster=f"tcp://127.0.0.1:{port}"))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1", "tcp://127.0.0.1:x", "tls://127.0.0.1:8786"])
def test_an_address_that_is_none_is_one_line(job, address):
    with pytest.raises(ConfigError, match="cannot be asked"):
        go(job(), RunSettings(cluster=address))


def test_a_scheduler_without_workers_is_one_line(job, start_scheduler, monkeypatch):
    monkeypatch.setattr(cluster, "WAIT_FOR_WORKERS_S", 0.5)
    with pytest.raises(ConfigError, match=r"0 of 1 worker\(s\) within 0.5 s; start them \(deploy/README.md\)"):
        go(job(), RunSettings(cluster=start_scheduler()[1]))


def facts(*changes):
    """Workers that are all well, but for the changes: one dict a worker."""
    well = {"slots": 1, "threads": 1, "memory_bytes": 2**30, "pauses": False, "keeps_memory": True, "gpu": None}
    names = (f"tcp://w{i}" for i in itertools.count())
    return [worker_facts.WorkerFacts(**{"address": next(names), **well, **change}) for change in changes]


def test_workers_that_are_well_are_not_warned_of():
    assert worker_facts.warnings(facts({}, {})) == []


def test_a_worker_without_a_limit_has_the_memory_that_is_given():
    bare = facts({}, {"memory_bytes": None})
    assert worker_facts.memory_bytes(bare, RunSettings(memory_per_worker="2GiB"), "tcp://a") == 2**30
    assert worker_facts.memory_bytes(bare, RunSettings(memory_per_worker="500MiB"), "tcp://a") == 500 * 2**20
    with pytest.raises(ConfigError, match="worker tcp://w1 has no memory limit; give --memory-per-worker"):
        worker_facts.memory_bytes(bare, RunSettings(), "tcp://a")


def test_every_gpu_has_one_worker():
    first, second = {"gpu": ("node", "0")}, {"gpu": ("node", "1")}
    assert worker_facts.device(facts(first, second), "a") == "cuda"
    assert worker_facts.device(facts({}, {}), "a") == "cpu"
    with pytest.raises(ConfigError, match="1 of 2 workers have no GPU, the others do"):
        worker_facts.device(facts(first, {}), "a")
    with pytest.raises(ConfigError, match="2 workers share GPU 1 of node; start them with dask cuda worker"):
        worker_facts.device(facts(first, second, second), "a")
