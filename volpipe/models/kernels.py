"""3D convolutions that torch gives to slow kernels on a CPU, given to fast ones.

    kernel 1       on one thread torch 2.13 turns channels-last memory around and back: 6 times the CPU time and twice
                   the memory (32 to 16 channels, 96^3 voxels). Here: a matrix product over channels.
    small images   n * c * z * y <= 20480 in fp32 goes past oneDNN to a kernel that unrolls every window: up to 10
                   times the CPU time and 27 times the image in memory. That is one or two channels at full size, and
                   the coarse levels of a U-Net (16 to 16 channels, 32^3 voxels: 29 against 4 ms). Here: oneDNN is asked
                   whatever the size, through an operation of our own so that a price can tell the two apart.

Source of the rule: aten/src/ATen/native/Convolution.cpp, `use_mkldnn`. A module keeps its weights, names and hooks;
only its class changes, so this serves a user's networks as well as ours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

_LIBRARY = torch.library.Library("volpipe", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "convolution(Tensor image, Tensor weight, Tensor? bias, SymInt[] padding, SymInt[] stride, SymInt[] dilation, "
    "SymInt groups) -> Tensor"
)


class _PointwiseConv3d(nn.Conv3d):
    def forward(self, image: Tensor) -> Tensor:
        if _on_gpu(image):
            return super().forward(image)
        axis = image.ndim - 4  # torch takes images without a batch too
        out = functional.linear(image.movedim(axis, -1), self.weight.flatten(1), self.bias)
        return out.movedim(-1, axis)


class _DirectConv3d(nn.Conv3d):
    def forward(self, image: Tensor) -> Tensor:
        if _on_gpu(image) or image.ndim != 5 or _compute_dtype(image) != torch.float32:
            return super().forward(image)
        image, padding = _padded(self, image)
        out: Tensor = torch.ops.volpipe.convolution(
            image, self.weight, self.bias, padding, self.stride, self.dilation, self.groups
        )
        return out


def use_fast_kernels(network: nn.Module) -> nn.Module:
    """Change the 3D convolutions of a network in place, and return it.

    Subclasses of torch's convolutions are left alone: what they add is not known here.
    """
    for module in network.modules():
        if type(module) is nn.Conv3d:
            if _is_pointwise(module):
                module.__class__ = _PointwiseConv3d
            elif torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
                module.__class__ = _DirectConv3d
    return network


def unrolls(image: Tensor, weight: Tensor) -> bool:
    """True if torch's own convolution of an image (n, c, z, y, x) unrolls every window on a CPU: 3D in fp32."""
    n, c, z, y, _ = image.shape
    wide = min(weight.shape[-2:]) > _WIDE_KERNEL
    return n == 1 and not wide and n * c * z * y <= _SMALL_IMAGE


_SMALL_IMAGE, _WIDE_KERNEL = 20480, 3


def _is_pointwise(conv: nn.Conv3d) -> bool:
    padded = not isinstance(conv.padding, str) and any(conv.padding)  # the words pad nothing around a kernel of 1
    return set(conv.kernel_size + conv.stride) == {1} and conv.groups == 1 and not padded


def _padded(conv: nn.Conv3d, image: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """(image, zeros per axis that the kernel itself puts on both sides): only what it cannot do is put on the image."""
    sides = conv._reversed_padding_repeated_twice  # x before and after, y, z
    before, after = sides[-2::-2], sides[::-2]
    if conv.padding_mode == "zeros" and before == after:
        return image, tuple(before)
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return functional.pad(image, sides, mode=mode), (0, 0, 0)


def _compute_dtype(image: Tensor) -> torch.dtype:
    """What a convolution of this image runs in."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else image.dtype


def _on_gpu(image: Tensor) -> bool:
    return image.device.type == "cuda"


def _on_cpu(image: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
    out: Tensor = torch.mkldnn_convolution(image, weight, bias, *how)
    return out


def _on_meta(image: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
    padding, stride, dilation, groups = how
    return functional.conv3d(image, weight, bias, stride, padding, dilation, groups)


_LIBRARY.impl("convolution", _on_cpu, "CPU")  # type: ignore[no-untyped-call]
_LIBRARY.impl("convolution", _on_meta, "Meta")  # type: ignore[no-untyped-call]


@register_flop_formula(torch.ops.volpipe.convolution)
def _flops(image: list[int], weight: list[int], *_: Any, out_shape: list[int], **__: Any) -> int:
    return conv_flop_count(image, weight, out_shape)
