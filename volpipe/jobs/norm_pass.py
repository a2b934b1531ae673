"""One pass over the volume, for the statistics of norms: a job of its own, done before the blocks of `apply`.

    pass 0 --moments--> pass 1 (knows those) --moments--> ... --> OUT.norm/norm.json --> blocks of the product

    OUT.ome.zarr.norm/0/moments.json    what pass 0 found, and of what; "running" until it has
    OUT.ome.zarr.norm/0.ledger/         its receipts: a killed pass goes on, as any run does

An item is a block of the tensor that is measured, with what it needs of the volume; its receipt carries the moments of
the block, so that no more comes back than a few numbers a channel.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from volpipe.errors import RunError
from volpipe.geometry import BlockGrid, Box
from volpipe.inference.block import BlockInference
from volpipe.inference.intervals import Moments, Survey, passes
from volpipe.inference.precision import Precision
from volpipe.inference.price import cast_bytes, weight_bytes
from volpipe.jobs import memory, plain, tiling
from volpipe.jobs.norm_statistics import NormStatistics, hash_of, layers_of
from volpipe.plan import Budget, Plan, Price, Receipt, Task
from volpipe.stitching import Tile
from volpipe.volume import Source
from volpipe.volume.folder import open_folder
from volpipe.volume.ledger import Ledger, changes

if TYPE_CHECKING:
    from volpipe.jobs.apply_setup import Setup

NAME, FOUND = "norm", "moments.json"
FORMAT = 1  # of the key: raised when the same key would mean other moments
SMALLEST = 16  # voxels of a block along an axis

Value = list[dict[str, Any]]  # moments of each tensor that a pass measures, as JSON: a ledger holds them


@dataclass(frozen=True)
class NormWork:
    """Measures one block.

    Attributes:
        inference: with the statistics that earlier passes found.
        grid: blocks of the last tensor that is measured, in its own voxels.
        count: of tensors.
    """

    source: Source
    inference: BlockInference
    grid: BlockGrid
    count: int

    def __call__(self, item: int) -> Receipt:
        """Read what a block needs and measure it."""
        seconds, nbytes = {"read": 0.0}, 0

        def read(tile: Tile) -> tuple[NDArray[Any], Box]:
            nonlocal nbytes
            box, begun = self.inference.reads([tile]), time.perf_counter()
            voxels = self.inference.finite(self.source.read(box), f"{self.source.location}: pass {item} reads {box}")
            seconds["read"], nbytes = time.perf_counter() - begun, voxels.nbytes
            return voxels, box

        began = time.perf_counter()
        found = self.inference.moments(self.inference.survey(self.count), self.grid[item].core, read)
        seconds["compute"] = time.perf_counter() - began - seconds["read"]
        return Receipt(NAME, item, None, seconds, nbytes, value=[each.as_json() for each in found])


def merged(one: Value, two: Value) -> Value:
    """Of both parts."""
    pairs = zip(map(Moments.from_json, one), map(Moments.from_json, two), strict=True)
    return [mine.merge(theirs).as_json() for mine, theirs in pairs]


@dataclass(frozen=True)
class NormPass:
    """A `Job`: measures the tensors `counts[number]` that follow those of earlier passes."""

    setup: Setup
    number: int
    counts: tuple[int, ...]

    @property
    def product(self) -> str:
        """See `Job`."""
        return f"{folder_of(self.setup.job.output)}/{self.number}"

    @property
    def before(self) -> int:
        """Tensors that earlier passes measure."""
        return sum(self.counts[: self.number])

    def plan(self, budget: Budget) -> Plan:
        """Choose the block, and price the pass; what it costs does not depend on what earlier ones found.

        Raises:
            BudgetError: not even a small block fits.
        """
        setup, count = self.setup, self.counts[self.number]
        known = _found(setup, self.counts[: self.number])
        chosen = _chosen(self, budget, self._begun_with(known))
        inference = setup.inference(chosen.grid.shape, budget, chosen.price.device_bytes or chosen.price.worker_bytes)
        work = NormWork(setup.source, replace(inference, statistics=tuple(known)), chosen.grid, count)
        modules = [module or "the network itself" for _, module, _ in self._layers]
        return Plan(
            title=f"pass {self.number + 1} of {len(self.counts)} over {setup.job.input}: statistics of "
            + (modules[0] if count == 1 else f"{count} layers"),
            works={NAME: work},
            tasks=lambda: (Task(NAME, item) for item in range(len(work.grid))),
            count=len(work.grid),
            price=chosen.price,
            key=_key(setup, self, known) | {"geometry": {"block": list(work.grid.shape)}},
            reduce=merged,
        )

    def begin(self, plan: Plan, *, fresh: bool, replace: bool) -> None:
        """See `Job`.

        Raises:
            RunError: an earlier pass is not done.
        """
        work = plan.works[NAME]
        assert isinstance(work, NormWork)
        if len(work.inference.statistics) < self.before:
            raise RunError(f"{self.product}: passes before it are not done; give the command that makes the product")
        if fresh:
            open_folder(self.product).put(FOUND, json.dumps({"state": "running"}).encode())

    def finish(self, plan: Plan, value: Any) -> str:
        """Write down what was found."""
        key = {name: content for name, content in plan.key.items() if name != "geometry"}
        stored = json.dumps({"state": "complete", "key": key, "moments": value}, default=str)
        open_folder(self.product).put(FOUND, stored.encode())
        return ""

    @property
    def _layers(self) -> list[tuple[str, str, int]]:
        return layers_of(self.setup.program(None))[self.before : self.before + self.counts[self.number]]

    def _begun_with(self, known: Sequence[Moments]) -> tuple[int, ...] | None:
        """The block of a pass that goes on: with others its items would be others."""
        stored = dict(Ledger(self.product).key() or {})
        block = tuple(stored.pop("geometry", {}).get("block", ()))
        return block if block and not changes(stored, _key(self.setup, self, known)) else None


def folder_of(output: str) -> str:
    """Where statistics lie, beside the product."""
    return f"{output.rstrip('/')}.norm"


def passes_of(setup: Setup) -> tuple[NormPass, ...]:
    """What must be done before the blocks; nothing where statistics are given, or none are needed."""
    if not setup.norm.by_passes:
        return ()
    program = setup.program(None)
    pooled = [len(program.reductions)] if program.reductions else []
    counts = tuple(pooled if setup.norm.kind == "pooled" else passes(program))
    return tuple(NormPass(setup, number, counts) for number in range(len(counts)))


def statistics_of(setup: Setup, done: Sequence[NormPass]) -> NormStatistics | None:
    """What the passes found; None if one of them is not done."""
    moments = _found(setup, done[-1].counts if done else ())
    layers = tuple(layers_of(setup.program(None)))
    if len(moments) < len(layers):
        return None
    return NormStatistics(setup.norm.kind, setup.ref.sha256, setup.made_of(), layers, tuple(moments))


def _found(setup: Setup, counts: Sequence[int]) -> list[Moments]:
    """Of passes that are done, as far as none is missing or of something else."""
    known: list[Moments] = []
    for number in range(len(counts)):
        each = NormPass(setup, number, tuple(counts))
        stored = json.loads(open_folder(each.product).get(FOUND) or b"{}")
        if changes(stored.get("key", {}), _key(setup, each, known)):
            break
        known += map(Moments.from_json, stored["moments"])
    return known


def _key(setup: Setup, of: NormPass, known: Sequence[Moments]) -> dict[str, Any]:
    return {
        "volpipe": FORMAT,
        "weights": setup.ref.sha256,
        "of": setup.made_of(),
        "norm": setup.norm.kind,
        "layers": [of.before, of.before + of.counts[of.number]],
        "known": hash_of(known),
    }


# ---------------------------------------------------------------------- price


@dataclass(frozen=True)
class _Chosen:
    grid: BlockGrid
    price: Price


@lru_cache(maxsize=256)  # a plan of `apply` asks for all of its passes, and so does the plan after them
def _chosen(of: NormPass, budget: Budget, block: tuple[int, ...] | None) -> _Chosen:
    """The largest block that fits, or the one that is given."""
    setup, program = of.setup, of.setup.program(None)
    known = [Moments.unit(step.call.args[1]) for step in program.reductions[: of.before]]
    survey = Survey(program.given(known), of.counts[of.number])
    prices: dict[tuple[int, ...], _Chosen] = {}

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

    candidates = iter([block]) if block else _halved(tiling.default_block(survey.size))
    return prices[tiling.largest_that_fits(candidates, fits, refusal)]


def _halved(block: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The block, and those of which the longest axis is halved again and again."""
    yield block
    while max(block) > SMALLEST:
        axis = max(range(len(block)), key=lambda a: block[a])
        block = (*block[:axis], max(SMALLEST, -(-block[axis] // 2)), *block[axis + 1 :])
        yield block


def _priced(setup: Setup, survey: Survey, block: tuple[int, ...], budget: Budget) -> _Chosen:
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
    return _Chosen(
        grid,
        Price(
            worker_bytes=memory.worker_bytes(needs, weights, budget.slots, budget.device, captured=True),
            device_bytes=memory.device_bytes(needs, weights) if budget.device != "cpu" else 0,
            bytes_read=int(needs.read * share),
            flops=cost.flops * share,
        ),
    )
