"""A model as a task carries it, and as a worker holds it.

    resolve_model("net.safetensors") -> ModelRef   in the driver: what file, with what content; picklable
    load_model(ref) -> Model                       in each worker, once; a file that changed is refused

A location is a checkpoint of ours (.safetensors), a torch.export file (.pt2), a TorchScript file (.pt, .ts), a
factory "package.module:factory" with --weights and --trust-code, or "preset:NAME" (random weights, for
benchmarks and tests). This module imports no torch; `load_model` does.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from volpipe.errors import ModelError
from volpipe.geometry import Footprint
from volpipe.models.normalisation import Normalisation

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["preset", "checkpoint", "exported", "script", "factory"]

KINDS: dict[str, Kind] = {
    ".safetensors": "checkpoint",
    ".pt2": "exported",
    ".pt": "script",
    ".ts": "script",
    ".pth": "script",
    ".torchscript": "script",
}
FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
PRESET = "preset:"
MODELS_PER_PROCESS = 4  # a worker serves one job at a time, a pipeline a few


@dataclass(frozen=True)
class ModelRef:
    """What model, with what content, applied how; see `resolve_model` for the fields."""

    location: str
    sha256: str
    weights: str | None = None
    trust_code: bool = False
    halo: tuple[int, ...] | None = None
    period: tuple[int, ...] | None = None
    ndim: int | None = None
    in_channels: int | None = None
    input_scale: float = 1.0
    input_offset: float = 0.0

    @property
    def kind(self) -> Kind:
        """What the location is."""
        return _kind(self.location)

    @property
    def rescales(self) -> bool:
        """True if scale and offset were given, which then replace the checkpoint's."""
        return (self.input_scale, self.input_offset) != (1.0, 0.0)


@dataclass(frozen=True, eq=False)
class Model:
    """A network and all that must be known to apply it.

    Attributes:
        network: eval mode, float32, no gradients; (n, c, [z,] y, x) -> (n, c', [z,] y, x).
        ndim: spatial axes, 2 or 3.
        in_channels, out_channels: c and c'.
        footprint: what it must see, in closed form; None for a user's model (`settle.settle` measures it).
        normalisation: from stored values to the network's input.
        voxel_size_um: of the volumes that it was trained on (z, y, x); None if unknown.
        output_channels: a name per output channel.
        output_range: lowest and highest output value; None if unbounded or unknown.
        exactness: why tiling cannot be exact; "" if nothing is known that forbids it.
    """

    network: nn.Module
    ndim: int
    in_channels: int
    out_channels: int
    footprint: Footprint | None
    normalisation: Normalisation
    voxel_size_um: tuple[float, ...] | None
    output_channels: tuple[str, ...]
    output_range: tuple[float, float] | None
    exactness: str


def resolve_model(
    location: str,
    *,
    weights: str | None = None,
    trust_code: bool = False,
    halo: Sequence[int] | None = None,
    period: Sequence[int] | None = None,
    ndim: int | None = None,
    in_channels: int | None = None,
    input_scale: float = 1.0,
    input_offset: float = 0.0,
) -> ModelRef:
    """Find a model's files, check what can be checked without running it, and note their content.

    Args:
        location: see the head of this module.
        weights: safetensors file, for a factory only.
        trust_code: allow a factory's Python code to run.
        halo, period: voxels per spatial axis (or one number for all), both or neither; for a user's model.
            What is known of a network goes before them (`settle.settle`).
        ndim, in_channels: where a user's model does not tell.
        input_scale, input_offset: network input = stored value * scale + offset; they replace a checkpoint's.

    Raises:
        ModelError: the model is missing, of no readable kind, not trusted, a Python pickle, or the options
            contradict.
    """
    kind = _kind(location)
    if (weights is not None) and kind != "factory":
        raise ModelError(f"model {location}: --weights goes with package.module:factory; leave it out here")
    _require_halo(location, halo, period)
    Normalisation((input_scale,), (input_offset,))  # refuses NaN and a scale of 0
    if kind not in ("preset", "factory"):
        location = str(_file(location))
    if weights is not None:
        weights = str(_file(weights))
    return ModelRef(
        location=location,
        sha256=_fingerprint(location, weights, trust_code),
        weights=weights,
        trust_code=trust_code,
        halo=None if halo is None else tuple(halo),
        period=None if period is None else tuple(period),
        ndim=ndim,
        in_channels=in_channels,
        input_scale=input_scale,
        input_offset=input_offset,
    )


_LOADING = threading.Lock()


def load_model(ref: ModelRef) -> Model:
    """Load a model, once per process; threads that ask for it meanwhile wait.

    Raises:
        ModelError: a file changed since `resolve_model`, or the model cannot be loaded, trusted or applied.
    """
    with _LOADING:
        return _load(ref)


@lru_cache(maxsize=MODELS_PER_PROCESS)
def _load(ref: ModelRef) -> Model:
    found = _fingerprint(ref.location, ref.weights, ref.trust_code)
    if found != ref.sha256:
        raise ModelError(
            f"model {ref.location}: its content changed since the run was planned (sha256 {ref.sha256[:12]}, "
            f"now {found[:12]}); start the run again"
        )
    if ref.kind == "preset":
        from volpipe.models.presets import random_checkpoint

        return _as_asked(random_checkpoint(ref.location.removeprefix(PRESET)).model(), ref)
    if ref.kind == "checkpoint":
        from volpipe.models.checkpoint import load_checkpoint

        return _as_asked(load_checkpoint(ref.location).model(), ref)
    from volpipe.models.external import load_external

    return load_external(ref)


def _as_asked(model: Model, ref: ModelRef) -> Model:
    """Our own model, if it is what was asked for, with the scale that was given."""
    for what, given, known in (  # of `resolve_model`, `probe` and `bench`: under `apply` the volume tells them
        ("--ndim", ref.ndim, model.ndim),
        ("--in-channels", ref.in_channels, model.in_channels),
    ):
        if given is not None and given != known:
            raise ModelError(f"model {ref.location}: {what} {given}, but it takes {known}; leave that out")
    if not ref.rescales:
        return model
    channels = model.in_channels
    given_scale = Normalisation((ref.input_scale,) * channels, (ref.input_offset,) * channels)
    return replace(model, normalisation=given_scale)


def commas(numbers: Iterable[int]) -> str:
    """`1,2,3`, as an option is given."""
    return ",".join(map(str, numbers))


def footprint_by_hand(ref: ModelRef, ndim: int) -> Footprint | None:
    """The footprint of `halo` and `period`, one number standing for all axes; None if they were not given.

    Raises:
        ModelError: they have another number of axes than the model.
    """
    if ref.halo is None or ref.period is None:
        return None
    sides = [side * ndim if len(side) == 1 else side for side in (ref.halo, ref.period)]
    if any(len(side) != ndim for side in sides):
        raise ModelError(
            f"model {ref.location}: --halo {commas(ref.halo)} --period {commas(ref.period)}; give {ndim} numbers each"
        )
    return Footprint.from_halo(*sides)


def _kind(location: str) -> Kind:
    if location.startswith(PRESET):
        return "preset"
    if kind := KINDS.get(Path(location).suffix.lower()):
        return kind
    if FACTORY.fullmatch(location):
        return "factory"
    raise ModelError(
        f"model {location!r}: give a .safetensors checkpoint, a .pt2 file of torch.export, a TorchScript "
        ".pt file, package.module:factory, or preset:NAME"
    )


def _require_halo(location: str, halo: Sequence[int] | None, period: Sequence[int] | None) -> None:
    if (halo is None) != (period is None):
        raise ModelError(f"model {location}: give --halo and --period together, in voxels per axis")
    if halo is not None and period is not None and (min(halo) < 0 or min(period) < 1):
        raise ModelError(
            f"model {location}: --halo {commas(halo)} is 0 or more, --period {commas(period)} is 1 or more"
        )


def _file(name: str) -> Path:
    """The absolute path of a file that exists: workers may run in another directory."""
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise ModelError(f"model {name}: there is no such file")
    return path


def _fingerprint(location: str, weights: str | None, trust_code: bool) -> str:
    """SHA-256 of what the numbers depend on: an architecture, a file, or a factory with its file and weights."""
    kind = _kind(location)
    if kind == "preset":
        from volpipe.models.architecture import to_json
        from volpipe.models.presets import RANDOM_SEED, preset

        content = {"seed": RANDOM_SEED, **to_json(preset(location.removeprefix(PRESET)))}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    if kind == "factory":
        from volpipe.models.factory import source_file

        function = location.partition(":")[2]
        parts = [function, _digest(source_file(location, trust_code)), _digest(Path(weights)) if weights else ""]
        return hashlib.sha256("".join(parts).encode()).hexdigest()
    if kind == "script":
        from volpipe.models.archive import require_torchscript

        require_torchscript(Path(location))
    return _digest(Path(location))


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"model {path}: cannot be read ({error.strerror}); every worker needs this path") from error
