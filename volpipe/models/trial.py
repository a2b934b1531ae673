"""A network on trial: the smallest cube that it takes, what is run in its place, and the strips on which it is.

A strip is as wide as the smallest cube, so that a 3D network costs what its smallest image costs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from volpipe.models import stand_in
from volpipe.models.light import Light, positive, usual
from volpipe.models.sizes import LONGEST, SHORTEST, Sizer, zeros
from volpipe.models.steps import Shape, first_change
from volpipe.models.strip import EPSILON, TOLERANCE, Strip, Window

LARGEST_OWN = 1e10  # floating-point operations of one pass of the self-test with all channels: a second


class Refused(Exception):
    """The network cannot be tiled; the message says why."""


class Unmet(Exception):
    """The network could not be run at all; whether it can be tiled is not known."""


class Trial:
    """A network that is run for its probe.

    Attributes:
        own: in float64 with its own weights and all channels.
        network: of unit gain and on fewer channels where that can be, else `own`.
        any_weights: whether `network` is of unit gain, so that what it shows holds for all weights.
        cut: what the channels of `network` are divided by.
        ndim, in_channels: of its input.
        base: edge of the smallest cube that it takes, `least` or longer.
        light: of its images.
    """

    def __init__(
        self, network: nn.Module, ndim: int, in_channels: int, *, thin: bool = True, least: int = SHORTEST
    ) -> None:
        self.ndim, self.in_channels, self._least = ndim, in_channels, least
        self.own, self._lowers = stand_in.in_float64(network), False
        meta = stand_in.on_meta(self.own)
        try:
            self._meet(meta, thin)
        except Exception:
            if meta is None:
                raise
            self._meet(None, thin)  # what meta tensors told was not true

    def run(self, image: Tensor, network: nn.Module | None = None) -> Tensor:
        """One pass; the image is kept."""
        network = self.network if network is None else network
        # only where it is needed, as it halves the speed of a small network
        stay = stand_in.StayInFloat64() if self._lowers else contextlib.nullcontext()
        with stand_in.quietly(), stay:
            out: Tensor = network(image.clone())
        return out

    def strip(
        self,
        axis: int,
        across: Sequence[int] | None = None,
        network: nn.Module | None = None,
        light: Light | None = None,
    ) -> Strip:
        """A network along an axis; `across` are the lengths of the others (that of `axis` is ignored)."""
        shape = (1, self.in_channels, *(across or [self.base] * self.ndim))
        return Strip(lambda image: self.run(image, network), axis, shape, light or self.light)

    def image(self) -> Tensor:
        """Noise in the smallest cube."""
        return self.strip(0).image(Window(0, self.base))

    def output_length(self, axis: int, length: int) -> int:
        """Of an image that is `length` long along an axis; 0 where the network refuses it."""
        return self._sizer.spatial(self._shape(axis, length))[axis]

    def larger_cube(self) -> int | None:
        """Edge of a cube that gives more than the smallest does, up to twice its edge; None if there is none."""
        shapes = {edge: self._sizer.spatial([edge] * self.ndim) for edge in range(self.base, 2 * self.base + 1)}
        return next((edge for edge, shape in shapes.items() if min(shape) > max(shapes[self.base])), None)

    def other_steps(self, small: tuple[Shape, Shape], large: Sequence[Shape]) -> tuple[str, Shape] | None:
        """The first operation that a large image changes, and the image's shape; None if there is none."""
        asked = (self.in_channels, small, large)
        if self._sizer.meta is not None:
            with contextlib.suppress(Exception):  # for a reason of meta tensors, such as a tensor made elsewhere
                return first_change(self._sizer.meta, "meta", *asked)
        return first_change(self.network, self._device, *asked)

    @property
    def _device(self) -> str:
        return str(next((weight.device for weight in self.own.parameters()), "cpu"))

    def own_is_affordable(self, axis: int, length: int) -> bool:
        """True if a strip of this length is not too much for the network with all its channels."""
        meta = self._sizer.meta
        if self.cut == 1 or meta is None:
            return True
        return stand_in.operations(meta, lambda it: self._shapes_of(it, self._shape(axis, length))) <= LARGEST_OWN

    def _shape(self, axis: int, length: int) -> list[int]:
        return [length if other == axis else self.base for other in range(self.ndim)]

    def _meet(self, meta: nn.Module | None, thin: bool) -> None:
        self.base = self._smallest_cube(meta)
        self.light = next((light for light in (usual, positive) if self._takes(light)), usual)
        self.cut = self._best_cut() if thin else 1
        self.network, self.any_weights = stand_in.cut(self.own, self.cut), True
        trace = stand_in.lively(self.network, self._pass)
        if trace.lowers and not self._lowers:
            self._lowers = True
            stand_in.lively(self.network, self._pass)
        if not _says_something(self.run(self.image())) and _says_something(self.run(self.image(), self.own)):
            self.network, self.any_weights, self.cut = self.own, False, 1

    def _takes(self, light: Light) -> bool:
        """False for roots and logarithms of values below 0."""
        image = self.strip(0, light=light).image(Window(0, self.base))
        return not bool(torch.isnan(self.run(image, self.own)).any())

    def _smallest_cube(self, meta: nn.Module | None) -> int:
        for self._lowers in (False, True):  # one that casts to fewer bits may take nothing in float64
            self._sizer = Sizer(self.own, meta, self.in_channels, lambda network, image: self.run(image, network))
            if (edge := self._sizer.smallest_cube(self.ndim, self._least)) is not None:
                return edge
        raise Unmet(f"it takes no image with all edges equal and up to {LONGEST} voxels: {self._sizer.refusal}")

    def _best_cut(self) -> int:
        """On meta tensors where that can be: no pass with all channels is needed then."""
        return stand_in.best_cut(
            self._sizer.meta or self.own, lambda it: self._shapes_of(it, self._shape(0, self.base))
        )

    def _shapes_of(self, network: nn.Module, shape: list[int]) -> Tensor:
        return self.run(zeros(network, self.in_channels, shape), network)

    def _pass(self, network: nn.Module) -> Tensor:
        return self.run(self.image(), network)


def _says_something(output: Tensor) -> bool:
    if not output.is_floating_point():
        return True
    return bool(torch.isfinite(output).all() and output.std(correction=0) > TOLERANCE * EPSILON)
