"""The shortest length per axis that a network takes, found by running it where its footprint admits a length.

An exported program may take no length of one period (torch specialises on 1), mirrored faces none within the mirror.
On meta tensors where the network can be run there: nothing is computed.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

from torch import nn

from volpipe.geometry import AxisFootprint, Footprint
from volpipe.models.trial import output_shape

AMPLE = 32  # voxels along the other axes, or two periods: the smaller of the tiles that a network was tried on


def with_smallest(network: nn.Module, in_channels: int, footprint: Footprint) -> Footprint:
    """The footprint, admitting no length that the network refuses; as it is where nothing can be told."""
    if any(axis.window is not None for axis in footprint.axes):
        return footprint
    ample = [axis.admissible(_lost(axis) + max(AMPLE, 2 * axis.period)) for axis in footprint.axes]
    sizer = _on_meta(network)
    if not min(output_shape(sizer, in_channels, ample)):
        sizer = network
    axes = list(footprint.axes)
    for at, axis in enumerate(axes):
        least = axis.admissible(_lost(axis) + 1)
        shapes = {n: [*ample[:at], n, *ample[at + 1 :]] for n in range(least, ample[at] + 1, axis.period)}
        found = next((n for n, shape in shapes.items() if min(output_shape(sizer, in_channels, shape))), least)
        axes[at] = axis if found == least else replace(axis, smallest=found)
    return Footprint(tuple(axes))


def _lost(axis: AxisFootprint) -> int:
    """Input voxels without an output."""
    return int(axis.lost / axis.scale)


def _on_meta(network: nn.Module) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's internals, for TorchScript and exported programs
            return copy.deepcopy(network).to("meta")
    except Exception:  # what cannot be moved is run as it is
        return network
