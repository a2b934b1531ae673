"""A network on trial: how the probe runs it, in float64 on random images that are long along one axis.

The copy has weights of unit gain, unless its output is then not finite or constant; NaN images show structure alone,
whatever the weights.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn

SHORTEST, LONGEST = 4, 256  # edges of the cube with which a network is first met
TOLERANCE = 100  # times the effect of a change of the input by one unit in the last place
EPSILON = 2.0**-52


class Refused(Exception):
    """The network cannot be tiled; the message says why."""


class Trial:
    """A network that is run for its probe.

    Attributes:
        network: a copy in float64, eval mode as it came.
        ndim, in_channels: of its input.
        base: edge of the smallest cube that it takes.
    """

    def __init__(self, network: nn.Module, ndim: int, in_channels: int) -> None:
        self.ndim, self.in_channels = ndim, in_channels
        own = _copied(network)
        meta = _on_meta(network)
        self.base, self._sizer = self._smallest_cube(own, meta)
        self.network = with_unit_gain(_copied(own))
        if not _says_something(self.run(self.image(0, self.base))):
            self.network = own

    def run(self, image: Tensor) -> Tensor:
        """One pass; the image is kept."""
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out: Tensor = self.network(image.clone())
        return out

    def image(self, axis: int, length: int) -> Tensor:
        """Random voxels (1, c, ...), `length` along `axis`, `base` along the others; the beginning of a longer one."""
        shape = [length, 1, self.in_channels, *[self.base] * (self.ndim - 1)]
        values = torch.randn(shape, generator=torch.Generator().manual_seed(axis), dtype=torch.float64)
        return values.movedim(0, 2 + axis).contiguous()

    def poisoned(self, axis: int, length: int, first: int, last: int) -> Tensor:
        """An image that is NaN outside [first, last) along an axis."""
        image = self.image(axis, length)
        image.narrow(2 + axis, 0, first).fill_(math.nan)
        image.narrow(2 + axis, last, length - last).fill_(math.nan)
        return image

    def clean(self, axis: int, length: int, first: int, last: int) -> tuple[int, int]:
        """[low, high): the outputs between those that the poison before `first` and that from `last` on reaches.

        Empty (low >= high) where the two meet.
        """
        bad = torch.isnan(self.run(self.poisoned(axis, length, first, last)))
        reached = bad.movedim(2 + axis, 0).flatten(1).any(1).nonzero().flatten().tolist()
        free = [(a + 1, b) for a, b in zip([-1, *reached], [*reached, bad.shape[2 + axis]], strict=True) if b > a + 1]
        return max(free, key=lambda gap: gap[1] - gap[0], default=(0, 0))

    def agree(self, axis: int, one: Tensor, other: Tensor, at_one: int, at_other: int, count: int) -> bool:
        """True if `count` outputs of one image from `at_one` are those of the other from `at_other`."""
        whole, part = self.run(one), self.run(other)
        if count < 1 or at_one + count > whole.shape[2 + axis] or at_other + count > part.shape[2 + axis]:
            return False
        difference = whole.narrow(2 + axis, at_one, count) - part.narrow(2 + axis, at_other, count)
        return float(difference.abs().max()) <= self._tolerance(one, whole)

    def _tolerance(self, image: Tensor, output: Tensor) -> float:
        sign = torch.randint(0, 2, image.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
        effect = (self.run(image * (1 + EPSILON * sign)) - output).abs().max()
        return TOLERANCE * float(effect + EPSILON * output.abs().max())

    def output_lengths(self, axis: int, lengths: Iterable[int]) -> dict[int, int]:
        """Output length per input length along an axis; 0 where the network refuses."""
        shape = [self.base] * self.ndim
        return {n: self._spatial(self._sizer, [*shape[:axis], n, *shape[axis + 1 :]])[axis] for n in lengths}

    def _smallest_cube(self, own: nn.Module, meta: nn.Module | None) -> tuple[int, nn.Module]:
        """Its edge, and the network that tells sizes: the one on meta tensors where that can be run."""
        for network in filter(None, (meta, own)):
            for edge in range(SHORTEST, LONGEST + 1):
                if min(self._spatial(network, [edge] * self.ndim)) and min(self._spatial(own, [edge] * self.ndim)):
                    return edge, network
        raise Refused(f"it takes no image with all edges equal and up to {LONGEST} voxels")

    def _spatial(self, network: nn.Module, shape: list[int]) -> tuple[int, ...]:
        return output_shape(network, self.in_channels, shape)


def output_shape(network: nn.Module, in_channels: int, shape: list[int]) -> tuple[int, ...]:
    """Spatial shape of the output for an image of a spatial shape; zeros where the network refuses it."""
    some = next(iter(network.parameters()), torch.empty(0, dtype=torch.float64))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = torch.zeros((1, in_channels, *shape), dtype=some.dtype, device=some.device)
            return tuple(network(image).shape[2:])
    except Exception:  # a network's own way to say that it does not take a length
        return (0,) * len(shape)


def smallest_edge(network: nn.Module, ndim: int, in_channels: int) -> int | None:
    """Edge of the smallest cube that a network takes, found without computing; None if there is none or no way."""
    meta = _on_meta(network)
    edges = range(SHORTEST, LONGEST + 1) if meta is not None else ()
    return next((edge for edge in edges if meta and min(output_shape(meta, in_channels, [edge] * ndim))), None)


def with_unit_gain(network: nn.Module) -> nn.Module:
    """Random weights, in place and by shape alone: a file may know no classes of layers.

    A linear layer keeps the variance. He's factor of 2 for ReLU would let sums of residual blocks grow until a tanh at
    the end is saturated and hides everything; without it 20 layers keep a thousandth, which shows well in float64.
    """
    generator = torch.Generator().manual_seed(7)
    for weight in network.parameters():
        if weight.ndim > 1:
            fan_in = weight.numel() / weight.shape[0]
            values = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            weight.data.copy_(values * math.sqrt(1 / fan_in))
    for name, values in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            values.fill_(float(name.endswith("var")))
    return network


def _copied(network: nn.Module) -> nn.Module:
    """A copy in float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's internals, for TorchScript and exported programs
        return copy.deepcopy(network).double()


def _on_meta(network: nn.Module) -> nn.Module | None:
    try:
        return _copied(network).to("meta")
    except Exception:  # what cannot be moved is run as it is
        return None


def _says_something(output: Tensor) -> bool:
    if not output.is_floating_point():
        return True
    return bool(torch.isfinite(output).all() and output.std(correction=0) > TOLERANCE * EPSILON)
