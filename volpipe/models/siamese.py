"""Siamese heads on an MAE's encoder: do the last layers of one slab go on in the first layers of the next?

    upper window (32^3) - encoder - last layer of tokens  - linear_u -> surface (8^2 of width d) --+
    lower window (32^3) - encoder - first layer of tokens - linear_l -> surface (8^2 of width d) --+-- cosine -> (8^2)

Applied to a volume: `upper` and `lower` give the surface of a slab, d channels at 1 / patch of the resolution along y
and x, one layer a window along z; `similarity` takes the two slabs as two channels and gives the map of their cosines.
Source: "Semantic stitching", sections 5.1 and 5.2, equations 1 to 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from volpipe.geometry import AxisFootprint, Footprint
from volpipe.models.layers import require_words
from volpipe.models.mae import MAEArchitecture, MaskedAutoencoder

Output = Literal["similarity", "upper", "lower"]
WORDS = {"output": Output}
LAST, FIRST = -1, 0  # layer of tokens that is read: the bottom of the upper slab, the top of the lower


@dataclass(frozen=True)
class SiameseArchitecture:
    """A Siamese network's numbers.

    Attributes:
        ndim: 3; slabs lie on each other along z.
        window, patch, width, depth: of the encoder, see `MAEArchitecture`.
        output: "similarity" of two slabs, or the surface of one, "upper" or "lower".
    """

    kind: ClassVar[str] = "siamese"

    ndim: int = 3
    window: int = 32
    patch: int = 4
    width: int = 192
    depth: int = 6
    output: Output = "similarity"

    def __post_init__(self) -> None:
        require_words("siamese", self, WORDS)
        self.encoder  # noqa: B018  (an encoder that cannot be is refused here)

    @property
    def encoder(self) -> MAEArchitecture:
        """The masked autoencoder whose encoder it stands on."""
        return MAEArchitecture(self.ndim, self.window, self.patch, self.width, self.depth, output="embedding")

    @property
    def in_channels(self) -> int:
        """The slabs that it sees at once."""
        return 2 if self.output == "similarity" else 1

    @property
    def out_channels(self) -> int:
        """Of the result."""
        return 1 if self.output == "similarity" else self.width

    @property
    def output_range(self) -> tuple[float, float] | None:
        """Cosines have bounds, surfaces have none."""
        return (-1.0, 1.0) if self.output == "similarity" else None

    def build(self) -> Siamese:
        """A new network with torch's initial weights, in training mode."""
        return Siamese(self)

    def footprint(self) -> Footprint:
        """The window; along z it gives one layer."""
        deep = AxisFootprint(period=self.window, scale=Fraction(1, self.window), window=self.window)
        return Footprint((deep, *self.encoder.footprint().axes[1:]))

    def exactness(self) -> str:
        """ "": what keeps it from the whole-volume result is its window, which the footprint tells."""
        return ""


class Siamese(nn.Module):
    """(n, 1 or 2, window, window, window) -> (n, width or 1, 1, window / patch, window / patch)."""

    def __init__(self, architecture: SiameseArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.encoder = MaskedAutoencoder(architecture.encoder)
        self.linear_u = nn.Linear(architecture.width, architecture.width)
        self.linear_l = nn.Linear(architecture.width, architecture.width)

    def forward(self, slabs: Tensor) -> Tensor:
        """Apply the network.

        Raises:
            ModelError: the slabs are not one window.
        """
        if self.architecture.output == "upper":
            return self.upper(slabs)
        if self.architecture.output == "lower":
            return self.lower(slabs)
        upper, lower = self.upper(slabs[:, :1]), self.lower(slabs[:, 1:])
        return functional.cosine_similarity(upper, lower, dim=1)[:, None]

    def upper(self, window: Tensor) -> Tensor:
        """The surface (n, width, 1, y, x) at the bottom of an upper slab."""
        return self._surface(window, LAST, self.linear_u)

    def lower(self, window: Tensor) -> Tensor:
        """The surface (n, width, 1, y, x) at the top of a lower slab."""
        return self._surface(window, FIRST, self.linear_l)

    def _surface(self, window: Tensor, layer: int, linear: nn.Module) -> Tensor:
        tokens: Tensor = self.encoder(window)[:, :, layer]
        surface: Tensor = linear(torch.movedim(tokens, 1, -1))
        return surface.movedim(-1, 1)[:, :, None]
