"""How the voxels of a block become voxels of the product, whoever read them and wherever they go.

voxels of the volume --tiles, predictor, assembly, encoding--> core of the block
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.errors import ReadError, RunError
from volpipe.geometry import Box, Footprint
from volpipe.inference.heap import HEAP, SHARE
from volpipe.inference.predictor import device_lease, predictor
from volpipe.models.model import ModelRef
from volpipe.models.normalisation import Normalisation
from volpipe.stitching import Assembly, Encoding, Mode, Tile, read_box, stitch
from volpipe.stitching.encoding import is_finite


@dataclass(frozen=True)
class BlockInference:
    """Everything that a worker must know to compute any block; small, because it loads the weights itself.

    Attributes:
        volume: shape z, y, x.
        footprint: on the three axes of the volume.
        tile: cell of the lattice anchored at the volume's origin, in voxels of the product.
        threads: that one forward pass may use.
        promised_bytes: of a worker process.
        nan: what replaces NaN and infinity in the input; None refuses them.
    """

    volume: tuple[int, ...]
    model: ModelRef
    normalisation: Normalisation
    mode: Mode
    assembly: Assembly
    encoding: Encoding
    footprint: Footprint
    tile: tuple[int, ...]
    batch: int
    out_channels: int
    precision: str
    device: str
    threads: int
    promised_bytes: int
    nan: float | None

    @property
    def channels(self) -> int:
        """Of the product."""
        return self.encoding.channels(self.out_channels)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the product."""
        return self.encoding.dtype(self.out_channels)

    def tiles(self, core: Box) -> list[Tile]:
        """The tiles of a block."""
        return self.mode.tiles(core, self.volume, self.tile, self.footprint)

    def reads(self, tiles: Sequence[Tile]) -> Box:
        """The voxels of the volume that tiles need."""
        return read_box(tiles, self.volume, self.mode.outside)

    def finite(self, voxels: NDArray[Any], who: str) -> NDArray[Any]:
        """Voxels without NaN and infinity, replaced if the user said by what; what was given is left as it is.

        Raises:
            ReadError: there are some, and `who` met them.
        """
        if voxels.dtype.kind != "f":
            return voxels
        bad = ~np.isfinite(voxels)
        if not bad.any():
            return voxels
        if self.nan is None:
            raise ReadError(
                f"{who} and finds {int(bad.sum())} voxels that are NaN or infinite; mend the volume, or give --nan "
                "VALUE to replace them (with --restart, where blocks are done already)"
            )
        return np.where(bad, np.asarray(self.nan, voxels.dtype), voxels)

    def __call__(self, voxels: NDArray[Any], box: Box, tiles: Sequence[Tile], core: Box) -> NDArray[Any]:
        """Compute a core.

        Args:
            voxels: stored voxels (c, z, y, x) of `box`.
            box: holds what the tiles need.
            tiles: whose own boxes cover `core`.
            core: in voxels of the product.

        Returns:
            (c'', z, y, x), encoded.
        """
        out = np.empty((self.channels, *core.shape), self.dtype)
        with device_lease(self.device):
            stitch(
                voxels, box, tiles, self._network(), volume=self.volume, outside=self.mode.outside,
                assembly=self.assembly, encoding=self.encoding, out=out, core=core, batch=self.batch,
            )  # fmt: skip
        return out

    def _network(self) -> Callable[[NDArray[Any]], NDArray[Any]]:
        run = predictor(self.model, self.normalisation, self.device, self.precision, self.threads)

        def checked(stored: NDArray[Any]) -> NDArray[Any]:
            with HEAP.forward_pass(SHARE * self.promised_bytes):
                values = run(stored)
            if not is_finite(values):
                mend = "fp16 overflows here, give --precision bf16 or fp32" if self.precision == "fp16" else (
                    "check its weights, and --normalise for what it was trained on"
                )  # fmt: skip
                raise RunError(f"the network gives NaN or infinity on a tile of {stored.shape[2:]} voxels; {mend}")
            return values

        return checked
