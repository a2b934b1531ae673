"""The plan of `register`: its tasks, what each waits for, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import chain

from volpipe.errors import BudgetError
from volpipe.jobs import plain
from volpipe.jobs.memory import PROCESS_BYTES
from volpipe.jobs.register_setup import FACING, Setup, SlabStack
from volpipe.jobs.register_stack import PAIR, SOLVE, PairWork, Prior, SolveWork, Stage
from volpipe.jobs.register_tree import FIELD, NODES, FieldWork, NodesWork, Trees, field_of
from volpipe.plan import Budget, Plan, Price, Task, Work
from volpipe.registration.stack import SKIPS
from volpipe.registration.tree import MARGIN
from volpipe.volume.folder import absolute, open_folder

SEARCH_BYTES = 128 * 2**20  # of a search's surfaces and spectra, as in inverse_problem
DEPTH = 4  # levels of a batch of nodes: up to 85, some seconds
FIT_BYTES = 4096  # of a finest node while a field is fitted: 2.1 KiB measured, and what was found there
COPIES = 16  # of a pair's layers while it is scored


def plan_of(setup: Setup, budget: Budget) -> Plan:
    """See `RegisterJob.plan`."""
    stage = stage_of(setup)
    anchors = {slab: pose.rigid for slab, pose in setup.slabs.anchors.items()}
    trees = trees_of(setup, stage)
    promise = _promise(setup.stack, trees, budget)
    works: dict[str, Work] = {PAIR: PairWork(stage), SOLVE: SolveWork(stage, anchors)}
    if trees is not None:
        works |= {NODES: NodesWork(trees), FIELD: FieldWork(trees)}
    return Plan(
        title=f"registration of {setup.job.slabs}",
        works=works,
        tasks=lambda: chain(stack_tasks(stage), () if trees is None else trees.tasks()),
        count=len(stage.pairs) + 1 + (0 if trees is None else trees.count),
        price=Price(worker_bytes=promise, bytes_read=_bytes_read(stage, trees)),
        key=setup.key(),
        facts=_facts(setup, stage, trees, promise),
    )


def stage_of(setup: Setup) -> Stage:
    """What is paired with what, and how."""
    job, slabs, nothing = setup.job, setup.slabs, setup.stack.stack()
    prior = Prior(slabs.max_shift, slabs.max_angle_rad, job.score, job.slant)
    starts = tuple(entry.start.rigid for entry in slabs.entries)
    return Stage(setup.stack, prior, starts, tuple(nothing.pairs(SKIPS)), open_folder(absolute(job.output)))


def trees_of(setup: Setup, stage: Stage) -> Trees | None:
    """How it is found how slabs are bent; None where they are not wider than what whole slabs are compared in."""
    job = setup.job
    trees = Trees(stage, job.tree_window, job.tree_finest, DEPTH)
    return trees if job.tree and setup.stack.level > 0 else None


def stack_tasks(stage: Stage) -> Iterator[Task]:
    """Every pair by itself, then the solve, which waits for all."""
    needs = [(PAIR, n) for n in range(len(stage.pairs))]
    yield from (Task(*name) for name in needs)
    yield Task(SOLVE, 0, tuple(needs))


def _promise(stack: SlabStack, trees: Trees | None, budget: Budget) -> int:
    """Resident bytes of a worker.

    Raises:
        BudgetError: it has not so many.
    """
    plane = 4 * math.prod(stack.canvas)
    held = 2 * FACING * plane * COPIES
    strip = max(stack.reader(slab).strip_bytes(stack.level, FACING) for slab in stack.there)
    fit = 0 if trees is None else FIT_BYTES * max(trees.leaves(slab) for slab in trees.slabs)
    needed = PROCESS_BYTES + budget.slots * max(SEARCH_BYTES + held + strip, fit)
    if needed > budget.worker_bytes:
        raise BudgetError(
            f"register: a pair of {plain.by(stack.canvas)} needs {plain.size(needed)} in a worker with {budget.slots} "
            f"slots, it has {plain.size(budget.worker_bytes)}; give a smaller --window, slabs with pyramids, a coarser "
            f"--tree-finest, or "
            f"{plain.size(1.01 * needed)}"
        )
    return needed


def _bytes_read(stage: Stage, trees: Trees | None) -> int:
    """At the levels where slabs are compared, as they are pooled."""
    whole = 2 * FACING * len(stage.pairs) * math.prod(stage.stack.canvas)
    nodes = 0 if trees is None else sum(len(trees.grid(slab)) for slab in trees.slabs)
    crop = 0 if trees is None else math.ceil((1 + 2 * MARGIN) * trees.window) ** 2
    return 4 * (whole + 2 * FACING * nodes * crop)


def _facts(setup: Setup, stage: Stage, trees: Trees | None, promise: int) -> tuple[tuple[str, str], ...]:
    stack = setup.stack
    missing = len(stack.readers) - len(stack.there)
    size = ", ".join(f"{part:g}" for part in stack.canvas_size_um[1:])
    dtypes = sorted({stack.reader(slab).sources[0][1].dtype.name for slab in stack.there})
    mixed = (("dtypes", f"{', '.join(dtypes)}: registered as they are, but warp wants slabs of one"),)
    return (
        ("slabs", f"{len(stack.readers)}, {missing} of them missing"),
        ("layers", f"{sum(stack.layers)} and {sum(stack.gaps)} lost between"),
        ("compared", f"as {plain.by(stack.canvas)} voxels of {size} um (y, x), by {setup.job.score}"),
        ("pairs", f"{len(stage.pairs)}"),
        ("trees", _trees_text(trees, asked=setup.job.tree)),
        *(mixed if len(dtypes) > 1 else ()),
        ("memory", f"{plain.size(promise)} promised per worker"),
    )


def _trees_text(trees: Trees | None, *, asked: bool) -> str:
    if trees is None:
        return "none: slabs have a pose alone" + " (they are hardly wider than --window; give a smaller one)" * asked
    grids = [trees.grid(slab) for slab in trees.slabs]
    widths = ", ".join(str(grids[0].width(level)) for level in grids[0].levels)
    return f"{len(grids)}, of {sum(len(grid) for grid in grids)} nodes {widths} voxels wide"


def fields_of(setup: Setup) -> Callable[[int], str | None]:
    """The place of each slab's field within the finished product; None for one that has none."""
    stage = stage_of(setup)
    trees = trees_of(setup, stage)
    return lambda slab: None if trees is None or slab not in trees.slabs else field_of(stage, slab)


def fieldless(setup: Setup) -> list[int]:
    """Slabs whose trees tell no field of the finished product: poses alone lay them."""
    stage = stage_of(setup)
    trees = trees_of(setup, stage)
    return [] if trees is None else [slab for slab in trees.slabs if field_of(stage, slab) is None]
