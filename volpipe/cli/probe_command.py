"""`volpipe probe MODEL`."""

from __future__ import annotations

import json
from typing import Any

import click

from volpipe.errors import ModelError


@click.command(name="probe", short_help="Find the context and alignment that a network needs.")
@click.argument("model", metavar="MODEL")
@click.option("--weights", default=None, help="Weights (.safetensors) of a package.module:factory model.")
@click.option("--trust-code", is_flag=True, help="Run the code of a package.module:factory model.")
@click.option("--ndim", type=click.IntRange(2, 3), default=None, help="Spatial axes, where the model does not tell.")
@click.option("--in-channels", type=click.IntRange(1), default=None, help="Channels, where the model does not tell.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    model: str, weights: str | None, trust_code: bool, ndim: int | None, in_channels: int | None, as_json: bool
) -> None:
    """Find what MODEL must see to be tiled exactly, by running it: need, halo, period, size class and voxels lost.

    A network that cannot be tiled is refused, with the module or operation that makes it so.
    """
    from volpipe.models import load_model, resolve_model
    from volpipe.models.probe import probe

    ref = resolve_model(model, weights=weights, trust_code=trust_code, ndim=ndim, in_channels=in_channels)
    loaded = load_model(ref)
    found = probe(loaded.network, loaded.ndim, loaded.in_channels)
    if found.failure:
        raise ModelError(f"{model}: the probe failed: {found.failure}")
    if found.footprint is None:
        raise ModelError(f"{model}: cannot be tiled exactly: {found.refusal}")
    axes = dict(zip("zyx"[-loaded.ndim :], found.footprint.axes, strict=True))
    if as_json:
        scales = dict(zip(axes, map(str, found.scale), strict=True))
        rows: dict[str, Any] = {name: axis.as_json() | {"scale": scales[name]} for name, axis in axes.items()}
        click.echo(json.dumps({"axes": rows, "seconds": round(found.seconds, 3)}, indent=2))
        return
    click.echo(
        f"{model}: tiled as below it gives the whole-volume result (self-test in float64, {found.seconds:.1f} s)"
    )
    click.echo("axis  need before, after  halo  period  size class  lost  scale")
    for (name, axis), scale in zip(axes.items(), found.scale, strict=True):
        need, halo = f"{axis.need_before}, {axis.need_after}", max(axis.halo_before, axis.halo_after)
        click.echo(f"{name:4}  {need:18}  {halo:<4}  {axis.period:<6}  {axis.size_class:<10}  {axis.lost:<4}  {scale}")
    lost = any(axis.lost for axis in axes.values())
    if set(found.scale) == {1}:
        click.echo(f"volpipe apply finds this by itself; --stitching {'valid' if lost else 'overlap'} is exact")
