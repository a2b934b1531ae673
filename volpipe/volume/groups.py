"""The zarr side of products: stores, groups, arrays, and what their metadata says.

Everything here is zarr format 3. Consolidated metadata is never read: it would hide levels that were added
later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import ZstdCodec
from zarr.errors import ContainsArrayError
from zarr.storage import LocalStore, ObjectStore

from volpipe.errors import ProductError
from volpipe.volume.folder import absolute, is_remote, object_store
from volpipe.volume.formats.zarr_arrays import CheckedStore
from volpipe.volume.layout import Extents, Layout
from volpipe.volume.multiscale import SPATIAL, placement
from volpipe.volume.units import micrometres_per

DATA_ERRORS = (ValueError, RuntimeError)
"""What zarr and numcodecs raise for bytes that do not decode."""

# Level 3 with zstd's own checksum. A 256^3 shard of noisy 8-bit data: 0.1-0.2 CPU-s (level 1 0.07), the same
# size at levels 1, 3 and 5. The checksum (4 bytes a chunk) is what lets `validate --deep` see a flipped bit.
_COMPRESSOR = ZstdCodec(level=3, checksum=True)


def zarr_store(location: str, *, read_only: bool = False) -> Store:
    """The store of a local path or an object store's address; it refuses shards cut short to nothing."""
    location = absolute(location)
    if is_remote(location):
        return CheckedStore(ObjectStore(object_store(location), read_only=read_only))
    return CheckedStore(LocalStore(location, read_only=read_only))


def open_group(location: str, *, read_only: bool = True) -> zarr.Group:
    """The group at a location.

    Raises:
        ProductError: there is none, or its metadata does not parse.
    """
    try:
        group = _open_group(location, read_only=True)
        # Only now: a LocalStore that may write makes its folder when it is opened.
        return group if read_only else _open_group(location, read_only=False)
    except ContainsArrayError:
        raise ProductError(f"{location}: is an array, not an OME-Zarr group; volpipe import makes one of it") from None
    except (FileNotFoundError, NotADirectoryError):
        raise ProductError(f"{location}: no zarr 3 group is there; check the path") from None
    except DATA_ERRORS as error:
        raise ProductError(f"{location}: its zarr.json does not parse ({error}); remove it") from None


def _open_group(location: str, *, read_only: bool) -> zarr.Group:
    store = zarr_store(location, read_only=read_only)
    return zarr.open_group(store, mode="r" if read_only else "r+", zarr_format=3, use_consolidated=False)


def make_group(location: str, attributes: Mapping[str, Any]) -> zarr.Group:
    """An empty group with these attributes, in place of what is there.

    The group's own metadata goes last, so that a removal that was interrupted can still be told from foreign
    data.
    """
    try:
        old = open_group(location, read_only=False)
    except ProductError:
        pass
    else:
        for name in list(old):
            del old[name]
    return make_bare_group(location, attributes)


def make_bare_group(location: str, attributes: Mapping[str, Any]) -> zarr.Group:
    """The same at once: an interrupted removal leaves what nobody owns, and zarr is not asked what is there, which
    warns of every file that is not its own."""
    return zarr.create_group(zarr_store(location), overwrite=True, attributes=dict(attributes))


def make_array(group: zarr.Group, name: str, extents: Extents, dtype: np.dtype[Any], *, channels: int | None) -> None:
    """An empty array of these extents; one that is there and has them is kept, another one replaced.

    Args:
        group: where.
        name: path of the array in the group.
        extents: z, y, x.
        dtype: of the voxels.
        channels: None leaves the channel axis out.
    """
    lead = () if channels is None else (channels,)
    shape, chunk, shard = (lead + three for three in (extents.shape, extents.chunk, extents.shard))
    if name in group:
        there: Any = group[name]
        if (there.shape, there.chunks, there.shards, there.dtype) == (shape, chunk, shard, dtype):
            return
        del group[name]
    group.create_array(
        name,
        shape=shape,
        chunks=chunk,
        shards=shard,
        dtype=dtype,
        compressors=_COMPRESSOR,
        fill_value=0,
        dimension_names=SPATIAL if channels is None else ("c", *SPATIAL),
        config={"write_empty_chunks": False},
    )


def level_paths(group: zarr.Group) -> list[str]:
    """Paths of the levels that the metadata lists, finest first."""
    return [str(dataset["path"]) for dataset in _multiscale(group)["datasets"]]


def stored_layout(location: str) -> Layout:
    """The layout of the finest level of an OME-NGFF 0.5 volume.

    Raises:
        ProductError: it is not one, its level 0 is missing, or its axes are not (c,) z, y, x.
    """
    group = open_group(location)
    multiscale, path = _multiscale(group), level_paths(group)[0]
    if path not in group:
        raise ProductError(f"{location}: its level 0 is missing; make it again with --restart")
    array: Any = group[path]
    names = tuple(axis["name"] for axis in multiscale["axes"])
    if names not in (SPATIAL, ("c", *SPATIAL)):
        raise ProductError(
            f"{location}: its axes are {names}; only (c,) z, y, x can be written, volpipe import makes them"
        )
    units = [axis.get("unit") for axis in multiscale["axes"][-3:]]
    scale, translation = _placed(multiscale, len(names))
    to_um = [1.0 if unit is None else micrometres_per(unit) for unit in units]
    return Layout(
        shape=array.shape[-3:],
        channels=array.shape[0] if len(names) == 4 else 1,
        dtype=array.dtype,
        voxel_size_um=None if None in units else _triple(scale, to_um),
        translation_um=_triple(translation, to_um),
        unit=units[-1] or "micrometer",
        chunk=array.chunks[-3:],
        shard=(array.shards or array.chunks)[-3:],
    )


def _multiscale(group: zarr.Group) -> Mapping[str, Any]:
    ome: Any = group.attrs.get("ome")
    try:
        multiscale: Mapping[str, Any] = ome["multiscales"][0]
        multiscale["axes"], multiscale["datasets"][0]["path"]
    except (TypeError, KeyError, IndexError):
        raise ProductError(f"{group.store_path}: is not an OME-NGFF 0.5 volume; give one, or import it") from None
    return multiscale


def _placed(multiscale: Mapping[str, Any], axes: int) -> tuple[list[float], list[float]]:
    """Level 0's scale and translation, with the transformation that the multiscale applies to all levels."""
    scale, translation = placement(multiscale["datasets"][0], axes)
    outer_scale, outer_translation = placement(multiscale, axes)
    return (
        [s * o for s, o in zip(scale, outer_scale, strict=True)],
        [t * o + shift for t, o, shift in zip(translation, outer_scale, outer_translation, strict=True)],
    )


def _triple(values: list[float], factors: list[float]) -> tuple[float, float, float]:
    z, y, x = (value * factor for value, factor in zip(values[-3:], factors, strict=True))
    return z, y, x
