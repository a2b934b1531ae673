"""`overlap` with `blend`: neighbouring tiles share their rims, weighted by a taper; declared inexact.

    tile 1   ======\\                    linear   ramps over the rim; hann the same, smooth at both ends
    tile 2         \\======\\             gaussian a bell over the whole tile, sigma an eighth of it
                   rim = halo before + halo after

Every output is the weighted mean of what all tiles that reach it give; the weights sum to 1. Rims see too little, so
this hides seams instead of removing them: with the halo that a network needs, cropping gives the whole-volume result
and blending does not (U-Net L4: crop 6e-7, Hann 0.012, Gaussian 0.0027 std on average). A halo by hand is the rim.

A block needs of its neighbours' tiles the rims alone, and they are run on what those see of their tile:

    core           [                      ]
    tile      |....[  cell  ]..rim..|
    read                  |.........|      from the need before the part of the rim that is owned, to the tile's own end

Law: a tile is the same cell of the volume's lattice whatever block it falls into, so the product does not depend on the
blocks, within rounding. Source: Isensee et al., Nature Methods 2021 (nnU-Net: Gaussian, sigma 1/8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from volpipe.geometry import Box, Footprint, lattice_cells
from volpipe.stitching.outside import Outside
from volpipe.stitching.overlap import Overlap
from volpipe.stitching.tile import Tile

Profile = Literal["linear", "hann", "gaussian"]
SIGMA = 1 / 8  # of a tile's extent
CROPPED = Overlap()


@dataclass(frozen=True, slots=True)
class Blend:
    """A `Mode`."""

    profile: Profile

    name: ClassVar[str] = "overlap"
    reads_halo: ClassVar[bool] = True
    by_intervals: ClassVar[bool] = False
    outside: ClassVar[Outside] = CROPPED.outside

    @property
    def inexact(self) -> str:
        """See `Mode`."""
        return f"blend {self.profile}: the rims of tiles, which see too little, count"

    def misfit(self, footprint: Footprint) -> str:
        """See `Mode`."""
        return CROPPED.misfit(footprint)

    def region(self, volume: Sequence[int], footprint: Footprint) -> Box:
        """See `Mode`: all."""
        return CROPPED.region(volume, footprint)

    def alone(self, own: Box, volume: Sequence[int], footprint: Footprint) -> Tile:
        """See `Mode`: without weights."""
        return CROPPED.alone(own, volume, footprint)

    def tiles(self, core: Box, volume: Sequence[int], tile: Sequence[int], footprint: Footprint) -> list[Tile]:
        """See `Mode`: every tile whose rim reaches into the core."""
        rims = _rims(footprint)
        start = tuple(a - after for a, (_, after) in zip(core.start, rims, strict=True))
        stop = tuple(b + before for b, (before, _) in zip(core.stop, rims, strict=True))
        reaching = Box(start, stop).intersect(self.region(volume, footprint))
        return [self._weighted(cell, core, volume, tile, footprint) for cell in lattice_cells(reaching, tile)]

    def _weighted(self, cell: Box, core: Box, volume: Sequence[int], tile: Sequence[int], footprint: Footprint) -> Tile:
        whole = self.alone(cell, volume, footprint)
        rims, ends = _rims(footprint), self.region(volume, footprint).stop
        extent = Box(
            tuple(a - before for a, (before, _) in zip(cell.start, rims, strict=True)),
            tuple(b + after for b, (_, after) in zip(cell.stop, rims, strict=True)),
        )
        own = extent.intersect(core)
        weights = tuple(
            shares(self.profile, (own.start[i], own.stop[i]), cell.start[i], tile[i], rims[i], ends[i])
            for i in range(own.ndim)
        )
        return replace(whole, own=own, read=self._seen(own, whole.read, volume, footprint), weights=weights)

    def _seen(self, own: Box, tile: Box, volume: Sequence[int], footprint: Footprint) -> Box:
        """What a part of a tile depends on; all of it along an axis where the network takes none so short."""
        part = CROPPED.alone(own, volume, footprint).read.intersect(tile)
        taken = [n >= axis.smallest for axis, n in zip(footprint.axes, part.shape, strict=True)]
        start = tuple(p if takes else t for takes, p, t in zip(taken, part.start, tile.start, strict=True))
        return Box(start, tuple(p if takes else t for takes, p, t in zip(taken, part.stop, tile.stop, strict=True)))


def shares(
    profile: Profile, own: tuple[int, int], cell: int, tile: int, rim: tuple[int, int], end: int
) -> NDArray[np.float64]:
    """The share that one tile has in the outputs [own) along an axis.

    Args:
        profile: of the taper.
        own: outputs, all within the tile's extent.
        cell: where the tile's cell starts.
        tile: length of a cell.
        rim: outputs (before, after) by which a tile reaches past its cell.
        end: of the product; cells start before it.
    """
    centres = np.arange(*own, dtype=np.float64) + 0.5
    first = max(0, (own[0] - rim[1]) // tile)
    cells = range(first * tile, min(own[1] + rim[0], end), tile)
    total = sum((_taper(profile, centres - c, tile, rim) for c in cells), start=np.zeros(len(centres)))
    share: NDArray[np.float64] = _taper(profile, centres - cell, tile, rim) / total
    return share


def _taper(profile: Profile, at: NDArray[np.float64], tile: int, rim: tuple[int, int]) -> NDArray[np.float64]:
    """Weight at positions relative to the start of a tile's cell; 0 outside of its extent."""
    low, high = -rim[0], tile + rim[1]
    depth = np.minimum(at - low, high - at)
    if profile == "gaussian":
        bell = np.exp(-0.5 * ((at - (low + high) / 2) / (SIGMA * (high - low))) ** 2)
        return np.where(depth > 0, bell, 0.0)
    ramp = np.clip(depth / max(1, sum(rim)), 0.0, 1.0)
    return np.sin(np.pi / 2 * ramp) ** 2 if profile == "hann" else ramp


def _rims(footprint: Footprint) -> list[tuple[int, int]]:
    """Outputs (before, after) by which a tile reaches past its cell."""
    return [
        (int(before * axis.scale), int(after * axis.scale))
        for (before, after), axis in zip(footprint.halo, footprint.axes, strict=True)
    ]
