"""What `volpipe explain` found, as text for a terminal of 140 columns.

module  operations  interval of the output  of  padded  GFLOP  halo      one line a layer, from the input to the block
                    FLOPs  peak memory  voxels read                      by intervals, by overlap-and-crop, their ratio
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from volpipe.geometry import Box
from volpipe.inference.intervals.explain import Explanation, Layer
from volpipe.inference.price import ForwardPrice
from volpipe.runtime.machine import table

WIDEST = 44  # characters of a row's operations
NOTE = (
    "Interval: what the block needs of the layer's output, in its own voxels, of its whole size. Padded: faces of the "
    "volume where\nthe layer adds its padding. Halo: share of the voxels that lie outside the block's own part at this "
    "scale."
)

GIVEN = "layers see the whole volume: their statistics are taken as given, as passes before find them (--norm)."


def explain_text(found: Explanation) -> str:
    """The table of layers and the totals."""
    total = sum(layer.flops for layer in found.layers)
    rows = [_row(layer, total) for layer in found.layers]
    given = f"\n{found.reductions} {GIVEN}" if found.reductions else ""
    return f"{table(rows)}\n{NOTE}{given}\n\n{_totals(found)}"


def explain_facts(found: Explanation) -> dict[str, Any]:
    """The same for programs: boxes as "0:64,0:64", FLOPs and bytes as numbers; overlap is None without a footprint."""
    overlap = None
    if found.tile is not None and found.tile_price is not None:
        overlap = _facts(found.tile, found.tile_price)
    layers = [
        {
            "module": layer.module,
            "operations": list(layer.operations),
            "interval": str(layer.box),
            "size": list(layer.size),
            "padded": list(layer.padded),
            "flops": layer.flops,
            "halo_share": layer.halo_share,
        }
        for layer in found.layers
    ]
    intervals = _facts(found.read, found.price)
    given = {"reductions": found.reductions}  # layers whose statistics over the volume are taken as given
    return {"block": str(found.block), "intervals": intervals, "overlap": overlap, **given, "layers": layers}


def _facts(read: Box, price: ForwardPrice) -> dict[str, Any]:
    return {"read": str(read), "flops": price.flops, "peak_bytes": price.peak_bytes}


def _row(layer: Layer, total: float) -> dict[str, Any]:
    return {
        "module": layer.module,
        "operations": _clipped(", ".join(layer.operations)),
        "interval": interval(layer.box),
        "of": _joined(layer.size),
        "padded": " ".join(layer.padded),
        "GFLOP": layer.flops / 1e9 if layer.flops else "",
        "share": f"{layer.flops / total:6.1%}" if layer.flops else "",
        "halo": f"{layer.halo_share:4.0%}",
    }


def _clipped(text: str) -> str:
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."


def interval(box: Box) -> str:
    """Start and stop per axis; once if all axes are the same."""
    return _joined([f"{a}:{b}" for a, b in zip(box.start, box.stop, strict=True)])


def _joined(values: Sequence[Any]) -> str:
    alike = len(set(values)) == 1
    return f"{values[0]} (each axis)" if alike and len(values) > 1 else ", ".join(map(str, values))


def _totals(found: Explanation) -> str:
    rows = [_total("intervals", found.price.flops, found.price.peak_bytes, found.read)]
    if found.tile is None or found.tile_price is None:
        return (
            f"{table(rows)}\nno halo makes tiles of this network exact, so overlap has no price; volpipe probe says why"
        )
    rows.append(_total("overlap and crop", found.tile_price.flops, found.tile_price.peak_bytes, found.tile))
    ratio = {
        "": "ratio",
        "GFLOP": found.price.flops / found.tile_price.flops if found.tile_price.flops else "",
        "peak MiB": found.price.peak_bytes / found.tile_price.peak_bytes,
        "voxels read": found.read.size / found.tile.size,
        "reads": "",
    }
    return table([*rows, ratio])


def _total(name: str, flops: float, peak_bytes: int, read: Box) -> dict[str, Any]:
    return {
        "": name,
        "GFLOP": flops / 1e9,
        "peak MiB": peak_bytes / 2**20,
        "voxels read": read.size,
        "reads": interval(read),
    }
