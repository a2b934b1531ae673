"""One pass over the volume, for the statistics of norms: a job of its own, done before the blocks of `apply`.

pass 0 --moments--> pass 1 (knows those) --moments--> ... --> OUT.norm/norm.json --> blocks of the product

OUT.ome.zarr.norm/0/moments.json    what pass 0 found, and of what; "running" until it has
OUT.ome.zarr.norm/0.ledger/         its receipts: a killed pass goes on, as any run does
OUT.ome.zarr.norm/z/0/              the same of planes across z: each axis has passes of its own, one after the other
OUT.ome.zarr.norm/planes/           the numbers, where each plane has its own (inference/statistics.py)

Passes across different axes read other halos and measure other tensors: none is shared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from volpipe.errors import RunError
from volpipe.inference.intervals import Moments, passes
from volpipe.inference.statistics import put_planes
from volpipe.jobs.norm_price import priced_pass
from volpipe.jobs.norm_statistics import NAME as NORM
from volpipe.jobs.norm_statistics import Found, Layer, NormStatistics, hash_of, layers_of, sets_of
from volpipe.jobs.norm_work import NAME, NormWork, merged, together
from volpipe.plan import Budget, Plan, Task
from volpipe.stitching.assembly import AXES
from volpipe.volume.folder import absolute, open_folder
from volpipe.volume.ledger import Ledger, changes
from volpipe.volume.product import COMPLETE, RUNNING

if TYPE_CHECKING:
    from volpipe.jobs.apply_setup import Setup

FOUND = "moments.json"
FORMAT = 2  # of the key: raised when the same key would mean other moments


@dataclass(frozen=True)
class NormPass:
    """A `Job`: measures the tensors `counts[number]` that follow those of earlier passes across the same axis.

    Attributes:
        axis: that the planes are across; None where the network sees the volume.
    """

    setup: Setup
    axis: int | None
    number: int
    counts: tuple[int, ...]

    @property
    def product(self) -> str:
        """See `Job`."""
        across = "" if self.axis is None else f"/{AXES[self.axis]}"
        return f"{folder_of(self.setup.job.output)}{across}/{self.number}"

    @property
    def before(self) -> int:
        """Tensors that earlier passes measure."""
        return sum(self.counts[: self.number])

    def plan(self, budget: Budget, *, anew: bool = False) -> Plan:
        """Choose the block, and price the pass; what it costs does not depend on what earlier ones found.

        Raises:
            BudgetError: not even a small block fits.
        """
        setup, layers = self.setup, self._layers
        known = _found(setup, self.axis, self.counts[: self.number])
        block = None if anew else self._begun_with(known)
        chosen = priced_pass(setup, self.axis, self.before, len(layers), budget, block)
        inference = setup.inference(chosen.grid.shape, budget, chosen.price.device_bytes or chosen.price.worker_bytes)
        inference = replace(inference, statistics=sets_of(known, absolute(folder_of(setup.job.output))))
        groups = tuple(groups for _, _, groups, _ in layers)
        work = NormWork(setup.source, inference, chosen.grid, self.axis, setup.norm.of_each_plane, groups)
        return Plan(
            title=self._title(),
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
        if len(_found(self.setup, self.axis, self.counts[: self.number])) < self.before:
            raise RunError(f"{self.product}: passes before it are not done; give the command that makes the product")
        if fresh:
            open_folder(self.product).put(FOUND, json.dumps({"state": RUNNING}).encode())
            open_folder(folder_of(self.setup.job.output)).delete(NORM)  # of files that are now written over

    def finish(self, plan: Plan, value: Any) -> str:
        """Write down what was found; what says so comes last. Done for a pass that an earlier run did too, from its
        receipts: passes of another kind may have written over its files since."""
        key = {name: content for name, content in plan.key.items() if name != "geometry"}
        moments = enumerate(together(value), start=self.before)
        found = [self._stored(layer, number, each) for layer, (number, each) in zip(self._layers, moments, strict=True)]
        stored = {"state": COMPLETE, "key": key, "layers": [each.as_json() for each in found]}
        open_folder(self.product).put(FOUND, json.dumps(stored, default=str).encode())
        return ""

    def _stored(self, layer: Layer, number: int, moments: Moments) -> Found:
        """One set is written with what was found, sets of planes into files."""
        if self.axis is None or not self.setup.norm.of_each_plane:
            return Found(layer, moments.sha256, moments)
        planes = self.setup.planes(self.axis)
        put_planes(folder_of(self.setup.job.output), self.axis, number, planes.start, moments)
        return Found(layer, moments.sha256, planes=planes)

    def _title(self) -> str:
        layers, across = self._layers, "" if self.axis is None else f" by planes across {AXES[self.axis]}"
        of = layers[0][1] or "the network itself" if len(layers) == 1 else f"{len(layers)} layers"
        number = f"pass {self.number + 1} of {len(self.counts)}"
        return f"{number} over {self.setup.job.input}{across}: statistics of {of}"

    @property
    def _layers(self) -> list[Layer]:
        layers = layers_of(self.setup.program(self.axis), self.axis)
        return layers[self.before : self.before + self.counts[self.number]]

    def _begun_with(self, known: Sequence[Found]) -> tuple[int, ...] | None:
        """The block of a pass that goes on: with others its items would be others."""
        stored = dict(Ledger(self.product).key() or {})
        block = tuple(stored.pop("geometry", {}).get("block", ()))
        return block if block and not changes(stored, _key(self.setup, self, known)) else None


def folder_of(output: str) -> str:
    """Where statistics lie, beside the product."""
    return f"{output.rstrip('/')}.norm"


def passes_of(setup: Setup) -> tuple[NormPass, ...]:
    """What must be done before the blocks; nothing where statistics are given, or none are needed."""
    counts = _counts(setup)
    return tuple(NormPass(setup, axis, number, each) for axis, each in counts.items() for number in range(len(each)))


def _counts(setup: Setup) -> Mapping[int | None, tuple[int, ...]]:
    """By axis, how many tensors each pass measures."""
    if not setup.norm.by_passes:
        return {}
    programs = {axis: setup.program(axis) for axis in setup.assembly.axes}
    if setup.norm.kind == "exact":
        return {axis: tuple(passes(program)) for axis, program in programs.items()}
    return {axis: (len(program.reductions),) if program.reductions else () for axis, program in programs.items()}


def statistics_of(setup: Setup) -> NormStatistics | None:
    """What the passes found; None if one of them is not done."""
    found = [each for axis, counts in _counts(setup).items() for each in _found(setup, axis, counts)]
    if len(found) < len(setup.norm_layers()):
        return None
    folder = absolute(folder_of(setup.job.output))
    return NormStatistics(setup.norm.kind, setup.ref.sha256, setup.made_of(), tuple(found), folder)


def _found(setup: Setup, axis: int | None, counts: Sequence[int]) -> list[Found]:
    """Of passes that are done, as far as none is missing or of something else."""
    known: list[Found] = []
    for number in range(len(counts)):
        each = NormPass(setup, axis, number, tuple(counts))
        stored = json.loads(open_folder(each.product).get(FOUND) or b"{}")
        if changes(stored.get("key", {}), _key(setup, each, known)):
            break
        known += map(Found.from_json, stored["layers"])
    return known


def _key(setup: Setup, of: NormPass, known: Sequence[Found]) -> dict[str, Any]:
    return {
        "volpipe": FORMAT,
        "weights": setup.ref.sha256,
        "of": setup.made_of(),
        "norm": setup.norm.kind,
        "planes": [setup.norm.planes, str(setup.planes(of.axis))],
        "across": of.axis,
        "layers": [of.before, of.before + of.counts[of.number]],
        "known": hash_of(known),
    }
