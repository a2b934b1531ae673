"""Volumes read where they are: one small protocol for every format, and the function that opens any of them.

    dir.zarr  dir.ome.zarr/1  s3://bucket/dir.zarr   OME-Zarr 0.4 and 0.5, bare arrays of zarr 2 and 3
    x.n5/dataset                                     N5
    precomputed://path  folder-with-info             Neuroglancer precomputed
    file.h5:/path                                    HDF5 (the path may be left out if it holds one volume)
    stack.tif  folder-of-tiffs  "dir/*.tif"          TIFF, ImageJ, OME-TIFF; files of one page are sorted

Convention: z, y, x; micrometres; a read returns (channels, z, y, x). Nothing is copied or converted
beforehand, and a read decodes only the chunks that its box touches. Sources pickle: they carry names and open
in the process that reads. A zarr chunk that was never written reads as the array's fill value. A single plane
without a z axis is refused.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from volpipe.errors import VolpipeError, VolumeError, named
from volpipe.geometry import Box
from volpipe.volume.formats.picked import ArraySource
from volpipe.volume.formats.stored import StoredArray

SUPPORTED = "OME-Zarr, zarr, N5, Neuroglancer precomputed, HDF5 (file.h5:/path), TIFF (file, folder, glob)"

TIFF_SUFFIXES = (".tif", ".tiff")

_HDF5 = re.compile(r".+\.(h5|hdf5|hdf)(:.*)?", re.IGNORECASE | re.DOTALL)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class Source(Protocol):
    """A volume that can be read box by box; picklable, and safe to read from several threads."""

    @property
    def location(self) -> str:
        """What was opened; absolute for local paths."""
        ...

    @property
    def axes(self) -> str:
        """The stored axes, as "tczyx" or "zyx"."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the picked level along z, y, x."""
        ...

    @property
    def channels(self) -> int:
        """How many channels `read` returns."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8, uint16, int16 or float32 (labels: uint32, uint64), native byte order."""
        ...

    @property
    def voxel_size_um(self) -> tuple[float, float, float] | None:
        """Micrometres along z, y, x; None if not stated."""
        ...

    @property
    def translation_um(self) -> tuple[float, float, float]:
        """Where voxel (0, 0, 0) lies, micrometres along z, y, x."""
        ...

    @property
    def chunk(self) -> tuple[int, int, int]:
        """The smallest unit that a read decodes (a shard's inner chunk, a TIFF strip): voxels, z, y, x."""
        ...

    def read(self, box: Box) -> NDArray[Any]:
        """Read a box that lies inside the volume: (channels, z, y, x), C-contiguous."""
        ...

    def identity(self) -> dict[str, Any]:
        """What was read, as JSON: location, pick, hash of the metadata, modification tokens."""
        ...


@dataclass(frozen=True, slots=True)
class LevelInfo:
    """One level of a multiscale, 0 the finest."""

    level: int
    shape: tuple[int, int, int]
    voxel_size_um: tuple[float, float, float] | None


def open_source(
    location: str | Path, *, level: int | None = None, channel: int | None = None, time: int | None = None
) -> Source:
    """Open a volume of any supported format where it is.

    Args:
        location: path, URL or glob (see the head of this module).
        level: which level of a multiscale; the finest unless given.
        channel: one channel; all unless given.
        time: one time point; must be given if there are several.

    Raises:
        VolumeError: there is nothing to read, or it is not a volume that can be read, or the pick is out of
        range. ReadError: metadata that cannot be decoded.
    """
    opened = _absolute(location)
    arrays = _levels(opened)
    picked = 0 if level is None else level
    if not 0 <= picked < len(arrays):
        raise VolumeError(f"{opened}: --level {picked} is not there; give 0 to {len(arrays) - 1}")
    return ArraySource.pick(opened, arrays[picked], channel=channel, time=time)


def levels_of(location: str | Path) -> list[LevelInfo]:
    """The levels of a multiscale, finest first; a single array is one level.

    Raises:
        VolumeError: there is nothing to read.
    """
    arrays = _levels(_absolute(location))
    return [LevelInfo(n, array.volume_shape, array.voxel_size_um) for n, array in enumerate(arrays)]


def time_points(location: str | Path) -> int:
    """How many time points a volume has; 1 where it has no such axis.

    Raises:
        VolumeError: there is nothing to read.
    """
    return _levels(_absolute(location))[0].extent("t")


def _absolute(location: str | Path) -> str:
    text = os.fspath(location)
    if not text:
        raise VolumeError(f"an empty location: give one of {SUPPORTED}")
    scheme = _SCHEME.match(text)
    if scheme is None:
        return os.path.abspath(text)
    rest = text[scheme.end() :]
    local = scheme.group() in ("precomputed://", "file://") and not _SCHEME.match(rest)
    prefix = "" if scheme.group() == "file://" else scheme.group()
    return prefix + os.path.abspath(rest) if local else text.rstrip("/")


def _levels(location: str) -> list[StoredArray]:
    try:
        return _ask_format(location)
    except VolpipeError:
        raise
    except Exception as error:  # only metadata is read here, by five libraries with errors of their own
        raise VolumeError(f"{location}: its metadata cannot be read: {named(error)}") from error


def _ask_format(location: str) -> list[StoredArray]:
    """A format's libraries are imported only when one of its volumes is opened."""
    match _format_of(location):
        case "zarr":
            from volpipe.volume.formats import zarr_arrays

            return zarr_arrays.levels(location)
        case "hdf5":
            from volpipe.volume.formats import hdf5

            return hdf5.levels(location)
        case "tiff":
            from volpipe.volume.formats import tiff

            return tiff.levels(location)
        case _:
            from volpipe.volume.formats import tensorstore_arrays

            return tensorstore_arrays.levels(location)


def _format_of(location: str) -> str:
    if location.startswith("precomputed://"):
        return "tensorstore"
    if _SCHEME.match(location):
        return "zarr"
    path = Path(location)
    if path.is_dir():
        return _format_of_folder(path)
    if _HDF5.fullmatch(location):
        return "hdf5"
    if path.suffix.lower() in TIFF_SUFFIXES or (not path.exists() and has_magic(location)):
        return "tiff"
    if not path.exists():
        raise VolumeError(f"{location}: no such file or folder; check the path")
    raise VolumeError(f"{location}: not a format that is read; give {SUPPORTED}")


def _format_of_folder(path: Path) -> str:
    if any((path / name).exists() for name in ("zarr.json", ".zarray", ".zgroup")):
        return "zarr"
    if any((path / name).exists() for name in ("attributes.json", "info")) or ".n5" in {
        p.suffix for p in (path, *path.parents)
    }:
        return "tensorstore"
    # Last, because it lists the folder, which may hold a million chunks.
    if any(name.lower().endswith(TIFF_SUFFIXES) for name in os.listdir(path)):
        return "tiff"
    raise VolumeError(f"{path}: this folder holds no volume; give {SUPPORTED}")
