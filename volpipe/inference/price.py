"""What one forward pass costs, found without running it: floating-point operations and peak bytes.

The network runs once on the meta device (shapes, no numbers); every storage that an operation makes is counted from
its birth to its death. A network that cannot go there runs on a small tile of real zeros under the same count.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from volpipe.errors import ModelError, reason
from volpipe.geometry import AxisFootprint
from volpipe.inference.precision import Precision
from volpipe.models import kernels
from volpipe.models.model import Model
from volpipe.models.shapes import Pass

_CONVOLUTIONS = (torch.ops.aten.convolution, torch.ops.aten._convolution)  # the latter in a traced script
SMALL_TILE = 64  # voxels along an axis: the larger of the tiles that a user's network was tried on


@dataclass(frozen=True, slots=True)
class ForwardPrice:
    """Of one forward pass: `flops` (a multiply-add is two), `peak_bytes` of tensors alive at once, input included."""

    flops: float
    peak_bytes: int
    weight_bytes: int


class Count(Pass):  # type: ignore[no-untyped-call]
    """Adds up operations by torch's own formulas, and the bytes of the storages alive; `peak` is the largest sum seen.

    Not `FlopCounterMode`, which imports torch's compiler (models/shapes.py).
    """

    def __init__(self, device: str = "cpu", computes: torch.dtype | None = None) -> None:
        super().__init__()
        self._on_cpu = device == "cpu"
        self._computes = computes
        self.flops = 0
        self.alive = 0
        self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def ignore(self, tensor: Tensor) -> None:
        """A tensor that is counted elsewhere, and what shares its memory."""
        self._seen.add(tensor.untyped_storage())

    def count(self, tensor: Tensor) -> None:
        """Take a tensor's storage as alive, until it dies."""
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        self._seen.add(storage)
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._release, storage.nbytes())

    def scratch(self, nbytes: int) -> None:
        """Bytes that an operation needs beside its result, and gives back."""
        self.peak = max(self.peak, self.alive + nbytes)

    def _release(self, nbytes: int) -> None:
        self.alive -= nbytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if formula := flop_registry.get(func.overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=out)
        if func.overloadpacket in _CONVOLUTIONS and self._unrolls(args[0], args[1]):
            image = args[0] if args[6] else out  # transposed: from the outputs' windows back to the image
            self.scratch(_columns_bytes(image, args[1]))
        for leaf in tree_iter(out):
            if isinstance(leaf, Tensor):
                self.count(leaf)
        return out

    def _unrolls(self, x: Tensor, weight: Tensor) -> bool:
        """True where torch 2.13 takes no oneDNN kernel on a CPU: float64, small 3D images in fp32, and half precision
        where the CPU has no instructions for it."""
        if not self._on_cpu:
            return False
        dtype = self._computes or x.dtype
        if dtype == torch.float32:
            return x.ndim == 5 and kernels.unrolls(x, weight)
        return not kernels.has_fast(dtype)


def _columns_bytes(image: Tensor, weight: Tensor) -> int:
    """What such a convolution unrolls: a window for every voxel of one image."""
    return weight[0].numel() * image[0, 0].numel() * image.element_size()


def forward_price(
    model: Model, shape: Sequence[int], batch: int, precision: Precision, device: str = "cpu"
) -> ForwardPrice:
    """The price of `batch` tiles of `shape` (the network's spatial axes).

    Under autocast activations are counted in half precision, input and output in fp32 beside them.

    Raises:
        ModelError: the network fails on such a tile.
    """
    size = (batch, model.in_channels, *shape)
    try:
        network = _on_meta(model, precision.compute)
        flops, peak = count_pass(network, torch.empty(size, dtype=precision.compute, device="meta"), device)
    except (AssertionError, NotImplementedError, RuntimeError):  # TorchScript, tensors made without device=
        flops, peak = _count_small(model, size, precision, device)
    peak += cast_bytes(model, shape, batch, precision)
    return ForwardPrice(flops, peak, weight_bytes(model.network, precision))


@lru_cache(maxsize=4)  # a plan prices many tiles of one network, and the copy takes longer than the count
def _on_meta(model: Model, dtype: torch.dtype) -> torch.nn.Module:
    return copy.deepcopy(model.network).to("meta", dtype)


def cast_bytes(model: Model, shape: Sequence[int], batch: int, precision: Precision) -> int:
    """Of input and output in fp32, beside what autocast makes of them."""
    if precision.compute == precision.storage:
        return 0
    return 4 * batch * math.prod(shape) * (model.in_channels + model.out_channels)


def joined_price(passes: Sequence[ForwardPrice], values_bytes: int) -> ForwardPrice:
    """Of passes one after the other, whose results of `values_bytes` each are summed: their sum waits for the next."""
    waiting = 2 * values_bytes if len(passes) > 1 else 0
    return ForwardPrice(
        flops=sum(one.flops for one in passes),
        peak_bytes=max(one.peak_bytes for one in passes) + waiting,
        weight_bytes=passes[0].weight_bytes,
    )


def weight_bytes(network: torch.nn.Module, precision: Precision) -> int:
    """As the predictor holds them; the model itself is in fp32."""
    floats = sum(p.numel() for p in (*network.parameters(), *network.buffers()) if p.is_floating_point())
    return floats * precision.storage.itemsize


def _count_small(model: Model, size: tuple[int, ...], precision: Precision, device: str) -> tuple[float, int]:
    """From a small tile: a large one may not fit into the memory of whoever plans, and costs grow with the voxels."""
    axes = model.footprint.axes if model.footprint is not None else (AxisFootprint(),) * model.ndim
    small = (*size[:2], *(min(n, axis.admissible(SMALL_TILE)) for n, axis in zip(size[2:], axes, strict=True)))
    network, tile = copy.deepcopy(model.network).to(precision.storage), torch.zeros(small, dtype=precision.storage)
    try:
        flops, peak = count_pass(network, tile, device, computes=precision.compute)
    except Exception as error:  # a user's network may raise anything
        why = reason(_uncounted(network, tile) or error)
        raise ModelError(f"the network fails on a tile of {small[2:]} voxels ({why}); check --period") from error
    times = math.prod(size) / math.prod(small)
    return flops * times, math.ceil(peak * times * precision.compute.itemsize / precision.storage.itemsize)


@torch.no_grad()
def _uncounted(network: torch.nn.Module, x: Tensor) -> Exception | None:
    """The error of a pass that is not counted: under a count TorchScript drops what the operation said."""
    try:
        network(x)
    except Exception as error:  # a user's network may raise anything
        return error
    return None


@torch.no_grad()
def count_pass(
    network: Callable[[Tensor], Any], x: Tensor, device: str = "cpu", constants: Iterable[Tensor] = (),
    computes: torch.dtype | None = None,
) -> tuple[float, int]:  # fmt: skip
    """Floating-point operations and peak bytes of network(x), `x` included, as they will be on a device; on meta
    tensors nothing is computed. `constants` are not counted where the network takes a part of one; `computes` is the
    type that it will compute in, if not that of its tensors."""
    with Count(device, computes) as counted:
        for each in constants:
            counted.ignore(each)
        counted.count(x)
        network(x)
    return float(counted.flops), counted.peak
