"""The work of a pass over the volume: the moments of what norms see, block by block.

A block is one of the tensor that is measured, with what it needs of the volume; where the network sees planes, of that
tensor in neighbouring planes. An item is a block, or a few of the same planes where there are many: what comes back and
stays in the ledger is a row of moments, of each plane or of all planes of the item.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
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
MOST_ROWS = 2**22  # of a pass, each of a group: 90 MiB of receipts; of many planes an item a slab, whatever they weigh

Value = Mapping[str, list[dict[str, Any]]]  # by the first plane: each tensor that a pass measures; JSON, for a ledger


@dataclass(frozen=True)
class NormWork:
    """Measures any run of blocks.

    Attributes:
        inference: with the statistics that earlier passes found.
        grid: blocks of the last tensor that is measured, in its own voxels; along `axis` of the volume.
        axis: that planes are across; None where the network sees the volume.
        each: every plane has its own statistics.
        groups: of each tensor that is measured.
    """

    source: Source
    inference: BlockInference
    grid: BlockGrid
    axis: int | None
    each: bool
    groups: tuple[int, ...]

    @property
    def slabs(self) -> int:
        """Of neighbouring planes, which share blocks; the volume is one."""
        return 1 if self.axis is None else self.grid.counts[self.axis]

    @property
    def runs(self) -> int:
        """Items of a slab."""
        blocks = len(self.grid) // self.slabs
        rows = self.grid.region.shape[self.axis or 0] if self.each else self.slabs
        most = max(1, MOST_ROWS // (rows * sum(self.groups)))
        return -(-blocks // -(-blocks // most))

    @property
    def items(self) -> int:
        """Of the pass."""
        return self.slabs * self.runs

    def blocks(self, item: int) -> list[Box]:
        """The blocks of an item, all of one slab."""
        slab, run = divmod(item, self.runs)
        inside = BlockGrid(Box.from_shape(self.grid.counts).without(self.axis), (1,) * self._ndim)
        length = -(-len(inside) // self.runs)
        numbers = range(run * length, min((run + 1) * length, len(inside)))
        places = (inside[number].core.across(self.axis, range(slab, slab + 1)).start for number in numbers)
        return [self.grid.block(place).core for place in places]

    def __call__(self, item: int) -> Receipt:
        """Measure the blocks of one item, each read with what it needs."""
        found = list[Value]()
        seconds, nbytes, began = {"read": 0.0}, 0, time.perf_counter()

        def read(tile: Tile) -> tuple[NDArray[Any], Box]:
            nonlocal nbytes
            box, begun = self.inference.reads([tile]), time.perf_counter()
            voxels = self.source.read(box)
            seconds["read"] += time.perf_counter() - begun
            nbytes += voxels.nbytes
            return self.inference.finite(voxels, f"{self.source.location}: a pass for norms reads {box}"), box

        for block in self.blocks(item):
            moments = self.inference.moments(block, self.axis, len(self.groups), read)
            first = block.start[self.axis] if self.each and self.axis is not None else 0
            rows = moments if self.each or self.axis is None else [each.joined() for each in moments]
            found.append({str(first): [_encoded(each) for each in rows]})
        seconds["compute"] = time.perf_counter() - began - seconds["read"]
        return Receipt(NAME, item, None, seconds, nbytes, value=reduce(merged, found))

    @property
    def _ndim(self) -> int:
        return len(self.grid.shape) - (self.axis is not None)


def merged(one: Value, two: Value) -> Value:
    """Of both parts: parts of the same planes are merged, others stand side by side."""
    both = {
        first: [_encoded(_decoded(a).merge(_decoded(b))) for a, b in zip(one[first], two[first], strict=True)]
        for first in one.keys() & two.keys()
    }
    return {**one, **two, **both}


def together(value: Value) -> list[Moments]:
    """Of each tensor, the planes in their order."""
    parts = [value[first] for first in sorted(value, key=int)]
    return [Moments.stacked([_decoded(part) for part in of_one]) for of_one in zip(*parts, strict=True)]


def _encoded(moments: Moments) -> dict[str, Any]:
    return {"groups": moments.groups, "rows": base64.b64encode(moments.as_bytes()).decode()}


def _decoded(stored: Mapping[str, Any]) -> Moments:
    return Moments.from_bytes(base64.b64decode(stored["rows"]), stored["groups"])
