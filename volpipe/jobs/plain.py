"""What the jobs on plain volumes share: the memory that an item promises, and how much of it a worker has.

process                   python, numpy, zarr, dask and the readers of the formats, imported; no torch
per slot   block          the voxels in hand
           write          a shard's chunks, encoded, and the file that they are joined into
           read           a piece being read, and its chunks while they are decoded
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from volpipe.errors import BudgetError
from volpipe.plan import Budget

# 0.12 GiB measured in a Dask worker with every reader imported; the rest is what the allocator wastes.
PROCESS_BYTES = 192 * 2**20


def write_bytes(shard: Sequence[int], voxel_bytes: int) -> int:
    """Buffers while a shard is written: incompressible chunks, the joined file, and the old one where there is one."""
    return 3 * math.prod(shard) * voxel_bytes


def worker_bytes(item: int, slots: int) -> int:
    """Resident bytes of a worker with `slots` items in hand."""
    return PROCESS_BYTES + slots * item


def fits(item: int, budget: Budget) -> bool:
    """True if a worker can have as many items in hand as it has slots."""
    return worker_bytes(item, budget.slots) <= budget.worker_bytes


def too_large(what: str, item: int, budget: Budget, instead: str) -> BudgetError:
    """The refusal of an item that does not fit: what it needs, what there is, what would do."""
    needed, there = (n / 2**30 for n in (worker_bytes(item, budget.slots), budget.worker_bytes))
    return BudgetError(
        f"{what}: needs {needed:.2f} GiB in a worker with {budget.slots} slots, it has {there:.2f} GiB; "
        f"give {instead} or {needed + 0.01:.2f} GiB"
    )


def by(shape: Sequence[int]) -> str:
    """`64 x 64 x 64`."""
    return " x ".join(map(str, shape))


def gib(nbytes: float) -> str:
    """`1.25 GiB`."""
    return f"{nbytes / 2**30:.2f} GiB"
