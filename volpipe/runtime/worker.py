"""What runs inside a worker: a batch of items, each ending in a receipt or a failure, never in an exception.

A failure says whether trying again may help: a `VolpipeError` is the same every time, a `WriteError` (a full disk)
would be the same for every block.
"""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from volpipe.errors import VolpipeError, WriteError, named
from volpipe.inference.device import peak_device_bytes
from volpipe.plan import Receipt, TaskName, Work


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that was not done.

    Attributes:
        text: one line for the user.
        detail: the traceback.
        retry: trying again may help.
        fatal: every other block would fail alike.
        died: it took its worker along.
    """

    name: TaskName
    text: str
    detail: str = ""
    retry: bool = True
    fatal: bool = False
    died: bool = False


Outcome = Receipt | Failure


def do_batch(work_name: str, work: Work, items: Sequence[int]) -> list[Outcome]:
    """Do items one after the other."""
    return [_do(work_name, work, item) for item in items]


def do_pickled_batch(work_name: str, pickled: bytes, items: Sequence[int]) -> list[Outcome]:
    """Do items of a work that arrives as bytes.

    Unpickled here and not by Dask: there a worker that lacks a module drops its connection, and the run hangs.
    """
    try:
        work = _unpickled(pickled)
    except Exception as error:
        text = f"worker {_name()} cannot load {work_name}: {named(error)}; install the same software there"
        return [Failure((work_name, item), text, traceback.format_exc(), retry=False) for item in items]
    return do_batch(work_name, work, items)


@lru_cache(maxsize=8)
def _unpickled(pickled: bytes) -> Work:
    work: Work = pickle.loads(pickled)  # from our own driver, over Dask's connection
    return work


def _do(work_name: str, work: Work, item: int) -> Outcome:
    try:
        receipt = work(item)
    except VolpipeError as error:
        detail = traceback.format_exc()
        return Failure((work_name, item), str(error), detail, retry=False, fatal=isinstance(error, WriteError))
    except Exception as error:  # whatever a user's network or a store raises: the other blocks go on
        return Failure((work_name, item), f"{work_name} {item}: {named(error)}", traceback.format_exc())
    return signed(receipt)


def signed(receipt: Receipt) -> Receipt:
    """The receipt with the name and the largest memory of this process."""
    peak, on_gpu = peak_resident_bytes(), peak_device_bytes()
    return replace(receipt, peak_bytes=peak, device_peak_bytes=on_gpu, worker=_name())


def _name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def peak_resident_bytes() -> int:
    """The largest resident memory of this process so far (0 where the system does not tell).

    Not `ru_maxrss`: a child inherits its parent's through fork and exec.
    """
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0
