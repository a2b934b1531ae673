"""A folder of small results: JSON files and groups of arrays under one zarr group, which says whose it is.

    PLACE/zarr.json          {"volpipe": {"state": "running" | "complete", ...}}
    PLACE/*.json             by `open_folder`; no zarr, for people and other programs
    PLACE/*.zarr             by `small_arrays`

Laws: what volpipe did not make is never replaced; a folder that is begun anew holds nothing of before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from volpipe.errors import ProductError
from volpipe.volume.folder import absolute, occupied, open_folder, writing
from volpipe.volume.groups import make_bare_group, open_group
from volpipe.volume.product import COMPLETE, NAMESPACE, RUNNING, own_attributes

OWN = "zarr.json"


def begin_results(location: str, *, replace: bool = False) -> None:
    """Make an empty folder of state "running".

    Raises:
        ProductError: something is there that may not be replaced.
        WriteError: the disk is full, or the store refuses.
    """
    location = absolute(location)
    if occupied(location) and (not replace or own_attributes(location) is None):
        raise ProductError(f"{location}: exists already; give another place")
    folder = open_folder(location)
    for key in folder.keys(""):
        if key != OWN:  # which goes last: killed in between, it is still known whose the rest is
            folder.delete(key)
    with writing(location):
        make_bare_group(location, {NAMESPACE: {"state": RUNNING}})


def finish_results(location: str, attributes: Mapping[str, Any]) -> None:
    """Declare a folder complete."""
    location = absolute(location)
    with writing(location):
        group = open_group(location, read_only=False)
        group.update_attributes({NAMESPACE: {"state": COMPLETE, **attributes}})


def are_complete(location: str) -> bool:
    """True for a folder whose results are all there."""
    return (own_attributes(location) or {}).get("state") == COMPLETE
