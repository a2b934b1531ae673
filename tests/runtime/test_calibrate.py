"""Laws of an estimate: it prices the blocks that a run would do, by blocks that are not skipped."""

import tracemalloc

import pytest
from pydantic import BaseModel

from volpipe.plan import Plan, Receipt, Task
from volpipe.runtime.calibrate import dry_run
from volpipe.runtime.crew import SerialCrew
from volpipe.runtime.settings import RunSettings
from volpipe.volume.folder import open_folder
from volpipe.volume.ledger import Ledger

SERIAL = RunSettings(serial=True, threads=1)
RAN, BEGUN = [], []


class PacedJob(BaseModel):
    """`count` blocks of an hour each, of which `masked` are skipped, then `parents` tasks of a pyramid."""

    output: str
    count: int = 8
    parents: int = 0
    masked: frozenset[int] = frozenset()

    @property
    def product(self):
        return self.output

    def plan(self, budget, *, anew=False):
        return Plan(
            title="paced",
            works={"block": self._block},
            tasks=self._tasks,
            count=self.count + self.parents,
            key={"settings": self.count},
            skips=self.masked.__contains__ if self.masked else None,
        )

    def begin(self, plan, *, fresh, replace):
        BEGUN.append(self.output)
        open_folder(self.output).put("zarr.json", b"{}")

    def _block(self, item):
        RAN.append(item)
        if item in self.masked:
            return Receipt("block", item, skipped="mask")
        return Receipt("block", item, seconds={"read": 600.0, "compute": 3000.0})

    def _tasks(self):
        yield from (Task("block", item) for item in range(self.count))
        yield from (Task("level1", item, (("block", item),)) for item in range(self.parents))


@pytest.fixture
def estimate(tmp_path):
    """`estimate(count=4, done=[0]) -> Estimate` of a job in the test's folder, `done` by an earlier run."""
    RAN.clear()
    product = tmp_path / "out"

    def go(done=(), restart=False, **fields):
        one = PacedJob(output=str(product), **fields)
        if done:
            product.mkdir()
            (product / "zarr.json").write_text("{}")
            ledger = Ledger(str(product))
            ledger.begin({"settings": one.count})
            for item in done:
                ledger.append({"work": "block", "item": item})
            ledger.flush()
        return dry_run(one, SERIAL, True, restart=restart)[1]

    return go


def test_hours_are_those_of_every_block(estimate):
    found = estimate(count=9)
    assert (found.hours, found.low, found.high, found.blocks) == (9.0, 9.0, 9.0, 3)
    assert RAN == [1, 1, 4, 7]  # one to warm up
    assert str(found) == "9.0 h (9.0 h to 9.0 h), from 3 blocks; 9 of 9 blocks left"


def test_masked_blocks_are_neither_run_nor_priced(estimate):
    found = estimate(masked={0, 1, 2, 3, 4, 7})
    assert found.hours == 2.0
    assert set(RAN) == {5, 6}
    assert str(found).endswith("from 2 blocks; 8 of 8 blocks left, the mask skips 6 of 8 looked up")


def test_a_large_mask_is_looked_up_in_places(estimate):
    found = estimate(count=10_000, masked=frozenset(range(5000)))
    assert found.hours == pytest.approx(5000)
    assert "the mask skips 128 of 256 looked up" in str(found)


def test_where_everything_is_masked_nothing_is_run(estimate):
    found = estimate(count=4, masked={0, 1, 2, 3})
    assert (found.hours, RAN) == (0.0, [])
    assert "the mask skips 4 of 4" in str(found)


def test_the_pyramid_is_not_priced_as_blocks(estimate):
    found = estimate(parents=4)
    assert found.hours == 8.0
    assert str(found).endswith("8 of 8 blocks left, the pyramid's levels not counted")


def test_blocks_done_before_take_no_time(estimate):
    found = estimate(done=range(6))
    assert found.hours == 2.0
    assert set(RAN) == {6, 7}
    assert "2 of 8 blocks left" in str(found)


def test_blocks_done_before_count_when_the_run_begins_anew(estimate):
    assert estimate(done=range(6), restart=True).hours == 8.0


def test_where_all_is_done_nothing_is_run(estimate):
    found = estimate(done=range(8))
    assert (found.hours, RAN) == (0.0, [])
    assert str(found) == "0 s (0 s to 0 s), from 0 blocks; 0 of 8 blocks left"


def test_on_an_object_store_the_trial_lies_beside_the_product_and_goes(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    BEGUN.clear()
    assert dry_run(PacedJob(output=f"{bucket}/paced/out.zarr"), SERIAL, True)[1].hours == 8.0
    assert BEGUN[0].startswith(f"{bucket}/paced/out.zarr.volpipe-calibrate-")
    assert open_folder(f"{bucket}/paced").keys() == []
    assert list(tmp_path.iterdir()) == []


def test_hours_are_shared_by_the_slots(monkeypatch, tmp_path):
    class TwoSlots(SerialCrew):
        def __init__(self, budget):
            super().__init__(budget)
            self.width = 2

    monkeypatch.setattr("volpipe.runtime.run.SerialCrew", TwoSlots)
    assert dry_run(PacedJob(output=str(tmp_path / "out")), SERIAL, True)[1].hours == 4.0


def test_receipts_of_something_else_do_not_count(estimate, tmp_path):
    estimate(done=range(6))
    assert dry_run(PacedJob(output=str(tmp_path / "out"), count=5), SERIAL, True)[1].hours == 5.0


def test_tasks_are_counted_and_not_held(estimate):
    tracemalloc.start()
    estimate(count=100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
