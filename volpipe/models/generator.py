"""ResNet generator in 2D and 3D: the network of CycleGAN.

    7-conv - strided 3-conv - strided 3-conv - n residual blocks (two 3-convs each) - up - up - 7-conv - tanh

Up is a transposed convolution (kernel 3, stride 2, padding 1, output padding 1) or an upsampling by 2 and a
3-convolution. `padding` is that of the 7- and 3-convolutions, "reflect" as in the paper; strided
convolutions pad zeros as there. Padding acts at the faces of the volume only, so both can be tiled exactly.
Source: Zhu et al., ICCV 2017, appendix 7.2; Johnson et al., ECCV 2016. The paper normalises per instance, which
takes passes over the volume (`--norm exact`); "batch" is the default here.
"""

from __future__ import annotations

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

Padding = Literal["reflect", "zero"]
WORDS = {"padding": Padding, "upsampling": Upsampling, "norm": Norm, "activation": Activation}
PERIOD = 4  # two halvings
SMALLEST = {"reflect": 8, "zero": 4}  # a mirror of width 1 needs 2 voxels at a quarter of the resolution


@dataclass(frozen=True)
class GeneratorArchitecture:
    """A ResNet generator's numbers.

    Attributes:
        ndim: spatial axes, 2 or 3.
        blocks: residual blocks, 6 or 9 in the paper.
        width: channels after the first convolution; the blocks have 4 times as many.
        in_channels, out_channels: of the image and of the result.
        padding: "reflect" or "zero".
        upsampling: "transposed", "nearest" or "bilinear".
        norm: "batch" and "none" see a tile alone, "instance" and "group" the whole volume.
        activation: of the output.
    """

    kind: ClassVar[str] = "resnet_generator"

    ndim: int
    blocks: int = 9
    width: int = 64
    in_channels: int = 1
    out_channels: int = 1
    padding: Padding = "reflect"
    upsampling: Upsampling = "transposed"
    norm: Norm = "batch"
    activation: Activation = "tanh"

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3) or min(self.width, self.in_channels, self.out_channels) < 1 or self.blocks < 0:
            raise ModelError(f"generator: {self}; ndim is 2 or 3, width and channels are 1 or more")
        require_words("generator", self, WORDS)

    @property
    def output_range(self) -> tuple[float, float] | None:
        """Lowest and highest output value; None if it has no bounds."""
        return OUTPUT_RANGES[self.activation]

    def build(self) -> ResNetGenerator:
        """A new network with torch's initial weights, in training mode."""
        return ResNetGenerator(self)

    def footprint(self) -> Footprint:
        """What the network must see: one period of output followed back to the input, on each axis."""
        span = Span(0, PERIOD).conv(7, padding=3)
        span = self._up_reads(self._up_reads(span))
        for _ in range(2 * self.blocks):
            span = span.conv(3, padding=1)
        span = span.conv(3, 2, padding=1).conv(3, 2, padding=1).conv(7, padding=3)
        return Footprint((AxisFootprint(-span.start, span.stop - PERIOD, PERIOD),) * self.ndim)

    def exactness(self) -> str:
        """Why tiling cannot be exact, naming a module; "" if it can be."""
        with torch.device("meta"):
            return tile_statistics(self.build())

    def _up_reads(self, outputs: Span) -> Span:
        if self.upsampling == "transposed":
            return outputs.transposed_conv(3, 2, padding=1)
        return outputs.conv(3, padding=1).upsampled(self.upsampling, 2)


class ResNetGenerator(nn.Module):
    """(n, in_channels, [z,] y, x) -> (n, out_channels, [z,] y, x); lengths are multiples of 4."""

    def __init__(self, architecture: GeneratorArchitecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        self._footprint = a.footprint()
        self._smallest = [SMALLEST[a.padding]] * a.ndim
        self.variance_growth = 3.0**a.blocks  # of unit-gain weights: a block adds twice the variance it is given
        w = a.width
        self.stem = _unit(a, _conv(a, a.in_channels, w, 7), w)
        self.down = nn.Sequential(_down(a, w, 2 * w), _down(a, 2 * w, 4 * w))
        self.blocks = nn.Sequential(*(ResidualBlock(a, 4 * w) for _ in range(a.blocks)))
        self.up = nn.Sequential(_up(a, 4 * w, 2 * w), _up(a, 2 * w, w))
        self.head = CONV[a.ndim](w, a.out_channels, 7, padding=3, padding_mode=_padding_mode(a))
        self.activation = output_layer(a.activation)

    def forward(self, image: Tensor) -> Tensor:
        """Apply the network.

        Raises:
            ModelError: a spatial length is not a multiple of 4, or too short to mirror.
        """
        require_lengths("generator", image.shape[2:], self._footprint, self._smallest)
        image = self.up(self.blocks(self.down(self.stem(image))))
        return self.activation(self.head(image))  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Two 3-convolutions whose result is added to what they were given."""

    def __init__(self, architecture: GeneratorArchitecture, channels: int) -> None:
        super().__init__()
        a = architecture
        self.first = _unit(a, _conv(a, channels, channels, 3), channels)
        self.second = _unit(a, _conv(a, channels, channels, 3), channels, relu=False)

    def forward(self, image: Tensor) -> Tensor:
        """(n, c, ...) -> (n, c, ...)."""
        return image + self.second(self.first(image))  # type: ignore[no-any-return]


def _padding_mode(a: GeneratorArchitecture) -> Literal["zeros", "reflect"]:
    return "zeros" if a.padding == "zero" else "reflect"


def _bias(a: GeneratorArchitecture) -> bool:
    """A bias ahead of batch or instance normalisation would be subtracted again."""
    return a.norm in ("none", "group")


def _conv(a: GeneratorArchitecture, inputs: int, outputs: int, kernel: int) -> nn.Module:
    return CONV[a.ndim](inputs, outputs, kernel, padding=kernel // 2, bias=_bias(a), padding_mode=_padding_mode(a))


def _unit(a: GeneratorArchitecture, conv: nn.Module, channels: int, relu: bool = True) -> ConvUnit:
    return ConvUnit(conv, norm_layer(a.norm, a.ndim, channels), relu)


def _down(a: GeneratorArchitecture, inputs: int, outputs: int) -> nn.Module:
    return _unit(a, CONV[a.ndim](inputs, outputs, 3, stride=2, padding=1, bias=_bias(a)), outputs)


def _up(a: GeneratorArchitecture, inputs: int, outputs: int) -> nn.Module:
    if a.upsampling == "transposed":
        conv: nn.Module = TRANSPOSED_CONV[a.ndim](
            inputs, outputs, 3, stride=2, padding=1, output_padding=1, bias=_bias(a)
        )
        return _unit(a, conv, outputs)
    factor = (2,) * a.ndim
    grow = linear_upsampling(a.ndim, factor) if a.upsampling == "bilinear" else nearest_upsampling(factor)
    return _unit(a, nn.Sequential(grow, _conv(a, inputs, outputs, 3)), outputs)
