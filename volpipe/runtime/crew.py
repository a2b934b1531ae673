"""A crew does batches of items somewhere: in this process (`SerialCrew`) or on Dask workers (`dask_crew.DaskCrew`)."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from volpipe.plan import Budget, Work
from volpipe.runtime.worker import Outcome, do_batch


class Crew(Protocol):
    """Who does the work.

    Attributes:
        budget: of each worker.
        width: items that all workers have in hand at once.
        where: one line for people; further lines are warnings.
    """

    budget: Budget
    width: int
    where: str

    def submit(self, work_name: str, work: Work, items: list[int]) -> None:
        """Hand over a batch; returns at once."""
        ...

    def next(self) -> list[Outcome]:
        """Wait for any batch handed over, and return what became of its items."""
        ...

    def close(self) -> None:
        """Let everybody go; unfinished batches are dropped."""
        ...


class SerialCrew:
    """This process, one item after the other: to debug, and for machines where a cluster is not wanted."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.width = 1
        self.where = f"this process, {budget.threads} thread(s)"
        self._batches: deque[tuple[str, Work, list[int]]] = deque()

    def submit(self, work_name: str, work: Work, items: list[int]) -> None:
        """Remember a batch."""
        self._batches.append((work_name, work, items))

    def next(self) -> list[Outcome]:
        """Do the oldest batch."""
        return do_batch(*self._batches.popleft())

    def close(self) -> None:
        """Nobody to let go."""
        self._batches.clear()
