"""What `volpipe bench` measured, as text for a terminal of 140 columns.

NETWORK
  stitching, assembly  engine  precision  rate  seconds of all slots  memory  audit      one line a case

network, stitching, ...  forward  copy  read  write                                      the limits of this machine
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from volpipe.runtime.machine import table

Row = Mapping[str, Any]

COLUMNS = {  # of `volpipe.runtime.bench.bench` -> heads of one or two lines
    "stitching": "stitching",
    "assembly": "assembly",
    "engine": "engine",
    "precision": "preci-\nsion",
    "Mvoxel/s": "Mvoxel\n/s",
    "of the network alone": "of net\nalone",
    "CPU-s": "CPU\ns",
    "read s": "read\ns",
    "compute s": "compute\ns",
    "write s": "write\ns",
    "useful": "use-\nful",
    "promised MiB": "promise\nMiB",
    "peak MiB": "peak\nMiB",
    "GPU promised MiB": "GPU pro-\nmise MiB",
    "GPU peak MiB": "GPU peak\nMiB",
    "audit": "audit",
    "exact": "exact",
}
HOST_MEMORY, GPU_MEMORY = ("promised MiB", "peak MiB"), ("GPU promised MiB", "GPU peak MiB")  # one of them is shown
LIMITS: dict[str, tuple[str, float]] = {  # heads, and what one of their unit is
    "forward": ("forward\nMvoxel/s", 1e6),
    "copy": ("copy\nMB/s", 1e6),
    "read": ("read\nMB/s", 1e6),
    "write": ("write\nMB/s", 1e6),
}
NOTE = (
    "of net alone: rate over that of the network on the same tiles. Seconds are added over all slots; useful: share "
    "of FLOPs.\nAudit: largest difference, in the unit of what is stored."
)


def bench_text(found: Mapping[str, Any]) -> str:
    """Both tables, from what `bench` returns."""
    rows = found["rows"]
    gpu = any(row["GPU promised MiB"] for row in rows)
    left_out = HOST_MEMORY if gpu else GPU_MEMORY
    heads = {name: head for name, head in COLUMNS.items() if name not in left_out}
    cases = _by_network(rows, lambda row: {head: row[name] for name, head in heads.items()})
    limits = _by_network(found["limits"], _limits)
    return f"{cases}\n{NOTE}\n\nlimits of this machine, all slots together\n{limits}"


def _limits(row: Row) -> dict[str, Any]:
    named = {COLUMNS[name]: row[name] for name in ("stitching", "assembly", "precision")}
    return named | {head: row[name] / unit for name, (head, unit) in LIMITS.items()}


def _by_network(rows: Sequence[Row], columns: Callable[[Row], dict[str, Any]]) -> str:
    """One table, the name of a network above its lines: it may be a long path."""
    lines = table([columns(row) for row in rows]).splitlines()
    body = lines[len(lines) - len(rows) :]
    text = [f"  {line}" for line in lines[: len(lines) - len(rows)]]
    for number, (row, line) in enumerate(zip(rows, body, strict=True)):
        if number == 0 or rows[number - 1]["network"] != row["network"]:
            text.append(row["network"])
        text.append(f"  {line}")
    return "\n".join(text)
