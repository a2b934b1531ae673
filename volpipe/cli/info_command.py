"""`volpipe info VOL`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click


@click.command(name="info", short_help="Say what a volume is.")
@click.argument("volume", metavar="VOLUME")
@click.option("--level", type=int, default=None, help="Level of a multiscale; 0 is the finest.")
@click.option("--time", type=int, default=None, help="Time point, where there are several.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with everything that a product was made with.")
def command(volume: str, level: int | None, time: int | None, as_json: bool) -> None:
    """Say what VOLUME is: shape, dtype, voxel size, levels, chunks, and for a product how it was made."""
    from volpipe.volume.validate import describe

    facts = describe(volume, level=level, time=time)
    if as_json:
        click.echo(json.dumps(facts, indent=2, default=str))
        return
    told = _exactness(facts) | _made(facts.pop("provenance", {}))
    for name, value in {**facts, **told}.items():
        click.echo(f"{name:<16} {_text(value)}")


def _exactness(facts: dict[str, Any]) -> dict[str, str]:
    """What a product's audit said, taken out of the facts; nothing for other volumes."""
    exact, reason, audit = (facts.pop(name, None) for name in ("exact", "exact_reason", "audit"))
    if exact is None or not isinstance(audit, Mapping):
        return {}
    seen = f"{audit.get('boxes')} boxes audited"
    return {"exact": f"yes, {seen}" if exact else f"no: {reason}; {seen}"}


def _made(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Who made a product, with what, of what."""
    job, source = (_dict(provenance.get(name)) for name in ("job", "input"))
    weights = str(provenance.get("weights", ""))
    made = {
        "made by": provenance.get("software"),
        "model": job.get("model"),
        "weights": weights and f"sha256 {weights[:12]}...",
        "made from": source.get("location"),
    }
    return {name: text for name, text in made.items() if text}


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        return "".join(f"\n  {_text(entry)}" for entry in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_text(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return " x ".join(map(str, value)) if value and not isinstance(value[0], str) else ", ".join(map(str, value))
    return str(value)
