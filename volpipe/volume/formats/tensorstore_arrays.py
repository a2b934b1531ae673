"""N5 and Neuroglancer precomputed, read with tensorstore.

Convention: both index x first, so their axes are "xyz" and "xyzc"; metadata is plain JSON and read as such.
N5 voxel sizes come from `transform` (COSEM; its lists are z, y, x) or from `pixelResolution` or `resolution`
with `units` (x, y, z; times `downsamplingFactors`); precomputed ones from `resolution`, in nanometres.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from volpipe.errors import VolumeError
from volpipe.volume.formats.stored import (
    Modified,
    Reader,
    StoredArray,
    Triple,
    checked_voxel_size,
    digest_of,
    micrometres_at,
)
from volpipe.volume.units import full_name

SCHEME = "precomputed://"
Json = Mapping[str, Any]


def levels(location: str) -> list[StoredArray]:
    """The levels of an N5 dataset or group, or of a precomputed volume.

    Raises:
        VolumeError: nothing is there, or tensorstore is missing.
    """
    _tensorstore()
    if location.startswith(SCHEME) or (Path(location) / "info").is_file():
        arrays = _precomputed(location.removeprefix(SCHEME))
    else:
        arrays = _n5(Path(location))
    for array in arrays:
        array.opener(array)  # so that a compression or encoding that tensorstore lacks is refused before the run
    return arrays


def _n5(folder: Path) -> list[StoredArray]:
    if _is_dataset(folder):
        return [_n5_array(folder, 0)]
    found: list[StoredArray] = []
    while _is_dataset(folder / f"s{len(found)}"):
        found.append(_n5_array(folder / f"s{len(found)}", len(found)))
    if not found:
        inside = ", ".join(str(path.relative_to(folder)) for path in _datasets(folder)) or "none in it"
        raise VolumeError(f"{folder}: is an N5 group, not a dataset; give one of its datasets: {inside}")
    return found


def _n5_array(folder: Path, level: int) -> StoredArray:
    attributes = _attributes(folder)
    if len(attributes["dimensions"]) != 3:
        raise VolumeError(f"{folder}: has {len(attributes['dimensions'])} axes; an N5 volume has three (x, y, z)")
    voxel_size, translation = _n5_geometry(folder, attributes)
    return StoredArray(
        place=str(folder),
        axes="xyz",
        shape=tuple(attributes["dimensions"]),
        chunk=tuple(attributes["blockSize"]),
        dtype=np.dtype(attributes["dataType"]),
        opener=_open_n5,
        level=level,
        voxel_size_um=voxel_size,
        translation_um=translation,
        digest=digest_of(attributes),
        modified=Modified.of([folder / "attributes.json"]),
        witness=str(folder / "attributes.json"),
    )


def _n5_geometry(folder: Path, attributes: Json) -> tuple[Triple | None, Triple]:
    """Voxel size and translation; an N5 that states no unit states no voxel size."""
    if "transform" in attributes:
        transform = attributes["transform"]
        units = [_micrometres(folder, unit) for unit in transform["units"]]
        sizes, offsets = _times(transform["scale"], units), _times(transform["translate"], units)
        return _checked(folder, sizes), _triple(offsets)
    stated = attributes.get("pixelResolution", attributes.get("resolution"))
    units = attributes.get("units", attributes.get("unit"))
    if isinstance(stated, Mapping):
        stated, units = stated["dimensions"], stated.get("unit")
    if stated is None or units is None:
        return None, (0.0, 0.0, 0.0)
    per_axis = [units] * 3 if isinstance(units, str) else units
    sizes = _times(stated, [_micrometres(folder, unit) for unit in per_axis])
    return _checked(folder, _times(sizes, attributes.get("downsamplingFactors", (1, 1, 1)))[::-1]), (
        0.0,
        0.0,
        0.0,
    )


def _precomputed(base: str) -> list[StoredArray]:
    info = _info(base)
    if info.get("type") not in ("image", "segmentation"):
        raise VolumeError(f"{base}: its info describes a {info.get('type')}; give an image or a segmentation")
    return [_precomputed_level(base, info, level) for level in range(len(info["scales"]))]


def _precomputed_level(base: str, info: Json, level: int) -> StoredArray:
    scale = info["scales"][level]
    sizes = _times(scale["resolution"], [1e-3] * 3)
    offset = _times(scale.get("voxel_offset", (0, 0, 0)), sizes)
    local = Path(base) / "info"
    return StoredArray(
        place=base,
        axes="xyzc",
        shape=(*scale["size"], info["num_channels"]),
        chunk=(*scale["chunk_sizes"][0], info["num_channels"]),
        dtype=np.dtype(info["data_type"]),
        opener=_open_precomputed,
        level=level,
        voxel_size_um=checked_voxel_size(base, sizes[::-1], "correct the resolution in its info file"),
        translation_um=_triple(offset[::-1]),
        digest=digest_of({"scale": scale, "type": info["type"]}),
        modified=None if "://" in base else Modified.of([local]),
        witness="" if "://" in base else str(local),
    )


def _open_n5(array: StoredArray) -> Reader:
    return _reader({"driver": "n5", "kvstore": _kvstore(array.place)})


def _open_precomputed(array: StoredArray) -> Reader:
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": _kvstore(array.place),
        "scale_index": array.level,
    }
    return _reader(spec)


def _reader(spec: Json) -> Reader:
    ts = _tensorstore()
    store = ts.open(spec, open=True, read=True).result()
    # A precomputed volume starts at its voxel_offset; ours start at 0.
    store = store[ts.d[:].translate_to[0]]
    return lambda index: store[index].read().result()


def _kvstore(place: str) -> Any:
    folder = place.rstrip("/") + "/"
    return folder if "://" in place else {"driver": "file", "path": folder}


def _info(base: str) -> Json:
    answer = _tensorstore().KvStore.open(_kvstore(base)).result().read("info").result()
    if answer.state != "value":
        raise VolumeError(f"{base}: holds no info file; give the folder of a Neuroglancer precomputed volume")
    info: Json = json.loads(answer.value)
    return info


def _attributes(folder: Path) -> Json:
    path = folder / "attributes.json"
    attributes: Json = json.loads(path.read_text()) if path.is_file() else {}
    return attributes


def _is_dataset(folder: Path) -> bool:
    return "dimensions" in _attributes(folder)


def _datasets(folder: Path, depth: int = 4) -> Iterator[Path]:
    """Datasets below a group; a dataset's own folders hold chunks and are not walked."""
    if _is_dataset(folder):
        yield folder
    elif depth:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.is_dir():
                yield from _datasets(Path(entry.path), depth - 1)


def _micrometres(place: Path, unit: str) -> float:
    """N5 writes symbols as well as names."""
    return micrometres_at(str(place), full_name(unit) or unit)


def _checked(place: Path, sizes_um: Sequence[float]) -> Triple:
    return checked_voxel_size(str(place), sizes_um, "correct the resolution in its attributes.json")


def _times(values: Sequence[float], factors: Sequence[float]) -> list[float]:
    return [value * factor for value, factor in zip(values, factors, strict=True)]


def _triple(values: Sequence[float]) -> Triple:
    z, y, x = values
    return z, y, x


def _tensorstore() -> Any:
    try:
        import tensorstore
    except ImportError:
        needed = "N5 and precomputed volumes are read with tensorstore, which is not installed"
        raise VolumeError(f"{needed}: pip install 'volpipe[formats]'") from None
    return tensorstore
