"""3D convolutions that torch gives to slow kernels on a CPU, given to fast ones.

    kernel 1       on one thread torch 2.13 turns channels-last memory around and back: 6 times the CPU time and twice
                   the memory (32 to 16 channels, 96^3 voxels). Here: a matrix product over channels.
    small images   n * c * z * y <= 20480 in fp32 goes past oneDNN to a kernel that unrolls every window: up to 10
                   times the CPU time and 27 times the image in memory. That is one or two channels at full size, and
                   the coarse levels of a U-Net (16 to 16 channels, 32^3 voxels: 29 against 4 ms). Here: oneDNN is asked
                   whatever the size, through an operation of our own so that a price can tell the two apart.

Source of the rule: aten/src/ATen/native/Convolution.cpp, `use_mkldnn`. A module keeps its weights, names and hooks;
only its class changes, so this serves a user's networks as well as ours. An exported program has no such modules: its
graph calls `conv3d` instead (`programs.py`). TorchScript is left on torch's kernels: a loaded script can be given other
operations through private passes alone, and a frozen one is tied to a device and a type. Its price counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
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


_AS_WRITTEN = ContextVar("as_written", default=False)


@contextmanager
def as_written() -> Iterator[None]:
    """Inside, `conv3d` is torch's own: who traces a network meets a convolution, not the kernel's steps."""
    token = _AS_WRITTEN.set(True)
    try:
        yield
    finally:
        _AS_WRITTEN.reset(token)


def conv3d(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """`functional.conv3d` with its arguments, on the kernel that is fast for these."""
    stride, dilation = _triple(stride), _triple(dilation)
    sides = _sides(padding, weight, dilation)
    if not (_on_gpu(image) or _AS_WRITTEN.get()):
        if {*weight.shape[2:], *stride, groups} == {1} and not any(sides):
            return _over_channels(image, weight, bias)
        if image.ndim == 5 and _compute_dtype(image) == torch.float32 and _has_onednn():
            before, after = sides[-2::-2], sides[::-2]
            if before != after:  # the kernel puts as many zeros on both sides
                image, before = functional.pad(image, sides), (0, 0, 0)
            out: Tensor = torch.ops.volpipe.convolution(image, weight, bias, before, stride, dilation, groups)
            return out
    return functional.conv3d(image, weight, bias, stride, padding, dilation, groups)


class _FastConv3d(nn.Conv3d):
    def forward(self, image: Tensor) -> Tensor:
        padding: tuple[int, ...] | str = self.padding
        if self.padding_mode != "zeros":
            sides = self._reversed_padding_repeated_twice
            image, padding = functional.pad(image, sides, mode=self.padding_mode), 0  # type: ignore[assignment]
        return conv3d(image, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


def use_fast_kernels(network: nn.Module) -> nn.Module:
    """Change the 3D convolutions of a network in place, and return it.

    Subclasses of torch's convolutions are left alone: what they add is not known here.
    """
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = _FastConv3d
    return network


def unrolls(image: Tensor, weight: Tensor) -> bool:
    """True if torch's own convolution of an image (n, c, z, y, x) unrolls every window on a CPU: 3D in fp32."""
    n, c, z, y, _ = image.shape
    wide = min(weight.shape[-2:]) > _WIDE_KERNEL
    return n == 1 and not wide and n * c * z * y <= _SMALL_IMAGE


_SMALL_IMAGE, _WIDE_KERNEL = 20480, 3


def _triple(value: int | Sequence[int]) -> tuple[int, ...]:
    """One number, alone or in a list, stands for all axes, as in torch."""
    given = (value,) if isinstance(value, int) else tuple(value)
    return given * 3 if len(given) == 1 else given


def _sides(padding: int | Sequence[int] | str, weight: Tensor, dilation: Sequence[int]) -> tuple[int, ...]:
    """Zeros around the image as `functional.pad` takes them: x before and after, y, z."""
    if padding == "valid":
        return (0,) * 6
    if padding == "same":
        spans = [d * (n - 1) for d, n in zip(dilation, weight.shape[2:], strict=True)]
        return tuple(side for span in reversed(spans) for side in (span // 2, span - span // 2))
    assert not isinstance(padding, str)
    return tuple(side for side in reversed(_triple(padding)) for _ in "ab")


def _over_channels(image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    axis = image.ndim - 4  # torch takes images without a batch too
    return functional.linear(image.movedim(axis, -1), weight.flatten(1), bias).movedim(-1, axis)


def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def has_fast(dtype: torch.dtype) -> bool:
    """True if oneDNN computes convolutions of this type on this CPU. Half precision asks for AVX-512 (bf16: BW, fp16:
    FP16); without it torch unrolls every window, and was 100 times slower than in fp32 (16 to 16 channels, 48^3)."""
    asks: dict[torch.dtype, Callable[[], bool]] = {
        torch.float32: _has_onednn,
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return dtype in asks and bool(asks[dtype]())


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
