"""Run a job: plan, find what is done, do what is missing, declare it complete.

    plan --> ledger (what is done?) --> workers --> begin --> schedule <--> crew --> ledger --> finish

Guarantees:
* Nothing is written before the plan has passed every check and the workers are there.
* A block that fails is tried again, then set aside; the others go on; the run ends in `BlocksFailed` (exit code 3).
* The same job again does only what is missing. A job whose key changed is refused, with what changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, cast

from volpipe.errors import BlocksFailed, ConfigError, ProductError, UsageError
from volpipe.jobs.plain import size
from volpipe.plan import Budget, Job, Plan, Receipt
from volpipe.runtime import main_guard
from volpipe.runtime.allocator import keep_memory_in_this_process
from volpipe.runtime.crew import Crew, SerialCrew
from volpipe.runtime.loop import Loop
from volpipe.runtime.progress import Reporter, reporter
from volpipe.runtime.schedule import Done
from volpipe.runtime.settings import RunSettings
from volpipe.runtime.worker import Failure
from volpipe.volume.folder import occupied
from volpipe.volume.ledger import PYRAMID, Ledger, changes

BLOCKS = "apply"  # the work that the engine map-overlap can do
NO_PROMISE = "map-overlap: dask keeps chunks and their overlaps in memory; what the plan promises does not hold"
TOLD = 3  # failures whose texts are told at the end


@dataclass
class Summary:
    """What a run did.

    Attributes:
        done, before: tasks done by this run, and by earlier ones.
        seconds_of: wall seconds by work and phase, added over all slots.
        peak_bytes: largest resident memory by worker.
        device_peak_bytes: the most that a worker took of its GPU.
        result: one line on what came of it, or "".
        slots: items that all workers had in hand at once; 0 if there was nothing to do.
        first_s: wall seconds of the jobs that were done before; 0 if there were none.
    """

    plan: Plan
    done: int = 0
    before: int = 0
    skipped: int = 0
    wall_s: float = 0.0
    seconds_of: dict[str, dict[str, float]] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    device_peak_bytes: int = 0
    failures: list[Failure] = field(default_factory=list)
    result: str = ""
    slots: int = 0
    first_s: float = 0.0

    def add(self, receipt: Receipt) -> None:
        """Count one receipt of this run."""
        self.done += 1
        self.skipped += receipt.skipped != ""
        phases = self.seconds_of.setdefault(receipt.work, {})
        for phase, seconds in receipt.seconds.items():
            phases[phase] = phases.get(phase, 0.0) + seconds
        self.device_peak_bytes = max(receipt.device_peak_bytes, self.device_peak_bytes)
        self.peak_bytes[receipt.worker] = max(receipt.peak_bytes, self.peak_bytes.get(receipt.worker, 0))

    @property
    def seconds(self) -> dict[str, float]:
        """Wall seconds by phase, of all works."""
        found: dict[str, float] = {}
        for phases in self.seconds_of.values():
            found = {phase: found.get(phase, 0.0) + phases.get(phase, 0.0) for phase in {**found, **phases}}
        return found

    def text(self) -> str:
        """One line for people."""
        if not self.done:
            return f"nothing to do: all {self.before} tasks were done before"
        phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in self.seconds.items())
        peak = size(max(self.peak_bytes.values()))
        gpu = f", GPU {size(self.device_peak_bytes)}" if self.device_peak_bytes else ""
        before = f", {self.before} before" if self.before else ""
        first = f", after {self.first_s:.1f} s of what comes first" if self.first_s else ""
        masked = f", {self.skipped} skipped by the mask" if self.skipped else ""
        took = f"in {self.wall_s:.1f} s ({phases}){first}"
        return f"done: {self.done} tasks {took}{before}{masked}; largest worker {peak}{gpu}"


def run(
    job: Job,
    settings: RunSettings | None = None,
    *,
    restart: bool = False,
    on_plan: Callable[[Plan], None] | None = None,
    on_start: Callable[[str], None] | None = None,
    progress: Callable[[int, int], Reporter] | None = reporter,
) -> Summary:
    """Run a job to its end.

    Args:
        job: what to do.
        settings: where, and with how much; local workers by default.
        restart: throw away what an earlier run made at the same place.
        on_plan: called with the plan before anything is written.
        on_start: called with one line on where the run goes when its workers are there; further lines are warnings.
        progress: makes the reporter from (total, done); None reports nothing.

    Raises:
        UsageError: something given does not fit; nothing was written.
        BlocksFailed: some blocks were set aside; the rest is done.
        RunError: the run was stopped by something that every block would meet, or a script calls this while its
            workers import it.
    """
    main_guard.refuse_while_imported()
    settings = settings or RunSettings()
    _check_place(job, restart)
    if settings.serial:
        keep_memory_in_this_process()  # before torch allocates
    with ExitStack() as stack:
        hands = Hands(settings, stack, on_start)
        plan = job.plan(hands.budget, anew=restart)
        _check_engine(plan, settings)
        if on_plan is not None:
            on_plan(plan)
        began = time.monotonic()
        if plan.first:
            _let_go_or_refuse(job, plan, restart)
        for first in plan.first:
            before = first.plan(hands.budget, anew=restart)
            if on_plan is not None:
                on_plan(before)
            anew = restart or _is_of_something_else(first, before)  # nothing rests on it but what it was made for
            _done(first, before, hands, settings.model_copy(update={"engine": "blocks"}), anew, progress)
        if plan.first:
            plan = job.plan(hands.budget)  # of `restart` nothing old is left by now
        first_s = time.monotonic() - began if plan.first else 0.0
        return replace(_done(job, plan, hands, settings, restart, progress), first_s=first_s)


def _done(
    job: Job,
    plan: Plan,
    hands: Hands,
    settings: RunSettings,
    restart: bool,
    progress: Callable[[int, int], Reporter] | None,
) -> Summary:
    """Do what is missing of one job, and declare it complete."""
    state = _known(job, plan, restart)
    summary = Summary(plan, before=state.done.count)
    work = state.done.count < plan.count
    crew = hands.crew() if work else None  # before anything is written: its workers tell a script that has no guard
    _begin(job, plan, state, restart)
    if crew is not None:
        summary.slots = crew.width
        hands.tell()
        _drive(plan, crew, state, summary, settings, progress)
    if summary.failures:
        raise _blocks_failed(summary, plan.count - state.done.count)
    summary.result = job.finish(plan, state.value)
    return summary


class Hands:
    """The crew of a run: local workers are started only for work, and one crew does all of its jobs.

    Attributes:
        budget: of a worker; where workers run already, these are asked.
    """

    def __init__(self, settings: RunSettings, stack: ExitStack, on_start: Callable[[str], None] | None = None) -> None:
        self._settings, self._stack, self._on_start = settings, stack, on_start
        self._crew = None if settings.cluster == "local" else stack.enter_context(open_crew(settings))
        self.budget: Budget = settings.local_budget() if self._crew is None else self._crew.budget

    def crew(self) -> Crew:
        """The workers, opened if they were not."""
        self._crew = self._crew or self._stack.enter_context(open_crew(self._settings))
        return self._crew

    def tell(self) -> None:
        """Say where the run goes, once."""
        if self._on_start is not None:
            where = self.crew().where
            self._on_start(where if self._settings.engine == "blocks" else f"{where}\n{NO_PROMISE}")
        self._on_start = None


@contextmanager
def open_crew(settings: RunSettings) -> Iterator[Crew]:
    """The crew that the settings ask for, let go at the end."""
    crew = _crew(settings)
    try:
        yield crew
    finally:
        crew.close()


def _crew(settings: RunSettings) -> Crew:
    if settings.serial:
        return SerialCrew(settings.local_budget())
    from volpipe.runtime import cluster  # dask.distributed takes seconds to import

    makers = {"local": cluster.local_crew, "cuda": cluster.cuda_crew}
    return makers.get(settings.cluster, cluster.remote_crew)(settings)


def _check_place(job: Job, restart: bool) -> None:
    """Refuse a place that is taken before input and model are opened.

    Raises:
        ProductError: something stands there that no run began.
    """
    if job.product is None or restart or not occupied(job.product):
        return
    if Ledger(job.product).key() is None:
        raise _taken(job.product)


def _let_go_or_refuse(job: Job, plan: Plan, restart: bool) -> None:
    """A product of something else is refused before what comes first is done, not after hours of it. One that is made
    anew is let go, with all that came first: killed meanwhile, the old ones would be taken for this run's.

    Raises:
        ProductError: something else stands there.
    """
    if job.product is None:
        return
    if restart and occupied(job.product) and _is_foreign(job.product):
        raise _taken(job.product)
    _goes_on(job.product, Ledger(job.product), plan, restart)
    if restart:
        for product in filter(None, (job.product, *(each.product for each in plan.first))):
            Ledger(product).clear()
        if occupied(job.product):
            _remove(job.product)


def _is_of_something_else(job: Job, plan: Plan) -> bool:
    """Or of nobody knows what: killed as its ledger was begun anew."""
    if job.product is None or not occupied(job.product):
        return False
    stored = Ledger(job.product).key()
    return stored is None or bool(changes(stored, plan.key))


def _taken(product: str) -> ProductError:
    """The refusal of a place; what volpipe did not make is never replaced, so --restart is no way out of it."""
    if _is_foreign(product):
        return ProductError(f"{product}: exists already, and volpipe did not make it; give another place")
    return ProductError(f"{product}: exists already; give another place, or --restart to replace it")


def _remove(product: str) -> None:
    from volpipe.volume.product import remove_product  # see below

    remove_product(product)


def _is_foreign(product: str) -> bool:
    from volpipe.volume.product import own_attributes  # zarr, which a run of tasks without a product does not need

    return own_attributes(product) is None and not product.endswith(PYRAMID)


@dataclass
class _State:
    """What is done, the reduced value of it, and where it is written down."""

    ledger: Ledger | None
    reduce: Callable[[Any, Any], Any] | None
    done: Done = field(default_factory=Done)
    value: Any = None

    def take(self, receipt: Receipt) -> None:
        """Count a receipt; one that was counted before changes nothing."""
        name = (receipt.work, receipt.item)
        if name in self.done:
            return
        self.done.add(name)
        if self.reduce is not None:
            self.value = receipt.value if self.value is None else self.reduce(self.value, receipt.value)


def _known(job: Job, plan: Plan, restart: bool) -> _State:
    """What is done by now; nothing is written."""
    if job.product is None:
        return _State(None, plan.reduce)
    ledger = Ledger(job.product)
    state = _State(ledger, plan.reduce)
    if _goes_on(job.product, ledger, plan, restart):
        for entry in ledger.receipts():
            state.take(_receipt(entry))
    return state


def _begin(job: Job, plan: Plan, state: _State, restart: bool) -> None:
    """Make the product if there is none to go on with."""
    ledger = state.ledger
    if job.product is None or ledger is None or state.done.count:
        job.begin(plan, fresh=not state.done.count, replace=False)
        return
    ours = restart or ledger.key() is not None
    ledger.clear()  # before the product goes: receipts must never outlive what they stand for
    if not occupied(job.product) or not restart:
        ledger.begin(plan.key)  # before the product comes: killed in between, the same command begins again
    try:
        job.begin(plan, fresh=True, replace=ours)
    except UsageError:
        ledger.clear()  # refused: nothing was begun
        raise
    if restart:
        ledger.begin(plan.key)


def _goes_on(product: str, ledger: Ledger, plan: Plan, restart: bool) -> bool:
    """True if an earlier run of the same key began the product.

    Raises:
        ProductError: something else stands there.
    """
    if restart or not occupied(product):
        return False
    stored = ledger.key()
    if stored is None:
        raise _taken(product)
    changed = changes(stored, plan.key)
    if changed:
        raise ProductError(
            f"{product}: was begun with something else ({'; '.join(changed)}); give another place, or --restart to "
            "make it anew"
        )
    return any(True for _ in ledger.receipts())  # else the product may be half made: it is made again


def _receipt(entry: Mapping[str, Any]) -> Receipt:
    known = {f.name for f in fields(Receipt)}  # a later version may write more
    return Receipt(**{name: value for name, value in entry.items() if name in known})


def _drive(
    plan: Plan,
    crew: Crew,
    state: _State,
    summary: Summary,
    settings: RunSettings,
    progress: Callable[[int, int], Reporter] | None,
) -> None:
    """Keep every slot busy until nothing is left that may run."""
    loop = Loop(plan, crew, state.done, settings.retries)
    report = progress(plan.count, state.done.count) if progress is not None else None
    began = time.monotonic()
    try:
        for receipt in _receipts(plan, crew, state, settings, loop):
            state.take(receipt)
            summary.add(receipt)
            if state.ledger is not None:
                state.ledger.append(asdict(receipt))
            if report is not None:
                report.advance(state.done.count)
    finally:
        summary.failures = loop.failures
        summary.wall_s = time.monotonic() - began
        if state.ledger is not None:
            state.ledger.flush()
        if report is not None:
            report.close()


def _receipts(plan: Plan, crew: Crew, state: _State, settings: RunSettings, loop: Loop) -> Iterator[Receipt]:
    """Every receipt, as it comes: of the blocks by the engine that was asked for, then of all else."""
    if settings.engine == "map-overlap":
        from volpipe.runtime import lazy  # dask.array takes seconds to import

        yield from lazy.receipts(cast(Any, plan.works[BLOCKS]), state.done, crew)
    yield from loop.receipts()


def _check_engine(plan: Plan, settings: RunSettings) -> None:
    if settings.engine != "blocks" and BLOCKS not in plan.works:
        raise ConfigError(f"engine {settings.engine}: only apply can be run by it; leave it out")


def _blocks_failed(summary: Summary, left: int) -> BlocksFailed:
    told = list({failure.text: failure for failure in summary.failures}.values())[:TOLD]
    return BlocksFailed(
        f"{left} of {summary.plan.count} tasks are not done, {len(summary.failures)} failed, the first: "
        f"{' | '.join(failure.text for failure in told)}; mend the cause and give the same command again: it does what "
        "is missing",
        "\n".join(failure.detail for failure in told),
    )
