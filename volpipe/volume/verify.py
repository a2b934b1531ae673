"""Does a volume still hold what was written? Every block is read again and compared with its receipts.

    receipt {level, box, checksum}   -->   crc32 of the voxels of that box of that level, as they are stored now

A block may have several receipts: a worker that was declared lost may have written after its block was given to
another one, so one of them must fit. Blocks that a mask skipped have none with a checksum, and are not read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from volpipe.errors import ReadError
from volpipe.geometry import Box
from volpipe.volume.folder import absolute
from volpipe.volume.ledger import PYRAMID, Ledger
from volpipe.volume.product import Product, open_product

Checksums = dict[str, tuple[int | None, ...]]  # by box


def receipts_of(location: str) -> Iterator[Mapping[str, Any]]:
    """What the ledger beside a volume says of its boxes; levels that were made anew have a ledger of their own."""
    place = absolute(location)
    remade = [receipt for receipt in Ledger(f"{place}/{PYRAMID}").receipts() if receipt.get("box")]
    for receipt in Ledger(place).receipts():
        if receipt.get("box") and not (remade and receipt["level"]):
            yield receipt
    yield from remade


def verify(location: str, receipts: Iterable[Mapping[str, Any]]) -> list[str]:
    """What a volume no longer holds as its receipts say, one line each; empty if nothing.

    Args:
        location: of the product.
        receipts: JSON of `plan.Receipt`, those with a box; levels that none speaks of are not looked at.

    Raises:
        ProductError: no product is there.
    """
    product = open_product(location)
    return [line for level, boxes in by_level(receipts).items() for line in verify_level(product, level, boxes)]


def by_level(receipts: Iterable[Mapping[str, Any]]) -> dict[int, Checksums]:
    """Sort receipts; those of 10^6 blocks are a few hundred MB."""
    found: dict[int, Checksums] = {}
    for receipt in receipts:
        boxes = found.setdefault(receipt["level"], {})
        boxes[receipt["box"]] = (*boxes.get(receipt["box"], ()), receipt["checksum"])
    return found


def verify_level(
    product: Product, level: int, boxes: Checksums, progress: Callable[[int], None] | None = None
) -> Iterator[str]:
    """What one level no longer holds; `progress` is called with 1 for every block."""
    voxels = math.prod(product.grid(level).region.shape)
    covered = sum(Box.parse(box).size for box in boxes)
    if covered != voxels:
        yield f"level {level}: the receipts tell of {covered} of {voxels} voxels; nobody knows about the others"
    for box, checksums in boxes.items():
        if None not in checksums:
            yield from _block_problems(product, level, Box.parse(box), checksums)
        if progress is not None:
            progress(1)


def _block_problems(product: Product, level: int, box: Box, checksums: tuple[int | None, ...]) -> Iterator[str]:
    try:
        stored = product.checksum(box, level)
    except ReadError as error:
        yield str(error)
        return
    if stored not in checksums:
        yield (
            f"level {level}, box {box}: holds other voxels than were written, its shard was lost or replaced; make the "
            "volume anew with --restart"
        )
