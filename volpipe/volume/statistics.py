"""Statistics of a volume's intensities, stored beside it as JSON: what a network's normalisation is taken from.

    vol.ome.zarr                  vol.ome.zarr.statistics.json         of all voxels of level 0
    vol.ome.zarr, --level 2       vol.ome.zarr.level2.statistics.json
    vol.h5:/raw                   vol.h5.raw.statistics.json           (no colon, no star)

The file says of what it is (the volume's identity, the mask's): one that no longer fits is refused, never used.
"""

from __future__ import annotations

import json
import re
import shlex
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from volpipe.errors import VolumeError
from volpipe.volume.folder import absolute, is_remote, open_folder
from volpipe.volume.histogram import Histogram
from volpipe.volume.source import Source

PERCENTILES = (0.1, 0.5, 1, 2, 5, 10, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.9)
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of every channel of one level.

    Attributes:
        channels: one histogram each, in stored order.
        identity: of the volume, as its source states it.
        mask: identity of the mask, or None.
    """

    channels: tuple[Histogram, ...]
    identity: Mapping[str, Any]
    mask: Mapping[str, Any] | None = None

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel."""
        return tuple(histogram.mean for histogram in self.channels)

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel."""
        return tuple(histogram.std for histogram in self.channels)

    def percentile(self, percent: float) -> tuple[float, ...]:
        """Per channel."""
        return tuple(histogram.percentile(percent) for histogram in self.channels)

    def to_json(self) -> dict[str, Any]:
        """Numbers for people first, then the histograms that they come from."""
        return {
            "format": _FORMAT,
            "channels": [summary(histogram) for histogram in self.channels],
            "volume": self.identity,
            "mask": self.mask,
            "histograms": [histogram.to_json() for histogram in self.channels],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Statistics:
        """What `to_json` made."""
        histograms = tuple(Histogram.from_json(one) for one in stored["histograms"])
        return cls(histograms, stored["volume"], stored["mask"])


def summary(histogram: Histogram) -> dict[str, Any]:
    """One channel in numbers; None stands for NaN, which JSON has not."""
    numbers = {
        "min": histogram.minimum,
        "max": histogram.maximum,
        "mean": histogram.mean,
        "std": histogram.std,
    }
    found: dict[str, Any] = {name: _number(value) for name, value in numbers.items()}
    found["percentiles"] = {str(percent): _number(histogram.percentile(percent)) for percent in PERCENTILES}
    counts = {"count": histogram.count, "nan": histogram.nan, "infinite": histogram.infinite}
    return {"dtype": histogram.dtype, **counts, **found}


def sidecar_of(source: Source) -> str:
    """Where the statistics of a volume lie unless one says otherwise."""
    return _sidecar(source.location, **source.identity()["picked"])


def _sidecar(location: str, *, level: int, channel: int | None, time: int) -> str:
    name = absolute(location.removeprefix("precomputed://"))
    if not is_remote(name):
        folder, colon, inside = name.partition(":")
        name = re.sub(r"[*?\[\]]+", "_", folder) + colon.replace(":", ".") + inside.strip("/").replace("/", ".")
    picked = [f"level{level}"] if level else []
    picked += [f"channel{channel}"] if channel is not None else []
    picked += [f"time{time}"] if time else []
    return ".".join((name, *picked, "statistics.json"))


def load_statistics(source: Source) -> Statistics:
    """The statistics stored beside a volume; those of all channels serve for one of them.

    Raises:
        VolumeError: there are none, or they are of another volume or of an earlier state of it.
    """
    identity = source.identity()
    picked, place = identity["picked"], sidecar_of(source)
    whole = _sidecar(source.location, **picked | {"channel": None})
    if picked["channel"] is None or _get(place) is not None or _get(whole) is None:
        return read_statistics(place, identity)
    found = read_statistics(whole, identity | {"picked": picked | {"channel": None}})
    return replace(found, channels=(found.channels[picked["channel"]],), identity=identity)


def write_statistics(statistics: Statistics, place: str) -> None:
    """Store at `place`, a file or an object, whole or not at all.

    Raises:
        WriteError: one may not write there; `--output` puts it elsewhere.
    """
    folder, _, name = absolute(place).rpartition("/")
    open_folder(folder).put(name, json.dumps(statistics.to_json(), indent=1).encode())


def check_writable(place: str) -> None:
    """Write beside `place` and delete it again.

    Raises:
        WriteError: one may not write there.
    """
    folder, _, name = absolute(place).rpartition("/")
    probe = f".{name}.probe"
    open_folder(folder).put(probe, b"")
    open_folder(folder).delete(probe)


def read_statistics(place: str, identity: Mapping[str, Any] | None = None) -> Statistics:
    """Read what `write_statistics` stored.

    Args:
        place: file or object.
        identity: of the volume that they are wanted for; None does not check.

    Raises:
        VolumeError: there are none, they do not parse, or they are of another volume or of an earlier state of it.
    """
    stored, command = _get(place), _command(identity)
    if stored is None:
        raise VolumeError(f"{place}: no statistics are there; first run: {command}")
    try:
        found = Statistics.from_json(json.loads(stored))
    except (ValueError, KeyError, TypeError, zlib.error):
        raise VolumeError(f"{place}: is not a statistics file; run again: {command}") from None
    if identity is not None and found.identity != json.loads(json.dumps(identity)):
        raise VolumeError(f"{place}: the volume has changed since; run again: {_command(identity, found.mask)}")
    return found


def _command(identity: Mapping[str, Any] | None, mask: Mapping[str, Any] | None = None) -> str:
    """What to type for the statistics of a volume, given as its source and that of its mask state themselves."""
    words = ["volpipe", "statistics"]
    if identity is None:
        return shlex.join([*words, "VOLUME"])
    picked = {name: value for name, value in identity["picked"].items() if value or (name, value) == ("channel", 0)}
    options = picked if mask is None else picked | {"mask": mask["location"]}
    words += [identity["location"], *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    return shlex.join(words)


def _get(place: str) -> bytes | None:
    folder, _, name = absolute(place).rpartition("/")
    return open_folder(folder).get(name)


def _number(value: float) -> float | None:
    return None if value != value else value
