"""Layers that our networks share, in 2D and 3D, and what holds for all of them.

Convention: tensors are (n, c, [z,] y, x); `ndim` is the number of spatial axes, 2 or 3. Sizes and strides
are per axis. Interpolation is half-pixel (align_corners=False): with align_corners=True an output depends on
the length of the tile, and no halo would make a tiled result right.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from volpipe.errors import ModelError
from volpipe.geometry import Footprint
from volpipe.models.kernels import use_fast_kernels

Norm = Literal["batch", "instance", "group", "none"]
Activation = Literal["none", "sigmoid", "softmax", "tanh"]

CONV: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED_CONV: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
OUTPUT_RANGES: dict[Activation, tuple[float, float] | None] = {
    "none": None,
    "sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
}
LINEAR_MODES = {2: "bilinear", 3: "trilinear"}
AXIS_NAMES = {2: "yx", 3: "zyx"}
MOST_GROUPS = 8  # of group normalisation; fewer where the channels do not divide


def require_words(name: str, architecture: object, words: Mapping[str, object]) -> None:
    """Refuse fields that hold none of the words they may hold: a file may say anything.

    Args:
        name: of the network, for the message.
        architecture: the dataclass whose fields are checked.
        words: field -> the Literal type of its words.

    Raises:
        ModelError: names the field and its words.
    """
    for field, allowed in words.items():
        given = getattr(architecture, field)
        if given not in get_args(allowed):
            raise ModelError(f"{name}: {field} {given!r}; give one of {', '.join(get_args(allowed))}")


def norm_layer(norm: Norm, ndim: int, channels: int) -> nn.Module:
    """The normalisation of one layer; "instance" and "group" take statistics of all that they see."""
    if norm == "batch":
        return (nn.BatchNorm2d if ndim == 2 else nn.BatchNorm3d)(channels)
    if norm == "instance":
        return (nn.InstanceNorm2d if ndim == 2 else nn.InstanceNorm3d)(channels, affine=True)
    if norm == "group":
        return nn.GroupNorm(math.gcd(MOST_GROUPS, channels), channels)
    return nn.Identity()


def output_layer(activation: Activation) -> nn.Module:
    """What follows the last convolution."""
    layers: dict[Activation, nn.Module] = {
        "none": nn.Identity(),
        "sigmoid": nn.Sigmoid(),
        "softmax": nn.Softmax(dim=1),
        "tanh": nn.Tanh(),
    }
    return layers[activation]


class ConvUnit(nn.Module):
    """Convolution (or the module given instead), normalisation, ReLU."""

    def __init__(self, conv: nn.Module, norm: nn.Module, relu: bool = True) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        """(n, c, ...) -> (n, c', ...)."""
        return self.relu(self.norm(self.conv(image)))  # type: ignore[no-any-return]


def linear_upsampling(ndim: int, factor: Sequence[int]) -> nn.Module:
    """Bilinear or trilinear, half-pixel."""
    return nn.Upsample(scale_factor=tuple(map(float, factor)), mode=LINEAR_MODES[ndim], align_corners=False)


def nearest_upsampling(factor: Sequence[int]) -> nn.Module:
    """Each voxel repeated."""
    return nn.Upsample(scale_factor=tuple(map(float, factor)), mode="nearest")


def require_lengths(name: str, lengths: Sequence[int], footprint: Footprint, smallest: Sequence[int]) -> None:
    """Refuse an input whose lengths a network cannot take.

    Args:
        name: of the network, for the message.
        lengths: spatial lengths of the input, voxels.
        footprint: says which lengths are admissible.
        smallest: admissible length per axis below which nothing comes out.

    Raises:
        ModelError: names the axis, the multiple and the next length that would do.
    """
    for axis, length, rule, least in zip(AXIS_NAMES[len(lengths)], lengths, footprint.axes, smallest, strict=True):
        good = rule.admissible(max(length, least))
        if length != good:
            form = f"a multiple of {rule.period}" + (f" plus {rule.size_class}" if rule.size_class else "")
            raise ModelError(f"{name}: {length} voxels along {axis}; give {form}, at least {least}, such as {good}")


def tile_statistics(network: nn.Module) -> str:
    """Why a network cannot be tiled exactly, as far as its modules tell: the reason with a module's name, or "".

    Instance normalisation with running statistics uses constants in eval mode and is fine. What only shows
    in the numbers (attention, pooling over the whole image) is not found here.
    """
    for name, module in network.named_modules():
        kind = str(getattr(module, "original_name", type(module).__name__))  # TorchScript keeps the name there
        if kind == "GroupNorm":
            return f"group norm: statistics of the tile (module {name})"
        if kind.startswith("InstanceNorm") and not getattr(module, "track_running_stats", False):
            return f"instance norm: statistics of the tile (module {name})"
    return ""


def folded(network: nn.Module) -> nn.Module:
    """A copy in eval mode with batch normalisations multiplied into the convolutions before them.

    The same function of the image with one tensor less per convolution: a third less memory for a U-Net.
    """
    network = copy.deepcopy(network).eval()
    for unit in list(network.modules()):
        if isinstance(unit, ConvUnit) and isinstance(unit.norm, nn.modules.batchnorm._BatchNorm):
            before = list(unit.conv.children()) or [unit.conv]  # an upsampling may stand before the convolution
            transposed = isinstance(before[-1], nn.modules.conv._ConvTransposeNd)
            fused = fuse_conv_bn_eval(before[-1], unit.norm, transposed)  # type: ignore[type-var]
            unit.conv, unit.norm = nn.Sequential(*before[:-1], fused), nn.Identity()
    return network


def for_inference(network: nn.Module) -> nn.Module:
    """The same network in eval mode, float32, without gradients, its convolutions on kernels that are not slow."""
    use_fast_kernels(network).eval().float()
    for parameter in network.parameters():  # TorchScript has no Module.requires_grad_
        parameter.requires_grad_(False)
    return network


def initialise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights of unit gain: every layer keeps the variance of what it is given, in place.

    Where sums of residual blocks let the variance grow, the network says so (`variance_growth`) and its head takes
    it back: a saturated tanh would hide every fault of tiling.

    Torch's own initialisation damps a deep network's inner path to nothing, which would hide faults of tiling
    there. Biases are not 0, so that a constant field is told from padding.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            growth = getattr(network, "variance_growth", 1.0) if name == "head" else 1.0
            gain = 2 if isinstance(module, nn.modules.conv._ConvNd) else 1  # ReLU halves; no linear layer precedes one
            std = math.sqrt(gain / _fan_in(module) / growth)
            nn.init.normal_(module.weight, std=std, generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1, generator=generator)
    return network


def _fan_in(layer: nn.modules.conv._ConvNd | nn.Linear) -> float:
    """Products summed in one output value; a transposed convolution uses one in `stride` of its taps."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    conv = layer
    taps = math.prod(conv.kernel_size) / (math.prod(conv.stride) if conv.transposed else 1)
    return conv.in_channels // conv.groups * taps


class OneByOne(nn.Module):
    """Run images one after another through a network that takes one, or whose images would see each other."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """(n, c, ...) -> (n, c', ...)."""
        outputs: list[Tensor] = [self.network(image) for image in torch.split(images, 1)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)  # one, whatever it is: the first tile shows it


class Joined(nn.Module):
    """A network that returns several images of one size, in a tuple, a list or a dictionary: the channels of one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """(n, c, ...) -> (n, sum of c', ...), in the order in which they are returned."""
        return torch.cat(several(self.network(images)), 1)


def several(output: object) -> list[Tensor]:
    """The tensors that a network returned.

    Raises:
        TypeError: it returned something else, in the words of a message.
    """
    parts = list(output.values()) if isinstance(output, dict) else output
    if isinstance(parts, Tensor):
        return [parts]
    if not isinstance(parts, tuple | list) or not parts or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(f"returns {_kind(output)}")
    return list(parts)


def _kind(output: object) -> str:
    parts = list(output.values()) if isinstance(output, dict) else output
    holds = sorted({type(part).__name__ for part in parts}) if isinstance(parts, tuple | list) else []
    return type(output).__name__ + (f" of {' and '.join(holds)}" if holds else "")
