"""Laws of the schedule: every task once, needs first, a bounded number held."""

import random

from hypothesis import given
from hypothesis import strategies as st

from volpipe.plan import Task
from volpipe.runtime.schedule import Done, Schedule


def drain(schedule, batch, rng, window=6, failing=()):
    """Play a crew that finishes batches in random order; returns the order in which tasks were handed out."""
    order, in_hand = [], []
    while True:
        while len(in_hand) < window and (tasks := schedule.take(batch)):
            order += tasks
            in_hand.append(tasks)
        if not in_hand:
            return order
        for task in in_hand.pop(rng.randrange(len(in_hand))):
            if task.name in failing:
                schedule.fail(task)
            else:
                schedule.done.add(task.name)


def tree(leaves):
    """Blocks, then parents over pairs of what came before."""
    tasks, below, level = [Task("l0", i) for i in range(leaves)], leaves, 0
    while below > 1:
        level += 1
        above = (below + 1) // 2
        for i in range(above):
            needs = tuple((f"l{level - 1}", j) for j in (2 * i, 2 * i + 1) if j < below)
            tasks.append(Task(f"l{level}", i, needs))
        below = above
    return tasks


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 8), st.integers(0, 10**6))
def test_every_task_runs_once_and_after_its_needs(leaves, batch, hold, seed):
    tasks = tree(leaves)
    schedule = Schedule(tasks, Done(), hold)
    order = drain(schedule, batch, random.Random(seed))
    assert sorted(t.name for t in order) == sorted(t.name for t in tasks)
    position = {task.name: i for i, task in enumerate(order)}
    assert all(position[need] < position[task.name] for task in tasks for need in task.needs)


@given(st.integers(1, 40), st.sets(st.integers(0, 39)), st.integers(0, 10**6))
def test_what_is_done_does_not_run_again(leaves, before, seed):
    done = Done(("l0", i) for i in before if i < leaves)
    order = drain(Schedule(tree(leaves), done, 8), 3, random.Random(seed))
    assert not [task for task in order if task.work == "l0" and task.item in before]
    assert len(order) == len(tree(leaves)) - len([i for i in before if i < leaves])


@given(st.integers(2, 40), st.integers(0, 39), st.integers(0, 10**6))
def test_what_needs_a_failed_task_never_runs_and_all_else_does(leaves, failing, seed):
    failing %= leaves
    order = drain(Schedule(tree(leaves), Done(), 8), 2, random.Random(seed), failing={("l0", failing)})
    ran = {task.name for task in order}
    lost = {("l0", failing)}
    for task in tree(leaves):
        if any(need in lost for need in task.needs):
            lost.add(task.name)
    assert ran == {task.name for task in tree(leaves)} - lost | {("l0", failing)}


def test_a_batch_is_of_one_work():
    schedule = Schedule([Task("a", 0), Task("a", 1), Task("b", 0), Task("b", 1)], Done(), 4)
    assert [[t.work for t in schedule.take(3)] for _ in range(2)] == [["a", "a"], ["b", "b"]]


def test_a_million_tasks_are_not_held():
    taken = []
    schedule = Schedule((taken.append(i) or Task("a", i) for i in range(10**6)), Done(), 8)
    schedule.take(4)
    assert len(taken) == 4
