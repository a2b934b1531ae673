"""One pass over the volume, for the statistics of norms: a job of its own, done before the blocks of `apply`.

pass 0 --moments--> pass 1 (knows those) --moments--> ... --> OUT.norm/norm.json --> blocks of the product

OUT.ome.zarr.norm/0/moments.json    what pass 0 found, and of what; "running" until it has
OUT.ome.zarr.norm/0.ledger/         its receipts: a killed pass goes on, as any run does
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from volpipe.errors import RunError
from volpipe.inference.intervals import Moments, passes
from volpipe.jobs.norm_price import priced_pass
from volpipe.jobs.norm_statistics import NormStatistics, hash_of, layers_of
from volpipe.jobs.norm_work import NAME, NormWork, merged
from volpipe.plan import Budget, Plan, Task
from volpipe.volume.folder import open_folder
from volpipe.volume.ledger import Ledger, changes
from volpipe.volume.product import COMPLETE, RUNNING

if TYPE_CHECKING:
    from volpipe.jobs.apply_setup import Setup

FOUND = "moments.json"
FORMAT = 1  # of the key: raised when the same key would mean other moments


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
        chosen = priced_pass(setup, self.before, count, budget, self._begun_with(known))
        inference = setup.inference(chosen.grid.shape, budget, chosen.price.device_bytes or chosen.price.worker_bytes)
        work = NormWork(setup.source, replace(inference, statistics=tuple(known)), chosen.grid, count)
        modules = [module or "the network itself" for _, module, _ in self._layers]
        return Plan(
            title=f"pass {self.number + 1} of {len(self.counts)} over {setup.job.input}: statistics of "
            + (modules[0] if count == 1 else f"{count} layers"),
            works={NAME: work},
            tasks=lambda: (Task(NAME, item) for item in range(work.items)),
            count=work.items,
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
            open_folder(self.product).put(FOUND, json.dumps({"state": RUNNING}).encode())

    def finish(self, plan: Plan, value: Any) -> str:
        """Write down what was found."""
        key = {name: content for name, content in plan.key.items() if name != "geometry"}
        stored = json.dumps({"state": COMPLETE, "key": key, "moments": value}, default=str)
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
