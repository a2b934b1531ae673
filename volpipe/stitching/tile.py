"""A tile: one network input, and the voxels of the product that come from it.

read   |hhhh[ own  own  own ]hhhh|    own   written; disjoint between tiles, their union is the block's core
                                      read  seen by the network; may end past the volume, where it is padded
"""

from __future__ import annotations

from dataclasses import dataclass

from volpipe.geometry import Box


@dataclass(frozen=True, slots=True)
class Tile:
    """One network input; both boxes in the voxels of the volume.

    Attributes:
        margin: voxels from the start of `read` to the first output, where the network loses some; () for none.
    """

    own: Box
    read: Box
    margin: tuple[int, ...] = ()

    @property
    def crop(self) -> tuple[slice, ...]:
        """Where `own` lies within the network's output on `read`."""
        margin = self.margin or (0,) * self.read.ndim
        return self.own.relative_to(self.read.start).relative_to(margin).slices
