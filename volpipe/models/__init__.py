"""Networks and all that must be known to apply them; importing this package does not import torch (seconds).

    resolve_model(location, ...) -> ModelRef   small, picklable: what a task carries
    load_model(ref) -> Model                   network, footprint and normalisation, once per process

Our own networks are `UNetArchitecture` and `GeneratorArchitecture`: an architecture is a frozen value that
builds its network and knows its footprint in closed form. One safetensors file holds one trained network
with all of that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from volpipe.models.architecture import Architecture
    from volpipe.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from volpipe.models.generator import GeneratorArchitecture
    from volpipe.models.layers import initialise
    from volpipe.models.mae import MAEArchitecture
    from volpipe.models.model import Model, ModelRef, load_model, resolve_model
    from volpipe.models.normalisation import Normalisation
    from volpipe.models.presets import preset, preset_names
    from volpipe.models.siamese import SiameseArchitecture
    from volpipe.models.unet import UNetArchitecture

_HOMES = {
    "Architecture": "architecture",
    "Checkpoint": "checkpoint",
    "GeneratorArchitecture": "generator",
    "MAEArchitecture": "mae",
    "Model": "model",
    "ModelRef": "model",
    "Normalisation": "normalisation",
    "SiameseArchitecture": "siamese",
    "UNetArchitecture": "unet",
    "initialise": "layers",
    "load_checkpoint": "checkpoint",
    "load_model": "model",
    "preset": "presets",
    "preset_names": "presets",
    "resolve_model": "model",
    "save_checkpoint": "checkpoint",
}

__all__ = [
    "Architecture",
    "Checkpoint",
    "GeneratorArchitecture",
    "MAEArchitecture",
    "Model",
    "ModelRef",
    "Normalisation",
    "SiameseArchitecture",
    "UNetArchitecture",
    "initialise",
    "load_checkpoint",
    "load_model",
    "preset",
    "preset_names",
    "resolve_model",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
