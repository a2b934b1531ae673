"""The plan of `warp`, and one block of it: the layers of each slab that it meets, then a whole shard is written.

block |gap |slab 3      |gap |slab 4  |     each run of layers: source box --read--> warp --> its part of the block
           |piece |piece|         |pie|     pieces of whole chunks of the source, so that little more than the block
                                            itself is in memory
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.geometry import BlockGrid, Box, Place, Raster, ceil_to
from volpipe.jobs import plain
from volpipe.jobs.pyramid import PyramidWork, level_name, pyramid_bytes, pyramid_tasks
from volpipe.jobs.warp import KNOWN
from volpipe.jobs.warp_setup import Setup, SlabView
from volpipe.plan import Budget, Plan, Price, Receipt, Task, Work
from volpipe.registration.warp import STRIP, STRIP_BYTES, taps_around, warp_block
from volpipe.volume import Layout, Product, Source
from volpipe.volume.folder import absolute
from volpipe.volume.labels import labels_of

NAME = "warp"
PLACE_BYTES = 96  # of a voxel's place while it is found: points, displaced, turned, and the weights between nodes

Run = tuple[Place, range, NDArray[np.intp]]  # owner, layers of the reconstruction, those of its slab's source


@dataclass(frozen=True)
class WarpWork:
    """Renders any block.

    Attributes:
        views: the slabs, None where one is missing.
        runs: all layers of the reconstruction by owner.
        product, known: what is written; they start at `grid.region.start`.
        raster: of the reconstruction.
        grid: blocks, in voxels of the reconstruction.
        most: voxels of a plane of each slab that a block may read.
    """

    views: list[SlabView | None]
    runs: list[Run]
    product: Product
    known: Product
    raster: Raster
    grid: BlockGrid
    order: int
    fill: float
    most: list[int]

    def __call__(self, item: int) -> Receipt:
        """Render one block."""
        core, began = self.grid[item].core, time.perf_counter()
        canvas = _Canvas(core, self.product.layout, self.fill)
        for place, layers, held in self.runs:
            met = range(max(layers.start, core.start[0]), min(layers.stop, core.stop[0]))
            view = None if place.slab is None else self.views[place.slab]
            if met and view is not None and place.slab is not None:
                wanted = held[met.start - layers.start : met.stop - layers.start]
                self._render(view, self.most[place.slab], wanted, canvas, met.start - core.start[0])
        computed, box = time.perf_counter(), core.relative_to(self.grid.region.start)
        self.known.write(box, canvas.known)
        checksum = self.product.write(box, canvas.voxels)
        compute_s = computed - began - canvas.read_s
        seconds = {"read": canvas.read_s, "compute": compute_s, "write": time.perf_counter() - computed}
        return Receipt(NAME, item, checksum, seconds, canvas.bytes_read, canvas.voxels.nbytes, box=str(box))

    def _render(self, view: SlabView, most: int, wanted: NDArray[np.intp], canvas: _Canvas, first: int) -> None:
        """Layers of one slab, piece by piece, into the block from its layer `first` on."""
        source = view.source
        for start, stop in _pieces(wanted, source.chunk[0]):
            made = warp_block(
                lambda box, layers=wanted[start:stop]: canvas.read(source, box, layers),  # type: ignore[misc]
                view.raster,
                view.pull,
                self.raster,
                canvas.core.without(0),
                dtype=source.dtype,
                lead=(source.channels, stop - start),
                order=self.order,
                fill=self.fill,
                most=most,
            )
            into = slice(first + start, first + stop)
            canvas.voxels[:, into], canvas.known[:, into] = made.voxels, made.known


@dataclass(frozen=True)
class LevelWork:
    """Makes any shard of one level, of the image and of what is known: a label image has the levels of its image."""

    image: PyramidWork
    known: PyramidWork

    def __call__(self, item: int) -> Receipt:
        """Make one shard of each."""
        self.known(item)
        return self.image(item)


class _Canvas:
    """A block being rendered, and what was spent on reading for it."""

    def __init__(self, core: Box, layout: Layout, fill: float) -> None:
        self.core = core
        self.voxels = np.full((layout.channels, *core.shape), fill, layout.dtype)
        self.known = np.zeros((1, *core.shape), np.uint8)
        self.bytes_read, self.read_s = 0, 0.0

    def read(self, source: Source, box: Box, layers: NDArray[np.intp]) -> NDArray[Any]:
        """A box (y, x) of layers of a slab, (channels, layers, rows, columns)."""
        began = time.perf_counter()
        first, stop = int(layers[0]), int(layers[-1]) + 1
        found = source.read(Box((first, *box.start), (stop, *box.stop)))
        self.bytes_read += found.nbytes
        self.read_s += time.perf_counter() - began
        return found if len(layers) == stop - first else found[:, layers - first]


def _pieces(wanted: NDArray[np.intp], chunk: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of neighbouring layers that lie in one chunk of the source."""
    cuts = np.flatnonzero(np.diff(wanted // chunk)) + 1
    return pairwise([0, *cuts.tolist(), len(wanted)])


def plan_of(setup: Setup, budget: Budget) -> Plan:
    """Price the blocks and put everything together; see `WarpJob.plan`."""
    layout, grid, job = setup.layout, setup.grid, setup.job
    need = block_bytes(setup)
    if not plain.fits(need, budget):
        raise plain.too_large(f"warp: a block of {plain.by(layout.shard)}", need, budget, "a smaller --shard")
    item = max(need, pyramid_bytes(layout, setup.factors))
    if not plain.fits(item, budget):
        raise plain.too_large(f"warp: a pyramid of shards {plain.by(layout.shard)}", item, budget, "a smaller --shard")
    promise = plain.worker_bytes(item, budget.slots)
    levels = layout.levels(setup.factors)
    written = sum(math.prod(level.shape) for level in levels) * (layout.voxel_bytes + 1)
    work = _work(setup)
    read = _most_read(setup, work)
    return Plan(
        title=f"warp {job.transforms} to {job.output}",
        works={NAME: work, **_levels(setup, work)},
        tasks=lambda: _tasks(setup),
        count=len(grid) + sum(len(level.grid) for level in levels[1:]),
        price=Price(worker_bytes=promise, bytes_read=read, bytes_written=written),
        key=setup.key(),
        facts=_facts(setup, promise, read, written),
    )


def _work(setup: Setup) -> WarpWork:
    place, region = absolute(setup.job.output), setup.grid.region
    runs = list(setup.runs(range(region.start[0], region.stop[0])))
    most = [0 if view is None else math.prod(source_extent(setup, view)) for view in setup.views]
    product, known = Product(place, setup.layout), labels_of(place, KNOWN, setup.layout)
    return WarpWork(
        setup.views, runs, product, known, setup.raster, setup.grid, setup.order, setup.job.fill, most
    )  # fmt: skip


def _levels(setup: Setup, work: WarpWork) -> dict[str, Work]:
    steps = enumerate(setup.factors, start=1)
    image = [PyramidWork(work.product, level, step, setup.method) for level, step in steps]
    return {level_name(one.level): LevelWork(one, replace(one, product=work.known, method="mode")) for one in image}


def _tasks(setup: Setup) -> Iterator[Task]:
    yield from (Task(NAME, number) for number in range(len(setup.grid)))
    yield from pyramid_tasks(setup.layout, setup.factors, setup.grid, NAME)


def source_extent(setup: Setup, view: SlabView) -> tuple[int, int]:
    """The largest box (y, x) of a slab that a block may need: the turned block, what the field pulls it apart, taps."""
    extents = zip(setup.layout.shard[1:], setup.raster.spacing_um, strict=True)
    height, width = ((n - 1) * s for n, s in extents)
    cos, sin = abs(math.cos(view.pose.angle_rad)), abs(math.sin(view.pose.angle_rad))
    apart = (view.stretch - 1) * math.hypot(height, width)
    sides = (height * cos + width * sin + apart, height * sin + width * cos + apart)
    voxels = zip(sides, view.raster.spacing_um, view.raster.shape, strict=True)
    rows, columns = (min(math.ceil(side / s) + taps_around(setup.order) + 1, n) for side, s, n in voxels)
    return rows, columns


def block_bytes(setup: Setup) -> int:
    """Memory of one block in hand: its voxels and what is known, a piece read and warped, a shard being written."""
    layout = setup.layout
    block, plane = math.prod(layout.shard), math.prod(layout.shard[1:])
    warp = plane * PLACE_BYTES + STRIP * STRIP_BYTES
    piece = max(_piece_bytes(setup, view) for view in setup.there)
    return block * (layout.voxel_bytes + 1) + piece + warp + plain.write_bytes(layout.shard, layout.voxel_bytes)


def _piece_bytes(setup: Setup, view: SlabView) -> int:
    """A piece of a source as it is read, its chunks while they are decoded, and what becomes of it."""
    source, extent = view.source, source_extent(setup, view)
    decoded = 1
    for wanted, chunk, length in zip((source.chunk[0], *extent), source.chunk, source.shape, strict=True):
        touched = min(ceil_to(wanted, chunk) + chunk * (wanted != chunk), ceil_to(length, chunk))
        decoded *= touched
    layers = min(source.chunk[0], source.shape[0])
    made = layers * math.prod(setup.layout.shard[1:])
    return (2 * decoded + made) * source.channels * int(source.dtype.itemsize) + made  # and what of it is known


def _most_read(setup: Setup, work: WarpWork) -> int:
    """Bytes over the whole run, were every block to read all that it may of each slab that it meets."""
    columns = math.prod(setup.grid.counts[1:])
    layers = [(place.slab, len(held)) for place, _, held in work.runs if place.slab is not None]
    return columns * sum(count * work.most[slab] for slab, count in layers) * setup.layout.voxel_bytes


def _facts(setup: Setup, promise: int, read: int, written: int) -> tuple[tuple[str, str], ...]:
    layout, missing = setup.layout, len(setup.views) - len(setup.there)
    fields = sum(view.field is not None for view in setup.there)
    bridged = len({run["slab"] for run in setup.bridged()})
    empty = sum(gap["layers"] for gap in setup.gaps())
    kind = {0: "nearest voxel (labels)", 1: "linear", 3: "cubic"}[setup.order]
    return (
        ("slabs", f"{len(setup.views)}, {missing} of them missing, {bridged} bridged, {fields} with a field"),
        ("product", f"{setup.job.output}  {plain.by(layout.shape)} {layout.dtype}, {layout.channels} channel(s)"),
        ("layers", f"{empty} of {layout.shape[0]} are empty: lost between slabs, or of a missing one"),
        ("order", f"{setup.order}: {kind}"),
        ("blocks", f"{len(setup.grid)} of {plain.by(setup.grid.shape)}"),
        ("read, write", f"at most {plain.size(read)}, {plain.size(written)} uncompressed"),
        ("memory", f"{plain.size(promise)} promised per worker"),
    )
