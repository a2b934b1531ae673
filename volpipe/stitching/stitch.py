"""Run a network over the tiles of one block and write each tile's own voxels.

The network is a plain callable: this floor knows no torch, and a test can stitch with a numpy function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.geometry import Box
from volpipe.stitching.assembly import Assembly
from volpipe.stitching.encoding import Encoding
from volpipe.stitching.tile import Tile

Network = Callable[[NDArray[Any]], NDArray[Any]]


def window_box(tiles: Iterable[Tile], volume: Sequence[int]) -> Box:
    """The box to read for these tiles: all that they see, clipped to the volume."""
    return reduce(Box.hull, (tile.read for tile in tiles)).intersect(Box.from_shape(volume))


def stitch(
    window: NDArray[Any],
    box: Box,
    tiles: Sequence[Tile],
    network: Network,
    *,
    assembly: Assembly,
    encoding: Encoding,
    out: NDArray[Any],
    core: Box,
    batch: int = 1,
) -> None:
    """Fill `out` with the network's outputs on the tiles of one block.

    Args:
        window: stored voxels (c, z, y, x) of `box`.
        box: what `window` covers, in voxels of the volume.
        tiles: from a mode; read boxes may reach past the window at the volume's end, where the last voxel repeats.
        network: (n, c, ...) stored voxels -> (n, c', ...) values of the same spatial shape.
        assembly: how the network sees a tile.
        encoding: values to stored voxels, applied tile by tile.
        out: stored voxels (c'', z, y, x) of `core`, written in place.
        core: the block's core.
        batch: tiles of one shape given to the network together. The composition depends on the tiles alone, so the
            same plan on the same device gives the same bits.
    """
    for group in _batches(tiles, batch):
        stack = np.stack([_cut(window, box, tile.read) for tile in group])
        values = assembly.run(network, stack)
        for tile, value in zip(group, values, strict=True):
            own = tile.own.relative_to(core.start).slices
            out[(slice(None), *own)] = encoding.encode(value[(slice(None), *tile.crop)])


def _batches(tiles: Sequence[Tile], batch: int) -> Iterator[list[Tile]]:
    for _, same in groupby(sorted(tiles, key=_shape), key=_shape):  # stable: lattice order within a shape
        group = list(same)
        yield from (group[i : i + batch] for i in range(0, len(group), batch))


def _shape(tile: Tile) -> tuple[int, ...]:
    return tile.read.shape


def _cut(window: NDArray[Any], box: Box, read: Box) -> NDArray[Any]:
    inside = read.intersect(box)
    part = window[(slice(None), *inside.relative_to(box.start).slices)]
    if inside == read:
        return part
    missing = [(0, want - have) for want, have in zip(read.stop, inside.stop, strict=True)]
    return np.pad(part, [(0, 0), *missing], mode="edge")
