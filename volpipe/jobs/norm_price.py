"""What a pass for norms costs, and its blocks: the largest whose memory fits a worker."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from volpipe.geometry import BlockGrid, Box
from volpipe.inference.intervals import Survey
from volpipe.inference.precision import Precision
from volpipe.inference.price import cast_bytes, weight_bytes
from volpipe.inference.statistics import BYTES
from volpipe.jobs import memory, plain, tiling
from volpipe.plan import Budget, Price

if TYPE_CHECKING:
    from volpipe.jobs.apply_setup import Setup

SMALLEST = 16  # voxels of a block along an axis


@dataclass(frozen=True)
class PricedPass:
    """The blocks of a pass, of the tensor that it measures last, and what they cost."""

    grid: BlockGrid
    price: Price


def priced_pass(
    setup: Setup, axis: int | None, before: int, count: int, budget: Budget, begun: tuple[int, ...] | None
) -> PricedPass:
    """The largest block that fits, or the one that it was begun with; it does not depend on what earlier passes find.

    Args:
        axis: that its planes are across; None where the network sees the volume.
        before: norms that earlier passes measure.
        count: norms that this one measures.

    Raises:
        BudgetError: not even a small block fits.
    """
    prices: dict[tuple[int, ...], PricedPass] = {}

    def fits(block: tuple[int, ...]) -> bool:
        prices[block] = _priced(setup, axis, before, count, budget, block)
        price = prices[block].price
        return price.worker_bytes <= budget.worker_bytes and price.device_bytes <= (budget.device_bytes or math.inf)

    def refusal(block: tuple[int, ...]) -> str:
        price = prices[block].price
        needs = f"{plain.size(price.worker_bytes)} in a worker, it has {plain.size(budget.worker_bytes)}"
        if price.device_bytes > (budget.device_bytes or math.inf):
            needs = f"{plain.size(price.device_bytes)} of GPU memory, there is {plain.size(budget.device_bytes or 0)}"
        text = f"norm {setup.norm.kind}: a pass over blocks of {block} needs {needs}; give workers more, or fewer slots"
        return text if begun is None else f"{text}, or --restart for smaller ones"

    first = setup.job.block or tiling.default_block(_whole(setup, axis, before + count - 1).shape)
    candidates = iter([begun]) if begun else _halved(first, axis)
    return prices[tiling.largest_that_fits(candidates, fits, refusal)]


def _whole(setup: Setup, axis: int | None, last: int) -> Box:
    """What blocks are cut of: the tensor that is measured last, in all planes that must be."""
    program = setup.program(axis)
    size = program.sizes[program.reductions[last].inputs[0]]
    return Box.from_shape(size).across(axis, setup.planes(axis))


def _halved(block: tuple[int, ...], across: int | None) -> Iterator[tuple[int, ...]]:
    """The block, and those of which an axis is halved again and again: first fewer planes, which cost no halo, then the
    longest."""
    yield block
    while max(block) > SMALLEST:
        axis = max(range(len(block)), key=lambda a: (a == across and block[a] > SMALLEST, block[a]))
        block = (*block[:axis], max(SMALLEST, -(-block[axis] // 2)), *block[axis + 1 :])
        yield block


# a plan of `apply` asks for all of its passes, so does each of them, and the plan after them
_KNOWN: WeakKeyDictionary[Setup, dict[Any, PricedPass]] = WeakKeyDictionary()


def _priced(
    setup: Setup, axis: int | None, before: int, count: int, budget: Budget, block: tuple[int, ...]
) -> PricedPass:
    known, of = _KNOWN.setdefault(setup, {}), (axis, before, count, budget, block)
    if of not in known:
        known[of] = _priced_anew(setup, *of)
    return known[of]


def _priced_anew(
    setup: Setup, axis: int | None, before: int, count: int, budget: Budget, block: tuple[int, ...]
) -> PricedPass:
    """By its middle block, which no face of the volume cuts where there are three along an axis."""
    program, precision = setup.program(axis), Precision(setup.job.precision)
    grid = BlockGrid(_whole(setup, axis, before + count - 1), block)
    middle = grid.block([(blocks - 1) // 2 for blocks in grid.counts]).core
    images = 1 if axis is None else middle.shape[axis]
    plan = Survey(program.held(images, before), count).plan(middle.without(axis))
    cost, read = plan.cost(images, budget.device), plan.read
    needs = memory.BlockMemory(
        read=images * read.size * setup.input_voxel_bytes, product=0,
        forward=cost.peak_bytes + cast_bytes(setup.model, read.shape, images, precision)
        + images * sum(program.groups[: before + count]) * BYTES,
    )  # fmt: skip
    weights = weight_bytes(setup.model.network, precision) + program.constant_bytes
    share = grid.region.size / middle.size
    return PricedPass(
        grid,
        Price(
            worker_bytes=memory.worker_bytes(needs, weights, budget.slots, budget.device, captured=True),
            device_bytes=memory.device_bytes(needs, weights) if budget.device != "cpu" else 0,
            bytes_read=int(needs.read * share),
            flops=cost.flops * share,
        ),
    )
