"""Statistics over a volume of a network's norms, as a file: what passes found, and what `--norm frozen:FILE` reads.

    OUT.ome.zarr.norm/norm.json    {"made": "exact", "weights": ..., "of": {...}, "layers": [{"operation":
                                   "instance_norm", "module": "stem.norm", "count": n, "mean": [...], "m2": [...]}]}

It says of what network and volume it is: another network is refused, another volume declared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from volpipe.errors import ConfigError
from volpipe.inference.intervals import Moments, Program
from volpipe.jobs.norm import POOLED
from volpipe.volume.folder import open_folder
from volpipe.volume.ledger import changes

FORMAT = 1
NAME = "norm.json"

Layer = tuple[str, str, int]  # operation, module, groups


@dataclass(frozen=True)
class NormStatistics:
    """Of one network on one volume.

    Attributes:
        made: "exact" or "pooled".
        weights: the network's hash.
        of: what else they depend on: the volume, its normalisation, the precision.
        layers: of the network, in the order of its graph.
        moments: of each layer.
    """

    made: str
    weights: str
    of: Mapping[str, Any]
    layers: tuple[Layer, ...]
    moments: tuple[Moments, ...]

    @property
    def sha256(self) -> str:
        """Of the numbers alone: they are what a product depends on."""
        return hash_of(self.moments)

    def inexact(self, of: Mapping[str, Any]) -> str:
        """Why layers with these do not give the whole-volume result of what `of` tells; "" if they do."""
        if not self.layers:  # none sees the whole volume
            return ""
        if self.made == "pooled":
            return POOLED
        changed = changes(self.of, of)
        names = sorted({each.partition(":")[0].partition(".")[0] for each in changed})
        return f"norm frozen: statistics of something else (another {', '.join(names)})" if changed else ""

    def check(self, place: str, weights: str, layers: Sequence[Layer]) -> None:
        """Refuse another network.

        Raises:
            ConfigError: weights or layers differ.
        """
        if self.layers != tuple(layers):
            differ = [f"{a or 'none'} for {b or 'none'}" for a, b in _differing(self.layers, layers)]
            raise ConfigError(f"norm frozen:{place}: is of other layers ({differ[0]}); give that of this network")
        if self.weights != weights:
            raise ConfigError(f"norm frozen:{place}: is of other weights ({self.weights[:12]}, the model has "
                              f"{weights[:12]}); give that of this network")  # fmt: skip

    def encoded(self) -> bytes:
        """As the file has it."""
        layers = [
            {"operation": operation, "module": module, **moments.as_json()}
            for (operation, module, _), moments in zip(self.layers, self.moments, strict=True)
        ]
        stored = {"volpipe": FORMAT, "made": self.made, "weights": self.weights, "of": self.of, "layers": layers}
        return json.dumps(stored, indent=1, default=str).encode()


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
        moments = tuple(map(Moments.from_json, stored["layers"]))
        layers = tuple((each["operation"], each["module"], len(each["mean"])) for each in stored["layers"])
        return NormStatistics(stored["made"], stored["weights"], stored["of"], layers, moments)
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"norm frozen:{place}: holds no statistics of norms; give the {NAME} of another run's "
                          "OUTPUT.norm") from None  # fmt: skip


def layers_of(program: Program) -> list[Layer]:
    """The norms of a network."""
    calls = [step.call for step in program.reductions]
    return [(call.kwargs["of"], call.where, call.args[1]) for call in calls]


def hash_of(moments: Sequence[Moments]) -> str:
    """The same for the same numbers."""
    return hashlib.sha256(json.dumps([each.as_json() for each in moments]).encode()).hexdigest()
