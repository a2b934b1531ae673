"""One plane of a volume, what each stitching mode made of it, and how far that is from whole-volume inference.

    input          | output of mode 1           | output of mode 2          ...
    whole volume   | |mode 1 - whole volume|    | |mode 2 - whole volume|   ...      each mode's own network
    its detail     | detail of mode 1           | detail of mode 2          ...      where one is asked for,
                                                                                     marks outside point at faces

Convention: planes are (rows, columns) and drawn with row 0 on top; boxes and faces are in rows and columns of the
input; the face before voxel i lies at i - 0.5. An output that covers less than the input is drawn where it lies, the
rest is hatched. All outputs share one scale and all differences share another, which is logarithmic: rounding and seams
lie six decades apart. Drawn without pyplot, so that no window system is asked for and nothing global changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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

PANEL_IN = 2.8  # inches
LOWEST_DIFFERENCE = 1e-8  # where the scale begins: below the rounding of float32 at 1
FACE_COLOUR = "deepskyblue"
DETAIL_COLOUR = "gold"
LINE_WIDTH = 0.7
WHOLE = "whole volume"
EMPTY: dict[str, Any] = {"facecolor": "0.85", "edgecolor": "0.55", "hatch": "////", "linewidth": 0.0}


@dataclass(frozen=True)
class Faces:
    """Where faces cut a plane: before these rows and before these columns."""

    rows: Sequence[int] = ()
    columns: Sequence[int] = ()


@dataclass(frozen=True, eq=False)
class Output:
    """What one mode made of a plane.

    Attributes:
        name: of what made it.
        plane: (rows, columns) of values.
        reference: the same network's values on the whole volume, of the same rows and columns.
        block_faces: drawn as solid thin lines over the difference.
        tile_faces: drawn dotted.
        box: rows and columns of the input that it covers; None is all of them.
        network: a word for it, where outputs of different networks stand side by side.
    """

    name: str
    plane: Plane
    reference: Plane
    block_faces: Faces = Faces()
    tile_faces: Faces = Faces()
    box: Box | None = None
    network: str = ""

    @property
    def place(self) -> Box:
        """Rows and columns of the input that it covers."""
        return self.box or Box.from_shape(self.plane.shape)

    def by_its_network(self, what: str) -> str:
        """`what`, and of which network it is if that has a name."""
        return f"{what} ({self.network})" if self.network else what

    @property
    def difference(self) -> NDArray[np.float64]:
        """Absolute, from whole-volume inference."""
        found: NDArray[np.float64] = np.abs(self.plane.astype(np.float64) - self.reference)
        return found


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
        dpi: dots per inch; a panel is 2.8 inches wide.
    """
    comparison_figure(*planes, **options).savefig(path, dpi=dpi)


def comparison_figure(
    input_plane: Plane,
    outputs: Sequence[Output],
    *,
    pixel_size_um: tuple[float, float],
    detail: Box | None = None,
    title: str = "",
    output_label: str = "output",
) -> Figure:
    """Input, outputs and differences to whole-volume inference, side by side.

    Args:
        input_plane: (rows, columns) stored values.
        outputs: one or more; the reference of the first is shown below the input.
        pixel_size_um: rows, columns, in micrometres; for the aspect and the scale bar.
        detail: (rows, columns) box that is shown again, enlarged; None for none.
        title: one line above all.
        output_label: what the values are, with their unit if they have one.

    Raises:
        ConfigError: there is no output, or one does not lie in the input or differs in shape from its reference.
    """
    _check(input_plane, outputs)
    whole, first = Box.from_shape(input_plane.shape), outputs[0]
    aspect = pixel_size_um[0] / pixel_size_um[1]
    figure, panels = _panels(whole.shape, aspect, 1 + len(outputs), 3 if detail else 2)
    scales = _scales(input_plane, outputs)
    _show(panels[0][0], input_plane, whole, whole, scales.input, "gray", "input")
    _scale_bar(panels[0][0], whole.shape, pixel_size_um[1])
    _show(panels[1][0], first.reference, first.place, whole, scales.output, "gray", first.by_its_network(WHOLE))
    for column, output in enumerate(outputs, start=1):
        title_of = f"{output.name}: {output_label}"
        _show(panels[0][column], output.plane, output.place, whole, scales.output, "gray", title_of)
        _say_how_much_is_empty(panels[0][column], output.place, whole)
        _show_difference(panels[1][column], output, whole, scales.difference)
    if detail is not None:
        _show_details(panels, outputs, detail, scales.output)
    _colour_bars(figure, panels, scales, output_label)
    _legend(figure, outputs, whole, detail is not None)
    figure.suptitle(title, fontsize=11)
    return figure


def _check(input_plane: Plane, outputs: Sequence[Output]) -> None:
    if input_plane.ndim != 2 or not outputs:
        raise ConfigError(f"comparison: {len(outputs)} outputs of an input of shape {input_plane.shape}; give a plane "
                          "and one or more outputs")  # fmt: skip
    whole = Box.from_shape(input_plane.shape)
    for output in outputs:
        fits = output.plane.shape == output.reference.shape == output.place.shape
        if not fits or output.plane.ndim != 2 or not whole.contains(output.place):
            raise ConfigError(f"comparison: {output.name}: plane {output.plane.shape}, reference "
                              f"{output.reference.shape}, box {output.place} of an input {input_plane.shape}; give "
                              "plane and reference of the box's shape, inside the input")  # fmt: skip


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


def _scales(input_plane: Plane, outputs: Sequence[Output]) -> _Scales:
    low, high = np.percentile(input_plane, (0.5, 99.5))
    references = [output.reference for output in outputs]
    return _Scales(
        colors.Normalize(low, high),
        colors.Normalize(min(float(r.min()) for r in references), max(float(r.max()) for r in references)),
        colors.LogNorm(LOWEST_DIFFERENCE, 1.0),
    )


def _show(axis: Axes, plane: Plane, place: Box, view: Box, scale: colors.Normalize, colours: str, title: str) -> None:
    """Draw the part of a plane that lies in the view, in rows and columns of the input; hatch where it does not lie."""
    seen = place.intersect(view)
    (top, left), (bottom, right) = seen.start, seen.stop
    extent = (left - 0.5, right - 0.5, bottom - 0.5, top - 0.5)
    shown = plane[seen.relative_to(place.start).slices]
    axis.imshow(shown, cmap=colours, norm=scale, interpolation="nearest", aspect=axis.get_aspect(), extent=extent)
    axis.set_title(title, fontsize=9)
    axis.set_xlim(view.start[1] - 0.5, view.stop[1] - 0.5)
    axis.set_ylim(view.stop[0] - 0.5, view.start[0] - 0.5)
    if seen != view:
        axis.add_patch(_rectangle(view, zorder=-1, **EMPTY))


def _say_how_much_is_empty(axis: Axes, place: Box, view: Box) -> None:
    """A few words above or below the output, where there is more room; none if nothing is empty."""
    if place == view:
        return
    above, below = place.start[0] - view.start[0], view.stop[0] - place.stop[0]
    y, inwards, side = (1.0, -3, "top") if above >= below else (0.0, 3, "bottom")
    text = f"no output: {100 - 100 * place.size / view.size:.0f} % of the plane"
    box = {"facecolor": "white", "linewidth": 0, "pad": 1.5}
    axis.annotate(
        text, (0.5, y), (0, inwards), "axes fraction", "offset points", fontsize=8, ha="center", va=side, bbox=box
    )


def _show_difference(axis: Axes, output: Output, view: Box, scale: colors.LogNorm) -> None:
    difference = output.difference
    title = f"|{output.name} − its whole volume| ≤ {difference.max():.2g}"
    _show(axis, np.maximum(difference, LOWEST_DIFFERENCE), output.place, view, scale, "inferno", title)
    _draw_faces(axis, output.tile_faces, output.place, ":")
    _draw_faces(axis, output.block_faces, output.place, "-")


def _draw_faces(axis: Axes, faces: Faces, place: Box, style: Style) -> None:
    """Lines across an output, not beyond it."""
    (top, left), (bottom, right) = place.start, place.stop
    ends = [((left, right), (row, row)) for row in faces.rows]
    ends += [((column, column), (top, bottom)) for column in faces.columns]
    for x, y in ends:
        axis.plot(np.subtract(x, 0.5), np.subtract(y, 0.5), color=FACE_COLOUR, linewidth=LINE_WIDTH, linestyle=style)


def _show_details(panels: list[list[Axes]], outputs: Sequence[Output], box: Box, scale: colors.Normalize) -> None:
    first = outputs[0]
    title = f"{first.by_its_network(WHOLE)}, detail"
    _show(panels[2][0], first.reference, first.place, box, scale, "gray", title)
    _point_at_faces(panels[2][0], first, box)
    for column, output in enumerate(outputs, start=1):
        title = f"{output.by_its_network(output.name)}, detail"
        _show(panels[2][column], output.plane, output.place, box, scale, "gray", title)
        _point_at_faces(panels[2][column], output, box)
    for axis in (panels[1][0], *panels[0][1:]):  # the reference stands under the input
        axis.add_patch(_rectangle(box, fill=False, edgecolor=DETAIL_COLOUR))


def _point_at_faces(axis: Axes, output: Output, box: Box) -> None:
    """Short marks outside the panel: a line would hide the seam that they point at."""
    (top, left), (bottom, right) = box.start, box.stop
    faces = (output.tile_faces, output.block_faces)
    rows = sorted({row for there in faces for row in there.rows if top < row < bottom})
    columns = sorted({column for there in faces for column in there.columns if left < column < right})
    axis.set_yticks([row - 0.5 for row in rows])
    axis.set_xticks([column - 0.5 for column in columns])
    axis.tick_params(color=FACE_COLOUR, width=2, length=5, right=True, top=True, labelleft=False, labelbottom=False)
    axis.spines[:].set_edgecolor(DETAIL_COLOUR)


def _rectangle(box: Box, **style: Any) -> patches.Rectangle:
    (top, left), (height, width) = box.start, box.shape
    return patches.Rectangle((left - 0.5, top - 0.5), width, height, **style)


def _scale_bar(axis: Axes, shape: tuple[int, ...], pixel_um: float) -> None:
    """A bar of a round length, at most a quarter of the width, in the lower left corner."""
    rows, columns = shape
    length_um = round_length(columns * pixel_um / 4)
    label = f"{length_um:g} µm" if length_um >= 1 else f"{length_um * 1e3:g} nm"
    corner = (0.05 * columns, 0.93 * rows)
    axis.add_patch(patches.Rectangle(corner, length_um / pixel_um, 0.02 * rows, color="white"))
    axis.annotate(label, corner, (0, 4), textcoords="offset points", color="white", fontsize=8)


def round_length(length: float) -> float:
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


def _legend(figure: Figure, outputs: Sequence[Output], whole: Box, detail: bool) -> None:
    def line(label: str, style: Style) -> lines.Line2D:
        return lines.Line2D([], [], color=FACE_COLOUR, linestyle=style, linewidth=1.2, label=label)

    entries: list[Any] = [line("block face", "-")]
    if any(output.tile_faces != Faces() for output in outputs):
        entries.append(line("tile face", ":"))
    if any(output.place != whole for output in outputs):
        entries.append(patches.Patch(label="no output here", **EMPTY))
    if detail:
        entries.append(patches.Patch(fill=False, edgecolor=DETAIL_COLOUR, label="detail shown in the last row"))
    figure.legend(handles=entries, loc="outside lower center", ncols=len(entries), fontsize=8, frameon=False)
