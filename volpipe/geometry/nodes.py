"""The tree over a slab: nodes of halving width, each read from the pyramid level where it is `window` voxels wide.

    width 1024   |               0               |        a node is (level, row, column); its level is the pyramid level
           512   |       0       |       1       |        that it is read from: 5, 4, ... for a window of 32. So every
           256   |   0   |   1   |   2   |   3   |        node is as many voxels, and 0 is the finest, as everywhere

The lattice belongs to the slab: it is anchored at the slab's first voxel, or at an `origin` before it. A node exists if
it meets the slab; then its parent does too, and the nodes of a level tile the slab. Nodes are numbered from the
coarsest level to the finest, in C order: parents come first, and a number depends on the grid alone.

Batches are subtrees of a few levels, cut from the finest level upwards (where nearly all nodes are): one task each,
named by its root. It needs one batch, that of its root's parent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from volpipe.errors import GeometryError
from volpipe.geometry.box import Box
from volpipe.geometry.frame import SlabFrame
from volpipe.geometry.transform import Vector


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """One square of the lattice of `level`."""

    level: int
    row: int
    column: int

    @property
    def parent(self) -> Node:
        """The square one level coarser that holds this one."""
        return Node(self.level + 1, self.row // 2, self.column // 2)

    def ancestor(self, level: int) -> Node:
        """The square of a coarser level that holds this one."""
        up = level - self.level
        return Node(level, self.row >> up, self.column >> up)


@dataclass(frozen=True, slots=True)
class NodeGrid:
    """All nodes over one slab.

    Laws: the nodes of a level are disjoint and cover the slab; the children of a node cover what it has of the slab.

    Attributes:
        frame: of the slab.
        window: voxels of a node along y and x, at its own level.
        coarsest, finest: pyramid levels of the roots and the leaves.
        origin: (y, x), where the lattice begins, in voxels of level 0, zero or before the slab (to run the tree again
            on other windows); whole voxels of the coarsest level.

    Raises:
        GeometryError: a window, levels or an origin that make no lattice over the slab.
    """

    frame: SlabFrame
    window: int
    coarsest: int
    finest: int = 0
    origin: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.window < 1 or not 0 <= self.finest <= self.coarsest:
            raise GeometryError(
                f"tree: window {self.window}, levels {self.coarsest} to {self.finest}; give a window of at least 1 "
                "voxel and levels from the coarsest down to 0 or above"
            )
        if any(o > 0 or o % 2**self.coarsest for o in self.origin):
            raise GeometryError(
                f"tree: origin {self.origin}; give zero or negative multiples of {2**self.coarsest}, a voxel of the "
                "coarsest level"
            )

    @classmethod
    def of_widths(
        cls, frame: SlabFrame, widths: Sequence[int], window: int = 32, origin: tuple[int, int] = (0, 0)
    ) -> NodeGrid:
        """The grid whose levels have these widths in voxels of level 0: 1024, 512, 256, 128, 64, 32.

        Raises:
            GeometryError: widths that do not halve, or are not `window` times a power of two.
        """
        finest = (widths[-1] // window).bit_length() - 1 if widths and window > 0 else -1
        coarsest = finest + len(widths) - 1
        if finest < 0 or list(widths) != [window << level for level in range(coarsest, finest - 1, -1)]:
            raise GeometryError(
                f"tree: widths {tuple(widths)} with a window of {window}; each must be half the one before, and the "
                "window times a power of two"
            )
        return cls(frame, window, coarsest, finest, origin)

    def width(self, level: int) -> int:
        """Of a node, in voxels of level 0."""
        return self.window << level

    def rows(self, level: int) -> range:
        """Those of the nodes that meet the slab."""
        return self._meeting(level, 0)

    def columns(self, level: int) -> range:
        """Those of the nodes that meet the slab."""
        return self._meeting(level, 1)

    def _meeting(self, level: int, axis: int) -> range:
        origin, width = self.origin[axis], self.width(level)
        return range(-origin // width, -(-(self.frame.extent[axis] - origin) // width))

    @property
    def levels(self) -> range:
        """From the coarsest to the finest."""
        return range(self.coarsest, self.finest - 1, -1)

    def count(self, level: int) -> int:
        """Number of nodes of a level."""
        return len(self.rows(level)) * len(self.columns(level))

    def __len__(self) -> int:
        return sum(map(self.count, self.levels))

    def at(self, level: int) -> Iterator[Node]:
        """The nodes of a level, in C order."""
        return (Node(level, row, column) for row, column in product(self.rows(level), self.columns(level)))

    def __iter__(self) -> Iterator[Node]:
        return (node for level in self.levels for node in self.at(level))

    def __contains__(self, node: Node) -> bool:
        level = node.level
        return level in self.levels and node.row in self.rows(level) and node.column in self.columns(level)

    def number(self, node: Node) -> int:
        """Of a node: `grid[grid.number(node)] == node`."""
        if node not in self:
            raise GeometryError(f"tree: {node} does not meet the slab of {self.frame.extent} voxels")
        rows, columns = self.rows(node.level), self.columns(node.level)
        before = sum(self.count(level) for level in range(self.coarsest, node.level, -1))
        return before + (node.row - rows.start) * len(columns) + node.column - columns.start

    def __getitem__(self, number: int) -> Node:
        rest = number
        for level in self.levels:
            if 0 <= rest < self.count(level):
                row, column = divmod(rest, len(self.columns(level)))
                return Node(level, self.rows(level)[row], self.columns(level)[column])
            rest -= self.count(level)
        raise IndexError(number)

    def children(self, node: Node) -> tuple[Node, ...]:
        """Up to four, in C order; none of a leaf."""
        near = product((2 * node.row, 2 * node.row + 1), (2 * node.column, 2 * node.column + 1))
        return tuple(child for row, column in near if (child := Node(node.level - 1, row, column)) in self)

    def box(self, node: Node) -> Box:
        """(y, x), in voxels of the node's level; it may reach out of the slab."""
        start = tuple((o >> node.level) + i * self.window for o, i in self._places(node))
        return Box(start, tuple(a + self.window for a in start))

    def _places(self, node: Node) -> Iterator[tuple[int, int]]:
        return zip(self.origin, (node.row, node.column), strict=True)

    def centre_um(self, node: Node) -> Vector:
        """(y, x), from the slab's centre."""
        return self.frame.centre_um(self.box(node), node.level)

    def width_um(self, level: int) -> Vector:
        """(y, x) extent of a node."""
        return self.width(level) * self.frame.voxel_um[0], self.width(level) * self.frame.voxel_um[1]

    def batches(self, depth: int = 4) -> Iterator[Node]:
        """Roots of the batches of up to `depth` levels (4: 85 nodes), coarse ones first.

        Coarse first and not depth first: a task whose need is in hand is held back, and only so many are held, so the
        batches below one root would keep the other roots waiting.
        """
        _check_depth(depth)
        tops = (level for level in self.levels if level == self._top(level, depth))
        return (node for level in tops for node in self.at(level))

    def batch_of(self, node: Node, depth: int = 4) -> Node:
        """The root of the batch that a node is in."""
        _check_depth(depth)
        return node.ancestor(self._top(node.level, depth))

    def need_of(self, root: Node, depth: int = 4) -> Node | None:
        """The root of the batch that the batch of `root` waits for; None for those of the coarsest level."""
        return None if root.level == self.coarsest else self.batch_of(root.parent, depth)

    def batch(self, root: Node, depth: int = 4) -> Iterator[Node]:
        """The nodes of the batch of `root`, parents first (each subtree to its end before the next)."""
        yield root
        if root.level > self.finest and root.level - 1 != self._top(root.level - 1, depth):
            for child in self.children(root):
                yield from self.batch(child, depth)

    def _top(self, level: int, depth: int) -> int:
        """The coarsest level of the batches that hold nodes of `level`."""
        return min(self.finest + ((level - self.finest) // depth + 1) * depth - 1, self.coarsest)


def _check_depth(depth: int) -> None:
    if depth < 1:
        raise GeometryError(f"tree: batches of {depth} levels; give at least 1")
