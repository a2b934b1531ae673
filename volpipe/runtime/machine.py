"""What a figure was measured on: written with every result, because a figure without its machine says nothing."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from volpipe.inference.device import instructions

PACKAGES = ("volpipe", "torch", "dask", "distributed", "zarr", "numcodecs", "numpy")


def machine() -> dict[str, Any]:
    """Processor and what torch uses of it, cores, memory, and the versions of what did the work."""
    return {
        "processor": _processor(),
        "instructions": instructions(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in PACKAGES},
        "date": datetime.date.today().isoformat(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Rows with the same columns as text, aligned: words left, numbers right; heads may have several lines."""
    columns = list(rows[0])
    deep = max(column.count("\n") for column in columns) + 1
    heads = [[""] * (deep - len(lines)) + lines for lines in (column.split("\n") for column in columns)]
    cells = [*zip(*heads, strict=True), *([_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    pads = [str.rjust if any(_is_number(row[column]) for row in rows) else str.ljust for column in columns]
    return "\n".join(
        "  ".join(pad(text, width) for pad, text, width in zip(pads, line, widths, strict=True)).rstrip()
        for line in cells
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    """Three digits of a number, and no exponent below a million."""
    if isinstance(value, float):
        return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
    return "-" if value is None else str(value)


def _memory_gib() -> float:
    from distributed.system import MEMORY_LIMIT  # of this process: cgroups and ulimits counted

    return round(int(MEMORY_LIMIT) / 2**30, 1)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
