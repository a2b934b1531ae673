"""U-Net in 2D and 3D, padded or valid, with poolings per level and axis.

    level 0   pair ------------- skip (valid: its centre) ------------- pair - 1x1 - activation
    level 1      `- pool - pair ----------- skip ----------- pair - up -'
    bottom                    `- pool ----- pair ----- up -'

Two 3-convolutions per level and side, the width doubles per level. Up is 1x1-convolve-and-repeat ("nearest"),
1x1-convolve-and-interpolate ("bilinear", trilinear in 3D) or a transposed convolution whose kernel is its
stride. In valid mode no convolution pads; output voxel o then belongs to input voxel o + lost / 2, and
`footprint` counts both from 0. Source: Ronneberger et al., MICCAI 2015; Cicek et al., MICCAI 2016 (3D).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from volpipe.errors import ModelError
from volpipe.geometry import AxisFootprint, Footprint
from volpipe.models.layers import (
    CONV,
    OUTPUT_RANGES,
    TRANSPOSED_CONV,
    Activation,
    ConvUnit,
    Norm,
    linear_upsampling,
    nearest_upsampling,
    norm_layer,
    output_layer,
    require_lengths,
    require_words,
    tile_statistics,
)
from volpipe.models.spans import Span, Upsampling

Padding = Literal["same", "valid"]
Downsampling = Literal["pool", "strided"]
WORDS = {
    "padding": Padding,
    "upsampling": Upsampling,
    "downsampling": Downsampling,
    "norm": Norm,
    "activation": Activation,
}
PAIR_LOSES = 4  # voxels that two 3-convolutions without padding take from a length


@dataclass(frozen=True)
class UNetArchitecture:
    """A U-Net's numbers.

    Attributes:
        ndim: spatial axes, 2 or 3.
        levels: resolutions, so `levels - 1` poolings.
        width: channels at level 0; level l has `width * 2**l`.
        in_channels, out_channels: of the image and of the result.
        pooling: factor per pooling and axis (z, y, x), finest first, as ((1, 2, 2), (2, 2, 2)); None is 2
            everywhere.
        padding: "same" keeps the size (zeros), "valid" loses `footprint().axes[i].lost` voxels.
        upsampling: "nearest", "transposed" or "bilinear".
        downsampling: "pool" (largest value) or "strided" (3-convolution, only with padding "same").
        norm: "batch" and "none" see a tile alone, "instance" and "group" the whole volume.
        activation: of the output.
    """

    kind: ClassVar[str] = "unet"

    ndim: int
    levels: int
    width: int = 16
    in_channels: int = 1
    out_channels: int = 1
    pooling: tuple[tuple[int, ...], ...] | None = None
    padding: Padding = "same"
    upsampling: Upsampling = "transposed"
    downsampling: Downsampling = "pool"
    norm: Norm = "batch"
    activation: Activation = "none"

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3) or min(self.levels, self.width, self.in_channels, self.out_channels) < 1:
            raise ModelError(f"unet: {self}; ndim is 2 or 3, levels, width and channels are 1 or more")
        if len(self.factors) != self.levels - 1 or any(len(f) != self.ndim or min(f) < 1 for f in self.factors):
            raise ModelError(
                f"unet: pooling {self.pooling}; give {self.levels - 1} tuples of {self.ndim} factors of 1 or more"
            )
        require_words("unet", self, WORDS)
        if self.downsampling == "strided" and self.padding == "valid":
            raise ModelError("unet: strided convolutions pad; use downsampling pool with padding valid")

    @property
    def factors(self) -> tuple[tuple[int, ...], ...]:
        """Pooling factor per level and axis, finest level first."""
        return ((2,) * self.ndim,) * (self.levels - 1) if self.pooling is None else self.pooling

    @property
    def output_range(self) -> tuple[float, float] | None:
        """Lowest and highest output value; None if it has no bounds."""
        return OUTPUT_RANGES[self.activation]

    def build(self) -> UNet:
        """A new network with torch's initial weights, in training mode."""
        return UNet(self)

    def footprint(self) -> Footprint:
        """What the network must see: each axis by following one period of output back to the input."""
        return Footprint(tuple(self._axis_footprint([f[axis] for f in self.factors]) for axis in range(self.ndim)))

    def exactness(self) -> str:
        """Why tiling cannot be exact, naming a module; "" if it can be."""
        with torch.device("meta"):
            return tile_statistics(self.build())

    def _axis_footprint(self, factors: Sequence[int]) -> AxisFootprint:
        period, size_class, lost = 1, 0, self._lost([])
        for factor in reversed(factors):
            period, size_class = period * factor, self._pair_loses + factor * size_class
        lost = self._lost(factors)
        read = self._read(Span(0, period), factors)
        return AxisFootprint(-read.start, read.stop - period, period, size_class % period, lost)

    @property
    def _pair_loses(self) -> int:
        return PAIR_LOSES if self.padding == "valid" else 0

    def _lost(self, factors: Sequence[int]) -> int:
        """Voxels by which the output of a level, with all below it, is shorter than its input."""
        if not factors:
            return self._pair_loses
        return 2 * self._pair_loses + factors[0] * self._lost(factors[1:])

    def _read(self, outputs: Span, factors: Sequence[int]) -> Span:
        """Inputs of a level and all below it behind `outputs`; `factors` are the poolings below."""
        joined = self._pair_reads(outputs)
        if not factors:
            return joined
        factor, *deeper = factors
        cropped = factor * self._lost(deeper) // 2
        below = self._read(joined.upsampled(self.upsampling, factor), deeper)
        return self._pair_reads(self._down_reads(below, factor).hull(joined.shift(cropped)))

    def _pair_reads(self, outputs: Span) -> Span:
        padding = 1 - self._pair_loses // PAIR_LOSES
        return outputs.conv(3, padding=padding).conv(3, padding=padding)

    def _down_reads(self, outputs: Span, factor: int) -> Span:
        if self.downsampling == "strided" and factor > 1:
            return outputs.conv(3, factor, padding=1)
        return outputs.pool(factor)


class UNet(nn.Module):
    """(n, in_channels, [z,] y, x) -> (n, out_channels, [z,] y, x)."""

    def __init__(self, architecture: UNetArchitecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        self._footprint = a.footprint()
        self._smallest = [axis.admissible(axis.lost + 1) for axis in self._footprint.axes]
        widths = [a.width * 2**level for level in range(a.levels)]
        inputs = [a.in_channels, *widths]
        finest = range(a.levels - 1)
        self.down = nn.ModuleList(_pair(a, inputs[i], widths[i]) for i in finest)
        self.pool = nn.ModuleList(_downsampling(a, widths[i], a.factors[i]) for i in finest)
        self.bottom = _pair(a, inputs[a.levels - 1], widths[-1])
        self.unpool = nn.ModuleList(_upsampling(a, widths[i + 1], a.factors[i]) for i in reversed(finest))
        self.up = nn.ModuleList(_pair(a, 2 * widths[i], widths[i]) for i in reversed(finest))
        self.head = CONV[a.ndim](a.width, a.out_channels, 1)
        self.activation = output_layer(a.activation)

    def forward(self, image: Tensor) -> Tensor:
        """Apply the network.

        Raises:
            ModelError: a spatial length is not admissible; it names the multiple that is.
        """
        require_lengths("unet", image.shape[2:], self._footprint, self._smallest)
        skips = []
        for pair, pool in zip(self.down, self.pool, strict=True):
            skips.append(pair(image))
            image = pool(skips[-1])
        image = self.bottom(image)
        for unpool, pair in zip(self.unpool, self.up, strict=True):
            image = unpool(image)
            image = torch.cat([_centre(skips.pop(), image.shape[2:]), image], dim=1)
            for unit in pair.children():  # one by one: `pair(image)` would keep the wide input alive to its end
                image = unit(image)
        return self.activation(self.head(image))  # type: ignore[no-any-return]


def _pair(a: UNetArchitecture, inputs: int, outputs: int) -> nn.Sequential:
    """Two 3-convolutions, named `first` and `second`."""
    pair = nn.Sequential()
    for name, channels in (("first", inputs), ("second", outputs)):
        conv = CONV[a.ndim](channels, outputs, 3, padding=a.padding, bias=a.norm in ("none", "group"))
        pair.add_module(name, ConvUnit(conv, norm_layer(a.norm, a.ndim, outputs)))
    return pair


def _downsampling(a: UNetArchitecture, channels: int, factor: tuple[int, ...]) -> nn.Module:
    """Along an axis with factor 1 nothing happens: a strided convolution has kernel 1 there."""
    if a.downsampling == "pool":
        return (nn.MaxPool2d if a.ndim == 2 else nn.MaxPool3d)(factor)
    kernel = tuple(3 if f > 1 else 1 for f in factor)
    return CONV[a.ndim](channels, channels, kernel, stride=factor, padding=tuple(k // 2 for k in kernel))


def _upsampling(a: UNetArchitecture, inputs: int, factor: tuple[int, ...]) -> nn.Module:
    """Half the channels, `factor` times the size.

    The 1-convolution stands before the interpolation: the two commute, and there it costs prod(factor) times
    less.
    """
    if a.upsampling == "transposed":
        return TRANSPOSED_CONV[a.ndim](inputs, inputs // 2, factor, stride=factor)
    grow = linear_upsampling(a.ndim, factor) if a.upsampling == "bilinear" else nearest_upsampling(factor)
    return nn.Sequential(CONV[a.ndim](inputs, inputs // 2, 1), grow)


def _centre(image: Tensor, lengths: Sequence[int]) -> Tensor:
    """The middle of an image; what is cut is even, because a level always loses an even number of voxels."""
    for axis, length in enumerate(lengths, start=2):
        image = image.narrow(axis, (image.shape[axis] - length) // 2, length)
    return image
