"""What a job will do, as data: tasks, what each must wait for, and the price of all of it.

    job --.plan(budget)--> Plan(works, tasks, price, first) --runtime.run--> receipts --> ledger

A task is (work, item): `works[work](item)` does it on any worker. Pixels travel through zarr; only receipts come back.
`needs` names the tasks that must be done before: () for blocks, (parent,) for a coarse-to-fine tree, the finer
blocks for a pyramid level. Tasks come in an order in which needs precede, from a generator: 10^6 blocks hold no list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

TaskName = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Task:
    """One unit of work: `work` names a `Work` of the plan, `item` what it is applied to (a block number, a node)."""

    work: str
    item: int
    needs: tuple[TaskName, ...] = ()

    @property
    def name(self) -> TaskName:
        """(work, item): unique within the plan."""
        return self.work, self.item


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a worker says of one finished item.

    Attributes:
        work, item: the task's name.
        checksum: crc32 of the voxels written (C order, stored dtype); None if nothing was written.
        seconds: wall seconds by phase ("read", "compute", "write").
        bytes_read, bytes_written: uncompressed.
        skipped: why nothing was computed ("mask"), or "".
        peak_bytes: largest resident memory that the worker process ever had, seen at the end of the item.
        device_peak_bytes: the same of what it took of its GPU; 0 without one.
        worker: the process that did it.
        value: a small result that travels with the receipt (a histogram, a transform).
        level, box: what was written, in voxels of that level of the product, as `0:64,64:128,0:64`; "" if nothing.
    """

    work: str
    item: int
    checksum: int | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    bytes_read: int = 0
    bytes_written: int = 0
    skipped: str = ""
    peak_bytes: int = 0
    device_peak_bytes: int = 0
    worker: str = ""
    value: Any = None
    level: int = 0
    box: str = ""


class Work(Protocol):
    """What a task does: picklable, idempotent (a task may run twice), and silent about where it runs.

    It raises a `VolpipeError` for what trying again cannot cure, and anything else for what it may.
    """

    def __call__(self, item: int) -> Receipt:
        """Do one item and return its receipt."""
        ...


@dataclass(frozen=True, slots=True)
class Budget:
    """The memory and threads that one worker has.

    Attributes:
        worker_bytes: resident memory that a worker process may reach.
        slots: items that a worker has in hand at once.
        threads: threads that one item may compute with.
        device: "cpu" or "cuda".
        device_bytes: memory of a worker's GPU that tiles may use; None on a CPU, where they use the worker's.
    """

    worker_bytes: int
    slots: int = 1
    threads: int = 1
    device: str = "cpu"
    device_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """What a plan costs, known before it runs.

    Attributes:
        worker_bytes: resident memory promised per worker process, everything counted.
        device_bytes: memory promised per GPU, 0 without one.
        bytes_read, bytes_written: uncompressed, over the whole run, halos included.
        flops: floating-point operations of the networks over the whole run, halos included.
        useful_flops: those that whole-volume inference would need.
    """

    worker_bytes: int = 0
    device_bytes: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    flops: float = 0.0
    useful_flops: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What a job will do.

    Attributes:
        title: one line for people.
        works: the works by name.
        tasks: makes the tasks anew each time it is called, needs first.
        count: how many there are.
        price: what they cost.
        key: content of everything that the result depends on, by name ("weights", "settings", "input", "geometry");
            a product made under another key is never continued.
        facts: (label, text) lines that describe the plan to a person.
        reduce: joins the `value`s of two receipts, in any order; None where receipts carry none.
        skips: True for an item of the tasks without needs that a mask will skip; None where there is no mask.
        first: jobs that must be done before, in this order; then the job is planned again, with what they found. The
            price holds theirs.
    """

    title: str
    works: Mapping[str, Work]
    tasks: Callable[[], Iterable[Task]]
    count: int
    price: Price = Price()
    key: Mapping[str, Any] = field(default_factory=dict)
    facts: tuple[tuple[str, str], ...] = ()
    reduce: Callable[[Any, Any], Any] | None = None
    skips: Callable[[int], bool] | None = None
    first: tuple[Job, ...] = ()


class Job(Protocol):
    """One thing a user asks for. `plan` writes nothing; `begin` and `finish` run in the driver, once."""

    @property
    def product(self) -> str | None:
        """Where the product goes; its ledger stands beside it. None: nothing is resumed."""
        ...

    def plan(self, budget: Budget, *, anew: bool = False) -> Plan:
        """Check everything that can be checked and price the work; nothing is written.

        Args:
            budget: of each worker.
            anew: what an earlier run made will be thrown away; a run that goes on keeps its blocks and tiles.
        """
        ...

    def begin(self, plan: Plan, *, fresh: bool, replace: bool) -> None:
        """Make the place that the tasks write to (`fresh`; an old one goes if `replace`), or find it again."""
        ...

    def finish(self, plan: Plan, value: Any) -> str:
        """Declare the result complete, and say in one line what came of it ("" for nothing to say).

        Called only when every task is done, with the reduced value of all receipts.
        """
        ...
