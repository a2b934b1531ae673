"""What every evaluation leaves: results.json is read, and a table and pictures are written beside it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.figure import Figure

from volpipe.errors import VolumeError
from volpipe.volume.folder import absolute, open_folder

Told = Callable[[Mapping[str, Any]], tuple[str, dict[str, bytes]]]  # results -> (table, pictures by name)


def report(place: str, name: str, told: Told) -> tuple[str, list[str]]:
    """Write table and pictures beside the results of `volpipe evaluate NAME`.

    Args:
        place: of the file or object results.json.
        name: of the evaluation.
        told: makes them.

    Returns:
        The table, and the places of all files.

    Raises:
        VolumeError: there are no results.
        WriteError: one may not write there.
    """
    location, _, results = place.rpartition("/")
    folder = open_folder(absolute(location))
    stored = folder.get(results)
    if stored is None:
        raise VolumeError(f"{place}: no results are there; first run volpipe evaluate {name}")
    text, pictures = told(json.loads(stored))
    made = {"results.txt": f"{text}\n".encode(), **pictures}
    for key, data in made.items():
        folder.put(key, data)
    return text, [f"{location}/{key}" for key in (results, *made)]


def png(figure: Figure) -> bytes:
    """As a file."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120)
    return data.getvalue()
