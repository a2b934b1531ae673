"""`volpipe explain MODEL`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from volpipe.cli.options import Numbers
from volpipe.errors import ConfigError, ModelError
from volpipe.geometry import Box

if TYPE_CHECKING:
    from volpipe.inference.intervals import Program
    from volpipe.models.model import Model


@click.command(name="explain", short_help="Show what a block needs of every layer of a network, and what that costs.")
@click.argument("model", metavar="MODEL")
@click.option("--shape", type=Numbers(int, None), required=True, help="Of the volume; one number for all axes.")
@click.option("--block", required=True, help="Of the product: Z0:Z1,Y0:Y1,X0:X1, or its extents, in the middle.")
@click.option("--weights", default=None, help="Weights (.safetensors) of a package.module:factory model.")
@click.option("--trust-code", is_flag=True, help="Run the code of a package.module:factory model.")
@click.option("--ndim", type=click.IntRange(2, 3), default=None, help="Spatial axes, where the model does not tell.")
@click.option("--in-channels", type=click.IntRange(1), default=None, help="Channels, where the model does not tell.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--picture", type=click.Path(dir_okay=False), default=None, help="Draw the intervals into a PNG.")
def command(
    model: str, shape: Sequence[int], block: str, weights: str | None, trust_code: bool, ndim: int | None,
    in_channels: int | None, as_json: bool, picture: str | None,
) -> None:  # fmt: skip
    """Show on which interval every layer of MODEL must run for one block, and what that costs.

    Beside it, what overlap-and-crop costs for the same block, where a halo makes the network exact. Nothing is computed
    on the volume, so none is too large. `volpipe apply --stitching exact` runs so.
    """
    from volpipe.inference.intervals.explain import explain
    from volpipe.models import load_model, resolve_model
    from volpipe.models.settle import settle
    from volpipe.report.explain_text import explain_facts, explain_text

    ref = resolve_model(model, weights=weights, trust_code=trust_code, ndim=ndim, in_channels=in_channels)
    loaded = load_model(ref)
    program = _captured(model, loaded, _per_axis(shape, loaded.ndim, "--shape"))
    loaded = replace(loaded, footprint=settle(ref, loaded, halo="ignored", allow_inexact=False).footprint)
    found = explain(loaded, program, _box(block, program.shape, loaded))
    click.echo(json.dumps(explain_facts(found), indent=2) if as_json else explain_text(found))
    if picture is not None:
        from volpipe.report.intervals import intervals

        intervals(picture, found, title=f"{model}, block {found.block.shape} of {program.shape}")
        click.echo(picture, err=as_json)


def _captured(name: str, model: Model, shape: Sequence[int]) -> Program:
    from volpipe.inference.intervals import capture
    from volpipe.inference.intervals.rule import CannotCapture

    try:
        return capture(model.network, shape, model.in_channels)
    except CannotCapture as error:
        raise ModelError(f"{name}: cannot run by intervals: {error}; volpipe probe says how it is tiled") from None


def _per_axis(values: Sequence[int], ndim: int, option: str) -> tuple[int, ...]:
    given = tuple(values) * ndim if len(values) == 1 else tuple(values)
    if len(given) != ndim or min(given) < 1:
        raise ConfigError(f"{option} {','.join(map(str, values))}: give {ndim} numbers above 0, or one for all axes")
    return given


def _box(text: str, shape: Sequence[int], model: Model) -> Box:
    """The block: of ranges, or of extents in the middle, on the network's period if that is known."""
    try:
        parts = [tuple(int(n) for n in part.split(":")) for part in text.split(",")]
    except ValueError:
        parts = []
    if {len(part) for part in parts} == {2} and len(parts) == len(shape):
        start, stop = zip(*parts, strict=True)
        return Box(start, stop)
    if {len(part) for part in parts} != {1}:
        raise ConfigError(f"--block {text}: give {len(shape)} ranges as 0:64,128:256, or extents as 64 or 64,128")
    extents = _per_axis([part[0] for part in parts], len(shape), "--block")
    periods = [1] * len(shape) if model.footprint is None else [axis.output_period for axis in model.footprint.axes]
    start = tuple(max(0, n - e) // 2 // p * p for n, e, p in zip(shape, extents, periods, strict=True))
    return Box(start, tuple(a + e for a, e in zip(start, extents, strict=True)))
