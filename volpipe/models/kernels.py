"""Convolutions that torch gives to slow kernels on a CPU, written so that it does not.

    kernel 1             on one thread torch 2.13 turns channels-last memory around and back: 6 times the CPU time and
                         twice the memory (32 to 16 channels, 96^3 voxels). Here: a matrix product over channels.
    3D, one channel in   a kernel that unrolls every window: 3 times the CPU time, and 27 times the image in memory.
                         Here: a second channel of zeros with weights of zero, which changes no number.

A module keeps its weights, names and hooks; only its class changes, so this serves a user's networks as well as ours.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class _PointwiseConv2d(nn.Conv2d):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) if _on_gpu(image) else _over_channels(self, image)


class _PointwiseConv3d(nn.Conv3d):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) if _on_gpu(image) else _over_channels(self, image)


class _OneChannelConv3d(nn.Conv3d):
    def forward(self, image: Tensor) -> Tensor:
        if _on_gpu(image) or image.ndim != 5:
            return super().forward(image)
        weight = functional.pad(self.weight, (0, 0, 0, 0, 0, 0, 0, 1))
        image = functional.pad(image.movedim(1, -1), (0, 1)).movedim(-1, 1)  # stays channels-last
        out: Tensor = self._conv_forward(image, weight, self.bias)
        return out


def use_fast_kernels(network: nn.Module) -> nn.Module:
    """Change the convolutions of a network in place, and return it.

    Subclasses of torch's convolutions are left alone: what they add is not known here.
    """
    for module in network.modules():
        if type(module) not in _POINTWISE or not isinstance(module, nn.Conv2d | nn.Conv3d):
            continue
        if _is_pointwise(module):
            module.__class__ = _POINTWISE[type(module)]
        elif type(module) is nn.Conv3d and module.in_channels == 1:
            module.__class__ = _OneChannelConv3d
    return network


_POINTWISE: dict[type[nn.Module], type[nn.Conv2d] | type[nn.Conv3d]] = {
    nn.Conv2d: _PointwiseConv2d,
    nn.Conv3d: _PointwiseConv3d,
}


def _is_pointwise(conv: nn.Conv2d | nn.Conv3d) -> bool:
    padded = not isinstance(conv.padding, str) and any(conv.padding)  # the words pad nothing around a kernel of 1
    return set(conv.kernel_size + conv.stride) == {1} and conv.groups == 1 and not padded


def _over_channels(conv: nn.Conv2d | nn.Conv3d, image: Tensor) -> Tensor:
    """(n, c, ...) -> (n, c', ...), in the memory format that it is given; also without n, as torch has it."""
    axis = image.ndim - len(conv.kernel_size) - 1
    return functional.linear(image.movedim(axis, -1), conv.weight.flatten(1), conv.bias).movedim(-1, axis)


def _on_gpu(image: Tensor) -> bool:
    return image.device.type == "cuda"
