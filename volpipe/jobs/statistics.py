"""`statistics`: histogram, moments and percentiles of every channel, streamed, stored beside the volume.

    volume --cells--> histograms of items --merge--> VOL.statistics.json

A cell is whole chunks of the source, some 64 MiB; an item is a few cells, so that a volume of any size makes at most
a thousand receipts. With a mask only voxels count where it is not zero, and cells without any are not read.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import Field

from volpipe.geometry import BlockGrid, Box
from volpipe.jobs import plain
from volpipe.jobs.fields import Fields
from volpipe.plan import Budget, Plan, Price, Receipt, Task
from volpipe.volume.histogram import Histogram

if TYPE_CHECKING:
    from volpipe.volume import Mask, Source

NAME = "statistics"
CELL_BYTES = 64 * 2**20
MOST_ITEMS = 1024

Histograms = tuple[Histogram, ...]  # one per channel


@dataclass(frozen=True)
class StatisticsWork:
    """Counts any run of cells.

    Attributes:
        grid: cells of the volume.
        cells: how many make an item.
    """

    source: Source
    mask: Mask | None
    grid: BlockGrid
    cells: int

    def __call__(self, item: int) -> Receipt:
        """Count the cells of one item; the receipt's value is their histograms."""
        total = tuple(Histogram.empty(self.source.dtype.name) for _ in range(self.source.channels))
        seconds, nbytes = {"read": 0.0, "compute": 0.0}, 0
        for number in range(item * self.cells, min((item + 1) * self.cells, len(self.grid))):
            box, began = self.grid[number].core, time.perf_counter()
            if self.mask is not None and not self.mask.any(box):
                continue
            voxels = self.source.read(box)
            read = time.perf_counter()
            counted = voxels if self.mask is None else voxels[:, self.mask.read(box)]
            total = merge(total, tuple(Histogram.of(channel) for channel in counted))
            nbytes += voxels.nbytes
            seconds["read"] += read - began
            seconds["compute"] += time.perf_counter() - read
        return Receipt(NAME, item, None, seconds, nbytes, skipped="" if nbytes else "mask", value=total)


def merge(one: Histograms, other: Histograms) -> Histograms:
    """Of both, channel by channel."""
    return tuple(a.merge(b) for a, b in zip(one, other, strict=True))


def cell_of(source: Source) -> tuple[int, ...]:
    """Whole chunks of the source: the shortest axis is doubled while the cell stays within CELL_BYTES."""
    voxel_bytes = source.channels * int(source.dtype.itemsize)
    cell = [min(c, n) for c, n in zip(source.chunk, source.shape, strict=True)]
    while growing := [axis for axis in range(3) if cell[axis] < source.shape[axis]]:
        if 2 * math.prod(cell) * voxel_bytes > CELL_BYTES:
            break
        cell[min(growing, key=lambda axis: cell[axis])] *= 2
    return tuple(cell)


def item_bytes(source: Source, cell: Sequence[int]) -> int:
    """Memory of one item in hand: a cell, its chunks while they are decoded, its masked copy, its histograms."""
    histograms = 6 * 8 * 2**16 * source.channels
    return 4 * math.prod(cell) * source.channels * int(source.dtype.itemsize) + histograms + 64 * 2**20


class StatisticsJob(Fields):
    """Histogram and percentiles of a volume, stored beside it."""

    volume: str = Field(description="The volume: OME-Zarr, zarr, N5, precomputed, HDF5 (file.h5:/path) or TIFF.")
    output: str | None = Field(
        None, description="Where the statistics go if not beside the volume; apply looks beside it."
    )
    mask: str | None = Field(None, description="A volume of any resolution; only voxels where it is not zero count.")
    level: int | None = Field(None, ge=0, description="Level of a multiscale; 0 is the finest.")
    channel: int | None = Field(None, ge=0, description="One channel; all if not given.")
    time: int | None = Field(None, ge=0, description="Time point.")

    @property
    def product(self) -> None:
        """Nothing is resumed: counting again is reading again, and the file is written whole."""

    def plan(self, budget: Budget, *, anew: bool = False) -> Plan:
        """Open volume and mask, choose the cells, price the reading.

        Raises:
            VolumeError: the volume or the mask cannot be read, the dtype is not counted, or the mask covers another
                extent.
            BudgetError: one chunk of the source does not fit into a worker.
        """
        source = self._source
        Histogram.empty(source.dtype.name)
        cell = cell_of(source)
        item = item_bytes(source, cell)
        if not plain.fits(item, budget):
            raise plain.too_large(f"statistics: chunks of {plain.by(source.chunk)}", item, budget, "fewer slots")
        grid = BlockGrid(Box.from_shape(source.shape), cell)
        cells = -(-len(grid) // MOST_ITEMS)
        count = -(-len(grid) // cells)
        nbytes = math.prod(source.shape) * source.channels * int(source.dtype.itemsize)
        return Plan(
            title=f"statistics of {self.volume}",
            works={NAME: StatisticsWork(source, self._mask, grid, cells)},
            tasks=lambda: (Task(NAME, number) for number in range(count)),
            count=count,
            price=Price(worker_bytes=plain.worker_bytes(item, budget.slots), bytes_read=nbytes),
            key={"input": source.identity(), "mask": self._mask_identity()},
            facts=(
                ("input", f"{source.location}  {plain.by(source.shape)} {source.dtype}, {source.channels} channel(s)"),
                ("cells", f"{len(grid)} of {plain.by(cell)}"),
                ("result", self.place),
            ),
            reduce=merge,
        )

    def begin(self, plan: Plan, *, fresh: bool, replace: bool) -> None:
        """Try whether the result can be written: to learn it after hours of reading would be late."""
        from volpipe.volume.statistics import check_writable

        check_writable(self.place)

    def finish(self, plan: Plan, value: Any) -> str:
        """Write the merged histograms and what follows from them."""
        from volpipe.volume.statistics import Statistics, write_statistics

        write_statistics(Statistics(value, self._source.identity(), self._mask_identity()), self.place)
        return ""

    @property
    def place(self) -> str:
        """Where the result goes."""
        from volpipe.volume.statistics import sidecar_of

        return self.output or sidecar_of(self._source)

    @cached_property
    def _source(self) -> Source:
        from volpipe.volume import open_source

        return open_source(self.volume, level=self.level, channel=self.channel, time=self.time)

    @cached_property
    def _mask(self) -> Mask | None:
        from volpipe.volume import Mask, open_source

        if self.mask is None:
            return None
        return Mask(open_source(self.mask), self._source.shape, self._source.voxel_size_um)

    def _mask_identity(self) -> dict[str, Any] | None:
        return None if self._mask is None else self._mask.source.identity()
