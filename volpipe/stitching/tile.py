"""A tile: one network input, and the outputs of the product that come from it.

read   |hhhh[ own  own  own ]hhhh|    own   outputs written; disjoint between tiles unless they are weighted
                                      read  voxels seen by the network; may reach past the volume, where it is padded

Convention: `read` is in voxels of the volume, `own` in voxels of the product; the two are the same where the network
keeps the resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from numpy.typing import NDArray

from volpipe.geometry import Box


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """One network input.

    Attributes:
        first: the voxel of the product that the network gives first where it starts to read at 0; () for 0.
        scale: output voxels per input voxel, per axis; () for 1.
        weights: per axis, the share that this tile has in each of its own outputs; () where nobody else has any.
        planes: numbers of the planes that it is a part of; of a tile that is not of planes one.
    """

    own: Box
    read: Box
    first: tuple[int, ...] = ()
    scale: tuple[Fraction, ...] = ()
    weights: tuple[NDArray[Any], ...] = ()
    planes: range = range(1)

    @property
    def outputs(self) -> Box:
        """`own`, counted from the network's first output on the volume."""
        return self.own.relative_to(self.first or (0,) * self.read.ndim)

    @property
    def crop(self) -> tuple[slice, ...]:
        """Where `own` lies within the network's output on `read`."""
        scale = self.scale or (Fraction(1),) * self.read.ndim
        read = [int(start * s) for start, s in zip(self.read.start, scale, strict=True)]
        return self.outputs.relative_to(read).slices

    def across(self, axis: int) -> Tile:
        """As the planes across an axis have it that it owns."""
        first, scale = _without(self.first, axis), _without(self.scale, axis)
        planes = range(self.own.start[axis], self.own.stop[axis])
        return Tile(self.own.without(axis), self.read.without(axis), first, scale, planes=planes)


TileNetwork = Callable[[NDArray[Any], Tile, int | None], NDArray[Any]]
"""(images, tile, axis) -> values: images (n, c, ...) of `tile.read` to values (n, c', ...) of `tile.own`. For planes
`tile` has two axes, and `axis` is the one that they are across; else it is None. Images are of `tile.planes`, of one
tile after the other."""


def cropped(network: Callable[[NDArray[Any]], NDArray[Any]]) -> TileNetwork:
    """A network that is run on all that a tile reads; what it gives beyond the tile's own is cut off."""

    def infer(images: NDArray[Any], tile: Tile, axis: int | None) -> NDArray[Any]:
        own: tuple[Any, ...] = (..., *tile.crop)
        values: NDArray[Any] = network(images)[own]
        return values

    return infer


def _without(values: Sequence[Any], axis: int) -> tuple[Any, ...]:
    return (*values[:axis], *values[axis + 1 :])
