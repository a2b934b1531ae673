"""The shortest length per axis that a network takes, found by running it where its footprint admits a length.

An exported program may take no length of one period (torch specialises on 1), mirrored faces none within the mirror.
On meta tensors where the network can be run there: nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from torch import nn

from volpipe.geometry import AxisFootprint, Footprint
from volpipe.models.sizes import sizer_of

AMPLE = 32  # voxels along the other axes, or two periods: the smaller of the tiles that a network was tried on


@lru_cache(maxsize=4)  # jobs of one process mostly use one network
def with_smallest(network: nn.Module, in_channels: int, footprint: Footprint) -> Footprint:
    """The footprint, admitting no length that the network refuses; as it is where nothing can be told."""
    if any(axis.window is not None for axis in footprint.axes):
        return footprint
    ample = [axis.admissible(axis.lost_inputs + max(AMPLE, 2 * axis.period)) for axis in footprint.axes]
    sizer = sizer_of(network, in_channels)

    def along(at: int, axis: AxisFootprint) -> AxisFootprint:
        return smallest_along(axis, ample[at], lambda n: min(sizer.spatial([*ample[:at], n, *ample[at + 1 :]])) > 0)

    return Footprint(tuple(along(at, axis) for at, axis in enumerate(footprint.axes)))


def smallest_along(axis: AxisFootprint, ample: int, takes: Callable[[int], bool]) -> AxisFootprint:
    """One axis, admitting nothing shorter than the first length that is taken, or as it is if none is up to `ample`."""
    least = axis.admissible(axis.lost_inputs + 1)
    found = next(filter(takes, range(least, ample + 1, axis.period)), least)
    return axis if found == least else replace(axis, smallest=found)
