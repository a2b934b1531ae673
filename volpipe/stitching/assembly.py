"""How a network sees a 3D tile: `3d` whole, or `2d` as the planes across one axis.

    3d        (t, c, z, y, x) -> (t, c, z, y, x)
    2d, z     (t, c, z, y, x) -> (t * z, c, y, x)       and back; y and x likewise

Convention: t counts tiles, c channels. A 2D network meets a 3D tile as a batch of planes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.errors import ConfigError
from volpipe.geometry import Footprint

AXES = "zyx"


@dataclass(frozen=True, slots=True)
class Assembly:
    """`2d` or `3d`; `axis` ("z", "y", "x") is the one that 2D planes are cut across."""

    name: str
    axis: str = "z"

    def __post_init__(self) -> None:
        if self.name not in ("2d", "3d") or self.axis not in AXES:
            raise ConfigError(f"assembly {self.name!r}, axis {self.axis!r}: give 2d or 3d, and z, y or x")

    @property
    def ndim(self) -> int:
        """Spatial axes that the network must have."""
        return 2 if self.name == "2d" else 3

    @property
    def sees(self) -> tuple[bool, ...]:
        """Per axis of the volume, whether the network sees more than one voxel along it."""
        return tuple(self.ndim == 3 or axis != self.axis for axis in AXES)

    def footprint(self, network: Footprint) -> Footprint:
        """The network's footprint on the three axes of the volume."""
        return network.along(AXES.index(self.axis)) if self.ndim == 2 else network

    def network_shape(self, tile: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        """What the network sees of one tile (z, y, x): how many inputs, and their spatial shape."""
        if self.ndim == 3:
            return 1, tile
        axis = AXES.index(self.axis)
        return tile[axis], (*tile[:axis], *tile[axis + 1 :])

    def to_network(self, tiles: NDArray[Any]) -> NDArray[Any]:
        """(t, c, z, y, x) to the network's input (n, c, ...)."""
        if self.ndim == 3:
            return tiles
        planes = np.moveaxis(tiles, 2 + AXES.index(self.axis), 1)
        return planes.reshape(-1, *planes.shape[2:])

    def from_network(self, output: NDArray[Any], tiles: int) -> NDArray[Any]:
        """The network's output (n, c', ...) back to (t, c', z, y, x)."""
        if self.ndim == 3:
            return output
        planes = output.reshape(tiles, -1, *output.shape[1:])
        return np.moveaxis(planes, 1, 2 + AXES.index(self.axis))
