"""The slabs file: what `volpipe register` is asked to put together.

slabs:                                        from above; places from this file's folder
  - slab0.ome.zarr                            all of its layers
  - {volume: slab1.ome.zarr, layers: [3, 70]} first and stop
  - {layers: 75}                              missing: nothing is known but how thick it was
  - {volume: slab3.ome.zarr, flipped: true,   upside down: half a turn about its y axis sets it right
     start: {angle_rad: 2.1, shift_um: [30, -4]}}    where to look for it: about where it lies in slab 0's frame, about
                                              the slabs' centres, after that; `volpipe coarse` finds both
                                              (and where it is taken to lie if no pair that is trusted joins it)
gap_layers: 2                                 lost at each seam; or one for each: [2, 3]
fill: 0                                       the value of what was not imaged, as beside a turned plane: every voxel
                                              that has it is not known to registration (warp renders it as it is)
level: 0                                      of the pyramids: layers, gaps and voxel size count there
anchors: {2: {angle_rad: 0.1, shift_um: [3, 4]}}   poses by hand, in slab 0's frame about the slabs' centres

Or one volume with its cut planes, where `gap_layers` is by default what lies between two cuts:

volume: brain.ome.zarr
cuts: [[0, 75], [77, 152]]

`max_shift` (of a slab's width, its shorter side) and `max_angle_rad` say how far neighbours may lie from each other, or
from what their starts say. Layers are counted as they are stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from volpipe.errors import ConfigError
from volpipe.jobs.fields import Fields, Size, one_number, validation_text
from volpipe.jobs.transforms import Pose, place_of, text_at
from volpipe.volume.folder import absolute

Whole = Annotated[int, Field(ge=0)]
Run = tuple[Whole, int]


class SlabEntry(Fields):
    """One slab; without a volume it is missing."""

    volume: str | None = None
    layers: tuple[Whole, ...] | None = None
    flipped: bool = False
    start: Pose = Pose()

    _one = field_validator("layers", mode="before")(one_number)

    @model_validator(mode="after")
    def _layers_fit(self) -> SlabEntry:
        given = self.layers
        if self.volume is None and (given is None or len(given) != 1 or given[0] < 1):
            raise ValueError("a missing slab: give how many layers it has, as {layers: 75}")
        if self.volume is not None and given is not None and (len(given) != 2 or given[0] >= given[1]):
            raise ValueError(f"layers {list(given)}: of a volume give [first, stop], with first below stop")
        return self

    @property
    def run(self) -> tuple[int, int] | None:
        """First layer and stop; None for all that the volume has."""
        if self.layers is None:
            return None
        return (0, self.layers[0]) if self.volume is None else (self.layers[0], self.layers[1])


class Slabs(Fields):
    """A stack to be registered; see the head of this module."""

    slabs: tuple[SlabEntry, ...] = ()
    volume: str | None = None
    cuts: tuple[Run, ...] = ()
    gap_layers: tuple[Whole, ...] | None = None
    fill: Annotated[float, Field(allow_inf_nan=False)] | None = None
    level: Whole = 0
    channel: Whole | None = None
    voxel_size_um: tuple[Size, Size, Size] | None = None
    max_shift: float = Field(0.1, ge=0, le=0.5)
    max_angle_rad: float = Field(0.1, ge=0, le=math.pi)
    anchors: Mapping[int, Pose] = Field(default_factory=dict)

    _one = field_validator("gap_layers", mode="before")(one_number)

    @field_validator("fill", mode="before")
    @classmethod
    def _number(cls, fill: Any) -> Any:
        if isinstance(fill, bool):
            raise ValueError("give a number, as 0")
        return fill

    @field_validator("slabs", mode="before")
    @classmethod
    def _places(cls, slabs: Any) -> Any:
        """A place alone is a volume of which all layers count."""
        if not isinstance(slabs, list | tuple):
            return slabs
        return [{"volume": slab} if isinstance(slab, str) else slab for slab in slabs]

    @model_validator(mode="after")
    def _one_kind(self) -> Slabs:
        if bool(self.slabs) == (self.volume is not None) or (self.volume is None) == bool(self.cuts):
            raise ValueError("give slabs, or one volume with its cuts")
        if any(lower[0] < upper[1] for upper, lower in pairwise(self.cuts)):
            raise ValueError("cuts: give them from above, none over another")
        if sum(entry.volume is not None for entry in self.entries) < 2:
            raise ValueError("slabs: give two at least that are not missing")
        if self.entries[0].volume is None:
            raise ValueError("slabs: the first is missing, and poses are in its frame; begin with one that is there")
        return self

    @model_validator(mode="after")
    def _seams(self) -> Slabs:
        seams, given = len(self.entries) - 1, self.gap_layers
        if given is None and not self.cuts:
            raise ValueError("gap_layers: missing; give how many layers were lost at each seam")
        if given is not None and len(given) not in (1, seams):
            raise ValueError(f"gap_layers: {len(given)} given for {seams} seams; give one for each, or one for all")
        if self.entries[0].start != Pose():
            raise ValueError("start: of slab 0; it is the frame, give starts of others in it")
        for slab in self.anchors:
            if not 0 < slab <= seams:
                raise ValueError(f"anchors: slab {slab}; give numbers from 1 to {seams} (slab 0 is the frame)")
        return self

    @property
    def entries(self) -> tuple[SlabEntry, ...]:
        """The slabs, cut from one volume or not."""
        return self.slabs or tuple(SlabEntry(volume=self.volume, layers=cut) for cut in self.cuts)

    @property
    def gaps(self) -> tuple[int, ...]:
        """Layers lost at each seam."""
        if self.gap_layers is None:
            return tuple(lower[0] - upper[1] for upper, lower in pairwise(self.cuts))
        return self.gap_layers if len(self.gap_layers) > 1 else self.gap_layers * (len(self.entries) - 1)


def load_slabs(path: str | Path) -> Slabs:
    """Read a slabs file, which may lie on an object store; the places in it become absolute.

    Raises:
        ConfigError: the file is missing or is not YAML, or fields are wrong: every one of them, with its path.
    """
    try:
        content = yaml.safe_load(text_at(str(path)))
        if not isinstance(content, Mapping):
            raise ConfigError(f"{path}: holds no fields; give a slabs file")
        slabs = Slabs.model_validate(content)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a slabs file") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise ConfigError(validation_text(error, f"{path}: ")) from None
    folder = absolute(str(path)).rpartition("/")[0] or "/"
    entries = [slab.model_copy(update={"volume": place_of(slab.volume, folder)}) for slab in slabs.slabs]
    return slabs.model_copy(update={"slabs": tuple(entries), "volume": place_of(slabs.volume, folder)})
