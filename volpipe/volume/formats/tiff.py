"""TIFF: one file of many pages (plain, ImageJ, OME-TIFF), or one page a file (a folder, a glob).

Convention: planes are y, x; the pages of a series run along the remaining axes; of several series in a file
the first counts. Files of a folder or glob are sorted by name, numbers by value (2 before 10), and stand
along z. Voxel size from OME (`PhysicalSize*`) or ImageJ (`spacing`, `unit`, resolution tags); a resolution
without a unit of length (72 dpi) states none. How a page is read: `tiff_pages`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from glob import glob
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from volpipe.errors import VolumeError
from volpipe.volume.formats.stored import (
    Modified,
    Reader,
    StoredArray,
    Triple,
    checked_voxel_size,
    digest_of,
)
from volpipe.volume.formats.tiff_pages import Page
from volpipe.volume.units import UNITS, full_name


def levels(location: str) -> list[StoredArray]:
    """The levels of a file (a pyramidal OME-TIFF has several), or the one volume of a folder or glob.

    Raises:
        VolumeError: nothing is there, pages differ, axes are not those of a volume, or the compression is not
        read.
    """
    if not Path(location).is_file():
        return [_many_files(location)]
    with tifffile.TiffFile(location) as file:
        return [_one_file(location, file, level) for level in range(len(file.series[0].levels))]


def _one_file(location: str, file: Any, level: int) -> StoredArray:
    finest, series = file.series[0], file.series[0].levels[level]
    axes = _axes(location, series.axes)
    pages = _pages(file, level)
    factors = {axis: a / b for axis, a, b in zip(axes, finest.shape, series.shape, strict=True)}
    return StoredArray(
        place=location,
        axes=axes,
        shape=tuple(series.shape),
        chunk=_chunk(pages[0], axes),
        dtype=pages[0].dtype.newbyteorder("="),
        opener=_open_file,
        level=level,
        voxel_size_um=_voxel_size(location, file, [factors[axis] for axis in "zyx"]),
        digest=digest_of({"axes": series.axes, "pages": len(pages)}),
        modified=Modified.of(sorted({location, *(page.path for page in pages)})),
        witness=location,
    )


def _many_files(location: str) -> StoredArray:
    paths = _files(location)
    first = _only_page(paths[0])
    for path in paths:
        page = _only_page(path)
        if _kind(page) != _kind(first):
            raise VolumeError(
                f"{path}: is {_kind(page)}, but {Path(paths[0]).name} is {_kind(first)}; "
                "give pages of one shape and dtype"
            )
    axes = "zyx" if len(first.shape) == 2 else "zyxc"
    return StoredArray(
        place=location,
        axes=axes,
        shape=(len(paths), *first.shape),
        chunk=_chunk(first, axes),
        dtype=first.dtype.newbyteorder("="),
        opener=_open_files,
        digest=digest_of({"files": [Path(path).name for path in paths]}),
        modified=Modified.of(paths),
        witness=paths[0],
    )


def _open_file(array: StoredArray) -> Reader:
    with tifffile.TiffFile(array.place) as file:
        pages = _pages(file, array.level)
    return _reader(array, pages.__getitem__)


def _open_files(array: StoredArray) -> Reader:
    paths = _files(array.place)
    if Modified.of(paths) != array.modified:
        raise VolumeError("its files are not those that were there when the run began; start again")
    return _reader(array, lambda number: _only_page(paths[number]))


def _reader(array: StoredArray, page_at: Callable[[int], Page]) -> Reader:
    """Read a box: the axes before y count pages, the others lie in a page."""
    leading = array.axes.index("y")

    def read(index: tuple[slice, ...]) -> NDArray[Any]:
        out = np.empty([part.stop - part.start for part in index], array.dtype)
        rows, columns, *samples = index[leading:]
        touched = ((page_at(number), at) for number, at in _numbers(index[:leading], array.shape))
        for path, pages in groupby(touched, lambda item: item[0].path):
            with open(path, "rb") as file:
                for page, at in pages:
                    out[at] = page.read(file, rows, columns)[:, :, *samples]
        return out

    return read


def _numbers(index: Sequence[slice], shape: Sequence[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(number of the page, place in the box) of every page that a box touches, in the order of the series."""
    for at in np.ndindex(*(part.stop - part.start for part in index)):
        number = 0
        for part, offset, length in zip(index, at, shape, strict=False):
            number = number * length + part.start + offset
        yield number, at


def _pages(file: Any, level: int) -> list[Page]:
    """All pages of a series in the order of its leading axes."""
    series = file.series[0].levels[level]
    path = file.filehandle.path
    if series.dataoffset is None:
        return [Page.of(page, path) for page in series.pages]
    # One piece of data; pages in it may have no header of their own (ImageJ writes one header for all above 4
    # GB).
    first = Page.of(series.pages[0], path)
    voxels = math.prod(first.shape)
    count = math.prod(series.shape) // voxels
    return [first.moved(series.dataoffset + n * voxels * first.dtype.itemsize) for n in range(count)]


def _only_page(path: str) -> Page:
    with tifffile.TiffFile(path) as file:
        if len(file.pages) != 1:
            raise VolumeError(f"{path}: holds {len(file.pages)} pages; in a folder or glob each file is one page")
        return Page.of(file.pages[0], path)


def _kind(page: Page) -> str:
    return f"{'x'.join(map(str, page.shape))} {page.dtype.name}"


def _chunk(page: Page, axes: str) -> tuple[int, ...]:
    return (1,) * axes.index("y") + page.segment + page.shape[2:]


def _files(location: str) -> list[str]:
    """Files of a folder or glob in natural order."""
    folder = Path(location)
    found = [str(path) for path in folder.iterdir()] if folder.is_dir() else glob(location)
    tiffs = [path for path in found if path.lower().endswith((".tif", ".tiff"))]
    if not tiffs:
        raise VolumeError(f"{location}: no such TIFF file; check the path or the pattern")
    return sorted(tiffs, key=_natural)


def _natural(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]


def _axes(location: str, stored: str) -> str:
    """Our letters for tifffile's: samples are channels, and an unnamed run of pages (Q, I) is z."""
    axes = stored.replace("S", "C")
    if "Z" not in axes:
        axes = axes.replace("Q", "Z").replace("I", "Z")
    if set(axes) <= set("TCZYX") and len(set(axes)) == len(axes) and "Z" in axes:
        return axes.lower()
    raise VolumeError(
        f"{location}: its axes are {stored}; a volume needs Z, Y and X: "
        "set its slices in ImageJ or save it with OME axes"
    )


def _voxel_size(location: str, file: Any, factors: Sequence[float]) -> Triple | None:
    sizes = _ome_sizes(file.ome_metadata) if file.is_ome else _imagej_sizes(file) if file.is_imagej else None
    if sizes is None:
        return None
    scaled = [size * factor for size, factor in zip(sizes, factors, strict=True)]
    return checked_voxel_size(location, scaled, "correct it in the TIFF's metadata")


def _ome_sizes(document: str) -> list[float] | None:
    """PhysicalSizeZ, Y, X of the first image, in micrometres; None unless all are there."""
    pixels = next((node for node in ElementTree.fromstring(document).iter() if node.tag.endswith("Pixels")), None)
    if pixels is None:
        return None
    sizes = []
    for axis in "ZYX":
        size = pixels.get(f"PhysicalSize{axis}")
        unit = full_name(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        if size is None or unit is None:
            return None
        sizes.append(float(size) * UNITS[unit])
    return sizes


def _imagej_sizes(file: Any) -> list[float] | None:
    """`spacing` along z, resolution tags (pixels per unit) along y and x; None unless all are there."""
    said, tags = file.imagej_metadata or {}, file.pages[0].tags
    unit = full_name(str(said.get("unit", "")))
    if unit is None or "spacing" not in said or not {"XResolution", "YResolution"} <= {tag.name for tag in tags}:
        return None
    (y, per_y), (x, per_x) = tags["YResolution"].value, tags["XResolution"].value
    if not (y and x):
        return None
    return [size * UNITS[unit] for size in (abs(said["spacing"]), per_y / y, per_x / x)]
