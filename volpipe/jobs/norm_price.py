"""What a pass for norms costs, and its blocks: the largest whose memory fits a worker."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from volpipe.geometry import BlockGrid, Box
from volpipe.inference.intervals import Moments, Survey
from volpipe.inference.precision import Precision
from volpipe.inference.price import cast_bytes, weight_bytes
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


@lru_cache(maxsize=256)  # a plan of `apply` asks for all of its passes, and so does the plan after them
def priced_pass(setup: Setup, before: int, count: int, budget: Budget, block: tuple[int, ...] | None) -> PricedPass:
    """The largest block that fits, or the one that is given; it does not depend on what earlier passes find.

    Args:
        before: norms that earlier passes measure.
        count: norms that this one measures.

    Raises:
        BudgetError: not even a small block fits.
    """
    program = setup.program(None)
    known = [Moments.unit(step.call.args[1]) for step in program.reductions[:before]]
    survey = Survey(program.given(known), count)
    prices: dict[tuple[int, ...], PricedPass] = {}

    def fits(block: tuple[int, ...]) -> bool:
        prices[block] = _priced(setup, survey, block, budget)
        price = prices[block].price
        return price.worker_bytes <= budget.worker_bytes and price.device_bytes <= (budget.device_bytes or math.inf)

    def refusal(block: tuple[int, ...]) -> str:
        price = prices[block].price
        needs = f"{plain.size(price.worker_bytes)} in a worker, it has {plain.size(budget.worker_bytes)}"
        if price.device_bytes > (budget.device_bytes or math.inf):
            needs = f"{plain.size(price.device_bytes)} of GPU memory, there is {plain.size(budget.device_bytes or 0)}"
        return f"norm {setup.norm.kind}: a pass over blocks of {block} needs {needs}; give workers more, or fewer slots"

    candidates = iter([block]) if block else _halved(setup.job.block or tiling.default_block(survey.size))
    return prices[tiling.largest_that_fits(candidates, fits, refusal)]


def _halved(block: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The block, and those of which the longest axis is halved again and again."""
    yield block
    while max(block) > SMALLEST:
        axis = max(range(len(block)), key=lambda a: block[a])
        block = (*block[:axis], max(SMALLEST, -(-block[axis] // 2)), *block[axis + 1 :])
        yield block


def _priced(setup: Setup, survey: Survey, block: tuple[int, ...], budget: Budget) -> PricedPass:
    """By its middle block, which no face of the volume cuts where there are three along an axis."""
    grid, precision = BlockGrid(Box.from_shape(survey.size), block), Precision(setup.job.precision)
    middle = grid.block([(count - 1) // 2 for count in grid.counts]).core
    plan = survey.plan(middle)
    cost, read = plan.cost(1, budget.device), plan.read
    needs = memory.BlockMemory(
        read=read.size * setup.input_voxel_bytes, product=0,
        forward=cost.peak_bytes + cast_bytes(setup.model, read.shape, 1, precision),
    )  # fmt: skip
    weights, share = weight_bytes(setup.model.network, precision), math.prod(survey.size) / middle.size
    return PricedPass(
        grid,
        Price(
            worker_bytes=memory.worker_bytes(needs, weights, budget.slots, budget.device, captured=True),
            device_bytes=memory.device_bytes(needs, weights) if budget.device != "cpu" else 0,
            bytes_read=int(needs.read * share),
            flops=cost.flops * share,
        ),
    )
