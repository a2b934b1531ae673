"""Allocator settings of processes that run 3D networks on a CPU: half the CPU time of the default.

glibc gives each large activation back to the kernel when it is freed and faults it in again, page by page, for the
next one. These settings keep it (256^3, four 3D convolutions: 13.3 CPU-seconds with the default, 7.6 with them;
benchmarks/throughput.py). The price is that memory once reached is kept; the memory promise counts on it.
"""

from __future__ import annotations

import ctypes
import sys

ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "1099511627776",
    "MALLOC_ARENA_MAX": "1",
}
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h of glibc


def thread_environment(threads: int) -> dict[str, str]:
    """Threads of the numerical libraries in a worker with this many per item."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def keep_memory_in_this_process() -> bool:
    """Set the same in a process that runs already; False where the C library is not glibc (nothing is changed)."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(option, value) == 1 for option, value in
               ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_ARENA_MAX, 1)))  # fmt: skip
