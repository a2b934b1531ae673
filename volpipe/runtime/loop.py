"""The loop of a run: batches go to the crew, receipts and failures come back, until nothing is left that may run.

schedule --batch--> crew --outcomes--> receipts           a bounded number of batches is in hand at once
    ^-------------- again, or given up -----+
"""

from __future__ import annotations

from collections.abc import Iterator

from volpipe.errors import RunError
from volpipe.plan import Plan, Receipt, Task
from volpipe.runtime.crew import Crew
from volpipe.runtime.schedule import Done, Schedule
from volpipe.runtime.worker import Failure

BATCHES_IN_HAND = 2  # per slot: one at work, one waiting in the worker
LARGEST_BATCH = 16
BATCH_S = 1.0  # of items as they were: a kill loses a batch, a stage's end waits for one; Dask's 10 ms are 1 % of it
FADES = 0.9  # of the longest item, with each quicker one: the rim of a volume, of ten quick blocks, says little
HOPELESS = 8  # failures before the first success: every block fails alike


class Loop:
    """Hands batches to the crew and turns what comes back into receipts and failures."""

    def __init__(self, plan: Plan, crew: Crew, done: Done, retries: int) -> None:
        self.failures: list[Failure] = []
        self._plan, self._crew, self._retries = plan, crew, retries
        self._window = crew.width * BATCHES_IN_HAND
        self._batch = max(1, min(LARGEST_BATCH, plan.count // (4 * self._window)))
        self._schedule = Schedule(plan.tasks(), done, hold=self._window * self._batch)
        self._in_hand: dict[tuple[str, int], Task] = {}
        self._batches_out = 0
        self._tries: dict[tuple[str, int], int] = {}
        self._any_done = done.count > 0
        self._seconds: dict[str, float] = {}  # of an item, by work, if it is a long one

    def receipts(self) -> Iterator[Receipt]:
        """Every receipt, as it comes."""
        self._fill()
        while self._batches_out:
            self._batches_out -= 1
            for outcome in self._crew.next():
                if isinstance(outcome, Receipt):
                    yield self._finished(outcome)
                else:
                    self._failed(outcome)
            self._fill()

    def _fill(self) -> None:
        while self._batches_out < self._window:
            # a poisoned item must not take others along
            batch = self._schedule.take(1 if self._tries else self._batch, self._most)
            if not batch:
                return
            self._in_hand |= {task.name: task for task in batch}
            work = batch[0].work
            self._crew.submit(work, self._plan.works[work], [task.item for task in batch])
            self._batches_out += 1

    def _most(self, work: str) -> int:
        """Items of a batch: one while nobody knows how long they take."""
        seconds = self._seconds.get(work)
        return 1 if seconds is None else max(1, int(BATCH_S / max(seconds, BATCH_S / LARGEST_BATCH)))

    def _finished(self, receipt: Receipt) -> Receipt:
        self._any_done = True
        took = sum(receipt.seconds.values())
        self._seconds[receipt.work] = max(took, FADES * self._seconds.get(receipt.work, 0.0))
        del self._in_hand[receipt.work, receipt.item]
        return receipt  # whoever takes it marks it as done, before the next batch is filled

    def _failed(self, failure: Failure) -> None:
        if failure.fatal:
            raise RunError(failure.text, failure.detail)
        if failure.died and not self._any_done:  # twice already (allowed-failures): the next would die alike
            raise RunError(f"nothing was done yet and workers die: {failure.text}", failure.detail)
        task = self._in_hand.pop(failure.name)
        self._tries[failure.name] = self._tries.get(failure.name, 0) + 1
        if failure.retry and self._tries[failure.name] <= self._retries:
            self._schedule.retry(task)
            return
        self.failures.append(failure)
        self._schedule.fail(task)
        if not self._any_done and len(self.failures) >= HOPELESS:
            raise RunError(f"the first {HOPELESS} blocks all failed; the last: {failure.text}", failure.detail)
