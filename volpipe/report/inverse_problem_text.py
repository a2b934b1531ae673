"""The table of inverse problems, for a terminal of 140 columns: a line for every gap and score, the identity first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from volpipe.metrics.registration import ACCEPTED_FAILURES, ANGLE_WITHIN_RAD, SHIFT_WITHIN
from volpipe.runtime.machine import table

COLUMNS = {  # of `volpipe.jobs.inverse_problem_work.summaries` -> heads
    "y_mean": "|y|\nmean",
    "x_mean": "|x|\nmean",
    "shift_mean": "shift\nmean",
    "shift_median": "shift\nmedian",
    "shift_p95": "shift\np95",
    "angle_rad_mean": "angle\nmean",
    "angle_rad_median": "angle\nmedian",
    "angle_rad_p95": "angle\np95",
    "auroc": "AUROC",
    "kept": "kept",
    "cpu_s": "CPU-s\na pair",
}
NOTE = (
    f"Errors: |y|, |x| and the length of the shift in fractions of the width, angles in radians. Success: shift under "
    f"{SHIFT_WITHIN:g}\nand angle under {ANGLE_WITHIN_RAD:g}; its 95 % interval by block bootstrap. AUROC: of the "
    f"confidence against success; kept: share of\nthe successes kept where {ACCEPTED_FAILURES:.0%} of the failures is "
    "accepted."
)


def inverse_problem_text(found: Sequence[Mapping[str, Any]]) -> str:
    """The lines of `summaries`, with what the columns mean."""
    return f"{table([_line(row) for row in found])}\n{NOTE}"


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    interval = f"{row['success_low']:.3f}..{row['success_high']:.3f}"
    first = {"gap": row["gap"], "method": row["score"], "n": row["n"], "success": f"{row['success']:.3f}"}
    return first | {"95 %": interval} | {head: row[name] for name, head in COLUMNS.items()}
