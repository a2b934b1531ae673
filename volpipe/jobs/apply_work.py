"""One block of `apply`: read with its halo, run the network over its tiles, write its whole shards.

source --read--> voxels --stitch(tiles, predictor)--> encoded core --write--> product     receipt: crc32
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.errors import ReadError
from volpipe.geometry import BlockGrid, Box, Footprint
from volpipe.inference import heap
from volpipe.inference.predictor import device_lease, predictor
from volpipe.models.model import ModelRef
from volpipe.models.normalisation import Normalisation
from volpipe.plan import Receipt
from volpipe.stitching import Assembly, Encoding, Mode, Tile, read_box, stitch
from volpipe.volume import Mask, Product, Source

NAME = "apply"


@dataclass(frozen=True)
class ApplyWork:
    """Everything that a worker must know to do any block; small, because pixels and weights are read by the worker.

    Attributes:
        grid: blocks, in voxels of the product as the whole volume has it; what is stored starts at `grid.region.start`.
        footprint: on the three axes of the volume.
        tile: cell of the lattice anchored at the volume's origin, in voxels of the product.
        threads: that one forward pass may use.
        promised_bytes: of a worker process.
        nan: what replaces NaN and infinity in the input; None refuses them.
    """

    source: Source
    product: Product
    mask: Mask | None
    model: ModelRef
    normalisation: Normalisation
    grid: BlockGrid
    mode: Mode
    assembly: Assembly
    encoding: Encoding
    footprint: Footprint
    tile: tuple[int, ...]
    batch: int
    out_channels: int
    precision: str
    device: str
    threads: int
    promised_bytes: int
    nan: float | None

    def __call__(self, item: int) -> Receipt:
        """Do one block."""
        core = self.grid[item].core
        place = core.relative_to(self.grid.region.start)
        if self.skips(item):
            return Receipt(NAME, item, skipped="mask", box=str(place))
        began = time.perf_counter()
        tiles = self.mode.tiles(core, self.source.shape, self.tile, self.footprint)
        voxels, box = self.read(tiles, f"block {item}")
        read = time.perf_counter()
        out = self.compute(voxels, box, tiles, core)
        computed = time.perf_counter()
        checksum = self.product.write(place, out)
        seconds = {"read": read - began, "compute": computed - read, "write": time.perf_counter() - computed}
        return Receipt(NAME, item, checksum, seconds, voxels.nbytes, out.nbytes, box=str(place))

    def read(self, tiles: Sequence[Tile], who: str) -> tuple[NDArray[Any], Box]:
        """Everything that tiles see: stored voxels (c, z, y, x), and the box of the volume that they are.

        Raises:
            ReadError: they hold NaN or infinity, which `who` meets.
        """
        box = read_box(tiles, self.source.shape, self.mode.outside)
        return self._finite(self.source.read(box), who, box), box

    def compute(self, voxels: NDArray[Any], box: Box, tiles: Sequence[Tile], core: Box) -> NDArray[Any]:
        """The encoded voxels (c'', z, y, x) of `core`, which the tiles' own boxes cover."""
        out = self._empty(core)
        with device_lease(self.device):
            stitch(
                voxels, box, tiles, self._network(), volume=self.source.shape, outside=self.mode.outside,
                assembly=self.assembly, encoding=self.encoding, out=out, core=core, batch=self.batch,
            )  # fmt: skip
        return out

    def skips(self, item: int) -> bool:
        """True if the mask is zero all over a block."""
        return self.mask is not None and not self.mask.any(self.footprint.inputs(self.grid[item].core))

    def _network(self) -> Callable[[NDArray[Any]], NDArray[Any]]:
        run = predictor(self.model, self.normalisation, self.device, self.precision, self.threads)

        def within_promise(stored: NDArray[Any]) -> NDArray[Any]:
            heap.give_back_above(int(heap.SHARE * self.promised_bytes))
            return run(stored)

        return within_promise

    def _empty(self, core: Box) -> NDArray[Any]:
        channels = self.encoding.channels(self.out_channels)
        return np.empty((channels, *core.shape), self.encoding.dtype(self.out_channels))

    def _finite(self, voxels: NDArray[Any], who: str, box: Box) -> NDArray[Any]:
        if voxels.dtype.kind != "f":
            return voxels
        bad = ~np.isfinite(voxels)
        if not bad.any():
            return voxels
        if self.nan is None:
            raise ReadError(
                f"{self.source.location}: {who} reads {box} and finds {int(bad.sum())} voxels that are NaN or "
                "infinite; mend the volume or give --nan VALUE to replace them"
            )
        voxels[bad] = self.nan
        return voxels
