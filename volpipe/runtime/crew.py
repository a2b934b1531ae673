"""A crew does batches of items somewhere: in this process (`SerialCrew`) or on Dask workers (`dask_crew.DaskCrew`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

from volpipe.errors import RunError, VolpipeError, named
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

    def compute(self, delayed: list[Any]) -> Iterator[Any]:
        """The values of dask's own delayed objects, as they come; for the engine `map-overlap`."""
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

    def compute(self, delayed: list[Any]) -> Iterator[Any]:
        """One after the other, each with all that it needs."""
        import dask  # a serial run of blocks does without

        for one in delayed:
            try:
                yield dask.compute(one, scheduler="synchronous")[0]
            except VolpipeError:
                raise
            except Exception as error:
                raise RunError(f"engine map-overlap: {named(error)}") from error

    def close(self) -> None:
        """Nobody to let go."""
        self._batches.clear()
