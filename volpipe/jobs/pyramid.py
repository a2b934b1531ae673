"""`pyramid`: coarser levels of a volume, out of core, from finished shards. Other jobs append the same tasks.

    level 0   |0 |1 |2 |3 |4 |5 |        ("apply", n): blocks of level 0; none for a volume that is finished
    level 1   | 0   | 1   | 2   |        ("level1", i): one shard each, needs the blocks of level 0 that it covers
    level 2   | 0         | 1   |        ("level2", i): needs ("level1", ...)

Every level is made from the one before it. `Product.publish` lists the levels in the metadata when all are done.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from volpipe.errors import ConfigError, ProductError, VolumeError
from volpipe.geometry import BlockGrid, Box, lattice_cells
from volpipe.jobs import plain
from volpipe.jobs.fields import Fields, read_by
from volpipe.plan import Budget, Plan, Price, Receipt, Task, Work
from volpipe.volume.downsample import downsample
from volpipe.volume.layout import Layout, blocks_touched
from volpipe.volume.ledger import PYRAMID
from volpipe.volume.multiscale import Factors, default_factors, parse_factors

if TYPE_CHECKING:
    from volpipe.volume import Product

FORMAT = 1  # of the key: raised when the same key would mean other voxels


def level_name(level: int) -> str:
    """Name of the work that makes a level."""
    return f"level{level}"


def pyramid_tasks(
    layout: Layout, factors: Sequence[Factors], level0_grid: BlockGrid | None, work: str = "apply"
) -> Iterator[Task]:
    """The tasks that make every level above 0, needs first.

    Args:
        layout: of the product.
        factors: per level, relative to the level before.
        level0_grid: blocks of the work that makes level 0, in the coordinates of that work's input (the product
            starts where their region starts); None if level 0 is finished.
        work: name of that work.
    """
    levels = layout.levels(factors)
    for level, (step, (finer, coarser)) in enumerate(zip(factors, pairwise(levels), strict=True), start=1):
        name, grid = (work, level0_grid) if level == 1 else (level_name(level - 1), finer.grid)
        for block in coarser.grid:
            covered = _refined(block.core, step, finer.shape)
            yield Task(level_name(level), block.number, _needs(name, grid, covered))


def pyramid_works(product: Product, factors: Sequence[Factors], method: str) -> dict[str, Work]:
    """The works that those tasks name."""
    steps = enumerate(factors, start=1)
    return {level_name(level): PyramidWork(product, level, step, method) for level, step in steps}


def pyramid_bytes(layout: Layout, factors: Sequence[Factors]) -> int:
    """Memory of one item in hand: a shard of the coarser level, one of the finer, and what `downsample` adds.

    `downsample` holds a copy of the finer shard (mode) or 4 or 8 bytes per coarser voxel (mean): counted are two.
    """
    return max((_item_bytes(finer, step) for finer, step in _steps(layout, factors)), default=0)


def _steps(layout: Layout, factors: Sequence[Factors]) -> Iterator[tuple[Layout, Factors]]:
    return zip(layout.levels(factors)[:-1], factors, strict=True)


def _item_bytes(finer: Layout, step: Factors) -> int:
    read = math.prod(finer.shard) * finer.voxel_bytes
    sums = 2 * 8 * finer.channels * math.prod(finer.shard) // math.prod(step)
    written = math.prod(finer.coarser(step).shard) * finer.voxel_bytes
    return 3 * read + sums + written + plain.write_bytes(finer.coarser(step).shard, finer.voxel_bytes)


def _needs(work: str, grid: BlockGrid | None, covered: Box) -> tuple[tuple[str, int], ...]:
    if grid is None:
        return ()
    return tuple((work, block.number) for block in blocks_touched(grid, covered.shift(grid.region.start)))


def _refined(box: Box, factors: Factors, shape: Sequence[int]) -> Box:
    """The finer voxels under a box of the coarser level."""
    start = tuple(a * f for a, f in zip(box.start, factors, strict=True))
    stop = tuple(min(b * f, n) for b, f, n in zip(box.stop, factors, shape, strict=True))
    return Box(start, stop)


@dataclass(frozen=True)
class PyramidWork:
    """Makes any shard of one level from the level before it.

    Attributes:
        level: 1 or more.
        factors: relative to the level before.
        method: of `downsample`.
    """

    product: Product
    level: int
    factors: Factors
    method: str

    def __call__(self, item: int) -> Receipt:
        """Make one shard, out of one shard of the finer level at a time."""
        core = self.product.grid(self.level)[item].core
        layout, began = self.product.layout, time.perf_counter()
        out = np.empty((layout.channels, *core.shape), layout.dtype)
        read_bytes, read_s = 0, 0.0
        for box, covered in self._parts(core):
            started = time.perf_counter()
            voxels = self.product.read(covered, self.level - 1)
            read_s += time.perf_counter() - started
            read_bytes += voxels.nbytes
            out[:, *box.relative_to(core.start).slices] = self._coarser(voxels)
        computed = time.perf_counter()
        checksum = self.product.write(core, out, self.level)
        seconds = {
            "read": read_s,
            "compute": computed - began - read_s,
            "write": time.perf_counter() - computed,
        }
        name, place = level_name(self.level), str(core)
        return Receipt(name, item, checksum, seconds, read_bytes, out.nbytes, level=self.level, box=place)

    def _coarser(self, voxels: NDArray[Any]) -> NDArray[Any]:
        return downsample(voxels, self.factors, self.method)

    def _parts(self, core: Box) -> Iterator[tuple[Box, Box]]:
        """(box of this level, voxels of the finer one): as little as decodes each finer shard once."""
        finer = self.product.grid(self.level - 1)
        cell = [max(1, shard // factor) for shard, factor in zip(finer.shape, self.factors, strict=True)]
        for part in lattice_cells(core, cell):
            box = part.intersect(core)
            yield box, _refined(box, self.factors, finer.region.shape)


class PyramidJob(Fields):
    """Build the coarser levels of an OME-Zarr 0.5 volume, in place."""

    volume: str = Field(description="A finished OME-Zarr 0.5 volume with the axes z, y, x or c, z, y, x.")
    factors: str | None = Field(
        None, description="z,y,x of each level relative to the one before, as 1,2,2;2,2,2; by voxel size if not given."
    )
    method: Literal["mean", "mode", "first"] | None = Field(
        None, description="mean for intensities, mode for labels; by dtype if not given."
    )

    _steps = field_validator("factors")(read_by(parse_factors))

    @property
    def product(self) -> str:
        """A mark inside level 1: the ledger beside it goes when the level goes."""
        return f"{self.volume}/{PYRAMID}"

    def plan(self, budget: Budget, *, anew: bool = False) -> Plan:
        """Open the volume, choose the factors, price the levels.

        Raises:
            ProductError: it is not an OME-Zarr 0.5 volume that can be written to.
            VolumeError: it is not finished.
            ConfigError: the factors do not parse, or there is nothing to do.
            BudgetError: one shard does not fit into a worker.
        """
        layout, factors = self._product.layout, self._factors
        item = pyramid_bytes(layout, factors)
        if not plain.fits(item, budget):
            raise plain.too_large(f"pyramid: shards of {plain.by(layout.shard)}", item, budget, "fewer slots")
        levels = layout.levels(factors)
        sizes = [math.prod(level.shape) * layout.voxel_bytes for level in levels]
        promise = plain.worker_bytes(item, budget.slots)
        return Plan(
            title=f"pyramid of {self.volume}",
            works=pyramid_works(self._product, factors, self._method),
            tasks=lambda: pyramid_tasks(layout, factors, None),
            count=sum(len(level.grid) for level in levels[1:]),
            price=Price(worker_bytes=promise, bytes_read=sum(sizes[:-1]), bytes_written=sum(sizes[1:])),
            key=self._key(),
            facts=(
                ("levels", "; ".join(plain.by(level.shape) for level in levels)),
                ("method", self._method),
                ("memory", f"{plain.size(promise)} promised per worker"),
            ),
        )

    def begin(self, plan: Plan, *, fresh: bool, replace: bool) -> None:
        """Make the arrays of the levels, not yet listed."""
        from volpipe.volume.folder import open_folder

        product = self._product
        if fresh and product.levels > 1:
            if not replace:
                raise ProductError(f"{self.volume}: has levels already; give --restart to make them again")
            product.remove_levels()
        for level, step in enumerate(self._factors, start=1):
            product.add_level(level, step)
        open_folder(self.volume).put(PYRAMID, json.dumps(plan.key["settings"]).encode())

    def finish(self, plan: Plan, value: Any) -> str:
        """List the levels."""
        self._product.publish(self._factors, self._method)
        return ""

    @cached_property
    def _product(self) -> Product:
        from volpipe.volume import open_product
        from volpipe.volume.product import COMPLETE

        product = open_product(self.volume)
        if product.attributes.get("state", COMPLETE) != COMPLETE:
            raise VolumeError(f"{self.volume}: is not finished; give the command that makes it again")
        return product

    @cached_property
    def _factors(self) -> tuple[Factors, ...]:
        if self.factors is not None:
            return parse_factors(self.factors)
        layout = self._product.layout
        found = default_factors(layout.shape, layout.voxel_size_um, layout.chunk)
        if not found:
            raise ConfigError(f"{self.volume}: fits into one chunk and needs no levels; give --factors to force them")
        return found

    @property
    def _method(self) -> str:
        encoded = self._product.attributes.get("encoding") == "labels"  # classes, which our own products store small
        labels = encoded or self._product.layout.dtype.name in ("uint32", "uint64")
        return self.method or ("mode" if labels else "mean")

    def _key(self) -> dict[str, Any]:
        layout = asdict(self._product.layout) | {"dtype": self._product.layout.dtype.name}
        made = self._product.attributes.get("provenance")
        settings = {"factors": [list(step) for step in self._factors], "method": self._method}
        return {"volpipe": FORMAT, "input": {"layout": layout, "provenance": made}, "settings": settings}
