"""Run a network over the tiles of one block and write each tile's own outputs.

The network is a plain callable (tile.py): this floor knows no torch, and a test can stitch with a numpy function.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.geometry import Box
from volpipe.stitching.assembly import Assembly
from volpipe.stitching.encoding import Encoding
from volpipe.stitching.outside import Outside, cut, seen
from volpipe.stitching.tile import Tile, TileNetwork


def read_box(tiles: Iterable[Tile], volume: Sequence[int], outside: Outside) -> Box:
    """The box to read for these tiles: every voxel of the volume that they need."""
    return reduce(Box.hull, (seen(tile.read, volume, outside) for tile in tiles))


def stitch(
    voxels: NDArray[Any],
    box: Box,
    tiles: Sequence[Tile],
    network: TileNetwork,
    *,
    volume: Sequence[int],
    outside: Outside,
    assembly: Assembly,
    encoding: Encoding,
    out: NDArray[Any],
    core: Box,
    batch: int = 1,
) -> None:
    """Fill `out` with the network's outputs on the tiles of one block.

    Args:
        voxels: as stored (c, z, y, x) of `box`.
        box: what they cover, in voxels of the volume; holds what the tiles need (`read_box`).
        tiles: from a mode; either none has weights, or all have.
        network: stored voxels to values.
        volume: shape of the volume, beyond which `outside` says what the network sees.
        outside: of the mode.
        assembly: how the network sees a tile.
        encoding: values to stored voxels, applied tile by tile, or after tiles with weights are summed.
        out: stored voxels (c'', z, y, x) of `core`, written in place.
        core: the block's core, in voxels of the product.
        batch: tiles of one shape given to the network together. The composition depends on the tiles alone, so the
            same plan on the same device gives the same bits.
    """
    total: NDArray[Any] | None = None
    for group in _batches(tiles, batch):
        stack = np.stack([cut(voxels, box, tile.read, volume, outside) for tile in group])
        for tile, part in zip(group, assembly.run(network, stack, group[0]), strict=True):
            own = (slice(None), *tile.own.relative_to(core.start).slices)
            if not tile.weights:
                out[own] = encoding.encode(part)
                continue
            total = np.zeros((len(part), *core.shape), part.dtype) if total is None else total
            total[own] += _weighted(part, tile.weights)
    if total is not None:
        out[...] = encoding.encode(total)


def _weighted(values: NDArray[Any], weights: Sequence[NDArray[Any]]) -> NDArray[Any]:
    for axis, along in enumerate(weights, start=1):
        shape = [1] * values.ndim
        shape[axis] = -1
        values = values * along.astype(values.dtype).reshape(shape)
    return values


def _batches(tiles: Sequence[Tile], batch: int) -> Iterator[list[Tile]]:
    by_shape = sorted(tiles, key=lambda tile: tile.read.shape)  # stable: weighted tiles are summed in lattice order
    for _, same in groupby(by_shape, key=_alike):
        group = list(same)
        yield from (group[i : i + batch] for i in range(0, len(group), batch))


def _alike(tile: Tile) -> tuple[tuple[int, ...], ...]:
    """Equal for tiles that read as much, and own the same part of it."""
    return tile.read.shape, *((along.start, along.stop) for along in tile.crop)
