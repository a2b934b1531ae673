"""How a network sees a 3D tile: `3d` whole, `2d` as the planes across one axis, `orthoslice` across each of the three.

    3d          (t, c, z, y, x) -> network
    2d, z       (t, c, z, y, x) -> (t * z, c, y, x) -> network -> back; y and x likewise
    orthoslice  (2d, z  +  2d, y  +  2d, x) / 3, summed in this order, before any encoding

Convention: t counts tiles, c channels. A 2D network meets a 3D tile as a batch of planes; planes across y and x are
taken as they are stored, whatever the voxel size; those that a tile reads and does not own are left out.
Source: orthoslice inference of arXiv 2606.20095.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.errors import ConfigError
from volpipe.geometry import Footprint
from volpipe.stitching.tile import Tile, TileNetwork

AXES = "zyx"
NAMES = ("2d", "3d", "orthoslice")


@dataclass(frozen=True, slots=True)
class Assembly:
    """`2d`, `3d` or `orthoslice`; `axis` ("z", "y", "x") is the one that the planes of `2d` are cut across."""

    name: str
    axis: str = "z"

    def __post_init__(self) -> None:
        if self.name not in NAMES or self.axis not in AXES:
            raise ConfigError(f"assembly {self.name!r}, axis {self.axis!r}: give {', '.join(NAMES)}, and z, y or x")

    @property
    def ndim(self) -> int:
        """Spatial axes that the network must have."""
        return 3 if self.name == "3d" else 2

    @property
    def across(self) -> tuple[str, ...]:
        """The axes that planes are cut across; none for `3d`."""
        return {"3d": (), "2d": (self.axis,), "orthoslice": tuple(AXES)}[self.name]

    @property
    def axes(self) -> tuple[int | None, ...]:
        """The same as numbers; None alone for `3d`."""
        return tuple(AXES.index(axis) for axis in self.across) or (None,)

    @property
    def sees(self) -> tuple[bool, ...]:
        """Per axis of the volume, whether the network sees more than one voxel along it."""
        return tuple(self.across != (axis,) for axis in AXES)

    def footprint(self, network: Footprint) -> Footprint:
        """The network's footprint on the three axes of the volume: what all of its planes need."""
        if not self.across:
            return network
        return reduce(Footprint.hull, (network.along(AXES.index(axis)) for axis in self.across))

    def passes(self, tile: Tile) -> list[tuple[int, Tile, int | None]]:
        """What the network sees of one tile: for each pass how many inputs, what they read and own, and the axis that
        they are across."""
        seen = [(tile if axis is None else tile.across(axis), axis) for axis in self.axes]
        return [(len(each.planes), each, axis) for each, axis in seen]

    def run(self, network: TileNetwork, images: NDArray[Any], tile: Tile) -> NDArray[Any]:
        """Apply a network to tiles that read and own alike.

        Args:
            images: (t, c, z, y, x), what each of them reads.
            tile: one of them.

        Returns:
            (t, c', z, y, x), what each of them owns.
        """
        if not self.across:
            return network(images, tile, None)
        first, *others = (_by_planes(network, images, tile, AXES.index(axis)) for axis in self.across)
        return sum(others, start=first) / np.asarray(len(self.across), first.dtype) if others else first


def _by_planes(network: TileNetwork, images: NDArray[Any], tile: Tile, axis: int) -> NDArray[Any]:
    """The network on the planes across one axis of the tiles."""
    planes = planes_of(images, axis)[:, tile.crop[axis]]
    values = network(planes.reshape(-1, *planes.shape[2:]), tile.across(axis), axis)
    return np.moveaxis(values.reshape(*planes.shape[:2], *values.shape[1:]), 1, 2 + axis)


def planes_of(images: NDArray[Any], axis: int) -> NDArray[Any]:
    """(t, c, z, y, x) -> (t, planes across an axis, c, the two other axes)."""
    return np.moveaxis(images, 2 + axis, 1)
