"""A run without a runtime: every task in the plan's order, in this process."""

import pytest

from volpipe.plan import Budget


def serially(job, budget=None, *, replace=False):
    """Plan, begin, do every task after its needs, finish; returns the plan and the receipts."""
    plan = job.plan(budget or Budget(worker_bytes=4 * 2**30))
    job.begin(plan, fresh=True, replace=replace)
    receipts, value = {}, None
    for task in plan.tasks():
        assert all(need in receipts for need in task.needs)
        receipts[task.name] = receipt = plan.works[task.work](task.item)
        if plan.reduce is not None:
            value = receipt.value if value is None else plan.reduce(value, receipt.value)
    assert len(receipts) == plan.count
    job.finish(plan, value)
    return plan, receipts


@pytest.fixture
def run_serially():
    """`run_serially(job, budget) -> (plan, receipts by task name)`."""
    return serially
