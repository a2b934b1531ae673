"""The probe of a user's network, remembered by the content of its file and by the structure of what it holds.

    $XDG_CACHE_HOME (or ~/.cache) / volpipe / footprints / sha256-of-the-file_axes_channels.json
                                                           sha256-of-the-structure_axes_channels.json
                                                           sha256-of-the-file_axes_channels_held.json   (`held.py`)

The same file is not measured again; a file that was trained anew is tested alone, with its own weights, and measured
if it fails (structure.py says what makes two files one structure, and why that is sound). Only .pt2 and TorchScript
files are remembered there: they hold all that they run, while a factory may import code that changes beside it, though
not within one process, which remembers it. What cannot be read or is of another version is measured again; a place that
cannot be written to costs the next run the seconds of a probe. A probe that failed is not remembered; a refusal only
for its file.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from volpipe.geometry import AxisFootprint, Footprint
from volpipe.models.held import Held
from volpipe.models.model import Model, ModelRef
from volpipe.models.probe import Probe, holds, probe
from volpipe.models.structure import structure

FORMAT = 5  # raised when the probe finds something else
_FOUND: dict[tuple[ModelRef, int, int, bool], Probe] = {}  # of factories


def measured(ref: ModelRef, model: Model) -> Probe:
    """What the probe finds of a network, or found before."""
    network, given = model.network, (model.ndim, model.in_channels)
    held = isinstance(network, Held)
    if ref.kind not in ("exported", "script"):
        key = (replace(ref, halo=None, period=None), *given, held)
        if key not in _FOUND:
            _FOUND[key] = probe(network, *given)
        return _FOUND[key]
    file = _place(ref.sha256, *given, held=held)
    if (found := _read(file)) is not None:
        return found
    kind = None if held else structure(ref, network)
    shared = None if kind is None else _place(kind, *given)
    found = None if shared is None else _read(shared)
    if found is None or not holds(network, *given, found):
        found = probe(network, *given)
        if found.any_weights and shared is not None:
            _write(shared, found)
    if not found.failure:
        _write(file, found)
    return found


def _place(sha256: str, ndim: int, in_channels: int, *, held: bool = False) -> Path:
    return _folder() / f"{sha256}_{ndim}_{in_channels}{'_held' if held else ''}.json"


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
        return Probe(Footprint(axes) if axes else None, stored["refusal"], "", 0.0)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(place: Path, found: Probe) -> None:
    """Beside its place and renamed: no other run reads half of it."""
    axes = () if found.footprint is None else found.footprint.axes
    stored = {
        "versions": _versions(),
        "axes": [axis.as_json() for axis in axes],
        "refusal": found.refusal,
    }
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=place.parent, delete=False) as file:
            file.write(json.dumps(stored, indent=1))
        os.replace(file.name, place)
