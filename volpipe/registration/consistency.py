"""Self-consistency: register two slabs again on shifted windows, and see by how much the answers differ.

    slabs        |----------------------------|      width + window voxels across
    run 0        |------------------------|          a run sees `width` voxels of both slabs from its offset on, so that
    run 1          |------------------------|        its windows lie elsewhere on the tissue, at every level of the tree
    cells            |---|---|---|---|---|---|       those of run 0 (a finest window each) that every run sees whole

A run is what `register` does of a pair: both crops whole, then the tree from there, the root as wide as the crop; the
slant that the pair knows is taken off what nodes see. A cell's displacement is where its centre comes from, lower less
upper, by the run's leaf that holds the centre; leaves that are not trusted have their parent's motion. What is
trustworthy comes out the same from every start, so that the spread of a cell over the runs may tell its error where no
truth is known (the manuscript's section 3.2, which takes the mean over all cells and leaves the rest open).

Convention: places are voxels from the slabs' centres, (y, x); motions are `upper_from_lower` about these centres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.errors import GeometryError
from volpipe.geometry import Node, NodeGrid, Rigid, SlabFrame
from volpipe.registration.slant import seen_and_slant, taken_off
from volpipe.registration.tree import LevelReader, Pair, TreeSearch, register_tree

Offset = tuple[int, int]
Numbers = NDArray[np.float64]

FEWEST = 2  # runs: one does not differ from itself


def offsets_of(count: int, window: int) -> tuple[Offset, ...]:
    """`count` places within a window, each another one along y and along x, (0, 0) first.

    Point i of a lattice is (i, i g mod count) / count of a window, with the g whose points keep farthest apart where
    the window repeats (Korobov 1959).

    Raises:
        GeometryError: fewer than two, or more than a window has voxels.
    """
    if not FEWEST <= count <= window:
        raise GeometryError(f"self-consistency: {count} offsets within a window of {window} voxels; give {FEWEST} to "
                            f"{window}")  # fmt: skip
    steps = (g for g in range(1, count) if math.gcd(g, count) == 1)
    best = max(steps, key=lambda g: min(_apart(i, count) + _apart(i * g, count) for i in range(1, count)))
    return tuple((i * window // count, i * best % count * window // count) for i in range(count))


def _apart(steps: int, count: int) -> int:
    """Squared, the short way round."""
    near = min(steps % count, -steps % count)
    return near * near


@dataclass(frozen=True)
class Reruns:
    """How two slabs are registered, once for each offset.

    Attributes:
        offsets: of the runs, voxels from the slabs' corner; the first is (0, 0).
        width: voxels that a run sees of both slabs, along y and x: `window` times a power of two.
        window: voxels across a node of the tree.
        pair: compares two windows.
        gap_layers: lost between the slabs.
        max_shift: of the prior about no motion, fraction of the width.
        max_angle_rad: of the prior.

    Raises:
        GeometryError: a width or offsets that cannot be.
    """

    offsets: tuple[Offset, ...]
    width: int
    window: int
    pair: Pair
    gap_layers: int
    max_shift: float
    max_angle_rad: float

    def __post_init__(self) -> None:
        check_width(self.width, self.window)
        if len(self.offsets) < FEWEST or not all(0 <= o <= self.window for offset in self.offsets for o in offset):
            raise GeometryError(f"self-consistency: offsets {self.offsets}; give two or more, each 0 to {self.window}")

    @property
    def slab(self) -> int:
        """Voxels across of the slabs."""
        return slab_width(self.width, self.window)

    @property
    def cells(self) -> Numbers:
        """The cells' centres, (n, 2), in C order."""
        axis = (np.arange(1, self.width // self.window) + 0.5) * self.window - self.slab / 2
        return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)

    def displacements(self, upper: NDArray[Any], lower: NDArray[Any]) -> Numbers:
        """Of every cell by every run, (k, n, 2), voxels.

        Args:
            upper, lower: (z, y, x), `slab` voxels along y and x; upper's last layer and lower's first face the gap.

        Raises:
            GeometryError: slabs of another size.
        """
        for name, slab in (("upper", upper), ("lower", lower)):
            if slab.shape[1:] != (self.slab, self.slab):
                raise GeometryError(f"self-consistency: {name} is {slab.shape} voxels; give {self.slab} in y and in x")
        return np.stack([self._run(upper, lower, offset) for offset in self.offsets])

    def _run(self, upper: NDArray[Any], lower: NDArray[Any], offset: Offset) -> Numbers:
        """Of every cell, (n, 2)."""
        above, below = (_levels(self._crop(slab, offset), self.window) for slab in (upper, lower))
        pair = self.pair(
            above[0], below[0], gap_layers=self.gap_layers, max_shift=self.max_shift, max_angle_rad=self.max_angle_rad,
            voxel_size_um=(1.0, 1.0, 1.0), around=Rigid(), carry=True,
        )  # fmt: skip
        start, slant = seen_and_slant(pair, (self.width, self.width), (1.0, 1.0))
        frame = SlabFrame((self.width, self.width), (1.0, 1.0))
        search = TreeSearch(
            NodeGrid(frame, self.window, len(above) - 1), frame, LevelReader(above), LevelReader(below), self.pair,
            voxel_z_um=1.0, gap_layers=self.gap_layers, start=start, max_shift=self.max_shift,
            max_angle_rad=self.max_angle_rad,
        )  # fmt: skip
        found = register_tree(search)
        places = self.cells + (self.slab - self.width) / 2 - np.asarray(offset)  # from the crop's centre
        leaves = (Node(0, *map(int, (place + self.width / 2) // self.window)) for place in places)
        motions = [taken_off(slant, found[leaf].transform) for leaf in leaves]
        moved = [motion.inverse(place) for motion, place in zip(motions, places, strict=True)]
        return np.asarray(moved - places)

    def _crop(self, slab: NDArray[Any], offset: Offset) -> NDArray[Any]:
        y, x = offset
        return slab[:, y : y + self.width, x : x + self.width]


def true_displacements(truth: Rigid, cells: Numbers) -> Numbers:
    """Of cells (n, 2), where the motion of the slabs is known."""
    return np.asarray(truth.inverse(cells) - cells)


def slab_width(width: int, window: int) -> int:
    """Voxels across of slabs that every run finds its crop in."""
    return width + window


def check_width(width: int, window: int) -> None:
    """A tree of two levels or more stands over the crop.

    Raises:
        GeometryError: it does not.
    """
    nodes = width // window
    if nodes < 2 or nodes * window != width or nodes & (nodes - 1):
        raise GeometryError(
            f"self-consistency: a width of {width} voxels for windows of {window}; give the window times 2, 4, 8, ..."
        )


def _levels(slab: NDArray[Any], window: int) -> Sequence[NDArray[Any]]:
    """Means of 1, 2, 4, ... voxels in y and x, until the slab is one window."""
    levels = [slab]
    while levels[-1].shape[1] > window:
        z, y, x = levels[-1].shape
        levels.append(levels[-1].reshape(z, y // 2, 2, x // 2, 2).mean((2, 4)))
    return levels
