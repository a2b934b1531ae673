"""What a tile sees where it reaches past the volume: the last voxel again, or the volume in a mirror.

    volume           [a b c d]
    edge      a a a   a b c d   d d d
    reflect   d c b   a b c d   c b a        the voxel at the face is not repeated; thin volumes are mirrored again

One rule for every tile: a voxel outside stands for a voxel of the volume, whatever tile reads it, so that the product
does not depend on the tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from volpipe.geometry import Box

Outside = Literal["edge", "reflect"]


def stands_for(start: int, stop: int, length: int, outside: Outside) -> NDArray[np.intp]:
    """For each position of [start, stop) along an axis, the voxel of a volume of `length` that stands there."""
    positions = np.arange(start, stop)
    if outside == "edge" or length == 1:
        return np.clip(positions, 0, length - 1)
    turn = 2 * (length - 1)
    folded = positions % turn
    return np.minimum(folded, turn - folded)


def seen(read: Box, volume: Sequence[int], outside: Outside) -> Box:
    """The voxels of the volume that a read needs."""
    axes = [stands_for(a, b, n, outside) for a, b, n in zip(read.start, read.stop, volume, strict=True)]
    return Box(tuple(int(axis.min()) for axis in axes), tuple(int(axis.max()) + 1 for axis in axes))


def cut(voxels: NDArray[Any], box: Box, read: Box, volume: Sequence[int], outside: Outside) -> NDArray[Any]:
    """The voxels (c, z, y, x) of a read, from those of `box`, which must hold what the read needs."""
    if box.contains(read):
        return voxels[(slice(None), *read.relative_to(box.start).slices)]
    for axis, (a, b, n, origin) in enumerate(zip(read.start, read.stop, volume, box.start, strict=True), start=1):
        voxels = np.take(voxels, stands_for(a, b, n, outside) - origin, axis=axis)
    return voxels
