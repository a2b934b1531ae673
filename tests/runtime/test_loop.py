"""Laws of the loop: a batch is as large as takes a second, so that a kill or the end of a stage costs no more."""

from collections import deque

import pytest

from volpipe.plan import Plan, Price, Receipt, Task
from volpipe.runtime.loop import LARGEST_BATCH, Loop
from volpipe.runtime.schedule import Done


class Crew:
    """Says how long each item took, (seconds, or a rule of its number) and notes the batches."""

    width = 2

    def __init__(self, seconds):
        self.seconds, self.batches, self.in_hand = seconds, [], deque()

    def submit(self, name, work, items):
        self.batches.append((name, len(items)))
        self.in_hand.append((name, items))

    def next(self):
        name, items = self.in_hand.popleft()
        took = self.seconds[name]
        each = [took(item) if callable(took) else took for item in items]
        return [Receipt(name, item, seconds={"read": 0.0, "compute": s}) for item, s in zip(items, each, strict=True)]


def batches_of(**seconds):
    """Sizes of all batches, by work, of 1000 items each."""
    crew = Crew(seconds)
    names = [(name, item) for name in seconds for item in range(1000)]
    tasks = [Task(*name) for name in names]
    plan = Plan("", dict.fromkeys(seconds), lambda: iter(tasks), len(tasks), Price(0), {}, ())
    receipts = [(receipt.work, receipt.item) for receipt in Loop(plan, crew, Done(), 0).receipts()]
    assert sorted(receipts) == sorted(names)
    return {name: [size for work, size in crew.batches if work == name] for name in seconds}


@pytest.mark.parametrize(("seconds", "most"), [(0.0, LARGEST_BATCH), (0.05, LARGEST_BATCH), (0.3, 3), (5.0, 1)])
def test_a_batch_takes_a_second_at_most_once_it_is_known_how_long_an_item_takes(seconds, most):
    sizes = batches_of(block=seconds)["block"]
    in_hand = 2 * Crew.width
    assert sizes[:in_hand] == [1] * in_hand
    assert set(sizes[in_hand:-1]) == {most}


def test_each_work_has_its_own_size():
    sizes = batches_of(quick=0.001, slow=0.6, quick_again=0.001)
    assert max(sizes["quick"]) == max(sizes["quick_again"]) == LARGEST_BATCH
    assert max(sizes["slow"]) == 1


def test_a_few_quick_items_do_not_send_many_long_ones_out_together():
    """The rim of a volume is rendered in no time, and what follows it is not."""
    sizes = batches_of(block=lambda item: 2.0 if item < 100 or item >= 110 else 0.01)["block"]
    assert max(sizes) == 1
    assert max(batches_of(block=lambda item: 2.0 if item < 100 else 0.01)["block"]) == LARGEST_BATCH
