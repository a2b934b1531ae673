"""One block of `apply`: read with its halo, run the network over its tiles, write its whole shards.

source --read--> voxels --inference--> encoded core --write--> product     receipt: crc32
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from volpipe.geometry import BlockGrid, Box
from volpipe.inference.block import BlockInference
from volpipe.plan import Receipt
from volpipe.stitching import Tile
from volpipe.volume import Mask, Product, Source

NAME = "apply"


@dataclass(frozen=True)
class ApplyWork:
    """Everything that a worker must know to do any block; small, because it reads the pixels itself.

    Attributes:
        grid: blocks, in voxels of the product as the whole volume has it; what is stored starts at `grid.region.start`.
        inference: what is done to their voxels.
    """

    source: Source
    product: Product
    mask: Mask | None
    grid: BlockGrid
    inference: BlockInference

    def __call__(self, item: int) -> Receipt:
        """Do one block."""
        core = self.grid[item].core
        if self.skips(item):
            return self.skipped(item)
        began = time.perf_counter()
        tiles = self.inference.tiles(core)
        voxels, box = self.read(tiles, f"block {item}")
        read = time.perf_counter()
        out = self.inference(voxels, box, tiles, core)
        computed = time.perf_counter()
        checksum = self.product.write(self.place(core), out)
        seconds = {"read": read - began, "compute": computed - read, "write": time.perf_counter() - computed}
        return Receipt(NAME, item, checksum, seconds, voxels.nbytes, out.nbytes, box=str(self.place(core)))

    def place(self, core: Box) -> Box:
        """Where a core is stored, in the voxels of what is stored."""
        return core.relative_to(self.grid.region.start)

    def read(self, tiles: Sequence[Tile], who: str) -> tuple[NDArray[Any], Box]:
        """Everything that tiles see: stored voxels (c, z, y, x), and the box of the volume that they are.

        Raises:
            ReadError: they hold NaN or infinity, which `who` meets.
        """
        box = self.inference.reads(tiles)
        return self.inference.finite(self.source.read(box), f"{self.source.location}: {who} reads {box}"), box

    def skipped(self, item: int) -> Receipt:
        """Of a block that the mask leaves out."""
        return Receipt(NAME, item, skipped="mask", box=str(self.place(self.grid[item].core)))

    def skips(self, item: int) -> bool:
        """True if the mask is zero all over a block."""
        return self.mask is not None and not self.mask.any(self.inference.footprint.inputs(self.grid[item].core))
