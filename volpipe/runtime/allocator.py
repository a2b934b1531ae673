"""Allocator settings of processes that run 3D networks on a CPU: they save a quarter of the CPU time and more.

glibc gives each large activation back to the kernel when it is freed and faults it in again, page by page, for the
next one. With these settings it keeps the heap, and torch asks for huge pages (a fault for 2 MiB instead of 4 KiB, and
sizes that later tensors fit into). `benchmarks/throughput.py` measures both. The price is that memory once reached is
kept; `inference.heap` gives it back where it would outgrow the promise.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "1099511627776",
    "MALLOC_ARENA_MAX": "1",
    "THP_MEM_ALLOC_ENABLE": "1",
}
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h of glibc


def thread_environment(threads: int) -> dict[str, str]:
    """Threads of the numerical libraries in a worker with this many per item."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


@contextmanager
def worker_environment(threads: int) -> Iterator[None]:
    """These settings in the environment of this process, from which local workers take theirs; put back at the end.

    Not left to Dask's nanny: it prefers what the environment holds already, and leaves there what it sets, so the next
    crew's workers would get the threads of the one before.
    """
    wanted = ENVIRONMENT | thread_environment(threads)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def missing_settings() -> dict[str, str]:
    """Those that this process was not started with; none where the C library is not glibc."""
    if _mallopt() is None:
        return {}
    return {name: value for name, value in ENVIRONMENT.items() if os.environ.get(name) != value}


def keep_memory_in_this_process() -> bool:
    """Set the same in a process that runs already; False where the C library is not glibc (nothing is changed).

    Huge pages are had only if torch has not allocated yet.
    """
    mallopt = _mallopt()
    if mallopt is None:
        return False
    os.environ["THP_MEM_ALLOC_ENABLE"] = ENVIRONMENT["THP_MEM_ALLOC_ENABLE"]
    return all(mallopt(option, value) == 1 for option, value in
               ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_ARENA_MAX, 1)))  # fmt: skip


def _mallopt() -> Any:
    """The function that sets them, or None."""
    return getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
