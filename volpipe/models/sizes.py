"""Which images a network takes, and what shape comes out, found without knowing the network.

Asked of the network itself or of its copy on meta tensors, whichever is expected to answer sooner: the kernels of meta
tensors take a millisecond per operation whatever the size, a pass with data a small network a few in all. The copy may
fail for reasons of its own (a tensor made without `device=`, a number read from one); then the network alone is asked.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from volpipe.errors import reason
from volpipe.models import stand_in
from volpipe.models.shapes import Pass

SHORTEST, LONGEST = 4, 256  # edges of the cube with which a network is first met
OVERHEAD = 4096  # voxels; below them a pass takes about as long as with one
OF_META = re.compile("meta|device|FakeTensor", re.IGNORECASE)  # in errors that no real tensor would raise

Run = Callable[[nn.Module, Tensor], Tensor]


class Sizer:
    """Shapes of a network's outputs.

    Args:
        own, meta: the network and its copy on meta tensors, if there is one.
        in_channels: c.
        run: one pass.

    Attributes:
        refusal: what the network said when it last refused a shape.
    """

    def __init__(self, own: nn.Module, meta: nn.Module | None, in_channels: int, run: Run) -> None:
        self._own, self.meta, self._in_channels, self._run = own, meta, in_channels, run
        self._meta_s, self._own_s, self._own_voxels = 0.0, 0.0, 1
        self._met = False  # the first pass on meta tensors loads their kernels, which takes seconds and is not counted
        self.refusal = ""

    def spatial(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Spatial shape of the output for an image of a spatial shape; zeros where the network refuses it."""
        voxels = math.prod(shape)
        began = time.perf_counter()
        if self.meta is not None and self._meta_s <= self._own_s * max(1, voxels / max(self._own_voxels, OVERHEAD)):
            found = self._asked(self.meta, shape)
            self._meta_s, self._met = (time.perf_counter() - began) * self._met, True
            if any(found) or not OF_META.search(self.refusal):
                return found
            self.meta = None
        found = self._asked(self._own, shape)
        self._own_s, self._own_voxels = time.perf_counter() - began, voxels
        return found

    def smallest_cube(self, ndim: int, least: int = SHORTEST) -> int | None:
        """Edge of the smallest cube that the network takes, `least` or longer."""
        edges = range(least, LONGEST + 1)
        return next((edge for edge in edges if min(self.spatial([edge] * ndim))), None)

    def _asked(self, network: nn.Module, shape: Sequence[int]) -> tuple[int, ...]:
        try:
            image = zeros(network, self._in_channels, shape)
            with Pass() if image.is_meta else nullcontext():  # under a mode a script drops what its operations say
                return tuple(self._run(network, image).shape[2:])
        except Exception as error:  # a network's own way to say that it does not take a length
            self.refusal = reason(error)
            return (0,) * len(shape)


def zeros(network: nn.Module, in_channels: int, shape: Sequence[int]) -> Tensor:
    """An image on a network's device and of its type."""
    some = next(iter(network.parameters()), torch.empty(0, dtype=torch.float64))
    return torch.zeros((1, in_channels, *shape), dtype=some.dtype, device=some.device)


def output_shape(network: nn.Module, in_channels: int, shape: Sequence[int]) -> tuple[int, ...]:
    """Spatial shape of the output for an image of a spatial shape; zeros where the network refuses it."""
    return Sizer(network, None, in_channels, _plainly).spatial(shape)


def smallest_edge(network: nn.Module, ndim: int, in_channels: int) -> int | None:
    """Edge of the smallest cube that a network takes; None if there is none."""
    return sizer_of(network, in_channels).smallest_cube(ndim)


def sizer_of(network: nn.Module, in_channels: int) -> Sizer:
    """Asks a network as it is, or its copy on meta tensors."""
    return Sizer(network, stand_in.on_meta(network), in_channels, _plainly)


def _plainly(network: nn.Module, image: Tensor) -> Tensor:
    with stand_in.quietly():
        out: Tensor = network(image)
    return out
