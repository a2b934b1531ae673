"""Crews on Dask: workers of this machine, its GPUs (dask-cuda), or a scheduler that someone else started.

    driver --batch of items--> scheduler --> worker (process)
                                              slot 1   read | compute | write      a slot is a Dask thread
                                              slot 2          read | compute | write
    On a GPU the compute phases of a process take turns (inference.predictor.device_lease).

Dask's own spilling and pausing are off: tasks keep nothing in Dask's memory, and a worker that keeps its heap by
design (allocator.py) would be paused for ever. Workers that someone else started are asked first (worker_facts.py).
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import dask
from distributed import Client, LocalCluster, Security, WorkerPlugin, rpc

from volpipe.errors import ConfigError, reason
from volpipe.inference.device import free_device_bytes
from volpipe.plan import Budget
from volpipe.runtime import allocator, main_guard, worker_facts
from volpipe.runtime.dask_crew import DaskCrew
from volpipe.runtime.settings import GPU_SLOTS, RunSettings

ANSWER_WITHIN_S = 20
WAIT_FOR_WORKERS_S = 60


def local_crew(settings: RunSettings) -> DaskCrew:
    """Worker processes on this machine.

    Raises:
        RunError: they die as they start, because the script that they import calls `run` (main_guard.py).
    """
    budget, workers = settings.local_budget(), settings.workers or 1
    with ExitStack() as stack:
        scratch = stack.enter_context(_prepared(budget.threads))
        cluster = stack.enter_context(
            LocalCluster(
                n_workers=workers, threads_per_worker=budget.slots, processes=True, memory_limit=budget.worker_bytes,
                host="127.0.0.1", dashboard_address="127.0.0.1:0", local_directory=scratch, silence_logs=50,
            )
        )  # fmt: skip
        client = _own_client(cluster, stack)
        where = f"{workers} local worker(s) of {budget.slots} slot(s), dashboard {client.dashboard_link}"
        return DaskCrew(client, budget, workers * budget.slots, where, stack.pop_all().close)


def cuda_crew(settings: RunSettings) -> DaskCrew:
    """One worker process per GPU of this machine, through dask-cuda.

    Raises:
        ConfigError: dask-cuda is not installed, there is no NVIDIA driver, or torch cannot use the GPUs.
    """
    slots = settings.threads or GPU_SLOTS
    with ExitStack() as stack:
        scratch = stack.enter_context(_prepared(threads=1))
        cluster = stack.enter_context(_cuda_cluster(settings, slots, scratch))
        client = _own_client(cluster, stack)
        workers = len(cluster.workers)
        device_bytes = _free_device_bytes(client, "cuda")
        budget = Budget(settings.memory_bytes(workers), slots, device="cuda", device_bytes=device_bytes)
        where = f"{workers} GPU worker(s) of {slots} slot(s), dashboard {client.dashboard_link}"
        return DaskCrew(client, budget, workers * slots, where, stack.pop_all().close)


def remote_crew(settings: RunSettings) -> DaskCrew:
    """Workers of a scheduler that runs already, at `tcp://ADDRESS`.

    Raises:
        ConfigError: no scheduler answers there, it has too few workers, or they do not fit (worker_facts.py).
    """
    name = settings.cluster
    with ExitStack() as stack:
        client = _remote_client(name, stack)
        _wait_for_workers(client, name, settings.workers or 1)
        facts = worker_facts.ask(client, name)
        device = worker_facts.device(facts, name)
        budget = Budget(
            worker_facts.memory_bytes(facts, settings, name),
            slots=max(fact.slots for fact in facts),
            threads=min(fact.threads for fact in facts),
            device=device,
            device_bytes=None if device == "cpu" else _free_device_bytes(client, name),
        )
        width = sum(fact.slots for fact in facts)
        where = f"{len(facts)} worker(s) of {width} slot(s) in all at {name}, dashboard {client.dashboard_link}"
        where = "\n".join([where, *worker_facts.warnings(facts)])
        return DaskCrew(client, budget, width, where, stack.pop_all().close)


@contextmanager
def _prepared(threads: int) -> Iterator[str]:
    """Dask's configuration for workers that we start, their environment, and a scratch folder that goes with them."""
    with (
        allocator.worker_environment(threads),
        tempfile.TemporaryDirectory(prefix="volpipe-") as scratch,
        dask.config.set(worker_config(threads) | {"temporary-directory": scratch}),
        main_guard.told(scratch),
    ):
        yield scratch


def worker_config(threads: int) -> dict[str, Any]:
    """Dask's configuration for scheduler and workers; deploy/dask.yaml says the same for those started by hand."""
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


class _DeafToInterrupts(WorkerPlugin):  # type: ignore[misc]
    """Ctrl-C in a terminal goes to every process started from it; only the driver may act on it.

    Else workers die with tracebacks and are started anew while the driver closes them (measured: 7 s).
    """

    def setup(self, worker: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _own_client(cluster: Any, stack: ExitStack) -> Client:
    """A client of workers that we started."""
    client = stack.enter_context(Client(cluster))
    client.register_plugin(_DeafToInterrupts())
    return client


def _cuda_cluster(settings: RunSettings, slots: int, scratch: str) -> Any:
    try:
        from dask_cuda import LocalCUDACluster  # needs NVIDIA's bindings at import
        from dask_cuda.utils import get_n_gpus
    except ImportError as error:
        raise ConfigError(
            f"cluster cuda: dask-cuda cannot be imported ({error}); pip install 'volpipe[cuda12]' or 'volpipe[cuda13]'"
        ) from error
    try:
        gpus = get_n_gpus()
        if settings.workers is not None and settings.workers > gpus:
            raise ConfigError(f"cluster cuda: --workers {settings.workers}, but there are {gpus} GPU(s); give fewer")
        return LocalCUDACluster(
            n_workers=settings.workers, threads_per_worker=slots, local_directory=scratch, silence_logs=50,
            memory_limit=settings.memory_per_worker or "auto", host="127.0.0.1", dashboard_address="127.0.0.1:0",
        )  # fmt: skip
    except (ValueError, RuntimeError) as error:  # CUDA_VISIBLE_DEVICES without sense, a worker that dies
        raise ConfigError(f"cluster cuda: GPU workers cannot be started: {reason(error)}") from error
    except Exception as error:  # pynvml raises classes of its own, by driver state
        if type(error).__module__.split(".")[0] not in ("pynvml", "dask_cuda", "cuda"):
            raise
        raise ConfigError(f"cluster cuda: no NVIDIA driver answers ({reason(error)}); give --cluster local") from error


def _remote_client(name: str, stack: ExitStack) -> Client:
    with ThreadPoolExecutor(1) as thread:  # a notebook's own thread has a loop that runs
        try:
            kind = thread.submit(asyncio.run, _kind_of_server(name)).result()
        except TimeoutError:
            raise ConfigError(
                f"cluster {name}: no scheduler answers within {ANSWER_WITHIN_S} s; start one (deploy/README.md) or "
                "check the address"
            ) from None
        except (OSError, ValueError, TypeError, RuntimeError) as error:  # no such port, no certificate, no tls
            raise ConfigError(f"cluster {name}: cannot be asked ({reason(error)}); check the address") from error
    if kind != "Scheduler":
        raise ConfigError(f"cluster {name}: a Dask {kind} answers there; give the scheduler's address")
    return stack.enter_context(Client(name, timeout=ANSWER_WITHIN_S))


async def _kind_of_server(name: str) -> str:
    """What answers; a `Client` waits for ever where something else than Dask does, as on a dashboard's port."""
    arguments = Security().get_connection_args("client")
    async with asyncio.timeout(ANSWER_WITHIN_S), rpc(name, connection_args=arguments) as server:
        return str((await server.identity())["type"])


def _wait_for_workers(client: Client, name: str, count: int) -> None:
    try:
        client.wait_for_workers(count, timeout=WAIT_FOR_WORKERS_S)
    except TimeoutError as error:
        there = len(client.scheduler_info(n_workers=-1)["workers"])
        raise ConfigError(
            f"cluster {name}: {there} of {count} worker(s) within {WAIT_FOR_WORKERS_S} s; start them (deploy/README.md)"
        ) from error


def _free_device_bytes(client: Client, name: str) -> int:
    try:
        return int(min(client.run(free_device_bytes).values()))
    except (RuntimeError, AssertionError) as error:  # torch says with an assertion that it was built without CUDA
        raise ConfigError(
            f"cluster {name}: the GPU does not answer torch ({reason(error)}); check the driver and torch's CUDA build"
        ) from error
