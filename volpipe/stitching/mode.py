"""What a stitching mode must say, and the modes by name.

tile      tiles that see nothing of each other       declared inexact
exact     of every layer what the tile needs         equals the network on the volume
overlap   padded convolutions, the rim cropped       equals whole-volume inference
 blend    the same, rims weighted and summed         declared inexact
valid     networks without padding                   equals the network on the (reflected) volume
windows   networks that take one length only         declared inexact
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from volpipe.errors import ConfigError
from volpipe.geometry import Box, Footprint
from volpipe.stitching.blend import Blend, Profile
from volpipe.stitching.exact import Exact, ExactValid
from volpipe.stitching.outside import Outside
from volpipe.stitching.overlap import Overlap
from volpipe.stitching.tile import Tile
from volpipe.stitching.tile_and_stitch import TileAndStitch
from volpipe.stitching.valid import Faces, Valid
from volpipe.stitching.windows import Windows

NAMES = ("exact", "overlap", "tile", "valid", "windows")


class Mode(Protocol):
    """A frozen value; boxes named core, own and region are in voxels of the product."""

    @property
    def name(self) -> str:
        """As `--stitching` calls it."""
        ...

    @property
    def inexact(self) -> str:
        """Why a product is not the whole-volume result; "" if it is."""
        ...

    @property
    def reads_halo(self) -> bool:
        """True if tiles read beyond what they own, as far as the footprint says."""
        ...

    @property
    def by_intervals(self) -> bool:
        """True if the network is not run on all that a tile reads, but layer by layer on what each of them needs."""
        ...

    @property
    def outside(self) -> Outside:
        """What a tile sees where it reaches past the volume."""
        ...

    def misfit(self, footprint: Footprint) -> str:
        """Why a network of this footprint cannot be stitched so, and what to do; "" if it can."""
        ...

    def region(self, volume: Sequence[int], footprint: Footprint) -> Box:
        """The voxels that a product of this volume can have."""
        ...

    def tiles(self, core: Box, volume: Sequence[int], tile: Sequence[int], footprint: Footprint) -> list[Tile]:
        """The tiles of one block.

        Args:
            core: the block's core.
            volume: the volume's shape.
            tile: the lattice's cell, a multiple of the footprint's `output_period` on every axis.
            footprint: of the network, one entry per axis of the volume.

        Returns:
            Tiles in C order whose `own` boxes cover the core, each voxel once or with weights that sum to 1.
        """
        ...

    def alone(self, own: Box, volume: Sequence[int], footprint: Footprint) -> Tile:
        """The tile that would own a box, wherever that lies."""
        ...


def mode_of(name: str | None, footprint: Footprint, *, blend: Profile | None = None, faces: Faces = "crop") -> Mode:
    """A mode by its name and options; without a name the one that fits the network.

    Raises:
        ConfigError: no mode has this name, or the options belong to another one.
    """
    name = name or _fitting(footprint)
    if name not in NAMES:
        raise ConfigError(f"stitching {name!r}: give one of {', '.join(NAMES)}")
    if blend is not None and name != "overlap":
        raise ConfigError(f"blend {blend}: stitching {name} has no rims to weigh; give it with --stitching overlap")
    if faces != "crop" and name != "valid":
        raise ConfigError(f"faces {faces}: stitching {name} pads as its network does; give it with --stitching valid")
    if name == "exact":
        return ExactValid() if _loses(footprint) else Exact()
    if name == "overlap":
        return Overlap() if blend is None else Blend(blend)
    return Valid(faces) if name == "valid" else Windows() if name == "windows" else TileAndStitch()


def _fitting(footprint: Footprint) -> str:
    if any(axis.window for axis in footprint.axes):
        return "windows"
    return "valid" if _loses(footprint) else "overlap"


def _loses(footprint: Footprint) -> bool:
    return any(axis.lost for axis in footprint.axes)
