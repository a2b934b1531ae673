"""The probe of a user's network, remembered by the content of its file.

    $XDG_CACHE_HOME (or ~/.cache) / volpipe / footprints / sha256-of-the-file_axes_channels.json

Only .pt2 and TorchScript files are remembered: they hold all that they run, while a factory may import code that
changes beside it. What cannot be read or is of another version is measured again; a place that cannot be written
to costs the next run the seconds of a probe. A probe that failed is not remembered.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from volpipe.geometry import AxisFootprint, Footprint
from volpipe.models.model import Model, ModelRef
from volpipe.models.probe import Probe, probe

FORMAT = 2  # raised when the probe finds something else


def measured(ref: ModelRef, model: Model) -> Probe:
    """What the probe finds of a network, or found before."""
    if ref.kind not in ("exported", "script"):
        return probe(model.network, model.ndim, model.in_channels)
    place = _folder() / f"{ref.sha256}_{model.ndim}_{model.in_channels}.json"
    found = _read(place)
    if found is None:
        found = probe(model.network, model.ndim, model.in_channels)
        if not found.failure:
            _write(place, found)
    return found


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "volpipe" / "footprints"


def _versions() -> dict[str, Any]:
    return {"format": FORMAT, "torch": str(torch.__version__)}


def _read(place: Path) -> Probe | None:
    try:
        stored = json.loads(place.read_text())
        if stored["versions"] != _versions():
            return None
        axes = tuple(AxisFootprint.from_json(axis) for axis in stored["axes"])
        scale = tuple(map(Fraction, stored["scale"]))
        return Probe(Footprint(axes) if axes else None, scale, stored["refusal"], "", 0.0)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(place: Path, found: Probe) -> None:
    """Beside its place and renamed: no other run reads half of it."""
    axes = () if found.footprint is None else found.footprint.axes
    stored = {
        "versions": _versions(),
        "axes": [axis.as_json() for axis in axes],
        "scale": [str(scale) for scale in found.scale],
        "refusal": found.refusal,
    }
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=place.parent, delete=False) as file:
            file.write(json.dumps(stored, indent=1))
        os.replace(file.name, place)
