"""The transforms file: where each slab of a stack lies. `volpipe register` writes it, `volpipe warp` reads it.

{"version": 1,
 "voxel_size_um": [0.04, 0.004, 0.004],               z, y, x at the level that slabs were registered at
 "slabs": [                                           from above
  {"volume": "slab0.ome.zarr",                        from this file's folder; null: the slab is missing, and its
                                                      layers stay empty
   "level": 0,                                        of its pyramid: layers, gap_layers and voxel_size_um count there
   "layers": [0, 75],                                 first and stop, as stored; null: all of the volume
   "flipped": false,                                  true: it lies upside down, and half a turn about its y axis sets
                                                      it right before all else
   "gap_layers": 2,                                   lost between this slab and the next
   "pose": {"angle_rad": 0.0, "shift_um": [0, 0]},    reconstruction_from_slab: (y, x), about the slab's centre
   "bridged": false,                                  true: no pair that is trusted tells its pose, which lies between
                                                      those of its neighbours
   "field": "slab0.field.zarr"},                      null: the pose alone; else fitted to this very pose
  ...]}

A slab's centre is the middle of its plane at `level`; the reconstruction's origin is where a slab with the pose of
nothing has it.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from volpipe.errors import ConfigError
from volpipe.geometry import Rigid
from volpipe.jobs.fields import Fields, Size, validation_text
from volpipe.volume.folder import absolute, is_remote, local_path, open_folder

Number = Annotated[float, Field(allow_inf_nan=False)]


class Pose(Fields):
    """reconstruction_from_slab."""

    angle_rad: Number = 0.0
    shift_um: tuple[Number, Number] = (0.0, 0.0)

    @property
    def rigid(self) -> Rigid:
        """As a motion."""
        return Rigid(self.angle_rad, self.shift_um)


class Slab(Fields):
    """One slab, and the gap below it."""

    volume: str | None
    level: int = Field(0, ge=0)
    layers: tuple[Annotated[int, Field(ge=0)], int] | None = None
    flipped: bool = False
    gap_layers: int = Field(0, ge=0)
    pose: Pose = Pose()
    bridged: bool = False
    field: str | None = None

    @model_validator(mode="after")
    def _layers_are_known(self) -> Slab:
        if self.layers is not None and self.layers[0] >= self.layers[1]:
            raise ValueError(f"layers {list(self.layers)}: give [first, stop] with first below stop")
        if self.volume is None and self.layers is None:
            raise ValueError("a missing slab (volume: null): give its layers, as [0, 75]")
        return self


class Transforms(Fields):
    """A stack of slabs; see the head of this module."""

    version: Literal[1]
    voxel_size_um: tuple[Size, Size, Size]
    slabs: tuple[Slab, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _some_slab(self) -> Transforms:
        if all(slab.volume is None for slab in self.slabs):
            raise ValueError("slabs: all are missing; give the volume of one at least")
        return self

    @property
    def text(self) -> str:
        """What the file holds."""
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"

    def store(self, path: str | Path) -> None:
        """Write the file."""
        Path(path).write_text(self.text, encoding="utf-8")


def load_transforms(path: str | Path) -> Transforms:
    """Read a transforms file; the places in it become absolute.

    Raises:
        ConfigError: the file is missing or is not JSON, or fields are wrong: every one of them, with its path.
    """
    try:
        content = json.loads(text_at(str(path)))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a transforms file") from error
    except ValueError as error:  # no UTF-8, or no JSON
        raise ConfigError(f"{path}: is not JSON ({error}); give a transforms file") from error
    try:
        return _with_places(Transforms.model_validate(content), absolute(str(path)).rpartition("/")[0] or "/")
    except ValidationError as error:
        raise ConfigError(validation_text(error, f"{path}: ")) from None


def text_at(place: str) -> str:
    """A file's text, or an object's."""
    if not is_remote(place):
        return Path(local_path(place)).read_text(encoding="utf-8")
    folder, _, name = place.rpartition("/")
    stored = open_folder(folder).get(name)
    if stored is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return stored.decode()


def _with_places(transforms: Transforms, folder: str) -> Transforms:
    slabs = [
        slab.model_copy(update={name: place_of(getattr(slab, name), folder) for name in ("volume", "field")})
        for slab in transforms.slabs
    ]
    return transforms.model_copy(update={"slabs": tuple(slabs)})


def place_of(location: str | None, folder: str) -> str | None:
    """A place that a file in `folder`, which may be on an object store, names, as it is found from anywhere."""
    return location if location is None or "://" in location else os.path.join(folder, location)
