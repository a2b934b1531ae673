"""Laws of a run: everything once, only what is missing, failures set aside, nothing changed unseen."""

import json
import re
from dataclasses import replace

import pytest

from volpipe.errors import BlocksFailed, ProductError, ReadError, RunError
from volpipe.runtime import cluster
from volpipe.runtime.crew import SerialCrew
from volpipe.runtime.run import run
from volpipe.runtime.settings import RunSettings
from volpipe.runtime.worker import do_batch

SERIAL = RunSettings(serial=True, threads=1)
CLUSTER = RunSettings(workers=2, threads=1, memory_per_worker="1GiB")
BOTH = pytest.mark.parametrize("settings", [SERIAL, CLUSTER], ids=["serial", "cluster"])


def go(job, settings=SERIAL, **options):
    return run(job, settings, progress=None, **options)


@BOTH
def test_every_task_is_done_once_and_the_values_are_joined(job, settings):
    one = job(count=40, parents=20)
    summary = go(one, settings)
    assert sorted(one.work("block").calls()) == list(range(40))
    assert sorted(one.work("parent").calls()) == list(range(20))
    assert one.finished == [60]
    assert summary.done == 60
    assert all(peak > 10 * 2**20 for peak in summary.peak_bytes.values())


def test_jobs_that_a_plan_rests_on_are_done_before_it_is_made_again(job, tmp_path, monkeypatch):
    """Told one after the other; all on one crew; a failure ends the run before the job itself begins."""
    opened = []
    right = SerialCrew.__init__
    monkeypatch.setattr(SerialCrew, "__init__", lambda crew, budget: (opened.append(crew), right(crew, budget))[1])
    (tmp_path / "first").mkdir()
    one, two = job(count=3), job(count=5)
    one.folder = tmp_path / "first"
    planned, right_plan = [], two.plan

    def plan(budget, *, anew=False):
        planned.append(list(one.finished))
        return replace(right_plan(budget), first=(one,), title="two")

    two.plan = plan
    titles = []
    summary = go(two, on_plan=lambda plan: titles.append(plan.title))
    assert re.fullmatch(r"done: 5 tasks in .*, after \d+\.\d s of what comes first; largest worker .*", summary.text())
    assert planned == [[], [3]]
    assert (one.finished, two.finished, len(opened)) == ([3], [5], 1)
    assert titles == ["two", "count"]
    one.faults = {0: ("bad", 9)}
    with pytest.raises(BlocksFailed):
        go(two)
    assert two.begun == [(True, False)]  # of the run before


@BOTH
def test_a_flaky_task_is_tried_again(job, settings):
    one = job(faults={3: ("flaky", 2)})
    go(one, settings)
    assert one.work("block").calls().count(3) == 3
    assert one.finished


@BOTH
def test_a_failing_task_is_set_aside_and_the_rest_is_done(job, settings, tmp_path):
    product = str(tmp_path / "out.zarr")
    one = job(parents=6, faults={3: ("bad", 99)}, product=product)
    with pytest.raises(BlocksFailed, match=r"2 of 18 tasks are not done, 1 failed.*chunk 3 does not decode") as stop:
        go(one, settings)
    assert stop.value.exit_code == 3
    assert sorted(one.work("block").calls()) == list(range(12))  # what is the same every time is not tried again
    assert sorted(one.work("parent").calls()) == [0, 2, 3, 4, 5]
    assert not one.finished

    mended = job(parents=6, product=product)
    summary = go(mended, settings)
    assert one.work("block").calls().count(3) == 2
    assert (summary.before, summary.done) == (16, 2)
    assert mended.finished == [18]


def test_a_few_failures_are_told_with_their_tracebacks(job, counting, monkeypatch):
    def broken(self, kind):
        raise ReadError(kind)

    one = job(faults={item: (text, 99) for item, text in enumerate(["a", "a", "b", "c", "d"])})
    monkeypatch.setattr(counting.CountingWork, "fail", broken)
    with pytest.raises(BlocksFailed, match=r"5 failed, the first: a \| b \| c; mend") as stop:
        go(one)
    assert stop.value.detail.count("in broken") == 3


def test_after_a_failure_items_are_handed_out_one_by_one(job, monkeypatch):
    sizes = []

    class Watched(SerialCrew):
        def submit(self, work_name, work, items):
            sizes.append(len(items))
            super().submit(work_name, work, items)

    monkeypatch.setattr("volpipe.runtime.run.SerialCrew", Watched)
    with pytest.raises(BlocksFailed):
        go(job(count=100, faults={30: ("bad", 99)}))
    first_of_them = next(place for place in range(len(sizes)) if sum(sizes[: place + 1]) > 30)
    assert max(sizes[:first_of_them]) > 1
    assert set(sizes[first_of_them + 2 :]) == {1}  # two were in hand


def test_workers_that_are_slow_to_end_do_not_undo_a_run(job, monkeypatch):
    class Slow(cluster.LocalCluster):
        def __exit__(self, *error):
            super().__exit__(*error)
            raise TimeoutError  # of Dask, on a loaded machine

    monkeypatch.setattr(cluster, "LocalCluster", Slow)
    one = job(count=2)
    go(one, CLUSTER)
    assert one.finished


def test_a_killed_worker_costs_only_what_it_had_in_hand(job):
    one = job(count=24, faults={5: ("kill", 1)})
    go(one, CLUSTER)
    calls = one.work("block").calls()
    assert set(calls) == set(range(24))
    assert one.finished
    assert len(calls) < 24 + 12


def test_an_item_that_kills_every_worker_is_set_aside(job):
    one = job(count=8, faults={5: ("kill", 99)})
    with pytest.raises(BlocksFailed, match="block 5: its worker died"):
        go(one, RunSettings(workers=2, threads=1, memory_per_worker="1GiB", retries=0))
    assert set(one.work("block").calls()) == set(range(8))


def test_workers_killed_for_their_memory_end_a_run_that_has_done_nothing(job):
    one = job(count=40, faults=dict.fromkeys(range(40), ("greed", 99)))
    with pytest.raises(RunError, match=r"workers die: block \d+: .* it had .* of 512\.00 MiB; give more --memory"):
        go(one, RunSettings(workers=1, threads=1, memory_per_worker="512MiB"))
    assert len(one.work("block").calls()) == 2


def test_a_worker_without_the_software_is_one_line(job, monkeypatch, counting):
    one = job(count=2)
    monkeypatch.undo()  # the workers' path no longer holds the job's module
    with pytest.raises(BlocksFailed, match="cannot load block: ModuleNotFoundError: No module named 'counting'"):
        go(one, CLUSTER)


def test_an_error_of_torchscript_is_one_line_that_says_what_happened():
    def work(item):
        where = "Traceback of TorchScript (most recent call last):\n  File 'net.py', line 3, in forward"
        raise RuntimeError(
            f"The following operation failed in the TorchScript interpreter.\n{where}\nRuntimeError: 12 is not 13"
        )

    (failure,) = do_batch("block", work, [5])
    assert failure.text == "block 5: RuntimeError: 12 is not 13"


def test_a_full_disk_stops_the_run(job):
    one = job(faults={2: ("full", 99)})
    with pytest.raises(RunError, match="the disk is full") as stop:
        go(one)
    assert stop.value.exit_code == 1
    assert 11 not in one.work("block").calls()


def test_a_run_in_which_every_block_fails_stops_early(job):
    one = job(count=100, faults=dict.fromkeys(range(100), ("bad", 99)))
    with pytest.raises(RunError, match="the first 8 blocks all failed"):
        go(one)
    assert len(one.work("block").calls()) < 30


def test_the_same_job_again_does_nothing(job, tmp_path):
    product = str(tmp_path / "out.zarr")
    go(job(product=product))
    again = job(product=product)
    assert go(again).text().startswith("nothing to do")
    assert again.begun == [(False, False)]
    assert again.finished == [12]


def test_a_changed_job_is_refused_with_what_changed(job, tmp_path):
    product = str(tmp_path / "out.zarr")
    go(job(product=product))
    with pytest.raises(ProductError, match=r"settings.setting: a -> b.*--restart"):
        go(job(product=product, setting="b"))
    restarted = job(product=product, setting="b")
    go(restarted, restart=True)
    assert restarted.begun == [(True, True)]
    assert len(restarted.work("block").calls()) == 24


def test_a_place_that_is_taken_is_refused(job, tmp_path):
    (tmp_path / "out.zarr").mkdir()
    (tmp_path / "out.zarr" / "precious").write_text("data")
    one = job(product=str(tmp_path / "out.zarr"))
    with pytest.raises(ProductError, match="exists already"):
        go(one)
    assert not one.begun


def test_a_torn_ledger_costs_the_torn_lines_only(job, tmp_path):
    product = str(tmp_path / "out.zarr")
    go(job(product=product))
    segments = sorted((tmp_path / "out.zarr.ledger").glob("receipts-*"))
    text = segments[-1].read_text()
    segments[-1].write_text(text[: len(text) - 20])
    again = job(product=product)
    assert go(again).done == 1


def test_two_runs_on_one_product_are_noticed(job, tmp_path, monkeypatch):
    product = str(tmp_path / "out.zarr")
    with pytest.raises(BlocksFailed):
        go(job(product=product, faults={3: ("bad", 9)}))

    from volpipe.volume.ledger import Ledger

    other = Ledger(product)
    other.append({"work": "block", "item": 99})
    ours = Ledger(product)
    other.flush()
    ours.append({"work": "block", "item": 98})
    with pytest.raises(RunError, match="another run writes"):
        ours.flush()


def test_the_ledger_is_lines_of_json(job, tmp_path):
    go(job(product=str(tmp_path / "out.zarr")))
    folder = tmp_path / "out.zarr.ledger"
    assert json.loads((folder / "key.json").read_text())["settings"] == {"setting": "a"}
    lines = [json.loads(line) for part in sorted(folder.glob("receipts-*")) for line in part.read_text().splitlines()]
    assert sorted(line["item"] for line in lines) == list(range(12))
    assert all(line["worker"] and line["peak_bytes"] for line in lines)


def test_a_product_that_was_begun_and_has_no_receipt_is_made_again(job, tmp_path):
    product = tmp_path / "out.zarr"
    first = job(product=str(product), faults=dict.fromkeys(range(12), ("bad", 99)))
    with pytest.raises(RunError):
        go(first)
    again = job(product=str(product))
    go(again)
    assert again.begun == [(True, True)]
    assert again.finished == [12]


def test_a_run_whose_product_was_begun_anew_stops(job, tmp_path):
    from volpipe.volume.ledger import Ledger

    product = str(tmp_path / "out.zarr")
    old = Ledger(product)
    old.begin({"settings": 1})
    old.append({"work": "block", "item": 0})
    old.flush()
    old.append({"work": "block", "item": 1})
    Ledger(product).begin({"settings": 1})
    with pytest.raises(RunError, match="begun this product anew"):
        old.flush()
    assert not list(Ledger(product).receipts())
