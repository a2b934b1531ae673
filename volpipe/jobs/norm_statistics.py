"""Statistics over a volume of a network's norms, as a file: what passes found, and what `--norm frozen:FILE` reads.

    OUT.ome.zarr.norm/norm.json    {"made": "exact", "weights": ..., "of": {...}, "layers": [{"operation":
                                   "instance_norm", "module": "stem.norm", "count": n, "mean": [...], "m2": [...]}]}
    OUT.ome.zarr.norm/planes/      where each plane has its own: the numbers (inference/statistics.py), of which a layer
                                   of norm.json has the hash alone, and "across", the axis of the planes

It says of what network and volume it is: another network is refused, another volume declared. norm.json has 40 bytes a
channel, or 200 a layer and axis beside the files of planes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from volpipe.errors import ConfigError
from volpipe.inference.intervals import Moments, Program
from volpipe.inference.statistics import OneSet, PlaneSets
from volpipe.jobs.norm import Planes, inexact
from volpipe.stitching.assembly import AXES
from volpipe.volume.folder import absolute, open_folder
from volpipe.volume.ledger import changes

FORMAT = 1
NAME = "norm.json"

Layer = tuple[str, str, int, str]  # operation, module, groups, the axis that planes are across ("" of the volume)


@dataclass(frozen=True)
class Found:
    """What is known of one layer.

    Attributes:
        sha256: of the numbers.
        moments: of one image; None where each plane has its own, in files.
        planes: which these are.
    """

    layer: Layer
    sha256: str
    moments: Moments | None = None
    planes: range = range(0)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Found:
        """What `as_json` wrote."""
        operation, module, across = stored["operation"], stored["module"], stored.get("across", "")
        if "sha256" in stored:
            layer = operation, module, int(stored["groups"]), across
            return cls(layer, stored["sha256"], planes=range(*map(int, stored["planes"])))
        moments = Moments.from_json(stored)
        return cls((operation, module, moments.groups, across), moments.sha256, moments)

    def as_json(self) -> dict[str, Any]:
        """Plain values by field."""
        operation, module, groups, across = self.layer
        layer = {"operation": operation, "module": module} | ({"across": across} if across else {})
        if self.moments is not None:
            return layer | self.moments.as_json()
        return layer | {"groups": groups, "planes": [self.planes.start, self.planes.stop], "sha256": self.sha256}


@dataclass(frozen=True)
class NormStatistics:
    """Of one network on one volume.

    Attributes:
        made: "exact" or "pooled".
        weights: the network's hash.
        of: what else they depend on: the volume, its normalisation, the precision.
        found: of each layer, in the order of the network's graph; of planes across one axis after the other.
        folder: that holds those of planes.
    """

    made: str
    weights: str
    of: Mapping[str, Any]
    found: tuple[Found, ...]
    folder: str

    @property
    def sets(self) -> OneSet | PlaneSets:
        """As blocks are told."""
        return sets_of(self.found, self.folder)

    @property
    def planes(self) -> Planes:
        """Whose they are; "" of a volume."""
        if not any(each.layer[3] for each in self.found):
            return ""
        return "volume" if all(each.moments is not None for each in self.found) else "each"

    @property
    def sha256(self) -> str:
        """Of the numbers alone: they are what a product depends on."""
        return hash_of(self.found)

    def inexact(self, of: Mapping[str, Any]) -> str:
        """Why layers with these do not give the whole-volume result of what `of` tells; "" if they do."""
        if not self.found:  # none sees the whole volume
            return ""
        changed = changes(self.of, of)
        names = sorted({each.partition(":")[0].partition(".")[0] for each in changed})
        other = f"norm frozen: statistics of something else (another {', '.join(names)})" if changed else ""
        return inexact(self.made, self.planes) or other

    def check(
        self, place: str, weights: str, layers: Sequence[Layer], shape: Sequence[int], needed: Mapping[int, range]
    ) -> None:
        """Refuse another network, planes of another volume, and files that hold other numbers than it tells of.

        Args:
            shape: of the volume.
            needed: planes, by axis.

        Raises:
            ConfigError: weights, layers, the number of planes or the files of planes differ, or planes are missing.
        """
        own = tuple(each.layer for each in self.found)
        if own != tuple(layers):
            theirs, ours = _differing(own, layers)[0]
            differ = f"{_named(theirs)}, where this network has {_named(ours)}"
            raise ConfigError(f"norm frozen:{place}: is of other layers ({differ}); give that of this network")
        if self.weights != weights:
            raise ConfigError(f"norm frozen:{place}: is of other weights ({self.weights[:12]}, the model has "
                              f"{weights[:12]}); give that of this network")  # fmt: skip
        sets = self.sets
        for axis, has in sets.planes.items() if isinstance(sets, PlaneSets) else ():
            those, asked = f"{has.start}:{has.stop} of {self.of['shape'][axis]}", needed[axis]
            if self.of["shape"][axis] != shape[axis] or asked.start < has.start or asked.stop > has.stop:
                raise ConfigError(
                    f"norm frozen:{place}: is of planes {those} across {AXES[axis]}, needed are {asked.start}:"
                    f"{asked.stop} of {shape[axis]}; give that of this volume, or one of --norm-planes volume"
                )
        self._check_files(place)

    def _check_files(self, place: str) -> None:
        sets, seen = self.sets, dict[str, int]()
        if not isinstance(sets, PlaneSets):
            return
        for each in self.found:
            across = each.layer[3]
            number = seen[across] = seen.get(across, -1) + 1
            if sets.sha256(AXES.index(across), number) != each.sha256:
                raise ConfigError(
                    f"norm frozen:{place}: the files in planes/{across}/{number:04d} beside it are missing, or hold "
                    "other numbers than it tells of; give one that lies where its run wrote it, or copy all its folder"
                )

    def across(self, axes: Sequence[int | None]) -> NormStatistics:
        """Those of planes across these axes, where it holds them beside others."""
        names = {"" if axis is None else AXES[axis] for axis in axes}
        found = tuple(each for each in self.found if each.layer[3] in names)
        return replace(self, found=found) if found else self

    def store(self, place: str) -> None:
        """Write them into a folder: the file, and planes that lie elsewhere."""
        sets = self.sets
        if isinstance(sets, PlaneSets) and sets.folder != absolute(place):
            sets.copy(absolute(place))
        stored = {"volpipe": FORMAT, "made": self.made, "weights": self.weights, "of": self.of,
                  "layers": [each.as_json() for each in self.found]}  # fmt: skip
        open_folder(place).put(NAME, json.dumps(stored, indent=1, default=str).encode())


def _named(layer: Layer | None) -> str:
    if layer is None:
        return "none"
    operation, module, groups, across = layer
    planes = f" of planes across {across}" if across else ""
    return f"{operation} of {groups} in {module or 'the network itself'}{planes}"


def _differing(one: Sequence[Layer], two: Sequence[Layer]) -> list[tuple[Layer | None, Layer | None]]:
    longest = max(len(one), len(two))
    pairs = zip(*([*layers, *[None] * (longest - len(layers))] for layers in (one, two)), strict=True)
    return [(a, b) for a, b in pairs if a != b]


def read_norm(place: str) -> NormStatistics:
    """From a file.

    Raises:
        ConfigError: it is missing, or of something else.
    """
    folder, _, name = place.rstrip("/").rpartition("/")
    try:
        data = open_folder(folder or ".").get(name)
    except OSError:  # a folder
        data = None
    if data is None:
        raise ConfigError(f"norm frozen:{place}: there is no such file; give the {NAME} of another run's OUTPUT.norm")
    try:
        stored = json.loads(data)
        found = tuple(map(Found.from_json, stored["layers"]))
        return NormStatistics(stored["made"], stored["weights"], stored["of"], found, absolute(folder or "."))
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"norm frozen:{place}: holds no statistics of norms; give the {NAME} of another run's "
                          "OUTPUT.norm") from None  # fmt: skip


def layers_of(program: Program, axis: int | None) -> list[Layer]:
    """The norms of a network that sees a volume, or planes across an axis."""
    across = "" if axis is None else AXES[axis]
    calls = [step.call for step in program.reductions]
    return [(call.kwargs["of"], call.where, call.args[1], across) for call in calls]


def sets_of(found: Sequence[Found], folder: str) -> OneSet | PlaneSets:
    """As blocks are told; `folder` holds those of planes."""
    each, one = dict[int, tuple[int, ...]](), dict[int | None, tuple[Moments, ...]]()
    planes = {AXES.index(of.layer[3]): of.planes for of in found if of.moments is None}
    for of in found:
        *_, groups, across = of.layer
        axis = AXES.index(across) if across else None
        if of.moments is not None:
            one[axis] = (*one.get(axis, ()), of.moments)
        elif axis is not None:
            each[axis] = (*each.get(axis, ()), groups)
    return PlaneSets(folder, each, planes) if each else OneSet(one)


def hash_of(found: Sequence[Found]) -> str:
    """The same for the same numbers."""
    return hashlib.sha256(json.dumps([each.sha256 for each in found]).encode()).hexdigest()
