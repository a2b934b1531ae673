"""Multiscales of OME-NGFF 0.4 and 0.5: what they say of axes, voxel size and translation.

Convention: transformations of a dataset apply first, those of its multiscale after it; results are
micrometres along z, y, x. Units are full names ("nanometer"). A multiscale without units or without a scale
states no voxel size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from volpipe.errors import VolumeError
from volpipe.volume.formats.stored import Triple, checked_voxel_size, micrometres_at

Json = Mapping[str, Any]


def multiscale_in(attributes: Json) -> Json | None:
    """The first multiscale in a group's attributes, if there is one; 0.5 keeps it below `ome`."""
    found = attributes.get("ome", attributes).get("multiscales")
    return found[0] if found else None


def axis_names(multiscale: Json) -> list[str] | None:
    """Names of the axes in the order of indexing; None if the multiscale is too old to name them."""
    if "axes" not in multiscale:
        return None
    return [str(axis["name"] if isinstance(axis, Mapping) else axis) for axis in multiscale["axes"]]


def geometry(place: str, axes: str, multiscale: Json, number: int) -> tuple[Triple | None, Triple]:
    """Voxel size (None if not stated) and translation of one dataset, micrometres along z, y, x.

    Args:
        place: for messages.
        axes: letters in the order of indexing.
        multiscale: one entry of "multiscales".
        number: which of its datasets.

    Raises:
        VolumeError: a unit is not of OME-NGFF, a transformation does not fit, or a voxel size is not above
        zero.
    """
    steps = [
        *multiscale["datasets"][number].get("coordinateTransformations", ()),
        *multiscale.get("coordinateTransformations", ()),
    ]
    scale, shift = _composed(place, axes, steps)
    checked_voxel_size(place, scale, "correct its coordinateTransformations")
    units = _units(multiscale)
    if not all(axis in units for axis in "zyx") or not any(step["type"] == "scale" for step in steps):
        return None, (0.0, 0.0, 0.0)
    micrometres = [micrometres_at(place, units[axis]) for axis in "zyx"]
    z, y, x = (size * unit for size, unit in zip(scale, micrometres, strict=True))
    at_z, at_y, at_x = (offset * unit for offset, unit in zip(shift, micrometres, strict=True))
    return (z, y, x), (at_z, at_y, at_x)


def _units(multiscale: Json) -> dict[str, str]:
    axes = [axis for axis in multiscale.get("axes", ()) if isinstance(axis, Mapping)]
    return {axis["name"]: axis["unit"] for axis in axes if axis.get("unit")}


def _composed(place: str, axes: str, steps: Sequence[Json]) -> tuple[list[float], list[float]]:
    """Scale and translation along z, y, x of transformations applied one after the other."""
    scale, shift = [1.0] * 3, [0.0] * 3
    for step in steps:
        values = _values(place, axes, step)
        if step["type"] == "translation":
            shift = [old + value for old, value in zip(shift, values, strict=True)]
        else:
            scale = [old * value for old, value in zip(scale, values, strict=True)]
            shift = [old * value for old, value in zip(shift, values, strict=True)]
    return scale, shift


def _values(place: str, axes: str, step: Json) -> list[float]:
    """The numbers of a transformation along z, y, x."""
    kind = step.get("type")
    values = step.get(str(kind), [1.0] * len(axes) if kind == "identity" else None)
    if kind not in ("scale", "translation", "identity") or not isinstance(values, list) or len(values) != len(axes):
        raise VolumeError(f"{place}: its transformation {dict(step)} is not a scale or translation of {len(axes)} axes")
    return [float(values[axes.index(axis)]) for axis in "zyx"]
