"""One page of a TIFF file, read by its place in the file.

Rows of an uncompressed page come straight from the disk; strips or tiles of a compressed one are decoded,
each once per read, and only those that the box touches. No handle and no file offset is kept between reads:
threads and forks share nothing, and one page of 400 MB costs a small box its own rows only.

Convention: y, x, and samples last. A short file, an empty strip and a byte that does not decode raise; none
reads as 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray

from volpipe.errors import VolumeError

Decode = Callable[..., tuple[NDArray[Any], tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True)
class Page:
    """Where the segments (strips or tiles) of one page lie and how they are decoded.

    Attributes:
        path: the file.
        shape: (y, x) or (y, x, samples).
        segment: (y, x) of what is read or decoded at once: one row of a raw page, else a strip or tile.
        dtype: as stored, byte order included.
        offsets, sizes: of the segments in the file, bytes; of a raw page only the first offset counts.
        raw: the page lies in one piece, uncompressed.
        decode: tifffile's function for one segment.
        tables: JPEG tables that the segments share.
    """

    path: str
    shape: tuple[int, ...]
    segment: tuple[int, int]
    dtype: np.dtype[Any]
    offsets: Sequence[int]
    sizes: Sequence[int]
    raw: bool
    decode: Decode
    tables: bytes | None = None

    @classmethod
    def of(cls, page: Any, path: str) -> Page:
        """Describe a page of tifffile's.

        Raises:
            VolumeError: the page is missing, or of a kind that is not read.
        """
        if page is None:
            raise VolumeError(f"{path}: a page of its series is missing; give all files of the series")
        first = page.keyframe
        _check_kind(first, path)
        byte_order = page.parent.byteorder
        raw = bool(first.is_final and page.is_contiguous)
        return cls(
            path=page.parent.filehandle.path,
            shape=tuple(first.shape),
            segment=(1, first.shape[1]) if raw else _segment_shape(first),
            dtype=first.dtype.newbyteorder(byte_order),
            offsets=page.dataoffsets,
            sizes=page.databytecounts,
            raw=raw,
            decode=first.decode,
            tables=page.jpegtables,
        )

    def moved(self, offset: int) -> Page:
        """The page of the same kind whose raw data starts at `offset`."""
        return replace(self, offsets=(offset,))

    def read(self, file: BinaryIO, rows: slice, columns: slice) -> NDArray[Any]:
        """Rows and columns of the page, all samples.

        Raises:
            ValueError: the file is too short, or a segment does not decode.
        """
        if self.raw:
            return self._rows(file, rows)[:, columns]
        (high, wide), across = self.segment, math.ceil(self.shape[1] / self.segment[1])
        out = np.empty((rows.stop - rows.start, columns.stop - columns.start, *self.shape[2:]), self.dtype)
        for y in range(rows.start // high, math.ceil(rows.stop / high)):
            for x in range(columns.start // wide, math.ceil(columns.stop / wide)):
                segment = self._segment(file, y * across + x)
                _paste(segment, (y * high, x * wide), out, (rows.start, columns.start))
        return out

    def _rows(self, file: BinaryIO, rows: slice) -> NDArray[Any]:
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        data = _bytes(file, self.offsets[0] + rows.start * row_bytes, (rows.stop - rows.start) * row_bytes)
        return np.frombuffer(data, self.dtype).reshape(-1, *self.shape[1:])

    def _segment(self, file: BinaryIO, number: int) -> NDArray[Any]:
        if not self.sizes[number]:
            raise ValueError(f"{self.path}: strip or tile {number} holds no bytes")
        data = _bytes(file, self.offsets[number], self.sizes[number])
        decoded = self.decode(data, number, jpegtables=self.tables)[0]
        return decoded[0] if len(self.shape) == 3 else decoded[0, ..., 0]


def _bytes(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    data = file.read(count)
    if len(data) != count:
        raise ValueError(f"{file.name}: ends {count - len(data)} bytes too early")
    return data


def _paste(segment: NDArray[Any], at: tuple[int, int], out: NDArray[Any], origin: tuple[int, int]) -> None:
    """Copy the part of `segment` (whose corner is `at`) that lies in `out` (whose corner is `origin`)."""
    y0, x0 = (max(a, b) for a, b in zip(at, origin, strict=True))
    y1, x1 = (min(a + n, b + m) for a, n, b, m in zip(at, segment.shape, origin, out.shape, strict=False))
    part = segment[y0 - at[0] : y1 - at[0], x0 - at[1] : x1 - at[1]]
    out[y0 - origin[0] : y1 - origin[0], x0 - origin[1] : x1 - origin[1]] = part


def _segment_shape(first: Any) -> tuple[int, int]:
    if first.is_tiled:
        return first.tilelength, first.tilewidth
    return min(first.rowsperstrip, first.shape[0]), first.shape[1]


def _check_kind(first: Any, path: str) -> None:
    """Refuse what would only fail, or be misread, once a run is under way."""
    name = Path(path).name
    if first.axes not in ("YX", "YXS"):
        raise VolumeError(f"{name}: its pages have axes {first.axes}; save it with one y, x plane a page")
    if first.dtype is None or first.bitspersample != 8 * first.dtype.itemsize:
        raise VolumeError(f"{name}: has {first.bitspersample}-bit samples; convert it to 8 or 16 bits")
    try:
        if first.compression != 1:
            tifffile.TIFF.DECOMPRESSORS[first.compression]
        if first.predictor != 1:
            tifffile.TIFF.UNPREDICTORS[first.predictor]
    except KeyError:
        kind = tifffile.COMPRESSION(first.compression).name
        raise VolumeError(f"{name}: its compression {kind} needs one more package: pip install imagecodecs") from None
