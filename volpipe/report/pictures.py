"""One plane of a volume, what each stitching mode made of it, and how far that is from whole-volume inference.

    input          | output of mode 1           | output of mode 2          ...
    whole-volume   | |mode 1 - whole-volume|    | |mode 2 - whole-volume|   ...
    its detail     | detail of mode 1           | detail of mode 2          ...      where one is asked for,
                                                                                     marks outside point at faces

Convention: planes are (rows, columns) and drawn with row 0 on top; the face before voxel i lies at i - 0.5. All
outputs share one scale and all differences share another, which is logarithmic: rounding and seams lie six decades
apart. Drawn without pyplot, so that no window system is asked for and nothing global changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import colors, lines, patches
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import NDArray

from volpipe.errors import ConfigError
from volpipe.geometry import Box

Plane = NDArray[Any]
Style = Literal["-", ":"]

PANEL_IN = 3.3  # inches
LOWEST_DIFFERENCE = 1e-8  # where the scale begins: below the rounding of float32 at 1
FACE_COLOUR = "deepskyblue"
DETAIL_COLOUR = "gold"
LINE_WIDTH = 0.7


@dataclass(frozen=True)
class Faces:
    """Where faces cut a plane: before these rows and before these columns."""

    rows: Sequence[int] = ()
    columns: Sequence[int] = ()


@dataclass(frozen=True)
class _Scales:
    """The colour scales that panels share."""

    input: colors.Normalize
    output: colors.Normalize
    difference: colors.LogNorm


def comparison(path: str | Path, *planes: Any, dpi: int = 110, **options: Any) -> None:
    """Draw `comparison_figure(*planes, **options)` and write it.

    Args:
        path: ends in .png; an existing file is replaced.
        planes, options: see `comparison_figure`.
        dpi: dots per inch; a panel is 3.3 inches wide.
    """
    comparison_figure(*planes, **options).savefig(path, dpi=dpi)


def comparison_figure(
    input_plane: Plane,
    outputs: Mapping[str, Plane],
    reference_plane: Plane,
    block_faces: Faces,
    *,
    pixel_size_um: tuple[float, float],
    tile_faces: Faces | None = None,
    detail: Box | None = None,
    title: str = "",
    output_label: str = "output",
) -> Figure:
    """Input, outputs and differences to whole-volume inference, side by side.

    Args:
        input_plane: (rows, columns) stored values.
        outputs: a plane of values by the name of what made it.
        reference_plane: whole-volume inference, values.
        block_faces: drawn as solid thin lines over the differences.
        pixel_size_um: rows, columns, in micrometres; for the aspect and the scale bar.
        tile_faces: drawn dotted.
        detail: (rows, columns) box that is shown again, enlarged; None for none.
        title: one line above all.
        output_label: what the values are, with their unit if they have one.

    Raises:
        ConfigError: the planes differ in shape, or there is no output.
    """
    _check(input_plane, outputs, reference_plane)
    aspect = pixel_size_um[0] / pixel_size_um[1]
    figure, panels = _panels(input_plane.shape, aspect, 1 + len(outputs), 3 if detail else 2)
    scales = _scales(input_plane, reference_plane)
    _first_column(panels, input_plane, reference_plane, scales, pixel_size_um)
    for column, (name, plane) in enumerate(outputs.items(), start=1):
        _show(panels[0][column], plane, f"{name}: {output_label}", scales.output, "gray")
        _show_difference(panels[1][column], name, plane, reference_plane, scales.difference)
        _draw_faces(panels[1][column], tile_faces or Faces(), ":")
        _draw_faces(panels[1][column], block_faces, "-")
    if detail is not None:
        planes = {"whole volume": reference_plane, **outputs}
        _show_details(panels, planes, detail, tile_faces or block_faces, scales.output)
    _colour_bars(figure, panels, scales, output_label)
    _legend(figure, tile_faces is not None, detail is not None)
    figure.suptitle(title, fontsize=11)
    return figure


def _check(input_plane: Plane, outputs: Mapping[str, Plane], reference_plane: Plane) -> None:
    shapes = {plane.shape for plane in (input_plane, reference_plane, *outputs.values())}
    if len(shapes) != 1 or input_plane.ndim != 2 or not outputs:
        raise ConfigError(
            f"comparison: planes of shapes {sorted(shapes)}; give one or more outputs, all of one 2D shape"
        )


def _panels(shape: Sequence[int], aspect: float, columns: int, rows: int) -> tuple[Figure, list[list[Axes]]]:
    height = PANEL_IN * shape[0] * aspect / shape[1]
    size = (PANEL_IN * columns + 1.0, (height + 0.3) * rows + 0.7)
    figure = Figure(figsize=size, layout="compressed")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_aspect(aspect)
        axis.set_xticks([])
        axis.set_yticks([])
    return figure, axes.tolist()


def _scales(input_plane: Plane, reference: Plane) -> _Scales:
    low, high = np.percentile(input_plane, (0.5, 99.5))
    return _Scales(
        colors.Normalize(low, high),
        colors.Normalize(float(reference.min()), float(reference.max())),
        colors.LogNorm(LOWEST_DIFFERENCE, 1.0),
    )


def _first_column(
    panels: list[list[Axes]], input_plane: Plane, reference: Plane, scales: _Scales, pixel_size_um: tuple[float, float]
) -> None:
    _show(panels[0][0], input_plane, "input", scales.input, "gray")
    _scale_bar(panels[0][0], input_plane.shape, pixel_size_um[1])
    _show(panels[1][0], reference, "whole-volume inference", scales.output, "gray")


def _show(axis: Axes, plane: Plane, title: str, scale: colors.Normalize, colours: str) -> None:
    axis.imshow(plane, cmap=colours, norm=scale, interpolation="nearest", aspect=axis.get_aspect())
    axis.set_title(title, fontsize=9)


def _show_difference(axis: Axes, name: str, plane: Plane, reference: Plane, scale: colors.LogNorm) -> None:
    difference = np.abs(plane.astype(np.float64) - reference)
    title = f"|{name} − whole volume|, here at most {difference.max():.2g}"
    _show(axis, np.maximum(difference, LOWEST_DIFFERENCE), title, scale, "inferno")


def _draw_faces(axis: Axes, faces: Faces, style: Style) -> None:
    for row in faces.rows:
        axis.axhline(row - 0.5, color=FACE_COLOUR, linewidth=LINE_WIDTH, linestyle=style)
    for column in faces.columns:
        axis.axvline(column - 0.5, color=FACE_COLOUR, linewidth=LINE_WIDTH, linestyle=style)


def _show_details(
    panels: list[list[Axes]], planes: Mapping[str, Plane], box: Box, faces: Faces, scale: colors.Normalize
) -> None:
    for column, (name, plane) in enumerate(planes.items()):
        _show(panels[2][column], plane[box.slices], f"{name}, detail", scale, "gray")
        panels[2][column].spines[:].set_edgecolor(DETAIL_COLOUR)
        _point_at_faces(panels[2][column], faces, box)
        _frame(panels[0 if column else 1][column], box)  # the reference stands under the input


def _point_at_faces(axis: Axes, faces: Faces, box: Box) -> None:
    """Short marks outside the panel: a line would hide the seam that they point at."""
    (top, left), (bottom, right) = box.start, box.stop
    axis.set_yticks([row - 0.5 - top for row in faces.rows if top < row < bottom])
    axis.set_xticks([column - 0.5 - left for column in faces.columns if left < column < right])
    axis.tick_params(color=FACE_COLOUR, width=2, length=5, right=True, top=True, labelleft=False, labelbottom=False)


def _frame(axis: Axes, box: Box) -> None:
    (top, left), (height, width) = box.start, box.shape
    corner = (left - 0.5, top - 0.5)
    axis.add_patch(patches.Rectangle(corner, width, height, fill=False, edgecolor=DETAIL_COLOUR))


def _scale_bar(axis: Axes, shape: tuple[int, ...], pixel_um: float) -> None:
    """A bar of a round length, at most a quarter of the width, in the lower left corner."""
    rows, columns = shape
    length_um = _round_length(columns * pixel_um / 4)
    label = f"{length_um:g} µm" if length_um >= 1 else f"{length_um * 1e3:g} nm"
    corner = (0.05 * columns, 0.93 * rows)
    axis.add_patch(patches.Rectangle(corner, length_um / pixel_um, 0.02 * rows, color="white"))
    axis.annotate(label, corner, (0, 4), textcoords="offset points", color="white", fontsize=8)


def _round_length(length: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is at most `length`."""
    decade: float = 10.0 ** math.floor(math.log10(length))
    return max(step * decade for step in (1, 2, 5) if step * decade <= length * (1 + 1e-9))


def _colour_bars(figure: Figure, panels: list[list[Axes]], scales: _Scales, output_label: str) -> None:
    rows = [
        (panels[0], scales.output, "gray", output_label),
        (panels[1], scales.difference, "inferno", "absolute difference (log scale)"),
        *((row, scales.output, "gray", output_label) for row in panels[2:]),
    ]
    for row, scale, colours, label in rows:
        bar = figure.colorbar(ScalarMappable(scale, colours), ax=row, fraction=0.02, pad=0.01)
        bar.set_label(label, fontsize=8)
        bar.ax.tick_params(labelsize=7)


def _legend(figure: Figure, tiles: bool, detail: bool) -> None:
    def line(label: str, style: Style) -> lines.Line2D:
        return lines.Line2D([], [], color=FACE_COLOUR, linestyle=style, linewidth=1.2, label=label)

    entries: list[Any] = [line("block face", "-")]
    if tiles:
        entries.append(line("tile face", ":"))
    if detail:
        entries.append(patches.Patch(fill=False, edgecolor=DETAIL_COLOUR, label="detail shown in the last row"))
    figure.legend(handles=entries, loc="outside lower center", ncols=len(entries), fontsize=8, frameon=False)
