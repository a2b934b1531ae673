"""The stitching modes by name. A mode is a module: what `Mode` says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

from volpipe.errors import ConfigError
from volpipe.geometry import Box, Footprint
from volpipe.stitching import overlap, tile_and_stitch, valid
from volpipe.stitching.tile import Tile

__all__ = ["MODES", "Mode", "Tile", "mode_named"]


class Mode(Protocol):
    """What a stitching mode must say."""

    NAME: str
    EXACT: bool
    PADDED: bool  # whether the network keeps the size of a tile

    def region(self, volume: Sequence[int], footprint: Footprint) -> Box:
        """The voxels of the volume that a product can have."""
        ...

    def tiles(self, core: Box, volume: Sequence[int], tile: Sequence[int], footprint: Footprint) -> list[Tile]:
        """The tiles of one block."""
        ...

    def alone(self, own: Box, volume: Sequence[int], footprint: Footprint) -> Tile:
        """The tile that would own a box (on the period) anywhere in the volume."""
        ...


MODES: dict[str, Mode] = {mode.NAME: cast(Mode, mode) for mode in (tile_and_stitch, overlap, valid)}


def mode_named(name: str) -> Mode:
    """Look a mode up.

    Raises:
        ConfigError: no mode has this name.
    """
    if name not in MODES:
        raise ConfigError(f"stitching {name!r}: give one of {', '.join(MODES)}")
    return MODES[name]
