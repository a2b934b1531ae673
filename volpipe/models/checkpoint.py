"""One trained network in one safetensors file: weights, and in the header all that one must know to apply it.

    header["volpipe"] = JSON {format, architecture, normalisation, voxel_size_um, output_channels, provenance}

Nothing in the file is code, and it is written beside its place and renamed: a reader never sees half of it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from volpipe.errors import ModelError, WriteError
from volpipe.models.architecture import Architecture, build_empty, from_json, to_json
from volpipe.models.layers import folded, for_inference
from volpipe.models.model import Model
from volpipe.models.normalisation import Normalisation

FORMAT = 1
HEADER = "volpipe"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A network of ours with weights.

    Attributes:
        network: what `architecture` builds, with its weights.
        normalisation: of the stored values that it was trained on.
        voxel_size_um: of the volumes that it was trained on, one length per spatial axis (z, y, x); None if
            unknown.
        output_channels: a name per output channel.
        provenance: data, licence, commit, training command: whatever can be written as JSON.
    """

    network: nn.Module
    architecture: Architecture
    normalisation: Normalisation
    voxel_size_um: tuple[float, ...] | None
    output_channels: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        a = self.architecture
        _same("normalisation", self.normalisation.channels, "input channels", a.in_channels)
        _same("output_channels", len(self.output_channels), "output channels", a.out_channels)
        if self.voxel_size_um is not None:
            _same("voxel_size_um", len(self.voxel_size_um), "axes", a.ndim)
            if not min(self.voxel_size_um) > 0:
                raise ModelError(f"checkpoint: voxel_size_um {self.voxel_size_um}; give lengths above 0")

    def model(self) -> Model:
        """Ready to be applied: a copy of the network, in eval mode, with its batch normalisations folded in."""
        a = self.architecture
        return Model(
            network=for_inference(folded(self.network)),
            ndim=a.ndim,
            in_channels=a.in_channels,
            out_channels=a.out_channels,
            footprint=a.footprint(),
            normalisation=self.normalisation,
            voxel_size_um=self.voxel_size_um,
            output_channels=self.output_channels,
            output_range=a.output_range,
            exactness=a.exactness(),
        )


def save_checkpoint(
    path: str | os.PathLike[str],
    network: nn.Module,
    architecture: Architecture,
    normalisation: Normalisation,
    voxel_size_um: Sequence[float] | None,
    output_channels: Sequence[str],
    provenance: Mapping[str, Any],
) -> None:
    """Write a checkpoint; an existing file is replaced as a whole.

    Args:
        path: ends in .safetensors.
        network: what `architecture` builds; its weights are written as float32.
        architecture, normalisation, voxel_size_um, output_channels, provenance: see `Checkpoint`.

    Raises:
        ModelError: the parts do not fit each other, or the name does not end in .safetensors.
        WriteError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ModelError(f"checkpoint {path}: the name must end in .safetensors")
    size = None if voxel_size_um is None else tuple(map(float, voxel_size_um))
    parts = Checkpoint(network, architecture, normalisation, size, tuple(output_channels), provenance)
    tensors = {name: _stored(tensor) for name, tensor in network.state_dict().items()}
    _require_tensors(str(path), build_empty(architecture).state_dict(), tensors)
    _write_whole(path, save(tensors, {HEADER: json.dumps(_header(parts))}))


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ModelError: the file is missing or damaged, is not a volpipe checkpoint, is of a newer format, or
            lacks a tensor.
    """
    name = os.fspath(path)
    header, tensors = _read(name)
    if header.get("format") != FORMAT:
        raise ModelError(f"{name}: checkpoint format {header.get('format')}; this version reads {FORMAT}")
    try:
        architecture = from_json(header["architecture"])
        normalisation = Normalisation(*(tuple(header["normalisation"][k]) for k in ("scale", "offset")))
        voxel_size, channels = header["voxel_size_um"], tuple(header["output_channels"])
        provenance = header["provenance"]
    except (KeyError, TypeError) as error:
        raise ModelError(f"{name}: the checkpoint's header lacks or garbles {error}; write it anew") from None
    network = build_empty(architecture)
    _require_tensors(name, network.state_dict(), tensors)
    network.load_state_dict(tensors)
    size = None if voxel_size is None else tuple(voxel_size)
    return Checkpoint(network, architecture, normalisation, size, channels, provenance)


def _header(parts: Checkpoint) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "architecture": to_json(parts.architecture),
        "normalisation": asdict(parts.normalisation),
        "voxel_size_um": parts.voxel_size_um,
        "output_channels": parts.output_channels,
        "provenance": dict(parts.provenance),
    }


def _read(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(name, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{name}: not a safetensors file that can be read ({error})") from None
    if HEADER not in metadata:
        raise ModelError(
            f"{name}: not a volpipe checkpoint, it holds weights without an architecture; "
            "give --model package.module:factory --weights FILE"
        )
    return _parse(name, metadata[HEADER]), tensors


def _parse(name: str, text: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise ModelError(f"{name}: the checkpoint's header is not a JSON object; write it anew")
    return header


def _require_tensors(name: str, needed: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not the architecture's, one by one, before any is used."""
    for key, tensor in needed.items():
        if key not in given:
            raise ModelError(f"{name}: tensor {key} is missing; the architecture needs it")
        if given[key].shape != tensor.shape:
            shapes = f"shape {tuple(given[key].shape)}; the architecture needs {tuple(tensor.shape)}"
            raise ModelError(f"{name}: tensor {key} has {shapes}")
        if not torch.isfinite(given[key]).all():
            raise ModelError(f"{name}: tensor {key} holds NaN or infinity; train again or take an earlier checkpoint")
    extra = sorted(given.keys() - needed.keys())
    if extra:
        raise ModelError(f"{name}: tensor {extra[0]} does not belong to the architecture")


def _stored(tensor: Tensor) -> Tensor:
    """As it is stored: float32 (counters stay whole numbers), in its own memory."""
    return tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype).clone().contiguous()


def _same(what: str, count: int, of: str, needed: int) -> None:
    if count != needed:
        raise ModelError(f"checkpoint: {what} has {count} entries; the network has {needed} {of}")


def _write_whole(path: Path, content: bytes) -> None:
    """Write beside the place, then rename: no reader and no crash leaves half a file."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise WriteError(f"checkpoint {path}: cannot be written ({error.strerror or error})") from error
