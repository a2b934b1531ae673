"""How a network sees a 3D tile: `3d` whole, `2d` as the planes across one axis, `orthoslice` across each of the three.

    3d          (t, c, z, y, x) -> network
    2d, z       (t, c, z, y, x) -> (t * z, c, y, x) -> network -> back; y and x likewise
    orthoslice  (2d, z  +  2d, y  +  2d, x) / 3, summed in this order, before any encoding

Convention: t counts tiles, c channels. A 2D network meets a 3D tile as a batch of planes; planes across y and x are
taken as they are stored, whatever the voxel size. Source: orthoslice inference of arXiv 2606.20095.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.errors import ConfigError
from volpipe.geometry import Footprint

AXES = "zyx"
NAMES = ("2d", "3d", "orthoslice")

Network = Callable[[NDArray[Any]], NDArray[Any]]


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
    def sees(self) -> tuple[bool, ...]:
        """Per axis of the volume, whether the network sees more than one voxel along it."""
        return tuple(self.across != (axis,) for axis in AXES)

    def footprint(self, network: Footprint) -> Footprint:
        """The network's footprint on the three axes of the volume: what all of its planes need."""
        if not self.across:
            return network
        return reduce(Footprint.hull, (network.along(AXES.index(axis)) for axis in self.across))

    def network_shapes(self, tile: tuple[int, ...]) -> list[tuple[int, tuple[int, ...]]]:
        """What the network sees of one tile (z, y, x): for each pass how many inputs, and their spatial shape."""
        if not self.across:
            return [(1, tile)]
        numbers = [AXES.index(axis) for axis in self.across]
        return [(tile[number], (*tile[:number], *tile[number + 1 :])) for number in numbers]

    def run(self, network: Network, tiles: NDArray[Any]) -> NDArray[Any]:
        """Apply a network to tiles.

        Args:
            network: (n, c, ...) -> (n, c', ...).
            tiles: (t, c, z, y, x).

        Returns:
            (t, c', z, y, x).
        """
        if not self.across:
            return network(tiles)
        first, *others = (_by_planes(network, tiles, 2 + AXES.index(axis)) for axis in self.across)
        return sum(others, start=first) / np.asarray(len(self.across), first.dtype) if others else first


def _by_planes(network: Network, tiles: NDArray[Any], axis: int) -> NDArray[Any]:
    """The network on the planes across one axis of the tiles."""
    planes = np.moveaxis(tiles, axis, 1)
    values = network(planes.reshape(-1, *planes.shape[2:]))
    return np.moveaxis(values.reshape(*planes.shape[:2], *values.shape[1:]), 1, axis)
