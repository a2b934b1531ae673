"""The shrinking intervals of one block: one line per layer, the input at the bottom, the block at the top.

    block      |    own    |
    layer    |h|    own    |h|        own part and halo, on the ruler of the product's voxels
    input  | halo |  own  | halo |

Axes on which the intervals are the same share a panel.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from volpipe.inference.intervals.explain import Explanation, Layer

OWN_COLOUR = "steelblue"
HALO_COLOUR = "sandybrown"
LINE_IN = 0.24  # inches
PANEL_IN = {1: 6.0, 2: 4.5, 3: 4.0}  # by the number of panels


def intervals(path: str | Path, found: Explanation, *, title: str = "", dpi: int = 110) -> None:
    """Draw `intervals_figure` and write it.

    Args:
        path: ends in .png; an existing file is replaced.
        found: see `volpipe.inference.intervals.explain`.
        title: one line above all.
        dpi: dots per inch.
    """
    intervals_figure(found, title=title).savefig(path, dpi=dpi)


def intervals_figure(found: Explanation, *, title: str = "") -> Figure:
    """A panel for every axis, or for axes that are alike."""
    groups = _alike(found)
    figure = Figure(
        figsize=(PANEL_IN[len(groups)] * len(groups) + 3.2, LINE_IN * len(found.layers) + 1.6), layout="constrained"
    )
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for panel, axes in zip(panels, groups, strict=True):
        _draw(panel, found, axes)
    panels[0].set_yticks(range(len(found.layers)), [_label(layer) for layer in found.layers], fontsize=8)
    _shares(panels[-1], found)
    handles = [Patch(color=OWN_COLOUR, label="the block's own part"), Patch(color=HALO_COLOUR, label="halo")]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def _alike(found: Explanation) -> list[list[int]]:
    """Axes by their intervals."""
    groups: dict[tuple[tuple[float, ...], ...], list[int]] = {}
    for axis in range(found.block.ndim):
        key = tuple(layer.on_ruler(layer.box, axis) for layer in found.layers)
        groups.setdefault(key, []).append(axis)
    return list(groups.values())


def _draw(panel: Axes, found: Explanation, axes: list[int]) -> None:
    axis = axes[0]
    for line, layer in enumerate(found.layers):
        for box, colour in ((layer.box, HALO_COLOUR), (layer.own, OWN_COLOUR)):
            start, stop = layer.on_ruler(box, axis)
            panel.barh(line, stop - start, left=start, height=0.8, color=colour)
    for end in (found.block.start[axis], found.block.stop[axis]):
        panel.axvline(end, color="0.3", linewidth=0.7, linestyle=":")
    names = [" zyx"[-found.block.ndim :][a] for a in axes]
    panel.set_xlabel(f"{', '.join(names)} (voxels of the product)", fontsize=9)
    panel.set_ylim(-0.6, len(found.layers) - 0.4)
    panel.tick_params(axis="x", labelsize=8)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)


def _label(layer: Layer) -> str:
    operation = layer.operations[0] if layer.operations else ""
    return f"{layer.module}  {operation}".strip()


def _shares(panel: Axes, found: Explanation) -> None:
    """Each layer's part of the FLOPs, at the right."""
    total = sum(layer.flops for layer in found.layers) or 1.0
    for line, layer in enumerate(found.layers):
        text = f"{layer.flops / total:.1%}" if layer.flops else ""
        panel.annotate(
            text, (1.0, line), (42, 0), ("axes fraction", "data"), "offset points", fontsize=8, ha="right", va="center"
        )
    panel.annotate("FLOPs", (1.0, 1.0), (42, 6), "axes fraction", "offset points", fontsize=8, ha="right")
