"""The second stage of `register`: how each slab is bent against the one above, and its field.

    ("solve", 0) --> ("nodes", root batches of a slab) --> ("nodes", those below) ... --> ("field", slab)
                     OUT/nodes/002/000000.json              each waits for its parent's    OUT/slab002.field.zarr
                                                            batch alone                    OUT/fields/002.json
    ("field", slab above) ------------------------------------------------------------------^

A slab is compared with the nearest one above that a trusted pair joins it to; without such a pair it has its pose
alone, and its batches are empty. The tree stands over the slab itself, seen upside down: `registration.tree` has it as
the upper one, with the layers of both in reverse.

What a node sees holds the tissue's slant. As much of it as the whole pair saw is taken off by taking the pair's motion
as it was seen for what the solve made of it; what a slant differs by from place to place is taken for a bend.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from volpipe.geometry import Box, NodeGrid, Rigid
from volpipe.geometry import Node as Place
from volpipe.inference.device import use_threads
from volpipe.jobs.field_store import load_field, store_field
from volpipe.jobs.register_stack import SOLVE, FoundStack, Stage, get, motion_of, put, told
from volpipe.jobs.slab_reader import Layers
from volpipe.plan import Receipt, Task, TaskName
from volpipe.registration.field import Points
from volpipe.registration.field_fit import Node, believed, fit_field
from volpipe.registration.pair import register_pair
from volpipe.registration.tree import NodeEstimate, TreeSearch, estimate_batch

NODES, FIELD = "nodes", "field"


@dataclass(frozen=True)
class Trees:
    """What the tasks of this stage share; picklable.

    Attributes:
        stage: the first one.
        window: voxels across a node, at its own level.
        finest: level of the leaves.
        depth: levels of a batch.
    """

    stage: Stage
    window: int
    finest: int
    depth: int

    def grid(self, slab: int) -> NodeGrid:
        """The nodes over a slab: roots are as wide as fit into it."""
        frame = self.stage.stack.reader(slab).frame
        coarsest = max(self.finest, (min(frame.extent) // self.window).bit_length() - 1)
        return NodeGrid(frame, self.window, coarsest, self.finest)

    def leaves(self, slab: int) -> int:
        """How many of the finest nodes there are over a slab."""
        return self.grid(slab).count(self.finest)

    @property
    def slabs(self) -> tuple[int, ...]:
        """Those that have one above."""
        return self.stage.stack.there[1:]

    @cached_property
    def stride(self) -> int:
        """Items of one slab: a batch is the number of its root."""
        return max(len(self.grid(slab)) for slab in self.slabs)

    def name(self, slab: int, root: Place) -> TaskName:
        """Of the task of a batch."""
        return NODES, slab * self.stride + self.grid(slab).number(root)

    def tasks(self) -> Iterator[Task]:
        """Slab by slab, from above."""
        before: tuple[TaskName, ...] = ()
        for slab in self.slabs:
            grid, names = self.grid(slab), []
            for root in grid.batches(self.depth):
                need, name = grid.need_of(root, self.depth), self.name(slab, root)
                yield Task(*name, ((SOLVE, 0) if need is None else self.name(slab, need),))
                names.append(name)
            yield Task(FIELD, slab, (*names, *before))
            before = ((FIELD, slab),)

    @property
    def count(self) -> int:
        """How many tasks."""
        return sum(1 for _ in self.tasks())


@dataclass(frozen=True)
class NodesWork:
    """Registers one batch of nodes."""

    trees: Trees

    def __call__(self, item: int) -> Receipt:
        """Register a batch, from what was found at its parent, and write it down."""
        use_threads(1)
        began, stage = time.perf_counter(), self.trees.stage
        slab, number = divmod(item, self.trees.stride)
        found, grid = FoundStack.read(stage.folder), self.trees.grid(slab)
        above, root = found.above(slab), grid[number]
        estimates: tuple[NodeEstimate, ...] = ()
        if above is not None:
            search = self._search(slab, above, found.motions[above, slab].inverse)
            estimates = estimate_batch(search, root, self._parent(slab, grid, root), self.trees.depth)
        put(stage.folder, batch_key(slab, number), {"nodes": list(map(_told_node, estimates))})
        read = 4 * sum(estimate.voxels_read for estimate in estimates)
        return Receipt(NODES, item, seconds={"compute": time.perf_counter() - began}, bytes_read=read)

    def _parent(self, slab: int, grid: NodeGrid, root: Place) -> NodeEstimate | None:
        need = grid.need_of(root, self.trees.depth)
        if need is None:
            return None
        batch = _batch(self.trees.stage, slab, grid.number(need))
        return next(estimate for estimate in batch if estimate.node == root.parent)

    def _search(self, slab: int, above: int, start: Rigid) -> TreeSearch:
        stage = self.trees.stage
        stack, prior = stage.stack, stage.prior
        return TreeSearch(
            grid=self.trees.grid(slab),
            lower=stack.reader(above).frame,
            read_upper=partial(self._upside_down, slab, False),
            read_lower=partial(self._upside_down, above, True),
            pair=partial(register_pair, score=prior.score),
            voxel_z_um=stack.voxel_size_um[0],
            gap_layers=stack.stack().lost(above, slab),
            start=start,
            max_shift=prior.max_shift,
            max_angle_rad=prior.max_angle_rad,
        )

    def _upside_down(self, slab: int, last: bool, level: int, box: Box) -> Layers:
        """The layers of a slab that face the gap, from below."""
        stack = self.trees.stage.stack
        return stack.reader(slab).read(level, box, stack.facing(slab, last=last))[::-1]


@dataclass(frozen=True)
class FieldWork:
    """Fits and stores the field of one slab."""

    trees: Trees

    def __call__(self, item: int) -> Receipt:
        """Fit it, on top of that of the slab above.

        Raises:
            GeometryError: it folds, whatever is left out.
        """
        began, folder = time.perf_counter(), self.trees.stage.folder
        found = FoundStack.read(folder)
        above, leaves = found.above(item), self._leaves(item)
        grid, pose = self.trees.grid(item), found.poses[item]
        spacing_um = grid.width_um(grid.finest)
        nodes = believed([_seen_from_below(leaf, grid.centre_um(leaf.node)) for leaf in leaves], spacing_um)
        said: dict[str, Any] = {"above": above, "nodes": len(leaves), "trusted": len(nodes), "field": None}
        if above is not None and nodes:
            solved = found.poses[above].inverse @ pose @ found.motions[above, item].inverse
            field = fit_field(
                nodes,
                pose,
                extent_um=self._extent_um(grid),
                spacing_um=spacing_um,
                reconstruction_from_upper=_after(solved, self._place(found, above)),
            )
            said["field"] = field_name(item)
            store_field(f"{folder.location}/{said['field']}", field)
        put(folder, field_key(item), said)
        return Receipt(FIELD, item, seconds={"compute": time.perf_counter() - began})

    def _leaves(self, slab: int) -> list[NodeEstimate]:
        grid, stage = self.trees.grid(slab), self.trees.stage
        numbers = (grid.number(root) for root in grid.batches(self.trees.depth))
        nodes = (node for number in numbers for node in _batch(stage, slab, number))
        leaves = (node for node in nodes if node.node.level == grid.finest)
        return sorted(leaves, key=lambda leaf: leaf.node)  # whatever the batches, sums are the same to the last bit

    def _place(self, found: FoundStack, slab: int) -> Callable[[Points], Points]:
        """Where points of a slab lie in the reconstruction."""
        folder = self.trees.stage.folder
        stored = get(folder, field_key(slab))["field"] if slab in self.trees.slabs else None
        return found.poses[slab] if stored is None else load_field(f"{folder.location}/{stored}").push

    @staticmethod
    def _extent_um(grid: NodeGrid) -> tuple[float, float]:
        (height, width), (y, x) = grid.frame.extent, grid.frame.voxel_um
        return height * y, width * x


def field_of(stage: Stage, slab: int) -> str | None:
    """The name of a slab's field within the product; None where it has none."""
    name: str | None = get(stage.folder, field_key(slab))["field"]
    return name


def field_name(slab: int) -> str:
    """Where the field of a slab is stored, in the product."""
    return f"slab{slab:03d}.field.zarr"


def field_key(slab: int) -> str:
    """What became of the field of a slab."""
    return f"fields/{slab:03d}.json"


def batch_key(slab: int, number: int) -> str:
    """Where a batch is written: by the number of its root."""
    return f"nodes/{slab:03d}/{number:06d}.json"


def _after(solved: Rigid, place: Callable[[Points], Points]) -> Callable[[Points], Points]:
    return lambda points: place(solved(points))


def _seen_from_below(leaf: NodeEstimate, centre_um: tuple[float, float]) -> Node:
    """The tree has the slab as its upper one: what it found leads from the slab above into it."""
    return Node(centre_um, leaf.transform.inverse.about(centre_um), leaf.confidence, leaf.trusted)


def _batch(stage: Stage, slab: int, number: int) -> list[NodeEstimate]:
    return [_node_of(stored) for stored in get(stage.folder, batch_key(slab, number))["nodes"]]


def _told_node(estimate: NodeEstimate) -> dict[str, Any]:
    node = estimate.node
    said = {"confidence": float(estimate.confidence), "missed": estimate.missed, "voxels_read": estimate.voxels_read}
    return {"node": [node.level, node.row, node.column]} | told(estimate.transform) | said


def _node_of(stored: dict[str, Any]) -> NodeEstimate:
    said = (stored[name] for name in ("confidence", "missed", "voxels_read"))
    return NodeEstimate(Place(*stored["node"]), motion_of(stored), *said)
