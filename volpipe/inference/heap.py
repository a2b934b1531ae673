"""Keep a process whose heap is kept (runtime.allocator) near what its largest forward pass needs, and to its promise;
and what torch keeps of a GPU.

    resident  ____/-----/=====/=======  holes: tensors of other sizes find only some of them, and the heap grows
              ____/-----\\_/-----------  given back before a pass: the pass makes it as large as it must be, no larger

A heap that is never given back serves the next pass without a page fault, but over tiles of many shapes it grows to
several times what is alive (from 0.7 to 2.0 GiB in a job of eight blocks at the faces of a small volume), and the more
the longer a run goes on. So what a pass needs is measured after each one that began on a heap without holes, and the
heap is given back when it holds more than the largest of these. That costs the faults of one pass; in the interior of a
volume, where all tiles have one shape, it does not happen.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

SHARE = 0.8  # of the promise: the rest is for what the next pass cannot place in the holes of the heap
SLACK = 1.02  # times the largest that a pass needed: less than the steps in which holes make a heap grow


class Heap:
    """A heap that is kept.

    Args:
        resident: what is held now, bytes; 0 where the system does not tell.
        give_back: free memory to the system; False where that cannot be.
    """

    def __init__(self, resident: Callable[[], int], give_back: Callable[[], bool]) -> None:
        self._resident, self._give_back = resident, give_back
        self._needed = 0  # bytes that the process held after the most demanding pass on a heap without holes
        self._begun = False

    @contextmanager
    def forward_pass(self, bound: float) -> Iterator[None]:
        """Around a forward pass, before which the heap is given back if the process holds more than `bound` bytes."""
        fresh = not self._begun or self._trimmed(bound)
        self._begun = True
        yield
        if fresh:
            self._needed = max(self._needed, self._resident())

    def _trimmed(self, bound: float) -> bool:
        return self._resident() > min(SLACK * self._needed, bound) and self._give_back()


def resident_bytes() -> int:
    """What this process holds now; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as pages:
            return int(pages.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def give_back() -> bool:
    """Return free heap to the system; False where the C library is not glibc."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)
    return trim is not None


@lru_cache(maxsize=1)
def _malloc_trim() -> Any:
    """The function of glibc, or None."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None


HOST = Heap(resident_bytes, give_back)


@lru_cache(maxsize=8)
def heap_of(device: str) -> Heap:
    """Where forward passes of this process take their memory: its own heap, or what torch holds of a GPU.

    There it is the same: blocks that torch keeps serve tiles of one shape, and over tiles of many shapes they grow (at
    the faces of a volume of 27 blocks, on an H200, to three times what one tile takes).
    """
    import torch

    if device == "cpu":
        return HOST

    def empty_cache() -> bool:
        torch.cuda.empty_cache()
        return True

    return Heap(torch.cuda.memory_reserved, empty_cache)
