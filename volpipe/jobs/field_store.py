"""Fields of slabs in zarr: a group beside the transforms file.

slab003.field.zarr/displacement   (2, rows, columns) float32, y and x in micrometres
slab003.field.zarr/confidence     (rows, columns) float32, 0..1
attributes                        version, pose (reconstruction_from_slab), origin_um and spacing_um of the nodes
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from volpipe.errors import ProductError
from volpipe.geometry import Rigid
from volpipe.geometry.raster import two
from volpipe.registration.field import Field

VERSION = 1


def store_field(location: str, field: Field) -> None:
    """Store a field; one that is there is replaced.

    Raises:
        ProductError: something else is there.
        WriteError: the disk is full, or the store refuses.
    """
    from volpipe.volume.small_arrays import store_arrays

    store_arrays(location, {"displacement": field.displacement, "confidence": field.confidence}, _attributes(field))


def load_field(location: str) -> Field:
    """Load a field.

    Raises:
        ProductError: there is none, or something is missing from it.
        GeometryError: it folds, or its arrays do not fit each other.
    """
    from volpipe.volume.small_arrays import load_arrays

    arrays, own = load_arrays(location)
    none = ProductError(f"{location}: is no field of a slab, version {VERSION}; give one that volpipe register made")
    if own.get("version") != VERSION:
        raise none
    try:
        pose = Rigid(own["pose"]["angle_rad"], two(own["pose"]["shift_um"]))
        displacement, confidence = (arrays[name].astype(np.float32) for name in ("displacement", "confidence"))
        origin_um, spacing_um = two(own["origin_um"]), two(own["spacing_um"])
    except (KeyError, TypeError, ValueError):
        raise none from None
    return Field(pose, displacement, origin_um, spacing_um, confidence)


def content_of(field: Field) -> str:
    """A hash of all that warping depends on."""
    content = hashlib.sha256(repr(sorted(_attributes(field).items())).encode())
    content.update(np.ascontiguousarray(field.displacement).tobytes())
    return content.hexdigest()


def _attributes(field: Field) -> dict[str, Any]:
    pose = {"angle_rad": field.pose.angle_rad, "shift_um": list(field.pose.shift)}
    places = {"origin_um": list(map(float, field.origin_um)), "spacing_um": list(map(float, field.spacing_um))}
    return {"version": VERSION, "pose": pose, **places}
