"""What every architecture of ours can say of itself, and how it is written into a file and read back.

An architecture is a frozen dataclass of numbers and words: equal architectures build equal networks, its
fields are its JSON, and its footprint follows from them without running anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from volpipe.errors import ModelError
from volpipe.geometry import Footprint
from volpipe.models.generator import GeneratorArchitecture
from volpipe.models.layers import initialise
from volpipe.models.mae import MAEArchitecture, MaskToken
from volpipe.models.siamese import SiameseArchitecture
from volpipe.models.unet import UNetArchitecture


class Architecture(Protocol):
    """A network before it has weights."""

    kind: ClassVar[str]

    @property
    def ndim(self) -> int:
        """Spatial axes, 2 or 3."""
        ...

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        ...

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        ...

    @property
    def output_range(self) -> tuple[float, float] | None:
        """Lowest and highest output value; None if it has no bounds."""
        ...

    def build(self) -> nn.Module:
        """A new network with torch's initial weights, in training mode."""
        ...

    def footprint(self) -> Footprint:
        """What the network must see, in closed form."""
        ...

    def exactness(self) -> str:
        """Why tiling cannot be exact, naming a module; "" if it can be."""
        ...


Ours = UNetArchitecture | GeneratorArchitecture | MAEArchitecture | SiameseArchitecture
KINDS: dict[str, type[Ours]] = {
    architecture.kind: architecture
    for architecture in (UNetArchitecture, GeneratorArchitecture, MAEArchitecture, SiameseArchitecture)
}


def build_random(architecture: Architecture, seed: int) -> nn.Module:
    """A network with random weights, the same everywhere; torch's own generator is left alone."""
    return initialise(build_empty(architecture), seed)


def build_empty(architecture: Architecture) -> nn.Module:
    """A network on the CPU; its linear layers hold no values yet, its norms are as torch starts them."""
    with torch.device("meta"):
        network = architecture.build()
    network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm | MaskToken):
            module.reset_parameters()
    return network


def to_json(architecture: Architecture) -> dict[str, Any]:
    """The architecture as plain JSON values: its kind and its fields."""
    return {"kind": architecture.kind, **asdict(architecture)}  # type: ignore[call-overload]


def from_json(data: Mapping[str, Any]) -> Architecture:
    """The architecture that `to_json` wrote.

    Raises:
        ModelError: the kind is unknown, or a field is missing, unknown or wrong.
    """
    fields = dict(data)
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise ModelError(f"architecture {kind!r} is unknown; this version reads {', '.join(KINDS)}")
    try:
        return KINDS[kind](**{name: _tuples(value) for name, value in fields.items()})
    except TypeError as error:
        raise ModelError(f"architecture {kind!r}: {error}; the file is damaged or from another version") from None


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that frozen fields hold."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
