"""A tile: one network input, and the outputs of the product that come from it.

read   |hhhh[ own  own  own ]hhhh|    own   outputs written; disjoint between tiles unless they are weighted
                                      read  voxels seen by the network; may reach past the volume, where it is padded

Convention: `read` is in voxels of the volume, `own` in voxels of the product; the two are the same where the network
keeps the resolution.
"""

from __future__ import annotations

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
    """

    own: Box
    read: Box
    first: tuple[int, ...] = ()
    scale: tuple[Fraction, ...] = ()
    weights: tuple[NDArray[Any], ...] = ()

    @property
    def crop(self) -> tuple[slice, ...]:
        """Where `own` lies within the network's output on `read`."""
        scale = self.scale or (Fraction(1),) * self.read.ndim
        read = [int(start * s) for start, s in zip(self.read.start, scale, strict=True)]
        return self.own.relative_to(self.first or (0,) * self.read.ndim).relative_to(read).slices
