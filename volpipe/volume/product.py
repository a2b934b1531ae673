"""Products: the volumes that volpipe writes. OME-NGFF 0.5 on zarr 3, sharded, written box by box.

    OUT.ome.zarr/zarr.json   {"ome": multiscales, "volpipe": {"state": "running" | "complete", ...}}
    OUT.ome.zarr/0/c/z/y/x   one file per shard: inner chunks zstd (with its checksum), index crc32c
    OUT.ome.zarr/1 ...       coarser levels: listed by `publish`, only after they are done

Laws: a box that is written is whole shards, so no two writers share a file; a killed write leaves the old shard
or the new one, never a part (zarr-python 3.1.6, zarr/storage/_local.py: `_atomic_write` writes a temporary file
ending in ".partial" and renames it; object stores put whole objects); writing the same box twice is harmless.
The driver alone changes metadata; workers only write voxels.
A chunk that is all zero is not stored, nor a shard of such chunks (`write_empty_chunks=False`; zarr-python
compares bit patterns, so -0.0 is stored): a missing shard is no proof of unfinished work. Receipts prove what
was done, and `checksum` checks them.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.errors import GeometryError, ProductError, ReadError, VolumeError
from volpipe.geometry import BlockGrid, Box
from volpipe.volume.folder import absolute, occupied, open_folder, writing
from volpipe.volume.groups import DATA_ERRORS, level_paths, make_array, make_group, open_group, stored_layout
from volpipe.volume.layout import Extents, Layout
from volpipe.volume.multiscale import Factors, document, with_levels
from volpipe.volume.units import micrometres_per

__all__ = ["COMPLETE", "RUNNING", "Layout", "Product", "create_product", "open_product"]

NAMESPACE = "volpipe"
RUNNING, COMPLETE = "running", "complete"


class Product:
    """A volume that workers write and read box by box; picklable, opens lazily, may be shared by threads.

    Attributes:
        location: absolute local path, or an object store's address.
    """

    def __init__(self, location: str, layout: Layout | None = None) -> None:
        """Name a product; it need not exist yet, and its layout is read from it where it is not given."""
        self.location = absolute(location)
        self._layout = layout
        self._arrays: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Product], tuple[str, Layout | None]]:
        return Product, (self.location, self._layout)

    def __repr__(self) -> str:
        return f"Product({self.location!r})"

    # ------------------------------------------------------------------ voxels: workers

    @property
    def layout(self) -> Layout:
        """What level 0 looks like."""
        if self._layout is None:
            self._layout = stored_layout(self.location)
        return self._layout

    def grid(self, level: int = 0) -> BlockGrid:
        """The shards of a level as blocks, in that level's voxels."""
        return _extents(self._array(level)).grid

    def write(self, box: Box, voxels: NDArray[Any], level: int = 0) -> int:
        """Store a box that is whole shards, one after the other: one shard's buffers are alive at a time.

        Args:
            box: in the voxels of that level, starting on a shard and ending on one or at the array's end.
            voxels: (c, z, y, x), of the stored dtype.
            level: of the pyramid.

        Returns:
            crc32 of the voxels in C order.

        Raises:
            GeometryError: the box is not whole shards, or the voxels do not fit it.
            WriteError: the disk is full, or the store refuses.
        """
        array = self._array(level)
        extents, channels = _extents(array), _channels(array)
        extents.check_shards(box)
        if voxels.shape != (channels, *box.shape) or voxels.dtype != array.dtype:
            raise GeometryError(
                f"{self.location}: {voxels.dtype.name} voxels {voxels.shape} for {box}; "
                f"give {array.dtype.name} {(channels, *box.shape)}"
            )
        for shard in BlockGrid(box, extents.shard):
            self._write_shard(array, shard.core, voxels[:, *shard.core.relative_to(box.start).slices])
        return checksum_of(voxels)

    def read(self, box: Box, level: int = 0) -> NDArray[Any]:
        """The voxels (c, z, y, x) of a box of that level; zeros where nothing was written.

        Raises:
            ReadError: a chunk does not decode.
        """
        array = self._array(level)
        try:
            voxels: NDArray[Any] = np.asarray(array[_selection(array, box)])
        except DATA_ERRORS as error:
            where = f"{self.location}: level {level}, box {box}"
            raise ReadError(f"{where} does not decode ({error}); write it again") from error
        return voxels if voxels.ndim == 4 else voxels[np.newaxis]

    def checksum(self, box: Box, level: int = 0) -> int:
        """crc32 of what is stored in a box; equal to the receipt's if that write is the one that lasted."""
        return checksum_of(self.read(box, level))

    def _array(self, level: int) -> Any:
        with self._lock:
            if level not in self._arrays:
                group = open_group(self.location, read_only=False)
                listed = level_paths(group)
                path = listed[level] if level < len(listed) else str(level)
                if path not in group:
                    raise ProductError(f"{self.location}: has no level {level}; run volpipe pyramid first")
                self._arrays[level] = group[path]
            return self._arrays[level]

    def _write_shard(self, array: Any, box: Box, voxels: NDArray[Any]) -> None:
        """Write one shard; bytes of an earlier one that no longer decode (a power cut) are replaced.

        zarr-python reads the stored shard before it writes, even when every chunk is replaced.
        """
        selection = _selection(array, box)
        values = voxels if array.ndim == 4 else voxels[0]
        with writing(self.location):
            try:
                array[selection] = values
            except DATA_ERRORS:
                open_folder(self.location).delete(_key_of_shard(array, box))
                array[selection] = values

    # ------------------------------------------------------------------ metadata: the driver

    def add_level(self, level: int, factors: Factors) -> None:
        """Make the array of a coarser level, unlisted until `publish`; one that is there and fits is kept.

        Args:
            level: 1 or more; the level before it must exist.
            factors: z, y, x, relative to the level before.

        Raises:
            ProductError: that level is listed already, and has other extents.
        """
        group = open_group(self.location, read_only=False)
        finer = self._array(level - 1)
        extents = _extents(finer).coarser(factors)
        if level >= len(level_paths(group)):
            with writing(self.location):
                make_array(group, str(level), extents, finer.dtype, channels=_channel_axis(finer))
            with self._lock:
                self._arrays.pop(level, None)
        elif _extents(self._array(level)) != extents:
            raise ProductError(f"{self.location}: has another level {level}; give --restart to make it again")

    def publish(self, factors: Sequence[Factors], method: str = "") -> None:
        """List level 0 and a level for each of `factors`, in one write of the metadata; may be repeated.

        Args:
            factors: per level, relative to the level before; empty to list level 0 only.
            method: how the levels were made, for the `type` entry of the metadata.
        """
        group = open_group(self.location, read_only=False)
        ome: Any = group.attrs["ome"]
        with writing(self.location):
            group.update_attributes({"ome": with_levels(ome, factors, method)})

    def remove_levels(self) -> None:
        """Unlist every level but 0, then delete them; what is not listed stays."""
        group = open_group(self.location, read_only=False)
        _, *listed = level_paths(group)
        self.publish(())
        with writing(self.location), self._lock:
            for path in listed:
                del group[path]
            self._arrays.clear()

    @property
    def levels(self) -> int:
        """How many levels the metadata lists, level 0 included."""
        return len(level_paths(open_group(self.location)))

    @property
    def attributes(self) -> dict[str, Any]:
        """volpipe's own attributes, read anew."""
        return own_attributes(self.location) or {}

    def update(self, **values: Any) -> None:
        """Merge values into volpipe's own attributes: read, change, write."""
        group = open_group(self.location, read_only=False)
        with writing(self.location):
            group.update_attributes({NAMESPACE: {**self.attributes, **values}})


def create_product(location: str, layout: Layout, attributes: Mapping[str, Any], *, replace: bool = False) -> Product:
    """Make an empty product with state "running".

    Args:
        location: where; nothing may be there.
        layout: of level 0.
        attributes: volpipe's own: provenance and whatever the job wants to find again.
        replace: remove a product of volpipe's that is there. Anything else is never removed.

    Raises:
        ProductError: something is there.
        VolumeError: the unit is not the full name of a unit of length.
        WriteError: the disk is full, or the store refuses.
    """
    location = absolute(location)
    name = location.rpartition("/")[2].partition(".")[0]
    ome = document(name, layout.channels, *_stated_place(layout))
    _check_vacant(location, replace=replace)
    with writing(location):
        group = make_group(location, {"ome": ome, NAMESPACE: {"state": RUNNING, **attributes}})
        channels = layout.channels if layout.channels > 1 else None
        make_array(group, "0", layout.extents, layout.dtype, channels=channels)
    return Product(location, layout)


def remove_product(location: str) -> None:
    """Leave nothing of a product of volpipe's where it was.

    Raises:
        ProductError: something is there that volpipe did not make.
        WriteError: the store refuses.
    """
    _check_vacant(location, replace=True)
    with writing(location):
        make_group(location, {NAMESPACE: {"state": RUNNING}})  # which removes all that is there
        open_folder(location).delete("zarr.json")


def open_product(location: str) -> Product:
    """Open what `create_product` made, or another OME-NGFF 0.5 volume on zarr 3; its state is not asked.

    Raises:
        ProductError: there is none, or its axes are not z, y, x or c, z, y, x.
    """
    return Product(location, stored_layout(absolute(location)))


def own_attributes(location: str) -> dict[str, Any] | None:
    """volpipe's own attributes; None if nothing is there, or something that volpipe did not make."""
    try:
        own = open_group(location).attrs.get(NAMESPACE)
    except (ProductError, VolumeError):
        return None
    return dict(own) if isinstance(own, Mapping) else None


def checksum_of(voxels: NDArray[Any]) -> int:
    """crc32 over the bytes of an array in C order."""
    return zlib.crc32(np.ascontiguousarray(voxels).reshape(-1).view(np.uint8).data)


def _stated_place(layout: Layout) -> tuple[str | None, list[float], list[float]]:
    """(unit, scale, translation) as the metadata states them."""
    if layout.voxel_size_um is None:
        return None, [1.0] * 3, [0.0] * 3
    unit_um = micrometres_per(layout.unit)
    scale = [size / unit_um for size in layout.voxel_size_um]
    return layout.unit, scale, [shift / unit_um for shift in layout.translation_um]


def _check_vacant(location: str, *, replace: bool) -> None:
    if not occupied(location):
        return
    if own_attributes(location) is None:
        raise ProductError(f"{location}: something is there that volpipe did not make; give another output")
    if not replace:
        raise ProductError(f"{location} exists; give another output, or --restart to make it again")


def _extents(array: Any) -> Extents:
    return Extents(array.shape[-3:], array.chunks[-3:], (array.shards or array.chunks)[-3:])


def _channel_axis(array: Any) -> int | None:
    return array.shape[0] if array.ndim == 4 else None


def _channels(array: Any) -> int:
    return _channel_axis(array) or 1


def _selection(array: Any, box: Box) -> tuple[slice, ...]:
    channels: int = array.ndim - 3
    return (slice(None),) * channels + box.slices


def _key_of_shard(array: Any, box: Box) -> str:
    index = tuple(a // s for a, s in zip(box.start, _extents(array).shard, strict=True))
    return f"{array.path}/{array.metadata.encode_chunk_key((0,) * (array.ndim - 3) + index)}"
