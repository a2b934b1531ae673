"""Is a volume what its metadata says? `validate` lists what is wrong, `describe` says what there is.

Checked of OME-Zarr 0.5: version, axes and their units, every level's array, its dimension names and dtype, scales
above zero, shapes and scales of the levels that fit each other, and the state of a product. With `deep` every voxel is
read: compared with its receipt where a ledger says what was written (verify.py), else decoded (index crc32c, zstd
checksums). The label images inside a volume are looked at as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import zarr

from volpipe.errors import ProductError, VolumeError
from volpipe.geometry import BlockGrid, Box
from volpipe.volume.folder import PARTIAL, absolute, is_remote
from volpipe.volume.groups import open_group, stored_layout
from volpipe.volume.multiscale import SPATIAL, VERSION, placement
from volpipe.volume.product import COMPLETE, NAMESPACE, open_product, own_attributes
from volpipe.volume.source import levels_of, open_source, time_points
from volpipe.volume.units import micrometres_per
from volpipe.volume.verify import by_level, receipts_of, verify_level

_TOLERANCE = 1e-6  # relative, of scales that went through micrometres


def validate(location: str, *, deep: bool = False, progress: Callable[[int], None] | None = None) -> list[str]:
    """What is wrong with an OME-Zarr 0.5 volume, one line each; empty if nothing is.

    Args:
        location: of the group.
        deep: read every voxel too.
        progress: called with 1 for every shard or block just read.

    Raises:
        ProductError: no zarr 3 group is there.
    """
    group = open_group(absolute(location))
    problems = list(_metadata_problems(group.attrs.asdict().get("ome")))
    if not problems:
        multiscale = _multiscale(group)
        problems += _level_problems(group, multiscale)
    own = group.attrs.get(NAMESPACE)
    if isinstance(own, Mapping) and own.get("state") != COMPLETE:
        problems.append(
            f"state is {own.get('state')!r}: the run that makes it has not finished; give its command again"
        )
    if deep and not problems:
        stated = by_level(receipts_of(location))
        for level, path in enumerate(_paths(_multiscale(group))):
            if level in stated:
                problems += verify_level(open_product(location), level, stated[level], progress)
            elif stated:
                problems.append(f"level {path} is listed, and no receipt tells of it; give volpipe pyramid --restart")
            else:
                problems += _shard_problems(group[path], progress)
        problems += _leftovers(location)
    return problems + list(_label_problems(absolute(location), group, deep, progress))


def _label_problems(
    location: str, group: zarr.Group, deep: bool, progress: Callable[[int], None] | None
) -> Iterator[str]:
    """Of the label images inside a volume (OME-NGFF 0.5, "labels"), each with its place."""
    labels = group.get("labels")
    listed: Any = {} if labels is None else labels.attrs.get("ome", {})
    for place in (f"labels/{name}" for name in listed.get("labels", [])):
        try:
            problems = validate(f"{location}/{place}", deep=deep, progress=progress)
        except ProductError as error:
            problems = [str(error)]
        yield from (f"{place}: {problem}" for problem in problems)


def describe(location: str, *, level: int | None = None, time: int | None = None) -> dict[str, Any]:
    """What a volume is, as JSON, for any format that is read; of an unfinished product, what it will be.

    Raises:
        VolumeError: nothing that can be read is there.
    """
    own = own_attributes(absolute(location)) or {}
    if own.get("state", COMPLETE) != COMPLETE:
        return _describe_unfinished(location) | _storage(location, 0) | _own(own)
    times = time_points(location)
    source = open_source(location, level=level, time=time or 0)  # who asks what it is need not know how many there are
    found: dict[str, Any] = {
        "location": source.location,
        "shape": list(source.shape),
        "channels": source.channels,
        "dtype": source.dtype.name,
        "axes": source.axes,
        "voxel_size_um": _listed(source.voxel_size_um),
        "translation_um": _listed(source.translation_um),
        "chunk": list(source.chunk),
        "bytes": math.prod(source.shape) * source.channels * int(source.dtype.itemsize),
        "levels": [
            {"level": each.level, "shape": list(each.shape), "voxel_size_um": _listed(each.voxel_size_um)}
            for each in levels_of(location)
        ],
    }
    series = {"time_points": times, "described_time": time or 0} if times > 1 else {}
    return found | series | _storage(location, level or 0) | _own(own)


def _describe_unfinished(location: str) -> dict[str, Any]:
    layout = stored_layout(absolute(location))
    return {
        "location": absolute(location),
        "shape": list(layout.shape),
        "channels": layout.channels,
        "dtype": layout.dtype.name,
        "voxel_size_um": _listed(layout.voxel_size_um),
        "translation_um": _listed(layout.translation_um),
        "chunk": list(layout.chunk),
        "bytes": math.prod(layout.shape) * layout.voxel_bytes,
    }


def _listed(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else list(values)


def _storage(location: str, level: int) -> dict[str, Any]:
    """How an OME-Zarr 0.5 level is stored; nothing for other formats."""
    try:
        group = open_group(absolute(location))
        array: Any = group[_paths(_multiscale(group))[level]]
    except (ProductError, VolumeError, KeyError, IndexError, TypeError):
        return {}
    return {"shard": array.shards and list(array.shards[-3:]), "codecs": _codecs(array), "stored": _stored(location)}


def _stored(location: str) -> int | None:
    """Bytes on disk; None on object stores, where counting would be a listing that costs."""
    if is_remote(absolute(location)):
        return None
    return sum(path.stat().st_size for path in Path(absolute(location)).rglob("*") if path.is_file())


def _codecs(array: Any) -> list[str]:
    """Names of the codecs, those inside a shard included."""
    names = []
    for codec in array.metadata.to_dict()["codecs"]:
        names.append(codec["name"])
        names += [inner["name"] for inner in codec.get("configuration", {}).get("codecs", ())]
    return names


def _own(own: Mapping[str, Any]) -> dict[str, Any]:
    return {name: own[name] for name in ("state", "exact", "exact_reason", "audit", "provenance") if name in own}


def _multiscale(group: zarr.Group) -> Any:
    ome: Any = group.attrs["ome"]
    return ome["multiscales"][0]


def _paths(multiscale: Mapping[str, Any]) -> list[str]:
    return [str(dataset["path"]) for dataset in multiscale["datasets"]]


def _metadata_problems(ome: Any) -> Iterator[str]:
    if not isinstance(ome, Mapping) or not ome.get("multiscales"):
        yield "has no ome.multiscales; volpipe import makes an OME-Zarr volume"
        return
    if ome.get("version") != VERSION:
        yield f"ome.version is {ome.get('version')!r}; zarr 3 needs {VERSION!r}"
    multiscale = ome["multiscales"][0]
    axes = multiscale.get("axes", [])
    names = [axis.get("name") for axis in axes]
    if tuple(names[-3:]) != SPATIAL or len(set(names)) != len(names):
        yield f"axes are {names}; the last three must be z, y, x"
    for axis in axes[-3:]:
        yield from _unit_problems(axis, unknown=not any("unit" in axis for axis in axes[-3:]))
    if not multiscale.get("datasets"):
        yield "lists no level"
    for dataset in multiscale.get("datasets", []):
        yield from _transform_problems(dataset, len(axes))


def _unit_problems(axis: Mapping[str, Any], unknown: bool) -> Iterator[str]:
    """Of one axis; that no axis has a unit (`unknown`) is how a volume says that its voxel size is not known."""
    if axis.get("type") != "space":
        yield f"axis {axis.get('name')} has type {axis.get('type')!r}; needs 'space'"
    if "unit" not in axis:
        if not unknown:
            yield f"axis {axis.get('name')} has no unit, and others have one"
        return
    try:
        micrometres_per(str(axis["unit"]))
    except VolumeError as error:
        yield f"axis {axis.get('name')}: {error}"


def _transform_problems(dataset: Mapping[str, Any], axes: int) -> Iterator[str]:
    kinds = [transform.get("type") for transform in dataset.get("coordinateTransformations", ())]
    if kinds not in (["scale"], ["scale", "translation"]):
        yield f"level {dataset.get('path')}: transformations {kinds}; needs one scale, then at most one translation"
        return
    scale, translation = placement(dataset, axes)
    if len(scale) != axes or len(translation) != axes:
        yield f"level {dataset.get('path')}: transformations of {len(scale)}, {len(translation)} axes; needs {axes}"
    if not all(math.isfinite(size) and size > 0 for size in scale):
        yield f"level {dataset.get('path')}: scale {list(scale)}; every one must be above 0"


def _level_problems(group: zarr.Group, multiscale: Mapping[str, Any]) -> Iterator[str]:
    names = [axis["name"] for axis in multiscale["axes"]]
    missing = [path for path in _paths(multiscale) if not isinstance(group.get(path), zarr.Array)]
    if missing:
        yield f"levels {', '.join(missing)} are listed and missing"
        return
    arrays: list[Any] = [group[path] for path in _paths(multiscale)]
    for array in arrays:
        yield from _array_problems(array, names, arrays[0].dtype)
    datasets = zip(multiscale["datasets"], arrays, strict=True)
    for (finer, fine), (coarser, coarse) in pairwise(datasets):
        yield from _step_problems(placement(finer, len(names)), fine.shape, placement(coarser, len(names)), coarse)


def _array_problems(array: Any, names: list[str], dtype: Any) -> Iterator[str]:
    if array.ndim != len(names):
        yield f"level {array.path}: {array.ndim} axes where the metadata names {len(names)}"
    stated = array.metadata.dimension_names
    if stated is None or list(stated) != names:
        yield f"level {array.path}: dimension names {stated}; the axes are {names}"
    if array.dtype != dtype:
        yield f"level {array.path}: dtype {array.dtype}, level 0 has {dtype}"


def _step_problems(
    finer: tuple[Sequence[float], Sequence[float]],
    shape: Sequence[int],
    coarser: tuple[Sequence[float], Sequence[float]],
    array: Any,
) -> Iterator[str]:
    """Between two levels: the scale's ratio r must explain the shape, and the translation must move by (r - 1) / 2."""
    for axis, (n, m) in enumerate(zip(shape, array.shape, strict=True)):
        ratio = coarser[0][axis] / finer[0][axis]
        if not n / ratio - 1 < m < n / ratio + 1:
            yield f"level {array.path}: axis {axis} has {m} voxels, but {n} of the level before, {ratio:g} times finer"
        moved = (coarser[1][axis] - finer[1][axis]) / finer[0][axis]
        if abs(moved - (ratio - 1) / 2) > _TOLERANCE * max(1.0, ratio, abs(coarser[1][axis] / finer[0][axis])):
            yield (
                f"level {array.path}: axis {axis} is moved by {moved:g} voxels of the level before; "
                f"{(ratio - 1) / 2:g} puts voxel centres where they belong"
            )


def _shard_problems(array: Any, progress: Callable[[int], None] | None) -> Iterator[str]:
    shards = BlockGrid(Box.from_shape(array.shape), array.shards or array.chunks)
    for shard in shards:
        try:
            array[shard.core.slices]
        except (ValueError, RuntimeError) as error:
            yield f"level {array.path}: shard {shard.index} does not decode ({error}); write it again"
        if progress is not None:
            progress(1)


def _leftovers(location: str) -> list[str]:
    if is_remote(location):
        return []
    count = sum(1 for _ in Path(absolute(location)).rglob(f"*{PARTIAL}"))
    return [f"{count} files *{PARTIAL} are left of writes that were killed; they may be deleted"] if count else []
