"""The plan of `import`, and one block of it: read slab by slab, written as whole shards."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from volpipe.geometry import BlockGrid, Box, ceil_to, lattice_cells
from volpipe.jobs import plain
from volpipe.plan import Budget, Plan, Price, Receipt, Task
from volpipe.volume import Layout, Product, Source
from volpipe.volume.ledger import Ledger, changes

if TYPE_CHECKING:
    from volpipe.jobs.importing import ImportJob

NAME = "import"
SLAB_BYTES = (
    64 * 2**20
)  # read at a time where the source's chunks allow: much less than a block, much more than a chunk


@dataclass(frozen=True)
class ImportWork:
    """Copies any block.

    Attributes:
        grid: blocks of whole shards.
        slab: z extent of what is read at a time, on a lattice anchored at the origin as the source's chunks are.
    """

    source: Source
    product: Product
    grid: BlockGrid
    slab: int

    def __call__(self, item: int) -> Receipt:
        """Copy one block."""
        core, began = self.grid[item].core, time.perf_counter()
        voxels = np.empty((self.source.channels, *core.shape), self.source.dtype)
        for box in _slabs(core, self.slab):
            voxels[:, *box.relative_to(core.start).slices] = self.source.read(box)
        read = time.perf_counter()
        checksum = self.product.write(core, voxels)
        seconds = {"read": read - began, "write": time.perf_counter() - read}
        return Receipt(NAME, item, checksum, seconds, voxels.nbytes, voxels.nbytes, box=str(core))


def plan_of(job: ImportJob, budget: Budget, anew: bool) -> Plan:
    """Choose the block and put everything together; see `ImportJob.plan`."""
    source, layout = job.source, job.layout
    begun = None if anew else _block_begun_with(job, budget)
    block = begun or choose_block(source, layout, budget)
    grid = BlockGrid(Box.from_shape(layout.shape), block)
    work = ImportWork(source, Product(job.output, layout), grid, slab_of(source, block))
    nbytes, decodes = math.prod(layout.shape) * layout.voxel_bytes, decodes_per_chunk(source, block)
    promise = plain.worker_bytes(block_bytes(source, layout, block), budget.slots)
    return Plan(
        title=f"import {job.input} to {job.output}",
        works={NAME: work},
        tasks=lambda: (Task(NAME, number) for number in range(len(grid))),
        count=len(grid),
        price=Price(worker_bytes=promise, bytes_read=nbytes, bytes_written=nbytes),
        key=job.key(block),
        facts=(
            ("input", f"{source.location}  {plain.by(source.shape)} {source.dtype}, {source.channels} channel(s)"),
            ("product", f"{job.output}  shards of {plain.by(layout.shard)}, chunks of {plain.by(layout.chunk)}"),
            ("blocks", f"{len(grid)} of {plain.by(block)}, each chunk of the input decoded {decodes:.3g} times"),
            ("memory", f"{plain.size(promise)} promised per worker"),
        ),
    )


def _block_begun_with(job: ImportJob, budget: Budget) -> tuple[int, ...] | None:
    """The block of an earlier run that differs in nothing else, if it fits: its receipts are numbered by that block."""
    stored = Ledger(job.output).key() or {}
    block = tuple(stored.get("geometry", {}).get("block", ()))
    if not block or changes(stored, job.key(block)):
        return None
    return block if plain.fits(block_bytes(job.source, job.layout, block), budget) else None


def choose_block(source: Source, layout: Layout, budget: Budget) -> tuple[int, ...]:
    """Whole shards that cover the source's chunks, as far as memory allows: x grows first, then y, then z.

    Raises:
        BudgetError: one shard does not fit.
    """
    block = list(layout.shard)
    if not plain.fits(block_bytes(source, layout, block), budget):
        raise _one_shard_too_large(source, layout, budget)
    for axis in (2, 1, 0):
        shard = layout.shard[axis]
        wanted = ceil_to(min(source.chunk[axis], layout.shape[axis]), shard)
        for extent in range(wanted, block[axis], -shard):
            grown = [*block[:axis], extent, *block[axis + 1 :]]
            if plain.fits(block_bytes(source, layout, grown), budget):
                block = grown
                break
    return tuple(block)


def block_bytes(source: Source, layout: Layout, block: Sequence[int]) -> int:
    """Memory of one block in hand: its voxels, a slab being read, a shard being written."""
    clipped = [min(b, n) for b, n in zip(block, layout.shape, strict=True)]
    slab = _decoded_bytes(source, (slab_of(source, block), *block[1:]))
    write = plain.write_bytes(layout.shard, layout.voxel_bytes)
    return math.prod(clipped) * layout.voxel_bytes + 2 * slab + write


def slab_of(source: Source, block: Sequence[int]) -> int:
    """The z extent to read at a time: whole chunks of the source, one at least, up to SLAB_BYTES."""
    chunk = source.chunk[0]
    one = _decoded_bytes(source, (chunk, *block[1:]))
    return min(ceil_to(block[0], chunk), chunk * max(1, SLAB_BYTES // one))


def decodes_per_chunk(source: Source, block: Sequence[int]) -> float:
    """How often a chunk of the source is decoded, on average: once per block that it touches."""
    per_axis = [_touches(n, b, c) for n, b, c in zip(source.shape, block, source.chunk, strict=True)]
    return math.prod(per_axis)


def _touches(length: int, block: int, chunk: int) -> float:
    """Chunks that blocks touch, counted for each block, over the number of chunks."""
    starts = range(0, length, block)
    touched = sum(-(-min(a + block, length) // chunk) - a // chunk for a in starts)
    return touched / -(-length // chunk)


def _decoded_bytes(source: Source, extent: Sequence[int]) -> int:
    """Bytes of all chunks that a box of this extent may touch, wherever it starts."""
    touched = 1
    for wanted, chunk, length in zip(extent, source.chunk, source.shape, strict=True):
        ragged = 0 if wanted % chunk == 0 else chunk
        touched *= min(ceil_to(wanted, chunk) + ragged, ceil_to(length, chunk))
    return touched * source.channels * int(source.dtype.itemsize)


def _slabs(core: Box, thickness: int) -> Iterator[Box]:
    """The core cut across z where the source's chunks are."""
    for cell in lattice_cells(core, (thickness, *(max(1, stop) for stop in core.stop[1:]))):
        yield cell.intersect(core)


def _one_shard_too_large(source: Source, layout: Layout, budget: Budget) -> Exception:
    needed = block_bytes(source, layout, layout.shard)
    return plain.too_large(f"import: a shard of {plain.by(layout.shard)}", needed, budget, "a smaller --shard")
