"""Keep a process whose heap is kept (runtime.allocator) within the memory that was promised for it.

A heap that is never given back serves the next forward pass without a page fault, but tensors of other sizes find
only some of its holes: over tiles of many shapes it grows to several times what is alive (from 0.7 to 2.0 GiB in a
job of eight blocks at the faces of a small volume). Giving it back once it is above a bound costs the faults of one
pass, and nothing in the interior of a volume, where all tiles have one shape.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache
from typing import Any

SHARE = 0.8  # of the promise: the rest is for what the next pass cannot place in the holes of the heap


def give_back_above(nbytes: int) -> bool:
    """Return free heap to the system if this process holds more than `nbytes`; True if it did."""
    trim = _malloc_trim()
    if trim is None or resident_bytes() <= nbytes:
        return False
    trim(0)
    return True


def resident_bytes() -> int:
    """What this process holds now; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as pages:
            return int(pages.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@lru_cache(maxsize=1)
def _malloc_trim() -> Any:
    """The function of glibc, or None."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
