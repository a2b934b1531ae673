"""Crews on Dask: workers of this machine, its GPUs (dask-cuda), or a scheduler that someone else started.

    driver --batch of items--> scheduler --> worker (process)
                                              slot 1   read | compute | write      a slot is a Dask thread
                                              slot 2          read | compute | write
    On a GPU the compute phases of a process take turns (inference.predictor.device_lease).

Dask's own spilling and pausing are off: tasks keep nothing in Dask's memory, and a worker that keeps its heap by
design (allocator.py) would be paused for ever.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import dask
from distributed import Client, LocalCluster, as_completed
from distributed.scheduler import KilledWorker

from volpipe.errors import ConfigError, RunError
from volpipe.inference.device import free_device_bytes, has_gpu
from volpipe.plan import Budget, Work
from volpipe.runtime import allocator
from volpipe.runtime.settings import GPU_SLOTS, RunSettings
from volpipe.runtime.worker import Failure, Outcome, do_pickled_batch

WAIT_FOR_WORKERS_S = 60


class DaskCrew:
    """Workers behind a Dask client."""

    def __init__(self, client: Client, budget: Budget, workers: int, where: str, on_close: Callable[[], None]) -> None:
        self._client = client
        self._done = as_completed()
        self._batches: dict[str, tuple[str, list[int]]] = {}
        self._serial = 0
        self._last: tuple[Work, bytes] | None = None
        self._on_close = on_close
        self.budget = budget
        self.width = workers * budget.slots
        self.where = where

    def submit(self, work_name: str, work: Work, items: list[int]) -> None:
        """Send a batch to the scheduler as one task."""
        self._serial += 1
        key = f"{work_name}-{items[0]}-{self._serial}"
        self._batches[key] = (work_name, items)
        batch = (work_name, self._pickled(work), items)
        self._done.add(self._client.submit(do_pickled_batch, *batch, key=key, pure=False))

    def next(self) -> list[Outcome]:
        """Wait for any task; its future is dropped, so the scheduler forgets it."""
        future = next(self._done)
        work_name, items = self._batches.pop(future.key)
        if future.status == "finished":
            return list(future.result())
        error = future.exception()
        return [_failure(work_name, item, error) for item in items]

    def _pickled(self, work: Work) -> bytes:
        if self._last is None or self._last[0] is not work:
            self._last = work, pickle.dumps(work)
        return self._last[1]

    def close(self) -> None:
        """Cancel what runs and shut down what this crew started."""
        self._on_close()


def _failure(work_name: str, item: int, error: BaseException) -> Failure:
    if isinstance(error, KilledWorker):
        text = f"{work_name} {item}: its worker died (killed by the system, out of memory, or a crash in native code)"
        return Failure((work_name, item), text)
    return Failure((work_name, item), f"{work_name} {item}: {type(error).__name__}: {error}")


def local_crew(settings: RunSettings) -> DaskCrew:
    """Worker processes on this machine."""
    budget, workers = settings.local_budget(), settings.workers or 1
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_worker_config(budget.threads)))
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="volpipe-"))
        cluster = stack.enter_context(
            LocalCluster(
                n_workers=workers, threads_per_worker=budget.slots, processes=True, memory_limit=budget.worker_bytes,
                host="127.0.0.1", dashboard_address="127.0.0.1:0", local_directory=scratch, silence_logs=50,
            )
        )  # fmt: skip
        client = stack.enter_context(Client(cluster))
        where = f"{workers} local worker(s) of {budget.slots} slot(s), dashboard {client.dashboard_link}"
        return DaskCrew(client, budget, workers, where, stack.pop_all().close)


def cuda_crew(settings: RunSettings) -> DaskCrew:
    """One worker process per GPU of this machine, through dask-cuda.

    Raises:
        ConfigError: dask-cuda is not installed, or there is no NVIDIA driver.
    """
    slots = settings.threads or GPU_SLOTS
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_worker_config(threads=1)))
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="volpipe-"))
        cluster = stack.enter_context(_cuda_cluster(settings, slots, scratch))
        client = stack.enter_context(Client(cluster))
        workers = _wait_for_workers(client, "cuda")
        budget = Budget(
            settings.memory_bytes(len(workers)), slots, device="cuda", device_bytes=_free_device_bytes(client)
        )
        where = f"{len(workers)} GPU worker(s) of {slots} slot(s), dashboard {client.dashboard_link}"
        return DaskCrew(client, budget, len(workers), where, stack.pop_all().close)


def _cuda_cluster(settings: RunSettings, slots: int, scratch: str) -> Any:
    try:
        from dask_cuda import LocalCUDACluster  # needs NVIDIA's bindings at import
    except ImportError as error:
        raise ConfigError(
            f"cluster cuda: dask-cuda cannot be imported ({error}); pip install 'volpipe[cuda12]' or 'volpipe[cuda13]'"
        ) from error
    try:
        return LocalCUDACluster(
            n_workers=settings.workers, threads_per_worker=slots, local_directory=scratch, silence_logs=50,
            memory_limit=settings.memory_per_worker or "auto", host="127.0.0.1", dashboard_address="127.0.0.1:0",
        )  # fmt: skip
    except Exception as error:  # pynvml raises classes of its own, by driver state
        if type(error).__module__.split(".")[0] not in ("pynvml", "dask_cuda", "cuda"):
            raise
        raise ConfigError(f"cluster cuda: no NVIDIA driver answers ({error}); give --cluster local") from error


def remote_crew(settings: RunSettings) -> DaskCrew:
    """Workers of a scheduler that runs already, at `tcp://ADDRESS`.

    Raises:
        ConfigError: no scheduler answers there, or it has no workers.
    """
    with ExitStack() as stack:
        try:
            client = stack.enter_context(Client(settings.cluster, timeout="20s"))
        except OSError as error:
            raise ConfigError(f"cluster {settings.cluster}: no scheduler answers; see deploy/README.md") from error
        workers = _wait_for_workers(client, settings.cluster)
        slots = max(int(worker["nthreads"]) for worker in workers.values())
        limits = [int(worker["memory_limit"]) for worker in workers.values() if worker["memory_limit"]]
        given = settings.memory_bytes(len(workers))
        on_gpu = all(client.run(has_gpu).values())
        budget = Budget(
            min([given, *limits] if settings.memory_per_worker else limits or [given]),
            slots,
            device="cuda" if on_gpu else "cpu",
            device_bytes=_free_device_bytes(client) if on_gpu else None,
        )
        where = f"{len(workers)} worker(s) at {settings.cluster}, dashboard {client.dashboard_link}"
        return DaskCrew(client, budget, len(workers), where, stack.pop_all().close)


def _wait_for_workers(client: Client, name: str) -> Mapping[str, Any]:
    try:
        client.wait_for_workers(1, timeout=WAIT_FOR_WORKERS_S)
    except TimeoutError as error:
        raise ConfigError(
            f"cluster {name}: no worker within {WAIT_FOR_WORKERS_S} s; start some (deploy/README.md)"
        ) from error
    workers: Mapping[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return workers


def _free_device_bytes(client: Client) -> int:
    try:
        return int(min(client.run(free_device_bytes).values()))
    except RuntimeError as error:
        raise RunError(f"the GPU does not answer torch ({error}); check the driver and torch's CUDA build") from error


def _worker_config(threads: int) -> dict[str, Any]:
    return {
        "distributed.nanny.pre-spawn-environ": allocator.ENVIRONMENT | allocator.thread_environment(threads),
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 0.98,  # of the limit: a leak kills its worker, not the machine
        "distributed.worker.profile.enabled": False,
        "distributed.scheduler.allowed-failures": 1,
        "distributed.scheduler.worker-saturation": 1.0,
    }
