"""`volpipe probe MODEL`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from volpipe.errors import ModelError
from volpipe.geometry import AxisFootprint

if TYPE_CHECKING:
    from volpipe.models.probe import Probe

COLUMNS = ("axis", "need before, after", "halo before, after", "period", "lengths", "lost", "scale")


@click.command(name="probe", short_help="Find the context and alignment that a network needs.")
@click.argument("model", metavar="MODEL")
@click.option("--weights", default=None, help="Weights (.safetensors) of a package.module:factory model.")
@click.option("--trust-code", is_flag=True, help="Run the code of a package.module:factory model.")
@click.option("--ndim", type=click.IntRange(2, 3), default=None, help="Spatial axes, where the model does not tell.")
@click.option("--in-channels", type=click.IntRange(1), default=None, help="Channels, where the model does not tell.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, also of a refusal.")
def command(
    model: str, weights: str | None, trust_code: bool, ndim: int | None, in_channels: int | None, as_json: bool
) -> None:
    """Find what MODEL must see to be tiled exactly, by running it: need, halo, period, lengths taken and voxels lost.

    A network that cannot be tiled is refused, with the module or operation that makes it so. What is found of a .pt2
    or TorchScript file is remembered for `volpipe apply`.
    """
    from volpipe.models import load_model, resolve_model
    from volpipe.models.measured import measured

    ref = resolve_model(model, weights=weights, trust_code=trust_code, ndim=ndim, in_channels=in_channels)
    loaded = load_model(ref)
    found = measured(ref, loaded)
    footprints = () if found.footprint is None else found.footprint.axes
    axes = dict(zip("zyx"[-loaded.ndim :], footprints, strict=False))
    if as_json:
        click.echo(json.dumps(_facts(found, axes), indent=2))
    if found.failure:
        raise ModelError(f"{model}: the probe failed: {found.failure}")
    if found.refusal:
        raise ModelError(f"{model}: cannot be tiled exactly: {found.refusal}")
    if not as_json:
        took = f"{found.seconds:.1f} s" if found.seconds else "remembered"
        click.echo(f"{model}: {_verdict(axes, took)}")
        click.echo("\n".join(_table(axes)))
        click.echo(_advice(found))


Axes = dict[str, AxisFootprint]


def _verdict(axes: Axes, took: str) -> str:
    if any(axis.window for axis in axes.values()):
        return f"takes one length alone, so that it has no whole-volume result ({took})"
    return f"tiled as below it gives the whole-volume result (self-test in float64, {took})"


def _facts(found: Probe, axes: Axes) -> dict[str, Any]:
    rows = {
        name: axis.as_json() | {"halo_before": axis.halo_before, "halo_after": axis.halo_after}
        for name, axis in axes.items()
    }
    return {"axes": rows, "refusal": found.refusal, "failure": found.failure, "seconds": round(found.seconds, 3)}


def _table(axes: Axes) -> Iterator[str]:
    rows = [
        (
            name,
            f"{a.need_before}, {a.need_after}",
            f"{a.halo_before}, {a.halo_after}",
            a.period,
            _lengths(a),
            a.lost,
            a.scale,
        )
        for name, a in axes.items()
    ]
    widths = [max(len(str(row[i])) for row in (COLUMNS, *rows)) for i in range(len(COLUMNS))]
    for row in (COLUMNS, *rows):
        yield "  ".join(str(value).ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()


def _lengths(axis: AxisFootprint) -> str:
    """Of tiles; a volume of another length is padded at its end."""
    if axis.window:
        return str(axis.window)
    if axis.period == 1:
        return "any" if axis.smallest == 1 else f"{axis.smallest} or more"
    return f"{axis.period} n" + (f" + {axis.size_class}" if axis.size_class else "")


def _advice(found: Probe) -> str:
    if found.footprint is not None and any(axis.window for axis in found.footprint.axes):
        return "volpipe apply finds this by itself; --stitching windows runs it window by window, declared inexact"
    lost = [] if found.footprint is None else [axis.lost for axis in found.footprint.axes]
    mode = "valid is exact, and its product is shorter by what is lost" if max(lost) else "overlap is exact"
    scales = [] if found.footprint is None else found.footprint.scale
    scale = "" if set(scales) == {1} else f", at {' x '.join(map(str, scales))} of the resolution"
    return f"volpipe apply finds this by itself; --stitching {mode}{scale}"
