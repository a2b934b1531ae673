"""The two engines of `apply` on many small blocks: what each asks of Dask's scheduler.

    blocks        a batch of blocks is one task, and few are in the scheduler at once
    map-overlap   dask.array.map_overlap: the whole volume is one graph

Scheduler and worker are processes of their own, started as deploy/README.md says, so that each can be asked what it
used. The network is two small convolutions: what is left is reading, writing and the engine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from distributed import Client, SchedulerPlugin
from machine import RESULTS, save, table
from safetensors.torch import save_file
from throughput import make_volume

from volpipe import ApplyJob, RunSettings, run
from volpipe.models import initialise

HERE = Path(__file__).parent
BLOCK = 32
COUNTS = {1000: (10, 10, 10), 10000: (20, 20, 25)}
ENGINES = ("blocks", "map-overlap")


class CountTasks(SchedulerPlugin):  # type: ignore[misc]
    """How many tasks the scheduler was ever given."""

    name = "count-tasks"

    def __init__(self) -> None:
        self.tasks = 0

    def update_graph(self, scheduler: Any, *, tasks: Any, **_: Any) -> None:
        """Dask tells of each graph that it is given."""
        self.tasks += len(tasks)


def main() -> None:
    """Run both engines over each number of blocks and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", default="1000,10000", help=f"comma-separated: {', '.join(map(str, COUNTS))}")
    parser.add_argument("--name", default="cpu", help=f"of the result in {RESULTS.name}/")
    options = parser.parse_args()
    sys.path.insert(0, str(HERE))
    rows = []
    for count in map(int, options.blocks.split(",")):
        for engine in ENGINES:
            rows.append(measure(count, engine))
            print(rows[-1], flush=True)
    print(table(rows))
    print(save(f"engines-{options.name}", {"settings": vars(options), "rows": rows}))


def measure(count: int, engine: str) -> dict[str, Any]:
    """One run on a scheduler and a worker of its own."""
    from networks import two_convolutions

    folder = Path(tempfile.mkdtemp(prefix="volpipe-engines-"))
    try:
        shape = tuple(n * BLOCK for n in COUNTS[count])
        make_volume(folder / "raw.ome.zarr", shape, 256)  # type: ignore[arg-type]
        save_file(initialise(two_convolutions(), seed=0).state_dict(), folder / "net.safetensors")
        job = ApplyJob(
            input=str(folder / "raw.ome.zarr"), output=str(folder / "out.ome.zarr"), model="networks:two_convolutions",
            trust_code=True, weights=str(folder / "net.safetensors"), block=(BLOCK,) * 3, tile=(BLOCK,) * 3,
            output_dtype="uint8", output_range=(-1.0, 1.0), stitching="overlap", pyramid=False, audit=0,
        )  # fmt: skip
        with processes(folder) as (address, scheduler, worker):
            return _row(count, engine, job, address, scheduler, worker)
    finally:
        shutil.rmtree(folder)


def _row(
    count: int, engine: str, job: ApplyJob, address: str, scheduler: psutil.Process, worker: psutil.Process
) -> dict[str, Any]:
    with Client(address) as client:
        client.wait_for_workers(1)
        client.register_plugin(CountTasks())
        before = {name: _cpu_s(one) for name, one in (("scheduler", scheduler), ("worker", worker))}
        driver, began = time.process_time(), time.perf_counter()
        with highest_memory(scheduler) as held:
            summary = run(job, RunSettings(cluster=address, workers=1, engine=engine), progress=None)  # type: ignore[arg-type]
        tasks = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.plugins["count-tasks"].tasks)
    return {
        "blocks": count,
        "engine": engine,
        "tasks a block": round(tasks / count, 2),
        "scheduler CPU us a block": round((_cpu_s(scheduler) - before["scheduler"]) / count * 1e6),
        "driver CPU us a block": round((time.process_time() - driver) / count * 1e6),
        "worker CPU ms a block": round((_cpu_s(worker) - before["worker"]) / count * 1e3, 2),
        "scheduler MiB": held[0] >> 20,
        "worker MiB": max(summary.peak_bytes.values()) >> 20,
        "wall s": round(time.perf_counter() - began, 1),
    }


@contextmanager
def processes(folder: Path) -> Iterator[tuple[str, psutil.Process, psutil.Process]]:
    """(address, scheduler, the worker itself, not its nanny)."""
    environment = dict(os.environ, DASK_CONFIG=str(HERE.parent / "deploy" / "dask.yaml"), PYTHONPATH=str(HERE))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment, "cwd": folder}
    address = f"tcp://127.0.0.1:{_free_port()}"
    dask = [sys.executable, "-m", "dask"]
    scheduler = subprocess.Popen(
        [*dask, "scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard"], **quiet
    )
    nanny = subprocess.Popen(
        [*dask, "worker", address, "--nthreads", "2", "--memory-limit", "8GiB", "--no-dashboard"], **quiet
    )
    try:
        with Client(address, timeout=60) as client:
            client.wait_for_workers(1, timeout=60)
            (pid,) = client.run(os.getpid).values()
        yield address, psutil.Process(scheduler.pid), psutil.Process(pid)
    finally:
        for process in (nanny, scheduler):
            process.terminate()
            process.wait()


@contextmanager
def highest_memory(process: psutil.Process) -> Iterator[list[int]]:
    """The largest resident memory seen, ten times a second."""
    held, ended = [process.memory_info().rss], threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            held[0] = max(held[0], process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield held
    finally:
        ended.set()
        thread.join()


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


if __name__ == "__main__":
    main()
