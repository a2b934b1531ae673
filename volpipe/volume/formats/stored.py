"""What a format says of an array: where it lies, its axes and extents, and how it is opened.

Convention: axes are letters of "tczyx" in the order in which the array is indexed, shape and chunk go with
them; voxel size and translation are micrometres along z, y, x.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.errors import VolumeError
from volpipe.volume.units import micrometres_per

Triple = tuple[float, float, float]
Reader = Callable[[tuple[slice, ...]], NDArray[Any]]
"""Reads a box of a stored array; slices in the order of its axes, with start and stop, without step."""


@dataclass(frozen=True)
class Modified:
    """Which files an array stands in and when they changed; equal tokens mean an unchanged input."""

    files: int
    bytes: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, paths: Iterable[str | Path]) -> Modified:
        """Look at the files now; `mtime_ns` is the newest, `sha256` covers names, sizes and times of all."""
        seen = [(os.fspath(path), os.stat(path)) for path in paths]
        lines = "".join(f"{path}\t{stat.st_size}\t{stat.st_mtime_ns}\n" for path, stat in seen)
        return cls(
            files=len(seen),
            bytes=sum(stat.st_size for _, stat in seen),
            mtime_ns=max(stat.st_mtime_ns for _, stat in seen),
            sha256=hashlib.sha256(lines.encode()).hexdigest(),
        )


@dataclass(frozen=True)
class StoredArray:
    """One array as its format holds it; small, picklable and hashable.

    Attributes:
        place: where the array is, in the format's own words.
        axes: one letter of "tczyx" per axis, in the order of indexing.
        shape, chunk: in the order of `axes`; `chunk` is the smallest unit that a read decodes.
        dtype: native byte order.
        opener: a module's function that opens this array in the calling process.
        level: place in a multiscale, 0 the finest.
        voxel_size_um, translation_um: z, y, x; None if not stated.
        digest: hash of the metadata document.
        modified: None where the store keeps no modification times.
        witness: a local file without which the array is gone; "" if there is none.
    """

    place: str
    axes: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: np.dtype[Any]
    opener: Callable[[StoredArray], Reader]
    level: int = 0
    voxel_size_um: Triple | None = None
    translation_um: Triple = (0.0, 0.0, 0.0)
    digest: str = ""
    modified: Modified | str | None = None
    witness: str = ""

    def __post_init__(self) -> None:
        check_axes(self.place, self.axes, self.shape)

    def extent(self, axis: str) -> int:
        """Length along an axis; 1 if the array does not have it."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    @property
    def volume_shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        return self.extent("z"), self.extent("y"), self.extent("x")


def digest_of(document: Mapping[str, Any]) -> str:
    """sha256 of a JSON document, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest()


def checked_voxel_size(place: str, sizes_um: Sequence[float], remedy: str) -> Triple:
    """Three lengths that can be a voxel: finite and above zero.

    Args:
        place: for the message.
        sizes_um: z, y, x.
        remedy: what to correct, for the message.

    Raises:
        VolumeError: a length is zero, negative, infinite or not a number.
    """
    for axis, size in zip("zyx", sizes_um, strict=True):
        if not (math.isfinite(size) and size > 0):
            raise VolumeError(f"{place}: voxel size {size:g} along {axis}; it must be above zero: {remedy}")
    z, y, x = (float(size) for size in sizes_um)
    return z, y, x


def micrometres_at(place: str, unit: str) -> float:
    """`micrometres_per`, with the place in the message."""
    try:
        return micrometres_per(unit)
    except VolumeError as error:
        raise VolumeError(f"{place}: {error}") from None


def check_axes(place: str, axes: str, shape: Sequence[int]) -> None:
    """Refuse axes that are not those of a volume.

    Raises:
        VolumeError: z, y or x is missing, another axis than t and c is there, or their number does not fit.
    """
    if len(axes) != len(shape) or len(set(axes)) != len(axes):
        raise VolumeError(f"{place}: axes {axes!r} do not fit the shape {tuple(shape)}; give each its own name")
    if not set("zyx") <= set(axes) <= set("tczyx"):
        raise VolumeError(f"{place}: its axes are {axes!r}; a volume needs z, y and x, and may have t and c")


def default_axes(place: str, ndim: int) -> str:
    """The axes of an array that does not name them: zyx, czyx or tczyx.

    Raises:
        VolumeError: a volume has three to five axes.
    """
    if not 3 <= ndim <= 5:
        raise VolumeError(f"{place}: has {ndim} axes; a volume has three (z, y, x) to five (t, c, z, y, x)")
    return "tczyx"[5 - ndim :]
