"""Every error that volpipe raises on purpose; one line each: what was given, what is needed, what to do.

VolpipeError
├── UsageError           exit 2   what was given cannot be run; nothing was written
│   ├── ConfigError               an option or a pipeline file
│   ├── VolumeError               a volume that is missing, unreadable, or does not fit the job
│   ├── ModelError                a model that cannot be loaded, trusted or applied
│   ├── GeometryError             a box, block, tile or halo
│   ├── BudgetError               a block that does not fit into a worker's memory
│   └── ProductError              an output that exists, lies inside the input, or was made from something else
└── RunError             exit 1   something failed after writing had begun
    ├── ReadError                 a chunk that cannot be read or decoded, or holds NaN
    ├── WriteError                a disk that is full, a store that refuses
    └── BlocksFailed     exit 3   some blocks were set aside; the rest is done, the same command does what is missing
"""

from __future__ import annotations

import re
import traceback
from pathlib import Path

TORCHSCRIPT_FAILED = "The following operation failed in the TorchScript interpreter"
LONGEST = 300  # characters of a line; some libraries put a whole document into one
RAISED = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception): (.+)")


def reason(error: BaseException) -> str:
    """The one line of another library's error that says what happened; where it says nothing, its type and the code.

    The first line, as torch's messages run on for pages; but TorchScript tells first where in the network it was.
    """
    line = _telling([line.strip() for line in str(error).splitlines() if line.strip()]) or _where(error)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."


def _telling(lines: list[str]) -> str:
    if not lines or not lines[0].startswith(TORCHSCRIPT_FAILED):
        return lines[0] if lines else ""
    raised = (match[1] for line in lines if (match := RAISED.match(line)))
    return next(raised, lines[-1])


def _where(error: BaseException) -> str:
    """`AssertionError at network.py:12: assert x.min() >= 0`, as far as it was raised and the code is at hand."""
    kind, frames = type(error).__name__, traceback.extract_tb(error.__traceback__)
    if not frames or not frames[-1].line:
        return kind
    return f"{kind} at {Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}"


def named(error: BaseException) -> str:
    """`ValueError: what it says`, or as `reason` where it says nothing."""
    kind, why = type(error).__name__, reason(error)
    return why if why.startswith(kind) else f"{kind}: {why}"


class VolpipeError(Exception):
    """Base of all errors raised on purpose; `exit_code` is the command's exit status."""

    exit_code = 1


class UsageError(VolpipeError):
    """What was given cannot be run; nothing was written."""

    exit_code = 2


class ConfigError(UsageError):
    """An option or a pipeline file is wrong."""


class VolumeError(UsageError):
    """A volume is missing, unreadable, or does not fit the job."""


class ModelError(UsageError):
    """A model cannot be loaded, trusted or applied."""


class GeometryError(UsageError):
    """A box, block, tile or halo is wrong."""


class BudgetError(UsageError):
    """A block does not fit into a worker's memory."""


class ProductError(UsageError):
    """An output exists, lies inside the input, or was made from something else."""


class RunError(VolpipeError):
    """Something failed after writing had begun.

    Attributes:
        detail: tracebacks of the blocks that failed, from where they ran.
    """

    def __init__(self, text: str = "", detail: str = "") -> None:
        super().__init__(text)
        self.detail = detail


class ReadError(RunError):
    """A chunk cannot be read or decoded, or holds NaN."""


class WriteError(RunError):
    """The disk is full, or the store refuses a write."""


class BlocksFailed(RunError):
    """Some blocks were set aside; the same command does what is missing."""

    exit_code = 3
