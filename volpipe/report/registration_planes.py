"""Planes of a registered stack, read at a coarse level: the faces at a seam, and a cut through all slabs.

    before   slabs as they lie, each centre on the others'        after   as pose and field place them
    |upper|                                                       a seam is looked at in the upper slab's own frame:
    |lower|                                                       that one stands still, the lower one moves

Law: no plane of a slab is read at more than MOST_PIXELS, and no cut has more than MOST_ROWS layers: pictures of a stack
of any size take a driver no more than its workers are promised for a pair. NaN is not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from volpipe.geometry import Box, Raster, Rigid
from volpipe.jobs.field_store import load_field
from volpipe.jobs.register_setup import SlabStack
from volpipe.jobs.slab_reader import Layers
from volpipe.registration.field import Field, Points
from volpipe.registration.warp import warp_block

Plane = NDArray[np.float32]
Faces = tuple[Plane, Plane]  # of the upper slab and of the lower one
Pull = Callable[[Points], Points]

MOST_PIXELS = 2**18  # of a slab's plane: 512 across
MOST_ROWS = 1024  # layers of a cut
TOGETHER = 64  # layers of a piece that are read at once: a tenth of a slab's width, as eight whole layers are
PIECE = 32  # pixels of a cut that are read at once: turned by 0.1 rad they lie in 4 rows of a slab, at most in 32


@dataclass(frozen=True)
class Planes:
    """Planes of slabs, before and after they were registered.

    Attributes:
        stack: the slabs.
        poses: reconstruction_from_slab, of each.
        fields: absolute places of those that there are.
        most: pixels that a slab's plane is read at.
    """

    stack: SlabStack
    poses: tuple[Rigid, ...]
    fields: Mapping[int, str]
    most: int = MOST_PIXELS

    @cached_property
    def level(self) -> int:
        """The finest at which no slab's plane has more pixels."""
        frames, level = [self.stack.reader(slab).frame for slab in self.stack.there], 0
        while max(math.prod(frame.shape(level)) for frame in frames) > self.most:
            level += 1
        return level

    def raster(self, slab: int) -> Raster:
        """Where the voxels of a slab's plane lie, from its centre."""
        frame = self.stack.reader(slab).frame
        shape = frame.shape(self.level)
        return Raster(shape, frame.voxel_um_at(self.level), frame.centre_um(Box((0, 0), (1, 1)), self.level))

    def pull(self, slab: int) -> Pull:
        """From points of the reconstruction to points of a slab: by its field, or by its pose alone."""
        return _kept(self.fields[slab]).pull if slab in self.fields else self.poses[slab].inverse

    # ------------------------------------------------------------------ the faces at a seam

    def faces(self, upper: int, lower: int, *, registered: bool) -> Faces:
        """The last layer of a slab and the first of one below, on the upper one's raster."""
        into, out = self.poses[upper], self.raster(upper)
        found = []
        for slab, layer in ((upper, self.stack.layers[upper] - 1), (lower, 0)):
            raster, pull = self.raster(slab), self.pull(slab)
            read = _held(self.stack.reader(slab).read(self.level, raster.box, range(layer, layer + 1))[0])
            way: Pull = (lambda points, pull=pull: pull(into(points))) if registered else np.asarray  # type: ignore[misc]
            found.append(_warped(read, raster, way, out, out.box))
        return found[0], found[1]

    # ------------------------------------------------------------------ a cut through all slabs

    @property
    def step(self) -> int:
        """Every how manieth layer a cut shows."""
        return -(-self._depth // MOST_ROWS)

    @cached_property
    def across(self) -> Raster:
        """The one row of a cut, as wide as all slabs before and after, at the height of the first one's centre."""
        outlines = [self.raster(slab).outline_um for slab in self.stack.there]
        after = [self.poses[slab](outline) for slab, outline in zip(self.stack.there, outlines, strict=True)]
        wide = self.raster(self.stack.there[0]).over(np.concatenate(outlines + after))
        return Raster((1, wide.shape[1]), wide.spacing_um, (0.0, wide.origin_um[1]))

    def cut(self, *, registered: bool) -> Layers:
        """(layers, columns): x by depth; every `step`th layer, NaN where tissue is lost or a slab missing."""
        out = np.full((self._depth, self.across.shape[1]), np.nan, np.float32)
        for slab, top in enumerate(self.tops):
            if slab in self.stack.there:
                layers = [n for n in range(self.stack.layers[slab]) if (top + n) % self.step == 0]
                if layers:
                    out[[top + n for n in layers]] = self._row(slab, layers, registered=registered)
        return out[:: self.step]

    @property
    def tops(self) -> tuple[int, ...]:
        """The first layer of each slab, in layers from the top of the stack."""
        return self.stack.stack().tops

    @property
    def _depth(self) -> int:
        return self.tops[-1] + self.stack.layers[-1]

    def _row(self, slab: int, layers: list[int], *, registered: bool) -> Layers:
        """The layers of one slab along the cut, (layers, columns)."""
        pull = self.pull(slab) if registered else np.asarray
        read, lead = partial(self._layers, slab, layers), (len(layers),)
        boxes = (Box((0, a), (1, min(a + PIECE, self.across.shape[1]))) for a in range(0, self.across.shape[1], PIECE))
        pieces = [_warped(read, self.raster(slab), pull, self.across, box, lead) for box in boxes]
        return np.concatenate(pieces, axis=2)[:, 0]

    def _layers(self, slab: int, layers: list[int], box: Box) -> Layers:
        """Chunks hold several layers: those that lie together are read together, TOGETHER at most."""
        reader, count = self.stack.reader(slab), TOGETHER if self.step == 1 else 1
        runs = [range(n, min(n + count, layers[-1] + 1)) for n in layers[::count]]
        return np.concatenate([reader.read(self.level, box, run) for run in runs])


def _held(plane: Plane) -> Callable[[Box], Plane]:
    return lambda box: plane[box.slices]


def _warped(
    read: Callable[[Box], Layers], slab: Raster, pull: Pull, out: Raster, box: Box, lead: tuple[int, ...] = ()
) -> Plane:
    float32 = np.dtype(np.float32)
    made = warp_block(read, slab, pull, out, box, dtype=float32, lead=lead, order=1, fill=math.nan)
    return np.asarray(made.voxels, np.float32)


@lru_cache(maxsize=8)
def _kept(location: str) -> Field:
    return load_field(location)
