"""A job that needs no volume: it appends the number of each item to a file, and fails where it is told to."""

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from volpipe.errors import ReadError, WriteError
from volpipe.plan import Plan, Receipt, Task


@dataclass(frozen=True)
class CountingWork:
    """Writes a line per call to `log`; `faults` says what goes wrong at which item, and how often."""

    name: str
    log: str
    faults: dict = field(default_factory=dict)
    seconds: float = 0.0

    def calls(self):
        return [int(line) for line in Path(self.log).read_text().split()] if Path(self.log).exists() else []

    def __call__(self, item):
        time.sleep(self.seconds)
        with open(self.log, "a") as log:  # one short write: appends of several processes do not mix
            log.write(f"{item}\n")
        kind, times = self.faults.get(item, ("", 0))
        if kind and self.calls().count(item) <= times:
            self.fail(kind)
        return Receipt(self.name, item, checksum=item, value=1)

    def fail(self, kind):
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "greed":
            _ = b"x" * 2**30
            time.sleep(60)  # Dask looks ten times a second
        raise {"flaky": OSError("the network went away"), "bad": ReadError("chunk 3 does not decode"),
               "full": WriteError("the disk is full")}[kind]  # fmt: skip


@dataclass
class CountingJob:
    """`count` blocks, then `parents` tasks that each need two of them."""

    folder: Path
    count: int = 12
    parents: int = 0
    faults: dict = field(default_factory=dict)
    seconds: float = 0.0
    setting: str = "a"
    product: str | None = None
    begun: list = field(default_factory=list)
    finished: list = field(default_factory=list)

    def work(self, name):
        return CountingWork(
            name, str(self.folder / f"{name}.log"), self.faults if name == "block" else {}, self.seconds
        )

    def plan(self, budget, *, anew=False):
        def tasks():
            yield from (Task("block", i) for i in range(self.count))
            yield from (Task("parent", i, (("block", 2 * i), ("block", 2 * i + 1))) for i in range(self.parents))

        works = {name: self.work(name) for name in ("block", "parent")}
        key = {"settings": {"setting": self.setting}, "input": {"shape": [4, 4]}}
        return Plan("count", works, tasks, self.count + self.parents, key=key, reduce=lambda a, b: a + b)

    def begin(self, plan, *, fresh, replace):
        self.begun.append((fresh, replace))
        if fresh and self.product:
            Path(self.product).mkdir(parents=True, exist_ok=True)
            Path(self.product, "zarr.json").write_text("{}")

    def finish(self, plan, value):
        self.finished.append(value)
        return ""
