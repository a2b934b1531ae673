"""The order in which a plan's tasks are handed out: the plan's own, except that a task waits for its needs.

Only a bounded number of tasks exist at once: those in hand, and those held back because a need is still in hand.
What is done is one byte an item, so 10^6 blocks cost a megabyte.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator

from volpipe.plan import Task, TaskName


class Done:
    """Which items of which works are done."""

    def __init__(self, names: Iterable[TaskName] = ()) -> None:
        self._flags: defaultdict[str, bytearray] = defaultdict(bytearray)
        self.count = 0
        for name in names:
            self.add(name)

    def add(self, name: TaskName) -> None:
        """Mark one; marking twice is marking once."""
        work, item = name
        flags = self._flags[work]
        if len(flags) <= item:
            flags.extend(bytes(item + 1 - len(flags)))
        self.count += not flags[item]
        flags[item] = 1

    def __contains__(self, name: TaskName) -> bool:
        flags = self._flags[name[0]]
        return name[1] < len(flags) and flags[name[1]] == 1


class Schedule:
    """Hands out batches of tasks that may run now.

    Args:
        tasks: the plan's, needs first.
        done: those that need not run again; whoever owns it adds what finishes.
        hold: how many tasks may wait for their needs at once.
    """

    def __init__(self, tasks: Iterable[Task], done: Done, hold: int) -> None:
        self.done = done
        self.failed = Done()
        self._tasks: Iterator[Task] = iter(tasks)
        self._hold = hold
        self._held: deque[Task] = deque()
        self._again: deque[Task] = deque()

    def take(self, count: int, most: Callable[[str], int] | None = None) -> list[Task]:
        """Tasks of one work that may run now, up to `count` and up to `most(work)`; empty if none may."""
        batch: list[Task] = []
        while len(batch) < count:
            task = self._next()
            if task is None:
                break
            if batch and (task.work != batch[0].work or task.needs != ()):
                self._again.appendleft(task)
                break
            batch.append(task)
            count = count if most is None else min(count, most(task.work))
        return batch

    def retry(self, task: Task) -> None:
        """Hand a task out once more."""
        self._again.append(task)

    def fail(self, task: Task) -> None:
        """A task is given up, and with it what needs it."""
        self.failed.add(task.name)

    def _next(self) -> Task | None:
        if self._again:
            return self._again.popleft()
        for _ in range(len(self._held)):
            task = self._held.popleft()
            if self._ready(task):
                return task
        while len(self._held) < self._hold:
            fresh = next(self._tasks, None)
            if fresh is None:
                return None
            if fresh.name not in self.done and self._ready(fresh):
                return fresh
        return None

    def _ready(self, task: Task) -> bool:
        """True if it may run; else it is held, or given up where a need was."""
        if any(need in self.failed for need in task.needs):
            self.fail(task)
            return False
        if all(need in self.done for need in task.needs):
            return True
        self._held.append(task)
        return False
