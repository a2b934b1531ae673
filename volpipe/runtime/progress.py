"""What a person sees while a run goes on: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY_S = 10.0


class Reporter(Protocol):
    """Told of each task that ends."""

    def advance(self, done: int) -> None:
        """`done` tasks have ended by now."""
        ...

    def close(self) -> None:
        """The run has ended."""
        ...


class BarReporter:
    """A bar with rate and time left."""

    def __init__(self, total: int, done: int, console: Console) -> None:
        self._progress = Progress(
            TextColumn("tasks"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console,
        )  # fmt: skip
        self._first, self._began = done, time.monotonic()
        self._task = self._progress.add_task("", total=total, completed=done, rate="")
        self._progress.start()

    def advance(self, done: int) -> None:
        """Move the bar."""
        rate = (done - self._first) / max(1e-9, time.monotonic() - self._began)
        self._progress.update(self._task, completed=done, rate=f"{rate:.2f}/s")

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()


class LineReporter:
    """A line every ten seconds, and one at the end."""

    def __init__(self, total: int, done: int) -> None:
        self._total, self._first, self._done = total, done, done
        self._began = self._said = time.monotonic()

    def advance(self, done: int) -> None:
        """Say where the run stands, if it is time."""
        self._done = done
        if time.monotonic() - self._said >= LINE_EVERY_S:
            self._say()

    def close(self) -> None:
        """Say where it ended."""
        self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        rate = (self._done - self._first) / max(1e-9, self._said - self._began)
        left = f"{_clock((self._total - self._done) / rate)} left" if rate > 0 else "no task done yet"
        line = f"tasks {self._done}/{self._total}, {rate:.2f}/s, {left}"
        print(line, file=sys.stderr, flush=True)


def reporter(total: int, done: int) -> Reporter:
    """The one that fits where stderr goes."""
    console = Console(stderr=True)
    return BarReporter(total, done, console) if console.is_terminal else LineReporter(total, done)


def _clock(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}"
