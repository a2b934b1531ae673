"""A few arrays that fit into memory, in one zarr group with attributes: fields of slabs, beside a transforms file.

    PLACE/zarr.json          {"volpipe": {"state": "complete", ...attributes}}
    PLACE/displacement       one array each, zstd

Laws: what is loaded was stored whole (a killed write is never complete); what volpipe did not make is never replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from volpipe.errors import ProductError, ReadError
from volpipe.volume.folder import absolute, occupied, writing
from volpipe.volume.groups import DATA_ERRORS, make_group, open_group
from volpipe.volume.product import COMPLETE, NAMESPACE, RUNNING, own_attributes

LARGEST_CHUNK = 1024


def store_arrays(location: str, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]) -> None:
    """Store arrays by name, in place of what volpipe stored there before.

    Raises:
        ProductError: something else is there.
        WriteError: the disk is full, or the store refuses.
    """
    location = absolute(location)
    if occupied(location) and own_attributes(location) is None:
        raise ProductError(f"{location}: something is there that volpipe did not make; give another place")
    with writing(location):
        group = make_group(location, {NAMESPACE: {"state": RUNNING}})
        for name, array in arrays.items():
            chunks = tuple(min(n, LARGEST_CHUNK) for n in array.shape)
            made = group.create_array(name, shape=array.shape, chunks=chunks, dtype=array.dtype)
            made[...] = array
        group.update_attributes({NAMESPACE: {"state": COMPLETE, **attributes}})


def load_arrays(location: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """(arrays by name, attributes).

    Raises:
        ProductError: there are none, or they were not stored to the end.
        ReadError: a chunk does not decode.
    """
    group = open_group(absolute(location))
    own: Any = group.attrs.get(NAMESPACE)
    if not isinstance(own, Mapping) or own.get("state") != COMPLETE:
        raise ProductError(f"{location}: was not stored to its end by volpipe; make it again")
    try:
        arrays = {name: np.asarray(array[...]) for name, array in group.arrays() if isinstance(array, zarr.Array)}
    except DATA_ERRORS as error:
        raise ReadError(f"{location}: does not decode ({error}); make it again") from error
    return arrays, {name: value for name, value in own.items() if name != "state"}
