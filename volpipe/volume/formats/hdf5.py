"""HDF5 datasets: `file.h5:/path`, or `file.h5` if it holds one volume.

Convention: axes from dimension labels or ilastik's `axistags`; else zyx, czyx, tczyx by the number of axes.
Voxel size from `element_size_um` (z, y, x; Fiji, ilastik) or `resolution` (z, y, x nanometres, with `offset`;
CREMI).
"""

from __future__ import annotations

import json
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from volpipe.errors import VolumeError
from volpipe.volume.formats.stored import (
    Modified,
    Reader,
    StoredArray,
    Triple,
    checked_voxel_size,
    default_axes,
    digest_of,
)


def levels(location: str) -> list[StoredArray]:
    """The one dataset that `location` names.

    Raises:
        VolumeError: the file or the dataset is missing, or there are several and none is named.
    """
    h5py = _h5py()
    name, path = _split(location)
    if not Path(name).is_file():
        raise VolumeError(f"{name}: no such file; check the path")
    with h5py.File(name, "r") as file:
        path = path or _only_volume(file, name)
        dataset = file.get(path)
        if not isinstance(dataset, h5py.Dataset):
            raise VolumeError(f"{name}: holds no dataset {path}; give one of {_listed(_volumes(file), name)}")
        _check_filters(dataset, location)
        return [_describe(dataset, name, path)]


def _describe(dataset: Any, name: str, path: str) -> StoredArray:
    place = f"{name}:{path}"
    voxel_size, translation = _geometry(dataset, place)
    return StoredArray(
        place=place,
        axes=_axes(dataset, place),
        shape=tuple(dataset.shape),
        chunk=tuple(dataset.chunks or (1,) * (dataset.ndim - 1) + dataset.shape[-1:]),
        dtype=dataset.dtype.newbyteorder("="),
        opener=_open,
        voxel_size_um=voxel_size,
        translation_um=translation,
        digest=digest_of({"path": path, "chunks": dataset.chunks, "compression": dataset.compression}),
        modified=Modified.of([name]),
        witness=name,
    )


def _open(array: StoredArray) -> Reader:
    name, path = _split(array.place)
    dataset = _h5py().File(name, "r")[path]
    return lambda index: dataset[index]


def _split(location: str) -> tuple[str, str]:
    """(file, dataset); the colon that counts is the one behind the suffix."""
    for suffix in (".hdf5", ".hdf", ".h5"):
        at = location.lower().rfind(suffix + ":")
        if at >= 0:
            at += len(suffix)
            return location[:at], "/" + location[at + 1 :].strip("/")
    return location, ""


def _volumes(file: Any) -> list[str]:
    """Paths of all datasets with three axes or more."""
    found: list[str] = []

    def visit(path: str, item: Any) -> None:
        if hasattr(item, "dtype") and item.ndim >= 3:
            found.append("/" + path)

    file.visititems(visit)
    return found


def _only_volume(file: Any, name: str) -> str:
    found = _volumes(file)
    if len(found) != 1:
        raise VolumeError(f"{name}: holds {len(found)} datasets with three axes or more; give {_listed(found, name)}")
    return found[0]


def _listed(paths: list[str], name: str) -> str:
    return ", ".join(f"{Path(name).name}:{path}" for path in paths[:10]) or "a file that holds a volume"


def _axes(dataset: Any, place: str) -> str:
    labels = "".join(dimension.label for dimension in dataset.dims).lower()
    if "axistags" in dataset.attrs:
        labels = "".join(axis["key"] for axis in json.loads(dataset.attrs["axistags"])["axes"]).lower()
    return labels if len(labels) == dataset.ndim else default_axes(place, dataset.ndim)


def _geometry(dataset: Any, place: str) -> tuple[Triple | None, Triple]:
    for attribute, micrometres in (("element_size_um", 1.0), ("resolution", 1e-3)):
        values = dataset.attrs.get(attribute)
        if values is not None and len(values) == 3:
            sizes = checked_voxel_size(
                place, [float(v) * micrometres for v in values], f"correct its attribute {attribute}"
            )
            z, y, x = (float(v) * micrometres for v in dataset.attrs.get("offset", (0.0, 0.0, 0.0)))
            return sizes, (z, y, x)
    return None, (0.0, 0.0, 0.0)


def _check_filters(dataset: Any, place: str) -> None:
    """Refuse a compression that is not installed before the run, not at its first chunk."""
    created = dataset.id.get_create_plist()
    for number in range(created.get_nfilters()):
        code, _, _, name = created.get_filter(number)
        if not _h5py().h5z.filter_avail(code):
            kind = name.decode() or f"filter {code}"
            raise VolumeError(f"{place}: its compression {kind} needs one more package: pip install hdf5plugin")


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise VolumeError(
            "HDF5 files are read with h5py, which is not installed: pip install 'volpipe[formats]'"
        ) from None
    with suppress(ImportError):
        import_module("hdf5plugin")  # its import registers more compressions; none of ours needs it
    return h5py
