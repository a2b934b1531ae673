"""OME-Zarr 0.4 and 0.5, and bare arrays of zarr 2 and 3, on disk or on an object store.

Convention: axes by name from OME metadata, zarr 3 `dimension_names` or xarray's `_ARRAY_DIMENSIONS`; else
zyx, czyx, tczyx by their number. Transformations of a dataset apply first, those of its multiscale after it.
An array inside a multiscale (`x.ome.zarr/1`) takes its axes and voxel size from there.

A chunk that is not there reads as fill value; one that is there but damaged must never. zarr-python reads an
empty shard as fill value, and numcodecs decodes half a blosc chunk to garbage without a word: `CheckedStore`
refuses both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.codecs import BloscCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from volpipe.errors import VolumeError
from volpipe.volume.formats.ome_multiscales import Json, axis_names, geometry, multiscale_in
from volpipe.volume.formats.stored import (
    Modified,
    Reader,
    StoredArray,
    check_axes,
    default_axes,
    digest_of,
)

ZarrArray = zarr.Array[Any]


class CheckedStore(WrapperStore[Store]):
    """A store that refuses chunks cut short; set `blosc` if each of its chunks is one blosc buffer."""

    blosc = False

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes of a key, or None if it is not there."""
        value = await self._store.get(key, prototype, byte_range)
        if value is not None and len(value) < self._expected(value, byte_range):
            raise ValueError(f"{key} is cut short: it has {len(value)} bytes")
        return value

    def _expected(self, value: Buffer, byte_range: ByteRequest | None) -> int:
        if isinstance(byte_range, RangeByteRequest):
            return byte_range.end - byte_range.start
        if self.blosc and byte_range is None:
            # A blosc header is 16 bytes; its last four say how long the whole buffer is.
            return max(16, int.from_bytes(value[:16].to_bytes()[12:16], "little"))
        return 1


def levels(location: str) -> list[StoredArray]:
    """The levels of a multiscale, or the one array that `location` names.

    Raises:
        VolumeError: nothing is there, it is an unfinished product, or its metadata is wrong.
    """
    node = _node(location)
    if node is None:
        raise VolumeError(f"{location}: holds no zarr array or group; check the path")
    if isinstance(node, zarr.Array):
        return [_array_inside(location, node)]
    _refuse_unfinished(location, node)
    multiscale = multiscale_in(node.attrs.asdict())
    if multiscale is None:
        raise VolumeError(f"{location}: is a zarr group without multiscales; give one of its members: {_members(node)}")
    return [_level(location, multiscale, number) for number in range(len(multiscale["datasets"]))]


def _level(location: str, multiscale: Json, number: int) -> StoredArray:
    place = f"{location}/{multiscale['datasets'][number]['path']}"
    array = _node(place)
    if not isinstance(array, zarr.Array):
        raise VolumeError(f"{place}: is named by the multiscales of {location} and is not there")
    return _describe(place, array, multiscale, number)


def _array_inside(location: str, array: ZarrArray) -> StoredArray:
    """An array named directly; a multiscale above that lists it says its axes and voxel size."""
    for above, group, path in _groups_above(location):
        _refuse_unfinished(above, group)
        multiscale = multiscale_in(group.attrs.asdict())
        paths = [dataset["path"] for dataset in multiscale["datasets"]] if multiscale else []
        if multiscale and path in paths:
            return _describe(location, array, multiscale, paths.index(path))
    return _describe(location, array, None, 0)


def _describe(place: str, array: ZarrArray, multiscale: Json | None, number: int) -> StoredArray:
    axes = _axes(place, array, multiscale)
    voxel_size, translation = geometry(place, axes, multiscale, number) if multiscale else (None, (0.0, 0.0, 0.0))
    document = f"{place}/{'zarr.json' if array.metadata.zarr_format == 3 else '.zarray'}"
    return StoredArray(
        place=place,
        axes=axes,
        shape=tuple(array.shape),
        chunk=tuple(array.chunks),
        dtype=np.dtype(array.dtype).newbyteorder("="),
        opener=_open,
        level=number,
        voxel_size_um=voxel_size,
        translation_um=translation,
        digest=digest_of({key: value for key, value in array.metadata.to_dict().items() if key != "attributes"}),
        modified=_entity_tag(array) if "://" in place else Modified.of([document]),
        witness="" if "://" in place else document,
    )


def _open(array: StoredArray) -> Reader:
    store = CheckedStore(_store(array.place))
    opened = zarr.open_array(store=store, mode="r")
    store.blosc = opened.shards is None and _ends_in_blosc(opened)
    return lambda index: np.asarray(opened[index])


def _ends_in_blosc(array: ZarrArray) -> bool:
    last = array.compressors[-1] if array.compressors else None
    return isinstance(last, BloscCodec) or getattr(last, "codec_id", "") == "blosc"


def _axes(place: str, array: ZarrArray, multiscale: Json | None) -> str:
    names = (axis_names(multiscale) if multiscale else None) or _own_names(array)
    if not names:
        return default_axes(place, array.ndim)
    if any(len(name) != 1 for name in names):
        raise VolumeError(f"{place}: its axes are {', '.join(names)}; a volume has axes named t, c, z, y, x")
    check_axes(place, "".join(names), array.shape)
    return "".join(names)


def _own_names(array: ZarrArray) -> list[str] | None:
    """Names that the array itself gives its axes, if they are names of ours."""
    own = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    names = [str(name).lower() for name in own] if isinstance(own, list | tuple) else []
    return names if names and set(names) <= set("tczyx") else None


def _refuse_unfinished(place: str, group: zarr.Group) -> None:
    own = group.attrs.get("volpipe")
    if isinstance(own, Mapping) and own.get("state") == "running":
        raise VolumeError(
            f"{place}: is a product that is not finished; run the same command again, or start it anew with "
            "volpipe apply ... --restart"
        )


def _members(group: zarr.Group) -> str:
    return ", ".join(sorted(path for path, _ in group.members(max_depth=1))[:10]) or "none in it"


def _groups_above(location: str) -> Iterator[tuple[str, zarr.Group, str]]:
    """(location, group, path from there) for the groups around an array, the nearest first."""
    above, path = location, ""
    while True:
        above, _, name = above.rpartition("/")
        path = f"{name}/{path}" if path else name
        group = _node(above) if above and not above.endswith("/") else None
        if not isinstance(group, zarr.Group):
            return
        yield above, group, path


def _node(location: str) -> ZarrArray | zarr.Group | None:
    try:
        return zarr.open(store=_store(location), mode="r")
    except FileNotFoundError:
        return None


def _store(location: str) -> Store:
    if "://" not in location:
        return LocalStore(location, read_only=True)
    try:
        from obstore.store import from_url
        from zarr.storage import ObjectStore
    except ImportError:
        needed = "volumes on object stores are read with obstore, which is not installed"
        raise VolumeError(f"{location}: {needed}: pip install 'volpipe[remote]'") from None
    return ObjectStore(from_url(location), read_only=True)


def _entity_tag(array: ZarrArray) -> str | None:
    """The object store's tag of the array's metadata document."""
    from zarr.storage import ObjectStore

    store: Any = array.store
    if not isinstance(store, ObjectStore):
        return None
    key = "zarr.json" if array.metadata.zarr_format == 3 else ".zarray"
    tag = store.store.head(key).get("e_tag")
    return None if tag is None else str(tag)
