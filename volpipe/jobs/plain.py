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
    needed = worker_bytes(item, budget.slots)
    return BudgetError(
        f"{what}: needs {size(needed)} in a worker with {budget.slots} slots, it has {size(budget.worker_bytes)}; "
        f"give {instead} or {size(1.01 * needed)}"  # rounding must not take away what is needed
    )


def by(shape: Sequence[int]) -> str:
    """`64 x 64 x 64`."""
    return " x ".join(map(str, shape))


def size(nbytes: float) -> str:
    """Bytes for people: `1.25 GiB`, `640 bytes`."""
    for unit, one in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if nbytes >= one:
            return f"{nbytes / one:.2f} {unit}"
    return f"{nbytes:.0f} bytes"
