"""Masked autoencoder in 2D and 3D: a vision transformer that sees a fixed window and fills in what it is not shown.

    window (32^3) - patches (4^3) - linear - + positions - [kept] - encoder blocks - norm -> tokens (8^3 of width d)
    tokens - linear - [mask tokens] - + positions - decoder blocks - norm - linear -> patches -> window

Applied to a volume nothing is masked: the product is the window as the decoder paints it (`image`), or the encoder's
tokens as d channels at 1 / patch of the resolution (`embedding`). For training, `encode` and `decode` take the tokens
to keep. Every token sees the whole window, so there is no footprint but the window, and tokens lie on a lattice of
patches. Positions are sines and cosines, so that they need no training and no place in a file.
Source: He et al., CVPR 2022; Dosovitskiy et al., ICLR 2021; window and patches: "Semantic stitching", sections 4.1-4.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from volpipe.errors import ModelError
from volpipe.geometry import AxisFootprint, Footprint
from volpipe.models.layers import CONV, require_words

Output = Literal["image", "embedding"]
WORDS = {"output": Output}
HEAD_WIDTH = 32  # channels of one attention head
SLOWEST = 10_000.0  # the longest wave of the positions, in tokens


@dataclass(frozen=True)
class MAEArchitecture:
    """A masked autoencoder's numbers.

    Attributes:
        ndim: spatial axes, 2 or 3.
        window: voxels along each axis of the only image that it takes.
        patch: voxels along each axis of a token.
        width: channels of the encoder's tokens; the decoder has half as many.
        depth, decoder_depth: transformer blocks.
        in_channels: of the image.
        output: "image" or "embedding".
    """

    kind: ClassVar[str] = "mae"

    ndim: int
    window: int = 32
    patch: int = 4
    width: int = 192
    depth: int = 6
    decoder_depth: int = 2
    in_channels: int = 1
    output: Output = "image"

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3) or min(self.patch, self.depth, self.decoder_depth, self.in_channels) < 1:
            raise ModelError(f"mae: {self}; ndim is 2 or 3, patch, depths and channels are 1 or more")
        if self.window < self.patch or self.window % self.patch:
            raise ModelError(f"mae: window {self.window} with patches of {self.patch}; give a multiple of the patch")
        whole = 2 * HEAD_WIDTH  # heads divide the encoder's width and the decoder's half of it
        least = 4 * self.ndim  # a sine and a cosine for each axis in that half
        if self.width % (whole if self.width > whole else 2) or self.width < least:
            raise ModelError(f"mae: width {self.width}; give a multiple of {whole}, or an even number from {least} on")
        require_words("mae", self, WORDS)

    @property
    def out_channels(self) -> int:
        """Of the result."""
        return self.in_channels if self.output == "image" else self.width

    @property
    def output_range(self) -> None:
        """None: it has no bounds."""
        return

    @property
    def grid(self) -> tuple[int, ...]:
        """Tokens of a window per axis."""
        return (self.window // self.patch,) * self.ndim

    def build(self) -> MaskedAutoencoder:
        """A new network with torch's initial weights, in training mode."""
        return MaskedAutoencoder(self)

    def footprint(self) -> Footprint:
        """The window, on the lattice of patches."""
        scale = Fraction(1) if self.output == "image" else Fraction(1, self.patch)
        return Footprint((AxisFootprint(period=self.patch, scale=scale, window=self.window),) * self.ndim)

    def exactness(self) -> str:
        """ "": what keeps it from the whole-volume result is its window, which the footprint tells."""
        return ""


class MaskedAutoencoder(nn.Module):
    """(n, in_channels, window, ...) -> (n, in_channels, window, ...), or (n, width, window / patch, ...)."""

    def __init__(self, architecture: MAEArchitecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.embed = CONV[a.ndim](a.in_channels, a.width, a.patch, stride=a.patch)
        self.encoder = Transformer(a.width, a.depth)
        if a.output == "image":
            self.narrow = nn.Linear(a.width, a.width // 2)
            self.masked = MaskToken(a.width // 2)
            self.decoder = Transformer(a.width // 2, a.decoder_depth)
            self.head = nn.Linear(a.width // 2, a.patch**a.ndim * a.in_channels)

    def forward(self, image: Tensor) -> Tensor:
        """Nothing masked.

        Raises:
            ModelError: the image is not one window.
        """
        a = self.architecture
        if tuple(image.shape[2:]) != (a.window,) * a.ndim:
            raise ModelError(f"mae: an image of {tuple(image.shape[2:])} voxels; give windows of {a.window} an axis")
        tokens = self.encode(image)
        return self.decode(tokens) if a.output == "image" else tokens.mT.reshape(len(image), a.width, *a.grid)

    def encode(self, image: Tensor, kept: Tensor | None = None) -> Tensor:
        """The tokens (n, k, width) of the patches `kept` (n, k), numbers in C order; of all if not given."""
        tokens = self.embed(image).flatten(2).mT + positions(self.architecture.grid, self.architecture.width, image)
        return self.encoder(tokens if kept is None else picked(tokens, kept))  # type: ignore[no-any-return]

    def decode(self, tokens: Tensor, kept: Tensor | None = None) -> Tensor:
        """The window (n, in_channels, window, ...) from tokens (n, k, width) of the patches `kept`."""
        a = self.architecture
        tokens = self.narrow(tokens)
        if kept is not None:
            tokens = self.masked(tokens, kept, math.prod(a.grid))
        tokens = self.decoder(tokens + positions(a.grid, tokens.shape[-1], tokens))
        return joined(self.head(tokens), a)


class MaskToken(nn.Module):
    """One learned token that stands where none was kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start at 0."""
        nn.init.zeros_(self.token)

    def forward(self, tokens: Tensor, kept: Tensor, count: int) -> Tensor:
        """Tokens (n, k, d) of the places `kept` (n, k) -> tokens (n, count, d) of all places."""
        everywhere = self.token.expand(len(tokens), count, -1).to(tokens.dtype)
        return everywhere.scatter(1, kept[..., None].expand_as(tokens), tokens)


class Transformer(nn.Module):
    """Blocks of attention and perceptron, each on the norm of what it is given and added to it; a norm at the end."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, k, width) -> (n, k, width)."""
        return self.norm(self.blocks(tokens))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One layer of a transformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = heads_of(width)
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, k, width) -> (n, k, width)."""
        tokens = tokens + self.attend(self.before_attention(tokens))
        return tokens + self.perceptron(self.before_perceptron(tokens))  # type: ignore[no-any-return]

    def attend(self, tokens: Tensor) -> Tensor:
        """Every token looks at every other, by torch's fused kernel: no matrix of k x k is kept."""
        heads = self.query_key_value(tokens).reshape(*tokens.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(*heads)
        return self.join(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def heads_of(width: int) -> int:
    """Attention heads of a transformer of this width."""
    return max(1, width // HEAD_WIDTH)


def positions(grid: tuple[int, ...], width: int, like: Tensor) -> Tensor:
    """Where each token lies: (tokens, width), an equal share of sines and cosines for each axis; what is left is 0.

    Source: Vaswani et al., NeurIPS 2017, section 3.5, for each axis as in He et al., CVPR 2022.
    """
    waves = width // (2 * len(grid))
    rates = SLOWEST ** (-torch.arange(waves, dtype=torch.float32, device=like.device) / waves)
    places = torch.meshgrid(*(torch.arange(n, dtype=torch.float32, device=like.device) for n in grid), indexing="ij")
    angles = [place.reshape(-1, 1) * rates for place in places]
    found = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
    return functional.pad(found, (0, width - found.shape[1])).to(like.dtype)


def picked(tokens: Tensor, kept: Tensor) -> Tensor:
    """The tokens (n, k, d) at the places `kept` (n, k)."""
    return tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))


def random_kept(count: int, tokens: int, share: float, generator: torch.Generator) -> Tensor:
    """Which tokens an encoder is shown in training: (count, share of the tokens), another choice for each image."""
    order = torch.rand(count, tokens, generator=generator).argsort(dim=1)
    return order[:, : max(1, round(share * tokens))]


def joined(patches: Tensor, a: MAEArchitecture) -> Tensor:
    """Patches (n, tokens, patch voxels x channels) as one image (n, channels, window, ...)."""
    patches = patches.reshape(len(patches), *a.grid, *(a.patch,) * a.ndim, a.in_channels)
    along = [axis for i in range(a.ndim) for axis in (1 + i, 1 + a.ndim + i)]  # token, voxel within; z, y, x
    image = patches.permute(0, 1 + 2 * a.ndim, *along)
    return image.reshape(len(patches), a.in_channels, *(a.window,) * a.ndim)


def patches_of(image: Tensor, a: MAEArchitecture) -> Tensor:
    """What `joined` joins: the patches of an image, the target of training."""
    sides = [side for n in a.grid for side in (n, a.patch)]
    image = image.reshape(len(image), a.in_channels, *sides)
    tokens, within = [2 + 2 * i for i in range(a.ndim)], [3 + 2 * i for i in range(a.ndim)]
    return image.permute(0, *tokens, *within, 1).flatten(1 + a.ndim).flatten(1, a.ndim)
