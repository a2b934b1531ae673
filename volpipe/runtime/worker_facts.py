"""What workers are like that someone else started, asked before anything is written.

client -- ask --> WorkerFacts of each worker; other software there is refused
               -- device, memory_bytes --> what the plan may count on; what cannot be promised is refused
               -- warnings --> what costs time but not the result, with what to set
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from volpipe import __version__
from volpipe.errors import ConfigError
from volpipe.inference.device import has_gpu
from volpipe.runtime import allocator
from volpipe.runtime.settings import RunSettings, parse_bytes


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """One worker process.

    Attributes:
        address: as Dask names it.
        slots: its Dask threads.
        threads: of the numerical libraries per slot, by its OMP_NUM_THREADS.
        memory_bytes: that it may reach before Dask pauses or kills it; None if it has no limit.
        pauses: Dask would pause it, in place of killing it.
        keeps_memory: it runs with the allocator's settings.
        gpu: (machine, device) of its GPU; None if torch sees none.
    """

    address: str
    slots: int
    threads: int
    memory_bytes: int | None
    pauses: bool
    keeps_memory: bool
    gpu: tuple[str, str] | None


def ask(client: Any, name: str) -> list[WorkerFacts]:
    """The facts of every worker.

    Raises:
        ConfigError: a worker cannot load volpipe, or has another version of it or of torch.
    """
    here = software()
    for address, there in client.run(software, on_error="return").items():
        if isinstance(there, Exception):
            raise ConfigError(f"cluster {name}: worker {address} cannot load volpipe ({there}); install {_text(here)}")
        if there != here:
            raise ConfigError(
                f"cluster {name}: worker {address} has {_text(there)}, this process {_text(here)}; install the same"
            )
    return sorted(client.run(_look).values(), key=lambda fact: str(fact.address))


def software() -> dict[str, str]:
    """Versions that the numbers depend on; a build for a GPU (torch 2.13.0+cu130) is the same software."""
    return {"volpipe": __version__, "torch": metadata.version("torch").partition("+")[0]}


def device(facts: Sequence[WorkerFacts], name: str) -> str:
    """Where the plan computes: "cuda" or "cpu".

    Raises:
        ConfigError: some have a GPU and some have none, or two workers share one.
    """
    gpus = Counter(fact.gpu for fact in facts)
    without = gpus.pop(None, 0)
    if without and gpus:
        raise ConfigError(
            f"cluster {name}: {without} of {len(facts)} workers have no GPU, the others do; start workers of one kind "
            "(CUDA_VISIBLE_DEVICES= hides a GPU)"
        )
    shared = next((gpu for gpu, users in gpus.items() if gpu is not None and users > 1), None)
    if shared is not None:
        raise ConfigError(
            f"cluster {name}: {gpus[shared]} workers share GPU {shared[1] or '0'} of {shared[0]}; start them with "
            "dask cuda worker, one per GPU"
        )
    return "cuda" if gpus else "cpu"


def memory_bytes(facts: Sequence[WorkerFacts], settings: RunSettings, name: str) -> int:
    """What every worker may reach: the least of their limits and of what was given.

    Raises:
        ConfigError: a worker has no limit and none was given; this machine's memory says nothing about its.
    """
    given = None if settings.memory_per_worker is None else parse_bytes(settings.memory_per_worker)
    limits = [limit for fact in facts if (limit := fact.memory_bytes or given) is not None]
    if len(limits) < len(facts):
        bare = next(fact.address for fact in facts if fact.memory_bytes is None)
        raise ConfigError(
            f"cluster {name}: worker {bare} has no memory limit; give --memory-per-worker, or start it with "
            "--memory-limit"
        )
    return min(limits if given is None else [given, *limits])


def warnings(facts: Sequence[WorkerFacts]) -> list[str]:
    """What should be set on the workers, one line each; deploy/dask.yaml sets all of it."""
    freeing = sum(not fact.keeps_memory for fact in facts)
    pausing = sum(fact.pauses for fact in facts)
    settings = " ".join(f"{name}={value}" for name, value in allocator.ENVIRONMENT.items())
    found = {
        f"{freeing} of {len(facts)} workers give freed memory back to the system, which doubles the CPU time of 3D "
        f"networks; start them with {settings}": freeing,
        f"Dask pauses {pausing} of {len(facts)} workers near their memory limit, and they may never go on; start them "
        "with DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE=False": pausing,
    }
    return [text for text, count in found.items() if count]


def _look(dask_worker: Any) -> WorkerFacts:
    """Runs in the worker."""
    memory = dask_worker.memory_manager
    limit, share = memory.memory_limit, memory.memory_pause_fraction or 1.0
    where = (os.uname().nodename, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0])
    return WorkerFacts(
        address=dask_worker.address,
        slots=dask_worker.state.nthreads,
        threads=_number(os.environ.get("OMP_NUM_THREADS", "")),
        memory_bytes=None if limit is None else int(limit * share),
        pauses=limit is not None and bool(memory.memory_pause_fraction),
        keeps_memory=not allocator.missing_settings(),
        gpu=where if has_gpu() else None,
    )


def _number(text: str) -> int:
    """The first of `4` or `4,2`; 1 where it is not said."""
    first = text.partition(",")[0]
    return int(first) if first.isdecimal() else 1


def _text(versions: dict[str, str]) -> str:
    return " and ".join(f"{name} {version}" for name, version in versions.items())
