"""Walk the tree over a slab: each node searches around its parent's motion, in its own crop of its own pyramid level.

    upper   .--crop--.        lower     .--crop--.      crop: the node's window and a margin all around it, equally
            |  .--.  |  T^-1           /  .--.  /       many voxels in both slabs and for every node
            |  |c |  | ------>        /  / q/  /        c: the node's centre; q: where the parent's motion T says
            |  '--'  |               '--------'         that it comes from, the nearest whole voxel
            '--------'                                  what is left of T, and its turn, is `around` for the pair

Convention: every motion here is `upper_from_lower` in micrometres, of points from the centres of their own slabs, at
every node. So a child starts from its parent's motion as it is; the pair sees it about the centres of the two crops.

The prior (the manuscript, 5.5): an error of 10 % of a node's width is brought down to 5 %, which is 10 % of a child's.
So a child searches the same fraction of its own, half as wide window. The turn of smooth tissue differs less between
parent and child the smaller they are, so the angles halve. A node that is not trusted keeps its parent's motion and
what was not known of it: its children search twice the fraction, and the angles of their parent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from volpipe.errors import GeometryError
from volpipe.geometry import Box, Node, NodeGrid, Rigid, SlabFrame
from volpipe.registration.estimate import LIKELY, PairEstimate
from volpipe.registration.known import has_structure

Read = Callable[[int, Box], NDArray[Any]]  # (level, box (y, x) within the slab) -> its layers (z, y, x)

# Of the window: what a turn of 0.1 rad and a shift of 10 % need so that the turned crop still fills the window:
# (cos 0.1 + sin 0.1 - 1) / 2 + 0.1 = 0.147.
MARGIN = 0.15
# Of a layer of a crop; a crop must have one such layer that is not constant. With less, little of the window has a
# counterpart.
LEAST_KNOWN = 0.25
# A window cannot tell a shift of more of its width: too little of it has a counterpart.
MOST_SHIFT = 0.25
# What tissue strained by 4 % turns by, wherever its bends begin; half a voxel at the side of a window of 32, so that
# searching fewer angles saves nothing. With 0.02 and strains of 3 % a node in eleven could not be found.
LEAST_ANGLE_RAD = 0.04


class Pair(Protocol):
    """`volpipe.register_pair`, or what answers like it."""

    def __call__(
        self,
        upper: NDArray[Any],
        lower: NDArray[Any],
        *,
        gap_layers: int,
        max_shift: float,
        max_angle_rad: float,
        voxel_size_um: tuple[float, float, float],
        around: Rigid,
        carry: bool,
    ) -> PairEstimate:
        """Where the lower window lies in the upper one, in micrometres about both centres."""
        ...


@dataclass(frozen=True, slots=True)
class LevelReader:
    """Reads from the levels of one slab, arrays (z, y, x) in memory or in zarr, finest first."""

    levels: Sequence[Any]

    def __call__(self, level: int, box: Box) -> NDArray[Any]:
        """The layers of a box (y, x) of a level."""
        return np.asarray(self.levels[level][(slice(None), *box.slices)])


@dataclass(frozen=True, slots=True)
class NodeEstimate:
    """What is known at one node; small enough to travel in a receipt.

    Attributes:
        transform: `upper_from_lower`, micrometres from the slabs' centres; its parent's where it is not trusted.
        confidence: 0..1, of the node's own answer; 0 where there was nothing to compare.
        missed: how many nodes in a row were not trusted, ending with this one.
        voxels_read: of both slabs together.
    """

    node: Node
    transform: Rigid
    confidence: float
    missed: int
    voxels_read: int

    @property
    def trusted(self) -> bool:
        """The transform is the node's own."""
        return self.missed == 0

    def at(self, centre_um: Sequence[float]) -> Rigid:
        """The transform for points of both slabs from one place: a node's centre."""
        return self.transform.about(centre_um)


@dataclass(frozen=True)
class TreeSearch:
    """Two slabs that face each other, and how their tree is walked.

    Attributes:
        grid: the nodes, over the upper slab.
        lower: frame of the lower slab, which may have another extent.
        read_upper, read_lower: give the layers next to the gap, (z, y, x): upper's last layer and lower's first face
            it. They are asked only for what is in the slab; NaN means not known.
        voxel_z_um: distance of layers.
        gap_layers: lost between the slabs.
        pair: compares two windows.
        start: the roots' motion, micrometres about the slabs' centres (of the coarse stage, or of the stage).
        max_shift, max_angle_rad: how far it may be off; the shift as a fraction of a root's width.
        margin: read around each window, as a fraction of it.
        least_confidence: from which a node is trusted.

    Raises:
        GeometryError: slabs of different voxel size, or a negative margin.
    """

    grid: NodeGrid
    lower: SlabFrame
    read_upper: Read
    read_lower: Read
    pair: Pair
    voxel_z_um: float
    gap_layers: int
    start: Rigid = field(default_factory=Rigid)
    max_shift: float = 0.1
    max_angle_rad: float = 0.1
    margin: float = MARGIN
    least_confidence: float = LIKELY

    def __post_init__(self) -> None:
        upper, lower = self.grid.frame.voxel_um, self.lower.voxel_um
        if not np.allclose(upper, lower, rtol=1e-6):
            raise GeometryError(
                f"tree: voxels of {upper} um (y, x) above the gap and of {lower} um below; resample one slab"
            )
        if not self.margin >= 0:
            raise GeometryError(f"tree: a margin of {self.margin}; give a fraction of the window, 0 or more")

    @property
    def margin_voxels(self) -> int:
        """Read on each side of a window, in voxels of its level."""
        return int(np.ceil(self.margin * self.grid.window))

    @property
    def side(self) -> int:
        """Of a crop, in voxels of its level."""
        return self.grid.window + 2 * self.margin_voxels

    def prior(self, level: int, missed: int) -> tuple[float, float]:
        """(shift as a fraction of the window's width, angle in rad) that a node of `level` searches.

        Args:
            level: of the node.
            missed: how many of its ancestors in a row were not trusted, ending with its parent.
        """
        halvings = self.grid.coarsest - level - missed
        angle = max(self.max_angle_rad * 0.5**halvings, min(LEAST_ANGLE_RAD, self.max_angle_rad))
        return min(self.max_shift * 2.0**missed, max(MOST_SHIFT, self.max_shift)), angle

    def trusts(self, found: PairEstimate) -> bool:
        """An answer of the pair becomes the node's own."""
        return found.confidence >= self.least_confidence

    def boxes(self, node: Node, start: Rigid) -> tuple[Box, Box]:
        """The crops of a node whose motion is about `start`, in voxels of its level; they may reach out of the slabs.

        At a slab's edge a crop gives its margin up on the outer side and takes as much more on the inner one.
        """
        frame, level, by = self.grid.frame, node.level, self.margin_voxels
        window = self.grid.box(node)
        upper = Box(tuple(a - by for a in window.start), tuple(b + by for b in window.stop))
        upper = _inwards(upper, frame.shape(level), by)
        place = start.inverse(frame.centre_um(upper, level))
        lower = self.lower.box_around(place.tolist(), upper.shape, level)
        return upper, _inwards(lower, self.lower.shape(level), by)


def estimate_node(search: TreeSearch, node: Node, start: Rigid, missed: int = 0) -> NodeEstimate:
    """Register one node.

    Args:
        search: the slabs.
        node: of `search.grid`.
        start: its parent's transform, or the roots' start; micrometres about the slabs' centres.
        missed: `NodeEstimate.missed` of its parent.

    Returns:
        Its own transform where the search trusts it; else `start`, not trusted. A crop without tissue, or of which
        less than a quarter is known, is not compared.
    """
    level, frame = node.level, search.grid.frame
    upper_box, lower_box = search.boxes(node, start)
    upper, upper_read = _crop(search.read_upper, level, upper_box, frame.shape(level))
    lower, lower_read = _crop(search.read_lower, level, lower_box, search.lower.shape(level))
    read = upper_read + lower_read
    if upper is None or lower is None:
        return NodeEstimate(node, start, 0.0, missed + 1, read)
    centres_um = frame.centre_um(upper_box, level), search.lower.centre_um(lower_box, level)
    shift, angle = search.prior(level, missed)
    found = search.pair(
        upper,
        lower,
        gap_layers=search.gap_layers,
        max_shift=shift * search.grid.window / search.side,  # the pair's width is the crop's
        max_angle_rad=angle,
        voxel_size_um=(search.voxel_z_um, *frame.voxel_um_at(level)),
        around=_between_crops(start, *centres_um),
        carry=False,  # a flow is taken over windows as wide as a node
    )
    if not search.trusts(found):
        return NodeEstimate(node, start, found.confidence, missed + 1, read)
    return NodeEstimate(node, _between_slabs(found.transform, *centres_um), found.confidence, 0, read)


def estimate_batch(
    search: TreeSearch, root: Node, parent: NodeEstimate | None = None, depth: int = 4
) -> tuple[NodeEstimate, ...]:
    """Register the nodes of one batch, parents first: all that a task does.

    Args:
        search: the slabs.
        root: of the batch (`NodeGrid.batches`).
        parent: what was found at the root's parent, in the batch that this one needs; None for a root of the tree.
        depth: levels of a batch.
    """
    found: dict[Node, NodeEstimate] = {} if parent is None else {parent.node: parent}
    for node in search.grid.batch(root, depth):
        above = found.get(node.parent)
        if above is None and node.level != search.grid.coarsest:
            raise GeometryError(f"tree: {node} starts from its parent {node.parent}, which was not given")
        found[node] = estimate_node(search, node, search.start) if above is None else _below(search, node, above)
    return tuple(estimate for estimate in found.values() if estimate is not parent)


def _below(search: TreeSearch, node: Node, parent: NodeEstimate) -> NodeEstimate:
    return estimate_node(search, node, parent.transform, parent.missed)


def register_tree(search: TreeSearch, depth: int = 4) -> dict[Node, NodeEstimate]:
    """Walk the whole tree in this process, batch by batch, as the tasks of a job would; all estimates, by node."""
    found: dict[Node, NodeEstimate] = {}
    for root in search.grid.batches(depth):
        batch = estimate_batch(search, root, found.get(root.parent), depth)
        found.update((estimate.node, estimate) for estimate in batch)
    return found


def _between_crops(transform: Rigid, upper_um: Sequence[float], lower_um: Sequence[float]) -> Rigid:
    """The motion for points from the centres of crops, where it was for points from the centres of slabs."""
    return _shift(upper_um, -1) @ transform @ _shift(lower_um, 1)


def _between_slabs(transform: Rigid, upper_um: Sequence[float], lower_um: Sequence[float]) -> Rigid:
    """The way back of `_between_crops`."""
    return _shift(upper_um, 1) @ transform @ _shift(lower_um, -1)


def _shift(by_um: Sequence[float], sign: int) -> Rigid:
    return Rigid(0.0, (sign * by_um[0], sign * by_um[1]))


def _inwards(box: Box, shape: Sequence[int], most: int) -> Box:
    """The box moved into the slab, by at most `most` voxels."""
    over = (max(0, -a) - max(0, b - n) for a, b, n in zip(box.start, box.stop, shape, strict=True))
    return box.shift([min(max(o, -most), most) for o in over])


def _crop(read: Read, level: int, box: Box, shape: Sequence[int]) -> tuple[NDArray[np.float32] | None, int]:
    """(the layers of a box with NaN outside the slab, or None if they hold nothing to compare; voxels read)."""
    inside = box.intersect(Box.from_shape(shape))
    if inside.is_empty:
        return None, 0
    layers = read(level, inside)
    crop = np.full((len(layers), *box.shape), np.nan, np.float32)
    crop[(slice(None), *inside.relative_to(box.start).slices)] = layers
    return (crop if any(has_structure(layer, LEAST_KNOWN) for layer in crop) else None), layers.size
