"""Where an output may go: into a folder that can be written to, and apart from the input."""

from __future__ import annotations

import os
from pathlib import Path

from volpipe.errors import ProductError
from volpipe.volume.folder import absolute, is_remote


def check_place(output: str) -> None:
    """Make sure that an output and its ledger can be made; an object store tells only when it is written to.

    Raises:
        ProductError: a part of its path is a file, or a folder that one may not write to.
    """
    if is_remote(absolute(output)):
        return
    folder = next(parent for parent in Path(absolute(output)).parents if parent.exists())
    if not folder.is_dir():
        raise ProductError(f"{output}: {folder} is a file; give an output in a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ProductError(f"{output}: you may not write to {folder}; give an output where you may")


def check_apart(output: str, source: str) -> None:
    """Make sure that writing the output cannot touch the input.

    Raises:
        ProductError: one is the other, or lies inside it.
    """
    made, read = _extent_of(output), _extent_of(source)
    if f"{made}/".startswith(f"{read}/"):
        raise ProductError(f"{output}: lies inside the input {source}; give another output")
    if f"{read}/".startswith(f"{made}/"):
        raise ProductError(f"{output}: the input {source} lies inside it; give another output")


def _extent_of(location: str) -> str:
    """The file, folder or prefix that a volume occupies: `file.h5:/path` is its file, links are followed."""
    place = absolute(location.removeprefix("precomputed://"))
    return place if is_remote(place) else os.path.realpath(place.partition(":")[0])
