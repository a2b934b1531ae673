"""The table of self-consistency, for a terminal of 140 columns: two lines for every gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from volpipe.runtime.machine import table

ANSWERS = {"first": "unshifted", "mean": "mean of all"}
NOTE = (
    "Error, voxels: of a cell's displacement, by the run on unshifted windows or by the mean of all runs. Spread, "
    "voxels: root of\nthe variance over the runs. Spearman: of spread and error over all cells, with its 95 % interval "
    "by block bootstrap (1: the\nspread orders the cells as their errors do; 0: it tells nothing). within: the mean of "
    "each pair's own; between: over the pairs'\nmeans."
)


def self_consistency_text(found: Sequence[Mapping[str, Any]]) -> str:
    """The lines of `summaries`, with what the columns mean."""
    return f"{table([_line(row) for row in found])}\n{NOTE}"


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "gap": row["gap"], "error of": ANSWERS[row["answer"]], "pairs": row["trials"], "cells": row["n"],
        "error\nmedian": row["error_median"], "error\np95": row["error_p95"], "spread\nmedian": row["spread_median"],
        "Spearman": marked(row["spearman"]), "95 %": interval(row),
        "within": marked(row["within"]), "between": marked(row["between"]),
    }  # fmt: skip


def marked(value: float | None) -> str:
    """A correlation, or a dash where there is none."""
    return "-" if value is None else f"{value:.2f}"


def interval(row: Mapping[str, Any]) -> str:
    """Of its Spearman correlation, or a dash."""
    low, high = row["spearman_low"], row["spearman_high"]
    return "-" if low is None else f"{low:.2f}..{high:.2f}"
