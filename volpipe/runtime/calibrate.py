"""`--dry-run --calibrate`: how long would it take? Three blocks are run for it, into a place that is removed again.

    tasks without needs --not done before--> left --up to ASKED, evenly--> not masked --first, middle, last--> seconds

    hours = seconds of a block x blocks left x share of them that is not masked / slots

Only blocks are priced: the levels of a pyramid have nothing to be made from before the blocks are there.
"""

from __future__ import annotations

import statistics
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from volpipe.errors import ConfigError, RunError
from volpipe.plan import Job, Plan, Receipt, Task
from volpipe.runtime.crew import Crew
from volpipe.runtime.run import Hands
from volpipe.runtime.schedule import Done
from volpipe.runtime.settings import RunSettings
from volpipe.runtime.worker import Failure
from volpipe.volume.folder import absolute, is_remote, occupied, open_folder
from volpipe.volume.ledger import Ledger, changes

BLOCKS = 3
PREFIX = ".volpipe-calibrate-"
ASKED = 256  # blocks looked up in the mask: the share of masked ones is known within 6 %, in seconds on a slow store


@dataclass(frozen=True, slots=True)
class Estimate:
    """Hours that a run would take: the median of the blocks run, and the range from the fastest to the slowest.

    Attributes:
        blocks: how many were run.
        note: what the hours are of.
    """

    hours: float
    low: float
    high: float
    blocks: int
    note: str

    def __str__(self) -> str:
        return f"{_span(self.hours)} ({_span(self.low)} to {_span(self.high)}), from {self.blocks} blocks; {self.note}"


@dataclass(frozen=True)
class _Left:
    """What a run would do.

    Attributes:
        count, of: blocks not done before, and all blocks.
        asked, seen: of those left, how many were looked up in the mask, and how many of these it does not skip.
        tasks: some that it does not skip, spread over the volume.
    """

    count: int
    of: int
    asked: int = 0
    seen: int = 0
    tasks: tuple[Task, ...] = ()

    @property
    def work(self) -> float:
        """Blocks left that the mask does not skip, as far as asked."""
        return self.count * self.seen / self.asked

    def note(self, plan: Plan) -> str:
        """`12 of 20 blocks left, the mask skips 7 of 12 looked up, the pyramid's levels not counted`."""
        skipped = f", the mask skips {self.asked - self.seen} of {self.asked} looked up"
        masked = "" if plan.skips is None or not self.asked else skipped
        levels = ", the pyramid's levels not counted" if self.of < plan.count else ""
        return f"{self.count} of {self.of} blocks left{masked}{levels}"


def dry_run(job: Job, settings: RunSettings, calibrate: bool, *, restart: bool = False) -> tuple[Plan, Estimate | None]:
    """The plan of a job, and if asked an estimate of its time; blocks done before take none, unless `restart`.

    Raises:
        ConfigError: the job writes no product of its own, so there is nothing to calibrate.
        RunError: a block failed.
    """
    with ExitStack() as stack:
        hands = Hands(settings, stack)
        plan = job.plan(hands.budget, anew=restart)
        if not calibrate:
            return plan, None
        if job.product is None or "output" not in type(cast(BaseModel, job)).model_fields:
            raise ConfigError("--calibrate: this job writes no product of its own; give --dry-run alone")
        if settings.engine != "blocks":
            raise ConfigError(f"--calibrate: engine {settings.engine} runs all blocks as one; leave one of the two out")
        if plan.first:
            raise ConfigError("--calibrate: passes over the volume come before its blocks; give --dry-run alone")
        left = _left(plan, Done() if restart else _done_before(job.product, plan))
        if not left.tasks:
            return plan, Estimate(0.0, 0.0, 0.0, 0, left.note(plan))
        return plan, _estimate(job, job.product, plan, left, hands.crew())


def _done_before(product: str, plan: Plan) -> Done:
    """What an earlier run of the same key did; a run would go on with it."""
    if not occupied(product):
        return Done()
    ledger = Ledger(product)
    stored = ledger.key()
    if stored is None or changes(stored, plan.key):
        return Done()
    return Done((receipt["work"], receipt["item"]) for receipt in ledger.receipts())


def _left(plan: Plan, done: Done) -> _Left:
    """Count what is left, and pick from the first, middle and last part of it."""
    of = count = 0
    for task in plan.tasks():
        of += not task.needs
        count += _is_left(task, done)
    if count == 0:
        return _Left(0, of)
    places = _spread(count, BLOCKS if plan.skips is None else ASKED)
    left = (task for task in plan.tasks() if _is_left(task, done))
    asked = [task for place, task in enumerate(islice(left, max(places) + 1)) if place in places]
    seen = [task for task in asked if plan.skips is None or not plan.skips(task.item)]
    picked = tuple(seen[place] for place in sorted(_spread(len(seen), BLOCKS)))
    return _Left(count, of, len(asked), len(seen), picked)


def _is_left(task: Task, done: Done) -> bool:
    return not task.needs and task.name not in done


def _spread(count: int, wanted: int) -> set[int]:
    """Up to `wanted` of the numbers below `count`: the middles of as many equal parts."""
    parts = min(count, wanted)
    return {count * (2 * part + 1) // (2 * parts) for part in range(parts)}


def _estimate(job: Job, product: str, plan: Plan, left: _Left, crew: Crew) -> Estimate:
    with _place_beside(product) as place:
        fields = cast(BaseModel, job).model_dump() | {"output": f"{place}/trial.ome.zarr"}
        trial = type(cast(Any, job))(**fields)  # made anew: a copy would keep what was opened for the first output
        Ledger(trial.product).begin(plan.key)  # so that it keeps the block and tile that the tasks are numbered by
        trial_plan = trial.plan(crew.budget)
        trial.begin(trial_plan, fresh=True, replace=False)
        seconds = _block_seconds(trial_plan, left.tasks, crew)
    hours = [s * left.work / crew.width / 3600 for s in seconds]
    return Estimate(statistics.median(hours), min(hours), max(hours), len(left.tasks), left.note(plan))


def _block_seconds(plan: Plan, tasks: tuple[Task, ...], crew: Crew) -> list[float]:
    """Seconds of each run of these blocks, with every slot busy as it would be, and the model loaded before."""
    _receipts(plan, [tasks[0]] * crew.width, crew)
    receipts = _receipts(plan, list(islice(cycle(tasks), max(len(tasks), crew.width))), crew)
    return [sum(receipt.seconds.values()) for receipt in receipts]


def _receipts(plan: Plan, tasks: list[Task], crew: Crew) -> list[Receipt]:
    for task in tasks:
        crew.submit(task.work, plan.works[task.work], [task.item])
    return [_receipt(outcome) for _ in tasks for outcome in crew.next()]


def _receipt(outcome: Receipt | Failure) -> Receipt:
    if isinstance(outcome, Failure):
        raise RunError(f"calibration: {outcome.text}", outcome.detail)
    return outcome


@contextmanager
def _place_beside(product: str) -> Iterator[str]:
    """An empty place on the same disk or object store as the product, gone afterwards."""
    if is_remote(product):
        folder = open_folder(f"{absolute(product)}{PREFIX}{uuid.uuid4().hex}")
        try:
            yield folder.location
        finally:
            for key in folder.keys(prefix=""):
                folder.delete(key)
        return
    with tempfile.TemporaryDirectory(
        prefix=PREFIX, dir=_existing_parent(Path(absolute(product))), ignore_cleanup_errors=True
    ) as place:
        yield place


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.parents if parent.exists())


def _span(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"
