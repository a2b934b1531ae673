"""`--dry-run --calibrate`: how long would it take? Three blocks are run for it, into a place that is removed again."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from volpipe.errors import ConfigError, RunError
from volpipe.plan import Job, Plan, Receipt
from volpipe.runtime.crew import Crew
from volpipe.runtime.run import open_crew, plan_and_crew
from volpipe.runtime.settings import RunSettings
from volpipe.runtime.worker import Failure

BLOCKS = 3


@dataclass(frozen=True, slots=True)
class Estimate:
    """Hours that a run would take: the median of the blocks run, and the range from the fastest to the slowest."""

    hours: float
    low: float
    high: float
    blocks: int

    def __str__(self) -> str:
        return f"{_span(self.hours)} ({_span(self.low)} to {_span(self.high)}), from {self.blocks} blocks"


def dry_run(job: Job, settings: RunSettings, calibrate: bool) -> tuple[Plan, Estimate | None]:
    """The plan of a job, and if asked an estimate of its time.

    Raises:
        ConfigError: the job writes no product of its own, so there is nothing to calibrate.
        RunError: a block failed.
    """
    with ExitStack() as stack:
        plan, crew = plan_and_crew(job, settings, stack)
        if not calibrate:
            return plan, None
        return plan, _estimate(job, plan, crew or stack.enter_context(open_crew(settings)))


def _estimate(job: Job, plan: Plan, crew: Crew) -> Estimate:
    if job.product is None or "output" not in type(cast(BaseModel, job)).model_fields:
        raise ConfigError("--calibrate: this job writes no product of its own; give --dry-run alone")
    # beside the product, so that the same disk is written to
    place = Path(tempfile.mkdtemp(prefix=".volpipe-calibrate-", dir=_existing_parent(Path(job.product))))
    try:
        fields = cast(BaseModel, job).model_dump() | {"output": str(place / "trial.ome.zarr")}
        trial = type(cast(Any, job))(**fields)  # made anew: a copy would keep what was opened for the first output
        trial_plan = trial.plan(crew.budget)
        trial.begin(trial_plan, fresh=True, replace=False)
        seconds = _block_seconds(trial_plan, crew)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    hours = [s * plan.count / crew.width / 3600 for s in seconds]
    return Estimate(statistics.median(hours), min(hours), max(hours), len(hours))


def _block_seconds(plan: Plan, crew: Crew) -> list[float]:
    """Seconds of blocks from the first, middle and last part, each slot having loaded the model before."""
    blocks = [task for task in plan.tasks() if not task.needs]
    picked = sorted({len(blocks) * i // (2 * BLOCKS) for i in range(1, 2 * BLOCKS, 2)})
    warm_up = [blocks[picked[0]]] * crew.width
    for task in warm_up + [blocks[i] for i in picked]:
        crew.submit(task.work, plan.works[task.work], [task.item])
    receipts = [_receipt(outcome) for _ in range(len(warm_up) + len(picked)) for outcome in crew.next()]
    return [sum(receipt.seconds.values()) for receipt in receipts[len(warm_up) :]]


def _receipt(outcome: Receipt | Failure) -> Receipt:
    if isinstance(outcome, Failure):
        raise RunError(f"calibration: {outcome.text}")
    return outcome


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())


def _span(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"
