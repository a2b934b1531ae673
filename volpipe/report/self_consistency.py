"""What `volpipe evaluate self-consistency` found: a table as text, and pictures.

results.json --report--> results.txt   two lines for every gap
                         scatter.png   by gap: spread over the runs against the true error, cell by cell
                         maps.png      by gap, of a pair of slabs whose error is the median: spread and error, where
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from volpipe.jobs.self_consistency_work import Row, measured
from volpipe.report import evaluation
from volpipe.report.evaluation import png
from volpipe.report.inverse_problem import COLOURS
from volpipe.report.self_consistency_text import interval, marked, self_consistency_text

LEAST = 1e-2  # voxels: what is smaller is drawn there
PANEL_IN = 3.2
LETTERS = 12  # to an inch, of a title


def report(place: str) -> tuple[str, list[str]]:
    """Write table and pictures beside results.json; see `evaluation.report`."""
    return evaluation.report(place, "self-consistency", _told)


def _told(found: Mapping[str, Any]) -> tuple[str, dict[str, bytes]]:
    pictures = {"scatter.png": png(scatter_figure(found)), "maps.png": png(maps_figure(found))}
    return self_consistency_text(found["table"]), pictures


def by_gap(found: Mapping[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """What was measured of every trial, in their order."""
    rows: Sequence[Row] = found["rows"]
    gaps = dict.fromkeys(row["gap"] for row in rows)
    return {gap: [measured(row, found["cells_vox"]) for row in rows if row["gap"] == gap] for gap in gaps}


def _said(gap: int) -> str:
    return f"{gap} layer{'s' * (gap != 1)} lost"


# ---------------------------------------------------------------------- scatter


def scatter_figure(found: Mapping[str, Any]) -> Figure:
    """A panel a gap, a point a cell, its colour the pair of slabs; beside several gaps one of all, by gap."""
    each = by_gap(found)
    lines = {row["gap"]: row for row in found["table"] if row["answer"] == "first"}
    figure = Figure(figsize=(PANEL_IN * len(lines) + 0.8, PANEL_IN + 1.2), layout="constrained")
    panels = figure.subplots(1, len(lines), squeeze=False, sharex=True, sharey=True)[0]
    for panel, (gap, line) in zip(panels, lines.items(), strict=True):
        if gap in each:
            _dots(panel, each[gap], cmap="tab20", c=np.repeat(np.arange(len(each[gap])), line["n"] // len(each[gap])))
        else:
            for colour, (one, trials) in zip(itertools.cycle(COLOURS), each.items(), strict=False):
                _dots(panel, trials, color=colour, label=_said(one))
            panel.legend(fontsize=7, frameon=False, loc="upper left")
        told = f"Spearman {marked(line['spearman'])}, 95 %: {interval(line)}"
        panel.set_title(f"{_said(gap) if gap in each else 'all gaps together'}\n{told}", fontsize=10)
        panel.set_xlabel("spread over the runs, voxels", fontsize=9)
    panels[0].set_ylabel("error of the unshifted run, voxels", fontsize=9)
    most = max(float(one[name].max()) for trials in each.values() for one in trials for name in ("spread", "first"))
    for panel in panels:
        _set_axes(panel, 1.5 * max(most, 2 * LEAST))
    said = "a point is a cell, of one gap a colour is a pair of slabs; on the line the spread is as large as the error"
    _titled(figure, found, said)
    return figure


def _titled(figure: Figure, found: Mapping[str, Any], said: str) -> None:
    """Within the figure's width, which goes with the number of gaps."""
    lines = textwrap.fill(said, int(LETTERS * figure.get_figwidth()))
    figure.suptitle(f"{found['settings']['volume']}\n{lines}", fontsize=10)


def _dots(panel: Axes, trials: Sequence[Mapping[str, NDArray[Any]]], **look: Any) -> None:
    spread, error = (np.maximum(np.concatenate([one[name] for one in trials]), LEAST) for name in ("spread", "first"))
    panel.scatter(spread, error, s=7, alpha=0.7, linewidths=0, **look)


def _set_axes(panel: Axes, top: float) -> None:
    panel.plot((LEAST, top), (LEAST, top), color="0.5", linewidth=0.7)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlim(0.8 * LEAST, top)
    panel.set_ylim(0.8 * LEAST, top)
    panel.set_aspect("equal")
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.25, linewidth=0.5)


# ---------------------------------------------------------------------- maps


def maps_figure(found: Mapping[str, Any]) -> Figure:
    """A column a gap, spread above error, of the pair of slabs whose mean error is the median; one scale a column."""
    each = by_gap(found)
    side = round(len(found["cells_vox"]) ** 0.5)
    figure = Figure(figsize=(PANEL_IN * len(each) + 0.8, 2 * PANEL_IN + 0.6), layout="constrained")
    panels = figure.subplots(2, len(each), squeeze=False)
    for column, (gap, trials) in enumerate(each.items()):
        middle = median_trial(trials)
        chosen = trials[middle]
        top = max(float(chosen[name].max()) for name in ("spread", "first"))
        for panel, name in zip(panels[:, column], ("spread", "first"), strict=True):
            image = panel.imshow(chosen[name].reshape(side, side), vmin=0, vmax=top, cmap="viridis")
            panel.set_xticks([])
            panel.set_yticks([])
        figure.colorbar(image, ax=list(panels[:, column]), location="bottom", shrink=0.8, label="voxels")
        panels[0, column].set_title(f"{_said(gap)}, pair {middle}", fontsize=10)
    for panel, name in zip(panels[:, 0], ("spread over the runs", "error of the unshifted run"), strict=True):
        panel.set_ylabel(name, fontsize=9)
    shown = "of each gap the pair of slabs whose mean error is the median"
    _titled(figure, found, f"{shown}; a square is a cell; both maps of a gap have one scale")
    return figure


def median_trial(trials: Sequence[Mapping[str, NDArray[Any]]]) -> int:
    """The number of the trial whose mean error is the (lower) median."""
    order = np.argsort([one["first"].mean() for one in trials], kind="stable")
    return int(order[(len(order) - 1) // 2])
