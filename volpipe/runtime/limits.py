"""What this machine can do at all, measured by the workers of a run, every slot at once.

    forward   the network on one tile of a run, over and over: no reading, no stitching, no writing
    copy      memory to memory
    read      the volume, block by block, without halo        write   products of the same shards

A row of `volpipe bench` beside these says what the engine adds, and what no engine can take away.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from volpipe.geometry import Box
from volpipe.jobs.apply import ApplyJob
from volpipe.jobs.apply_work import ApplyWork
from volpipe.plan import Budget, Plan, Receipt, Task
from volpipe.runtime.run import run
from volpipe.runtime.settings import RunSettings
from volpipe.stitching import Tile
from volpipe.volume import Product, create_product

TIMES = 3  # that a limit is measured by each slot; the median counts
COPIED_BYTES = 128 * 2**20
NAMES = ("forward", "copy", "read", "write")


@dataclass(frozen=True)
class Limits:
    """Of all slots together.

    Attributes:
        forward: voxels of the product a second from the network, on a tile of the run.
        copy: bytes a second.
        read, write: stored bytes a second, uncompressed.
    """

    forward: float
    copy: float
    read: float
    write: float


def limits_of(job: ApplyJob, settings: RunSettings) -> Limits:
    """Measure them for a job that fits; nothing of it is written."""
    measured: dict[str, list[float]] = {}
    run(_LimitsJob(job, settings.workers or 1, measured), settings, progress=None)
    return Limits(**{name: sum(found) for name, found in measured.items()})


@dataclass
class _LimitsJob:
    """A `Job`: one item a slot for each limit."""

    job: ApplyJob
    workers: int
    measured: dict[str, list[float]]

    @property
    def product(self) -> None:
        """None: nothing is kept."""
        return

    def plan(self, budget: Budget, *, anew: bool = False) -> Plan:
        """One item a slot and limit; a limit's items are handed out together."""
        made = self.job.plan(budget)
        slots, work = budget.slots * self.workers, made.works["apply"]
        works = {name: _Limit(name, work) for name in NAMES}  # type: ignore[arg-type]
        tasks = [Task(name, slot) for name in NAMES for slot in range(slots)]
        return Plan("limits of this machine", works, lambda: tasks, len(tasks), made.price, reduce=_joined)

    def begin(self, plan: Plan, *, fresh: bool, replace: bool) -> None:
        """Nothing is made."""

    def finish(self, plan: Plan, value: Any) -> str:
        """Keep the rates of all slots."""
        self.measured |= value
        return ""


def _joined(one: dict[str, list[float]], two: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: one.get(name, []) + two.get(name, []) for name in {*one, *two}}


@dataclass(frozen=True)
class _Limit:
    """Measures one limit; the value of a receipt is the rate of its slot."""

    name: str
    apply: ApplyWork

    def __call__(self, item: int) -> Receipt:
        with tempfile.TemporaryDirectory(prefix=".volpipe-bench-", dir=_near(self.apply.product)) as folder:
            measures = {"forward": self._forward, "copy": self._copy, "read": self._read}
            measure = measures[self.name]() if self.name in measures else self._write(folder)
            measure()  # the first time loads, allocates and fills caches
            rates = []
            for _ in range(TIMES):
                began = time.perf_counter()
                amount = measure()
                rates.append(amount / (time.perf_counter() - began))
        return Receipt(self.name, item, value={self.name: [median(rates)]})

    def _forward(self) -> Callable[[], float]:
        inference, source = self.apply.inference, self.apply.source
        network, tile = inference.network(), self._usual_tile()
        images = np.zeros((inference.batch, source.channels, *tile.read.shape), source.dtype)

        def once() -> float:
            inference.assembly.run(network, images, tile)
            return float(inference.batch * min(tile.own.size, math.prod(inference.tile)))  # blended rims are shared

        return once

    def _usual_tile(self) -> Tile:
        """One that reads as much as most tiles of the middle block."""
        middle = self.apply.grid[len(self.apply.grid) // 2]
        tiles = self.apply.inference.tiles(middle.core)
        usual, _ = Counter(tile.read.shape for tile in tiles).most_common(1)[0]
        return next(tile for tile in tiles if tile.read.shape == usual)

    def _copy(self) -> Callable[[], float]:
        here, there = (np.ones(COPIED_BYTES, np.uint8) for _ in range(2))

        def once() -> float:
            np.copyto(there, here)
            return float(COPIED_BYTES)

        return once

    def _read(self) -> Callable[[], float]:
        source, boxes = self.apply.source, self._boxes()

        def once() -> float:
            return float(source.read(next(boxes)).nbytes)

        return once

    def _boxes(self) -> Iterator[Box]:
        """The volume's own voxels under one block after the other, without end."""
        inference = self.apply.inference
        while True:
            for block in self.apply.grid:
                yield inference.footprint.inputs(block.core).intersect(Box.from_shape(inference.volume))

    def _write(self, folder: str) -> Callable[[], float]:
        layout = self.apply.product.layout
        product = create_product(str(Path(folder, "limit.ome.zarr")), layout, {})
        core = product.grid()[0].core
        voxels = np.random.default_rng(0).integers(0, 127, (layout.channels, *core.shape), "uint8").astype(layout.dtype)

        def once() -> float:
            product.write(core, voxels)
            return float(voxels.nbytes)

        return once


def _near(product: Product) -> Path:
    """A folder of the disk that the product would go to."""
    return next(parent for parent in Path(product.location).parents if parent.exists())
