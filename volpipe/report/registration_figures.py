"""Pictures of a registered stack: drift, seams, a cut, and how a slab is bent; of numbers and planes in hand.

Convention: (y, x), micrometres, row 0 on top. What nothing is known of has one colour, UNKNOWN, which no image or map
has. Blue and rose, marks of two shapes, cividis and grey: to be told apart by any eye. Drawn without pyplot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from volpipe.registration.field import Field
from volpipe.report.pictures import round_length

Plane = NDArray[np.float32]

UNKNOWN = "#cfe3f5"
BRIDGED = "#f3e2b3"
BLUE, ROSE, FAINT = "#4477aa", "#cc6677", "0.7"
BOARDS = 5  # in a row of a sheet
SQUARES = 8  # along the shorter side of a checkerboard
ARROWS = 20  # along the longer side of a field
DARKEST, BRIGHTEST = 1.0, 99.5  # percentiles of a face that are black and white


@dataclass(frozen=True)
class Stack:
    """What `drift_figure` shows.

    Attributes:
        angles_rad, shifts_um: of the poses, (slabs,) and (slabs, 2); beyond the slabs' starts, if `from_starts`.
        bridged, missing: numbers of slabs; what is missing is bridged too.
        weights: of every pair (upper, lower), 0 where it was not trusted.
        moved_um: of slabs that have a field, the mean and the largest length of its displacement.
    """

    angles_rad: Sequence[float]
    shifts_um: Sequence[tuple[float, float]]
    bridged: Sequence[int]
    missing: Sequence[int]
    weights: Mapping[tuple[int, int], float]
    moved_um: Mapping[int, tuple[float, float]]
    from_starts: bool = False


# ---------------------------------------------------------------------- drift


def drift_figure(stack: Stack) -> Figure:
    """Poses, weights of pairs, and sizes of fields, by slab."""
    rows = 4 if stack.moved_um else 3
    figure = Figure(figsize=(10, 2.1 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, 1, sharex=True)
    slabs = np.arange(len(stack.angles_rad))
    y, x = np.asarray(stack.shifts_um, float).T
    _draw_line(panels[0], slabs, y, BLUE, "o", "y (down)")
    _draw_line(panels[0], slabs, x, ROSE, "s", "x (right)")
    _draw_line(panels[1], slabs, 1e3 * np.asarray(stack.angles_rad), BLUE, "o", "")
    _draw_weights(panels[2], stack.weights)
    if stack.moved_um:
        none = (np.nan, np.nan)  # a line that goes on would say that there is a field
        mean, most = np.transpose([stack.moved_um.get(slab, none) for slab in slabs.tolist()])
        _draw_line(panels[3], slabs, mean, BLUE, "o", "mean")
        _draw_line(panels[3], slabs, most, ROSE, "s", "largest")
        panels[3].set_ylim(bottom=0)
    whose = "from its start" if stack.from_starts else "of the pose"
    names = (f"shift {whose}, µm", f"angle {whose}, mrad", "weight of pairs", "bend by the field, µm")
    for panel, name in zip(panels, names, strict=False):
        panel.set_ylabel(name, fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25, linewidth=0.5)
        _shade(panel, stack)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    panels[-1].set_xlabel("slab, from above (pairs stand between their two slabs)", fontsize=9)
    panels[-1].set_xlim(-0.7, len(slabs) - 0.3)
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    shades = [Patch(color=BRIDGED, label="bridged: a pose between its neighbours'")] if stack.bridged else []
    shades += [Patch(facecolor=BRIDGED, hatch="////", edgecolor="0.55", label="missing")] if stack.missing else []
    if shades:
        figure.legend(handles=shades, loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure


def _draw_line(panel: Axes, at: Any, values: Any, colour: str, mark: Any, label: str) -> None:
    panel.plot(at, values, color=colour, marker=mark, markersize=3.5, linewidth=1, label=label or None)


def _draw_weights(panel: Axes, weights: Mapping[tuple[int, int], float]) -> None:
    kinds = ((1, "o", BLUE, "neighbours"), (2, "D", ROSE, "2 apart"), (3, "^", "0.45", "3 apart"))
    for apart, mark, colour, label in kinds:
        found = [((a + b) / 2, weight) for (a, b), weight in weights.items() if b - a == apart]
        if found:
            at, values = zip(*found, strict=True)
            size = 18 if apart == 1 else 9
            panel.scatter(at, values, marker=mark, s=size, color=colour, label=label, zorder=4 - apart, clip_on=False)
    panel.set_ylim(-0.04, 1.04)


def _shade(panel: Axes, stack: Stack) -> None:
    for slab in stack.bridged:
        hatch: dict[str, Any] = {"hatch": "////", "edgecolor": "0.55"} if slab in stack.missing else {}
        panel.axvspan(slab - 0.5, slab + 0.5, facecolor=BRIDGED, linewidth=0, zorder=0, **hatch)


# ---------------------------------------------------------------------- seams


@dataclass(frozen=True, eq=False)
class Seam:
    """Two faces, before and after.

    Attributes:
        title: which, and why it is shown.
        before, after: (upper, lower), planes of one shape, NaN where nothing is known.
        pixel_um: (y, x).
    """

    title: str
    before: tuple[Plane, Plane]
    after: tuple[Plane, Plane]
    pixel_um: tuple[float, float]


def seams_figure(seams: Sequence[Seam]) -> Figure:
    """A row for each seam: checkerboards before and after."""
    rows, columns = seams[0].before[0].shape
    (y, x), width = seams[0].pixel_um, 4.6
    height = width * rows * y / (columns * x)
    figure = Figure(figsize=(2 * width + 0.3, (0.94 * height + 0.3) * len(seams) + 0.6), layout="compressed")
    panels = figure.subplots(len(seams), 2, squeeze=False)
    for seam, line in zip(seams, panels, strict=True):
        scales = [_scale(face) for face in seam.before]
        for panel, faces, when in zip(line, (seam.before, seam.after), ("before", "after"), strict=True):
            board = checkerboard(*(_grey(face, scale) for face, scale in zip(faces, scales, strict=True)))
            _show(panel, board, seam.pixel_um)
            panel.set_title(f"{seam.title}: {when}", fontsize=9)
            panel.label_outer()
        line[0].set_ylabel("y, µm", fontsize=8)
    for panel in panels[-1]:
        panel.set_xlabel("x from the slab's centre, µm", fontsize=8)
    _say_unknown(figure)
    return figure


@dataclass(frozen=True, eq=False)
class Board:
    """One checkerboard.

    Attributes:
        title: whose.
        plane: 0 to 1, NaN where nothing is known.
        pixel_um: (y, x).
        marked: its title stands out.
    """

    title: str
    plane: Plane
    pixel_um: tuple[float, float]
    marked: bool


def board(faces: tuple[Plane, Plane]) -> Plane:
    """A checkerboard of two faces, each in greys of its own."""
    return checkerboard(*(_grey(face, _scale(face)) for face in faces))


def sheet_figure(boards: Sequence[Board], text: str) -> Figure:
    """Many checkerboards, and what is to be seen in them."""
    columns, width = min(len(boards), BOARDS), 11.5 / BOARDS
    rows = -(-len(boards) // columns)
    down, across = np.max([np.multiply(each.plane.shape, each.pixel_um) for each in boards], axis=0)
    height = width * min(down / across, 2.0) + 0.25
    figure = Figure(figsize=(max(width * columns, 5.0), rows * height + 1.0), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, each in zip(panels, boards, strict=False):
        _show(panel, each.plane, each.pixel_um)
        mark: dict[str, Any] = {"color": ROSE, "fontweight": "bold"} if each.marked else {}
        panel.set_title(each.title, fontsize=8, **mark)
        panel.tick_params(labelsize=6)
        panel.xaxis.set_major_locator(MaxNLocator(3))
    for panel in panels[len(boards) :]:
        panel.set_axis_off()
    panels[0].set_ylabel("y, µm", fontsize=8)
    panels[0].set_xlabel("x from the slab's centre, µm", fontsize=8)
    figure.suptitle(text, fontsize=8)
    _say_unknown(figure)
    return figure


def checkerboard(upper: Plane, lower: Plane) -> Plane:
    """Squares of the one and the other by turns, the upper one's first; NaN where its plane has NaN."""
    side = max(1, -(-min(upper.shape) // SQUARES))
    row, column = (np.arange(n) // side for n in upper.shape)
    return np.where((row[:, None] + column) % 2 == 0, upper, lower)


def _scale(plane: Plane) -> tuple[float, float]:
    known = plane[np.isfinite(plane)]
    if not known.size:
        return 0.0, 1.0
    low, high = np.percentile(known, (DARKEST, BRIGHTEST))
    return float(low), float(max(high, low + 1e-9))


def _grey(plane: Plane, scale: tuple[float, float]) -> Plane:
    """0 is black, 1 white: slabs were imaged with gains of their own."""
    return ((plane - scale[0]) / (scale[1] - scale[0])).clip(0, 1)


def _show(panel: Axes, plane: Plane, pixel_um: tuple[float, float]) -> None:
    panel.set_facecolor(UNKNOWN)
    down, across = (n * size / 2 for n, size in zip(plane.shape, pixel_um, strict=True))
    extent = (-across, across, down, -down)
    panel.imshow(plane, cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=extent)
    panel.tick_params(labelsize=7)


def _say_unknown(figure: Figure) -> None:
    patch = Patch(facecolor=UNKNOWN, edgecolor="0.6", linewidth=0.5, label="nothing is known here")
    figure.legend(handles=[patch], loc="outside lower center", fontsize=8, frameon=False)


# ---------------------------------------------------------------------- a cut


@dataclass(frozen=True, eq=False)
class Cut:
    """A cut through the stack, before and after.

    Attributes:
        before, after: (layers, columns), NaN where nothing is known.
        tops: the first row of each slab in them, with fractions.
        pixel_um: (z, x).
        left_um: where the first column begins.
        bridged: numbers of slabs.
    """

    before: Plane
    after: Plane
    tops: Sequence[float]
    pixel_um: tuple[float, float]
    left_um: float
    bridged: Sequence[int]


def cut_figure(cut: Cut) -> Figure:
    """The stack from the side, x to the right and depth downwards; a stack that is wide before above after."""
    rows, columns = cut.before.shape
    tall, wide = rows * cut.pixel_um[0], columns * cut.pixel_um[1]
    grid = (2, 1) if tall < wide else (1, 2)
    height = float(np.clip(10.5 / grid[1] * tall / wide, 1.5, 9.0))  # a very flat stack is drawn deeper than it is
    figure = Figure(figsize=(11.5, grid[0] * (height + 0.4) + 0.6), layout="constrained")
    both = np.concatenate([cut.before, cut.after], axis=1)
    scales = [_scale(part) for part in np.split(both, _first_rows(cut)[1:])]
    panels = figure.subplots(*grid, sharex=True, sharey=True)
    for panel, plane, when in zip(panels, (cut.before, cut.after), WHEN, strict=True):
        parts = np.split(plane, _first_rows(cut)[1:])
        grey = np.concatenate([_grey(part, scale) for part, scale in zip(parts, scales, strict=True)])
        panel.set_facecolor(UNKNOWN)
        extent = (cut.left_um, cut.left_um + wide, tall, 0.0)
        panel.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto", extent=extent)
        panel.set_title(when, fontsize=10)
        panel.set_xlabel("x, µm", fontsize=9)
        panel.set_ylabel("depth, µm", fontsize=9)
        panel.tick_params(labelsize=8)
        panel.label_outer()
        for slab in cut.bridged:
            top = cut.tops[slab] * cut.pixel_um[0]
            where: Any = ("axes fraction", "data")
            panel.annotate(f"{slab}", (1.0, top), (3, 0), where, "offset points", fontsize=7, va="top")
    _say_unknown(figure)
    return figure


WHEN = ("before: each slab as it lies, the right way up", "after: as registered")


def _first_rows(cut: Cut) -> NDArray[np.intp]:
    return np.asarray(np.ceil(cut.tops), np.intp)


# ---------------------------------------------------------------------- fields


def field_figure(slab: int, field: Field, outline_um: NDArray[np.float64]) -> Figure:
    """Where the tissue of one slab goes beyond its pose, and how far that is believed.

    Args:
        slab: its number.
        field: its field.
        outline_um: corners of the slab as its pose places it, (4, 2) by rows.
    """
    raster = field.raster
    (rows, columns), (y, x) = raster.shape, raster.spacing_um
    (top, left), width = raster.origin_um, 4.8
    height = float(np.clip(width * rows * y / (columns * x), 1.5, 9))
    figure = Figure(figsize=(2 * width + 1.6, height + 0.8), layout="constrained")
    arrows, map_ = figure.subplots(1, 2)
    _draw_arrows(arrows, field)
    extent = (left - x / 2, left + (columns - 0.5) * x, top + (rows - 0.5) * y, top - y / 2)
    believed = np.ma.masked_equal(field.confidence, 0)
    map_.set_facecolor(UNKNOWN)
    image = map_.imshow(believed, cmap="cividis", vmin=0, vmax=1, extent=extent, interpolation="nearest")
    map_.set_title(f"slab {slab}: confidence of the field", fontsize=9)
    figure.colorbar(image, ax=map_, shrink=0.8).set_label("confidence", fontsize=8)
    around = outline_um[[0, 1, 3, 2, 0]]
    for panel in (arrows, map_):
        panel.plot(around[:, 1], around[:, 0], color=ROSE, linewidth=1.2)
        panel.set_xlim(extent[0], extent[1])
        panel.set_ylim(extent[2], extent[3])
        panel.set_aspect("equal")
        panel.set_xlabel("x, µm", fontsize=9)
        panel.set_ylabel("y, µm", fontsize=9)
        panel.tick_params(labelsize=8)
    patch = Patch(facecolor=UNKNOWN, edgecolor="0.6", linewidth=0.5, label="no trusted node")
    faint = Line2D([], [], color=FAINT, linewidth=2, label="arrow where none is: carried on from those around")
    edge = Line2D([], [], color=ROSE, linewidth=1.2, label="edge of the slab, by its pose")
    figure.legend(handles=[patch, faint, edge], loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _draw_arrows(panel: Axes, field: Field) -> None:
    """From where the pose puts the tissue to where the field does, magnified until the longest meet the next."""
    rows, columns = field.confidence.shape
    every = -(-max(rows, columns) // ARROWS)
    part = (slice(every // 2, None, every),) * 2
    points = field.raster.points(field.raster.box)[part]
    moved = -np.moveaxis(field.displacement, 0, -1)[part].astype(float)
    length = np.linalg.norm(moved, axis=-1)
    times = round_length(1.2 * every * min(field.spacing_um) / max(float(length.max()), 1e-12))
    colour = np.where(field.confidence[part] == 0, FAINT, "black")
    panel.quiver(
        points[..., 1], points[..., 0], moved[..., 1] * times, moved[..., 0] * times,
        color=colour.ravel().tolist(), angles="xy", scale_units="xy", scale=1, pivot="tail", width=0.004,
    )  # fmt: skip
    panel.set_title(f"where tissue goes beyond the pose; arrows × {times:g}, longest {length.max():.3g} µm", fontsize=9)
