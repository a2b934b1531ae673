"""What `volpipe bench` measured, as bars: how quick each stitching mode is, and what its time goes to.

    left    million voxels a second; the tick is the network alone on the same tiles
    right   seconds of all slots for a million voxels: read, compute, write (one colour where the engine does not tell)

One row of bars for a network, stitching and assembly; the bars in it are engine and precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

Row = Mapping[str, Any]

COLOURS = ("#4477aa", "#88ccee", "#cc6677", "#eeaabb", "#228833", "#aadd99", "#aa7744", "#ddccaa")
PHASES = {"read s": "#88ccee", "compute s": "#4477aa", "write s": "#cc6677"}
UNTOLD = "0.7"  # of time that an engine does not divide into phases
BAR_IN, GAP = 0.16, 1.0  # inches of a bar, bars between groups


def throughput(path: str | Path, rows: Sequence[Row], *, title: str = "", dpi: int = 120) -> None:
    """Draw `throughput_figure` and write it; an existing file is replaced."""
    throughput_figure(rows, title=title).savefig(path, dpi=dpi)


def throughput_figure(rows: Sequence[Row], *, title: str = "") -> Figure:
    """The rows of `volpipe.runtime.bench.bench` as two panels of bars."""
    kinds = list(dict.fromkeys((row["engine"], row["precision"]) for row in rows))
    groups = list(dict.fromkeys(_group(row) for row in rows))
    places = _places(rows, groups)
    figure = Figure(figsize=(11, 1.6 + BAR_IN * (len(rows) + GAP * len(groups))), layout="constrained")
    rate, seconds = figure.subplots(1, 2, sharey=True)
    _draw_rates(rate, rows, places, kinds)
    _draw_seconds(seconds, rows, places)
    _name_groups(rate, groups, rows, places)
    figure.suptitle(title, fontsize=10)
    return figure


def _group(row: Row) -> str:
    return f"{row['network']}\n{row['stitching']}, {row['assembly']}"


def _places(rows: Sequence[Row], groups: Sequence[str]) -> list[float]:
    """Where each row's bar stands, groups from the top."""
    found, at = {}, 0.0
    for group in groups:
        for number, row in enumerate(rows):
            if _group(row) == group:
                found[number] = at
                at += 1
        at += GAP
    return [found[number] for number in range(len(rows))]


def _draw_rates(axis: Axes, rows: Sequence[Row], places: Sequence[float], kinds: Sequence[tuple[str, str]]) -> None:
    colours = {kind: COLOURS[i % len(COLOURS)] for i, kind in enumerate(kinds)}
    for row, place in zip(rows, places, strict=True):
        axis.barh(place, row["Mvoxel/s"], height=0.9, color=colours[row["engine"], row["precision"]])
        alone = row["Mvoxel/s"] / row["of the network alone"]
        axis.plot([alone, alone], [place - 0.45, place + 0.45], color="black", linewidth=1.2)
    entries: list[Any] = [Patch(color=colour, label=", ".join(kind)) for kind, colour in colours.items()]
    entries.append(Line2D([], [], color="black", linewidth=1.2, label="network alone, same tiles"))
    axis.legend(handles=entries, fontsize=7, frameon=False, loc="lower right")
    axis.set_xlabel("million voxels of product per second")
    axis.set_xlim(left=0)


def _draw_seconds(axis: Axes, rows: Sequence[Row], places: Sequence[float]) -> None:
    for row, place in zip(rows, places, strict=True):
        left = 0.0
        voxels = row["Mvoxel/s"] * row["wall s"]
        told = all(row[phase] is not None for phase in PHASES)
        parts = [(row[p], colour) for p, colour in PHASES.items()] if told else [(row["wall s"] * row["slots"], UNTOLD)]
        for value, colour in parts:
            axis.barh(place, value / voxels, left=left, height=0.9, color=colour)
            left += value / voxels
    entries = [Patch(color=colour, label=phase.removesuffix(" s")) for phase, colour in PHASES.items()]
    axis.legend(handles=[*entries, Patch(color=UNTOLD, label="not told apart")], fontsize=7, frameon=False)
    axis.set_xlabel("seconds of a slot per million voxels")
    axis.set_xlim(left=0)


def _name_groups(axis: Axes, groups: Sequence[str], rows: Sequence[Row], places: Sequence[float]) -> None:
    middles = []
    for group in groups:
        there = [place for row, place in zip(rows, places, strict=True) if _group(row) == group]
        middles.append((there[0] + there[-1]) / 2)
    axis.set_yticks(middles, groups, fontsize=8)
    axis.invert_yaxis()
