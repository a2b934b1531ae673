"""A crew behind a Dask client: a batch of items is one Dask task, and few are in the scheduler at once."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any

from distributed import Client, as_completed
from distributed.scheduler import KilledWorker

from volpipe.errors import RunError, VolpipeError, named
from volpipe.jobs.plain import size
from volpipe.plan import Budget, Work
from volpipe.runtime.worker import Failure, Outcome, do_pickled_batch


class DaskCrew:
    """Workers behind a Dask client."""

    def __init__(self, client: Client, budget: Budget, width: int, where: str, on_close: Callable[[], None]) -> None:
        self._client = client
        self._done = as_completed()
        self._batches: dict[str, tuple[str, list[int]]] = {}
        self._serial = 0
        self._last: tuple[Work, bytes] | None = None
        self._on_close = on_close
        self.budget = budget
        self.width = width
        self.where = where

    def submit(self, work_name: str, work: Work, items: list[int]) -> None:
        """Send a batch to the scheduler as one task.

        Raises:
            RunError: the scheduler is gone.
        """
        self._serial += 1
        key = f"{work_name}-{items[0]}-{self._serial}"
        self._batches[key] = (work_name, items)
        batch = (work_name, self._pickled(work), items)
        self._done.add(self._client.submit(do_pickled_batch, *batch, key=key, pure=False))
        if self._client.status != "running":  # asked afterwards: what was sent before a loss is cancelled by it
            raise self._lost()

    def next(self) -> list[Outcome]:
        """Wait for any task; its future is dropped, so the scheduler forgets it.

        Raises:
            RunError: the scheduler is gone.
        """
        future = next(self._done)
        work_name, items = self._batches.pop(future.key)
        try:
            return list(future.result())  # waits: a result that its worker died with is made again
        except CancelledError:  # we cancel nothing: Dask does when it loses the scheduler
            raise self._lost() from None
        except Exception as error:  # Dask's: a batch itself never raises
            return self._failures(work_name, items, error)

    def compute(self, delayed: list[Any]) -> Iterator[Any]:
        """In one graph; the first failure ends it.

        Raises:
            RunError: a task failed, or the scheduler is gone.
        """
        for future in as_completed(self._client.compute(delayed)):
            try:
                yield future.result()
            except VolpipeError:
                raise
            except CancelledError:
                raise self._lost() from None
            except Exception as error:
                text = self._death(error) if isinstance(error, KilledWorker) else named(error)
                raise RunError(f"engine map-overlap: {text}") from error
            future.release()

    def _failures(self, work_name: str, items: list[int], error: Exception) -> list[Outcome]:
        died = isinstance(error, KilledWorker)
        text = self._death(error) if isinstance(error, KilledWorker) else named(error)
        return [Failure((work_name, item), f"{work_name} {item}: {text}", died=died) for item in items]

    def _death(self, error: KilledWorker) -> str:
        """Why a worker died, as far as Dask knows: its nanny tells the scheduler when it kills for memory."""
        events = self._client.get_events("worker-restart-memory")
        taken = [event["rss"] for _, event in events if event["worker"] == error.last_worker.address]
        if not taken:
            return "its worker died (killed by the system, out of memory, or a crash in native code)"
        had, limit = size(taken[-1]), size(self.budget.worker_bytes)
        return (
            f"its worker was killed for its memory: it had {had} of {limit}; give more --memory-per-worker, or fewer "
            "--threads"
        )

    def _lost(self) -> RunError:
        return RunError(f"lost {self.where.splitlines()[0]}; what is done is kept, the same command does the rest")

    def _pickled(self, work: Work) -> bytes:
        if self._last is None or self._last[0] is not work:
            self._last = work, pickle.dumps(work)
        return self._last[1]

    def close(self) -> None:
        """Cancel what waits, and shut down what this crew started.

        On a loaded machine workers may not end within Dask's 5 s: it kills them and raises, while all that was asked
        of them is done.
        """
        with suppress(TimeoutError):
            self._on_close()
