"""The 3D volume picked out of a stored array, and read box by box: the same for every format.

Which time point and channels, the order of the axes, the checks and the errors stand here, once.

Convention: z, y, x; a read returns (channels, z, y, x). Law: `read(box)` equals the whole volume cut to
`box`.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.errors import ReadError, VolumeError, reason
from volpipe.geometry import Box, lattice_cells
from volpipe.volume.formats.stored import Modified, Reader, StoredArray, Triple, digest_of

READ_DTYPES = (  # the first four are what microscopes give; the others are products, labels and masks
    *("uint8", "uint16", "int16", "float32"),
    *("bool", "int8", "int32", "uint32", "uint64", "float16", "float64"),
)
"""What can be read; the last two are for labels."""

_MAY_HEAL = {
    errno.EAGAIN,
    errno.EINTR,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
"""Errors of a busy machine or network file system: trying again may cure them."""


@dataclass(frozen=True)
class ArraySource:
    """A volume read where it is: one time point and one or all channels of a stored array (see `Source`)."""

    location: str
    array: StoredArray
    time: int
    channel: int | None

    @classmethod
    def pick(cls, location: str, array: StoredArray, *, channel: int | None, time: int | None) -> ArraySource:
        """Pick a 3D volume (with its channels) out of a stored array.

        Raises:
            VolumeError: the dtype is not read, or time point or channel are missing or out of range.
        """
        if array.dtype.name not in READ_DTYPES:
            raise VolumeError(
                f"{location}: dtype {array.dtype.name} is not read; convert it to uint8, uint16, int16 or "
                "float32 (labels: uint32 or uint64)"
            )
        if min(array.shape) < 1:
            raise VolumeError(f"{location}: its shape {array.shape} holds no voxel; give a volume that has some")
        if time is None and array.extent("t") > 1:
            raise VolumeError(f"{location}: has {array.extent('t')} time points; pick one with --time")
        for option, value, axis in (("--time", time, "t"), ("--channel", channel, "c")):
            if value is not None and not 0 <= value < array.extent(axis):
                raise VolumeError(f"{location}: {option} {value} is not there; give 0 to {array.extent(axis) - 1}")
        return cls(location, array, time or 0, channel)

    @property
    def axes(self) -> str:
        """The stored axes."""
        return self.array.axes

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        return self.array.volume_shape

    @property
    def channels(self) -> int:
        """How many channels `read` returns."""
        return self.array.extent("c") if self.channel is None else 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what `read` returns: native byte order."""
        return self.array.dtype

    @property
    def voxel_size_um(self) -> Triple | None:
        """Micrometres along z, y, x; None if the volume does not state it."""
        return self.array.voxel_size_um

    @property
    def translation_um(self) -> Triple:
        """Where voxel (0, 0, 0) lies."""
        return self.array.translation_um

    @property
    def chunk(self) -> tuple[int, int, int]:
        """The smallest unit that a read decodes, voxels along z, y, x."""
        z, y, x = (self.array.chunk[self.axes.index(axis)] for axis in "zyx")
        return z, y, x

    def read(self, box: Box) -> NDArray[Any]:
        """Read a box of the volume, and no more than the chunks that it touches.

        Args:
            box: voxels (z, y, x) inside the volume.

        Returns:
            (channels, z, y, x), C-contiguous.

        Raises:
            VolumeError: the box is empty or reaches out of the volume.
            ReadError: a chunk cannot be decoded, or the volume is gone. What may heal by itself (a busy
            network
                file system) stays the error that it is, so that the caller tries again.
        """
        self._check(box)
        try:
            return self._load(box)
        except Exception as error:
            if _may_heal(error):
                raise
            where = self._first_failure(box)
            raise ReadError(f"{self.location}: box {box}: {where} cannot be read: {reason(error)}") from error

    def identity(self) -> dict[str, Any]:
        """What makes a product of this volume another product: JSON-able, without a look at any chunk."""
        modified = self.array.modified
        return {
            "location": self.location,
            "picked": {"level": self.array.level, "time": self.time, "channel": self.channel},
            "metadata_sha256": digest_of(
                {
                    "axes": self.axes,
                    "shape": self.array.shape,
                    "dtype": self.dtype.name,
                    "voxel_size_um": self.voxel_size_um,
                    "translation_um": self.translation_um,
                    "document": self.array.digest,
                }
            ),
            "modified": vars(modified).copy() if isinstance(modified, Modified) else modified,
        }

    def _check(self, box: Box) -> None:
        if box.ndim != 3 or box.is_empty:
            raise VolumeError(
                f"{self.location}: box {box} holds no voxel; give z0:z1,y0:y1,x0:x1 with starts below stops"
            )
        if not Box.from_shape(self.shape).contains(box):
            raise VolumeError(
                f"{self.location}: box {box} reaches out of the volume; it ends at {self.shape} (z, y, x)"
            )

    def _load(self, box: Box) -> NDArray[Any]:
        stored = open_reader(self.array)(self._index(box))
        if self.array.witness and not os.path.exists(self.array.witness):
            # Without its metadata a zarr array has lost its chunks too, and missing chunks read as fill
            # value.
            raise FileNotFoundError(errno.ENOENT, "it vanished while it was read", self.array.witness)
        order = [self.axes.index(axis) for axis in "tczyx" if axis in self.axes]
        volume = stored.transpose(order).reshape(self.channels, *box.shape)
        return np.ascontiguousarray(volume, dtype=self.dtype)

    def _index(self, box: Box) -> tuple[slice, ...]:
        first = self.channel or 0
        at = dict(zip("zyx", box.slices, strict=True))
        at |= {"t": slice(self.time, self.time + 1), "c": slice(first, first + self.channels)}
        return tuple(at[axis] for axis in self.axes)

    def _first_failure(self, box: Box) -> str:
        """The first chunk of `box` that fails when it is read alone; only failing reads pay for this."""
        for cell in lattice_cells(box, self.chunk):
            part = cell.intersect(box)
            try:
                self._load(part)
            except Exception:
                return f"the chunk at {cell.intersect(Box.from_shape(self.shape))}"
        return "a chunk"


def open_reader(array: StoredArray) -> Reader:
    """The reader of an array in this process, opened once and kept for a while."""
    return _kept_reader(array, os.getpid())


@lru_cache(maxsize=16)
def _kept_reader(array: StoredArray, process: int) -> Reader:
    # By process: a fork must not share file offsets with its parent. The array's modification token is part
    # of the key, so a file that was written anew is opened anew.
    return array.opener(array)


def _may_heal(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _MAY_HEAL)
