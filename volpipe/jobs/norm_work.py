"""The work of a pass over the volume: the moments of what norms see, block by block.

A block is one of the tensor that is measured, with what it needs of the volume. An item is a block, or a few where
there are many: what comes back and stays in the ledger is two numbers a channel and item.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import reduce
from typing import Any

from numpy.typing import NDArray

from volpipe.geometry import BlockGrid, Box
from volpipe.inference.block import BlockInference
from volpipe.inference.intervals import Moments
from volpipe.plan import Receipt
from volpipe.stitching import Tile
from volpipe.volume import Source

NAME = "norm"
MOST_ITEMS = 4096  # of a pass: 80 MiB of receipts where 512 channels are measured

Value = list[dict[str, Any]]  # moments of each tensor that a pass measures, as JSON: a ledger holds them


@dataclass(frozen=True)
class NormWork:
    """Measures any run of blocks.

    Attributes:
        inference: with the statistics that earlier passes found.
        grid: blocks of the last tensor that is measured, in its own voxels.
        count: of tensors.
    """

    source: Source
    inference: BlockInference
    grid: BlockGrid
    count: int

    @property
    def blocks(self) -> int:
        """Of an item."""
        return -(-len(self.grid) // MOST_ITEMS)

    @property
    def items(self) -> int:
        """Of the pass."""
        return -(-len(self.grid) // self.blocks)

    def __call__(self, item: int) -> Receipt:
        """Measure the blocks of one item, each read with what it needs."""
        survey, found = self.inference.survey(self.count), list[Value]()
        seconds, nbytes, began = {"read": 0.0}, 0, time.perf_counter()

        def read(tile: Tile) -> tuple[NDArray[Any], Box]:
            nonlocal nbytes
            box, begun = self.inference.reads([tile]), time.perf_counter()
            voxels = self.source.read(box)
            seconds["read"] += time.perf_counter() - begun
            nbytes += voxels.nbytes
            return self.inference.finite(voxels, f"{self.source.location}: a pass for norms reads {box}"), box

        for number in range(item * self.blocks, min((item + 1) * self.blocks, len(self.grid))):
            moments = self.inference.moments(survey, self.grid[number].core, read)
            found.append([each.as_json() for each in moments])
        seconds["compute"] = time.perf_counter() - began - seconds["read"]
        return Receipt(NAME, item, None, seconds, nbytes, value=reduce(merged, found))


def merged(one: Value, two: Value) -> Value:
    """Of both parts."""
    pairs = zip(map(Moments.from_json, one), map(Moments.from_json, two), strict=True)
    return [mine.merge(theirs).as_json() for mine, theirs in pairs]
