"""What `volpipe evaluate inverse-problem` found: a table as text, and pictures.

results.json --report--> results.txt    a line for every gap and score, the identity first
                         quantiles.png  by gap: what share of the trials errs by less (shift, angle)
                         scatter.png    by gap: errors of one score against another's, trial by trial
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from volpipe.jobs.inverse_problem_work import Row, motion_of
from volpipe.metrics.registration import ANGLE_WITHIN_RAD, SHIFT_WITHIN, Errors, errors_of, identity_errors
from volpipe.report import evaluation
from volpipe.report.evaluation import png
from volpipe.report.inverse_problem_text import inverse_problem_text

COLOURS = ("#4477aa", "#cc6677", "#228833", "#aa7744", "#aa3377", "#88ccee", "#ccbb44")
IDENTITY_COLOUR = "0.6"
LEAST_SHIFT, LEAST_ANGLE_RAD = 1e-5, 1e-5  # what is smaller is drawn there
PANEL_IN = 3.2
MOST_PAIRS = 6  # of scores, set against each other


def report(place: str) -> tuple[str, list[str]]:
    """Write table and pictures beside results.json; see `evaluation.report`."""
    return evaluation.report(place, "inverse-problem", _told)


def _told(found: Mapping[str, Any]) -> tuple[str, dict[str, bytes]]:
    rows, width, title = found["rows"], found["settings"]["window"], found["settings"]["volume"]
    pictures = {"quantiles.png": png(quantiles_figure(rows, width, title=title))}
    if len({row["score"] for row in rows}) > 1:
        pictures["scatter.png"] = png(scatter_figure(rows, width, title=title))
    return inverse_problem_text(found["table"]), pictures


def errors_by(rows: Sequence[Row], width: float) -> dict[int, dict[str, Errors]]:
    """Of every gap and score, by trial in order; the identity's as "identity"."""
    found: dict[int, dict[str, Errors]] = {}
    for gap, score in dict.fromkeys((row["gap"], row["score"]) for row in rows):
        mine = sorted(
            (row for row in rows if (row["gap"], row["score"]) == (gap, score)), key=lambda row: int(row["number"])
        )
        truths = [motion_of(row["truth"]) for row in mine]
        of_gap = found.setdefault(gap, {"identity": identity_errors(truths, width)})
        of_gap[score] = errors_of([motion_of(row["estimate"]) for row in mine], truths, width)
    return found


# ---------------------------------------------------------------------- quantiles


def quantiles_figure(rows: Sequence[Row], width: float, *, title: str = "") -> Figure:
    """Two panels a gap, one above the other: shift and angle."""
    found = errors_by(rows, width)
    figure = Figure(figsize=(PANEL_IN * len(found) + 0.8, 2 * PANEL_IN + 0.6), layout="constrained")
    panels = figure.subplots(2, len(found), squeeze=False, sharey=True, sharex="row")
    named = (("shift, of the width", SHIFT_WITHIN), ("angle, rad", ANGLE_WITHIN_RAD))
    for column, (gap, errors) in enumerate(found.items()):
        panels[0, column].set_title(f"{gap} layer{'s' * (gap != 1)} lost", fontsize=10)
        for number, (name, one) in enumerate(errors.items()):
            colour = IDENTITY_COLOUR if name == "identity" else COLOURS[(number - 1) % len(COLOURS)]
            _draw_quantiles(panels[0, column], np.maximum(one.length, LEAST_SHIFT), name, colour)
            _draw_quantiles(panels[1, column], np.maximum(one.angle_rad, LEAST_ANGLE_RAD), name, colour)
        for panel, (what, within) in zip(panels[:, column], named, strict=True):
            panel.axvline(within, color="0.3", linewidth=0.8, linestyle=":")
            panel.set_xlabel(f"error in {what}", fontsize=9)
    for panel in panels[:, 0]:
        panel.set_ylabel("share of trials that err by less", fontsize=9)
    panels[0, 0].legend(fontsize=8, frameon=False, loc="best")
    figure.suptitle(f"{title}\ndotted: what a success needs", fontsize=10)
    return figure


def _draw_quantiles(panel: Axes, values: NDArray[Any], name: str, colour: str) -> None:
    share = np.arange(1, len(values) + 1) / len(values)
    panel.step(np.sort(values), share, where="post", label=name, color=colour, linewidth=1.4)
    panel.set_xscale("log")
    panel.set_ylim(0, 1.02)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.25, linewidth=0.5)


# ---------------------------------------------------------------------- scatter


def scatter_figure(rows: Sequence[Row], width: float, *, title: str = "") -> Figure:
    """A row of panels for each pair of scores, a panel a gap; needs two scores."""
    found = errors_by(rows, width)
    names = [name for name in next(iter(found.values())) if name != "identity"]
    pairs = list(itertools.combinations(names, 2))[:MOST_PAIRS]
    figure = Figure(figsize=(PANEL_IN * len(found) + 0.8, PANEL_IN * len(pairs) + 0.7), layout="constrained")
    panels = figure.subplots(len(pairs), len(found), squeeze=False, sharex=True, sharey=True)
    for line, (one, other) in zip(panels, pairs, strict=True):
        for panel, (gap, errors) in zip(line, found.items(), strict=True):
            _draw_scatter(panel, errors[one], errors[other])
            panel.set_title(f"{gap} layer{'s' * (gap != 1)} lost", fontsize=10)
            panel.set_xlabel(one, fontsize=9)
        line[0].set_ylabel(other, fontsize=9)
    figure.suptitle(
        f"{title}\nerror in shift, of the width; below the diagonal the score named at the left errs less\n"
        "right: within the dotted lines, and in angle too",
        fontsize=10,
    )
    return figure


def _draw_scatter(panel: Axes, one: Errors, other: Errors) -> None:
    x, y = (np.maximum(errors.length, LEAST_SHIFT) for errors in (one, other))
    for both, colour, label in (
        (one.success & other.success, "#228833", "both right"),
        (one.success ^ other.success, "#ccbb44", "one right"),
        (~one.success & ~other.success, "#cc6677", "none right"),
    ):
        panel.scatter(x[both], y[both], s=9, color=colour, alpha=0.7, linewidths=0, label=f"{label} {both.sum()}")
    ends = (LEAST_SHIFT, 1.0)
    panel.plot(ends, ends, color="0.5", linewidth=0.7)
    for line in (panel.axvline, panel.axhline):
        line(SHIFT_WITHIN, color="0.3", linewidth=0.8, linestyle=":")
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlim(*ends)
    panel.set_ylim(*ends)
    panel.set_aspect("equal")
    panel.legend(fontsize=7, frameon=False, loc="upper left")
    panel.tick_params(labelsize=8)
