"""An output must not touch the input: neither may lie inside the other."""

from __future__ import annotations

import os

from volpipe.errors import ProductError
from volpipe.volume.folder import absolute, is_remote


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
