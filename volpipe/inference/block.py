"""How the voxels of a block become voxels of the product, whoever read them and wherever they go.

voxels of the volume --tiles, predictor, assembly, encoding--> core of the block
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from volpipe.errors import ReadError, RunError
from volpipe.geometry import Box, Footprint
from volpipe.inference.heap import SHARE, heap_of
from volpipe.inference.intervals import Moments, Program, Survey
from volpipe.inference.predictor import Predictor, device_lease, predictor
from volpipe.inference.statistics import OneSet, Statistics
from volpipe.models.model import ModelRef
from volpipe.models.normalisation import Normalisation
from volpipe.stitching import Assembly, Encoding, Mode, Tile, TileNetwork, cropped, read_box, stitch
from volpipe.stitching.assembly import planes_of
from volpipe.stitching.encoding import is_finite
from volpipe.stitching.outside import cut


@dataclass(frozen=True)
class BlockInference:
    """Everything that a worker must know to compute any block; small, because it loads the weights itself.

    Attributes:
        volume: shape z, y, x.
        footprint: on the three axes of the volume.
        tile: cell of the lattice anchored at the volume's origin, in voxels of the product.
        threads: that one forward pass may use.
        promised_bytes: of a worker process, or of its GPU where it computes there.
        nan: what replaces NaN and infinity in the input; None refuses them.
        statistics: over the volume or its planes, of the network's first norms; of all where its blocks are made.
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
    statistics: Statistics = field(default_factory=OneSet)

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
                voxels, box, tiles, self.network(), volume=self.volume, outside=self.mode.outside,
                assembly=self.assembly, encoding=self.encoding, out=out, core=core, batch=self.batch,
            )  # fmt: skip
        return out

    def network(self) -> TileNetwork:
        """What this process computes tiles with."""
        infer = self._by_intervals if self.mode.by_intervals else cropped(self._run)

        def checked(stored: NDArray[Any], tile: Tile, axis: int | None) -> NDArray[Any]:
            with heap_of(self.device).forward_pass(SHARE * self.promised_bytes):
                values = infer(stored, tile, axis)
            self._require_finite(values, stored.shape[2:])
            return values

        return checked

    def moments(
        self, block: Box, axis: int | None, count: int, read: Callable[[Tile], tuple[NDArray[Any], Box]]
    ) -> list[Moments]:
        """What a pass measures on one of its blocks: the next `count` norms, of each plane on its own.

        Args:
            block: of the tensor that is measured last; along `axis`, which its planes are across, of the volume.
            read: gives the stored voxels (c, z, y, x) that a tile sees, and their box.
        """
        planes = range(1) if axis is None else range(block.start[axis], block.stop[axis])
        survey = Survey(self.program(axis, planes), count)
        plan = survey.plan(block.without(axis))
        around = plan.read.across(axis, planes)
        voxels, box = read(Tile(block, around))
        with device_lease(self.device), heap_of(self.device).forward_pass(SHARE * self.promised_bytes):
            seen = cut(voxels, box, around, self.volume, self.mode.outside)[None]
            values = self._run.moments(seen if axis is None else planes_of(seen, axis)[0], plan)
        self._require_finite(values, plan.read.shape)
        return survey.moments(torch.from_numpy(values))

    def program(self, axis: int | None, planes: range) -> Program:
        """The network on the volume, or on planes across an axis, with the statistics that are known of each."""
        program = self._run.program(seen_shape(self.volume, self.footprint, axis))
        return program.given(self.statistics.of(axis, planes))

    @property
    def _run(self) -> Predictor:
        return predictor(self.model, self.normalisation, self.device, self.precision, self.threads)

    def _by_intervals(self, images: NDArray[Any], tile: Tile, axis: int | None) -> NDArray[Any]:
        """The network on the intervals that a tile needs of its layers."""
        plan = self.program(axis, tile.planes).plan(tile.outputs)
        if not tile.read.contains(plan.read):
            raise RunError(f"a tile of {tile.own} needs {plan.read}, and its footprint says {tile.read}; "
                           "give --stitching overlap, and please report it")  # fmt: skip
        index: tuple[Any, ...] = (..., *plan.read.relative_to(tile.read.start).slices)
        return self._run(images[index], plan)

    def _require_finite(self, values: NDArray[Any], shape: Sequence[int]) -> None:
        if is_finite(values):
            return
        mend = "fp16 overflows here, give --precision bf16 or fp32" if self.precision == "fp16" else (
            "check its weights, and --normalise for what it was trained on"
        )  # fmt: skip
        raise RunError(f"the network gives NaN or infinity on a tile of {tuple(shape)} voxels; {mend}")


def seen_shape(volume: Sequence[int], footprint: Footprint, axis: int | None) -> tuple[int, ...]:
    """What the network takes for the whole volume, or for a plane across an axis of it: padded to a length that it
    admits, as for every tile."""
    return without([each.admissible(n) for each, n in zip(footprint.axes, volume, strict=True)], axis)


def without(lengths: Sequence[int], axis: int | None) -> tuple[int, ...]:
    """Lengths along the axes that a network sees of a volume, or of the planes across one."""
    return tuple(n for number, n in enumerate(lengths) if number != axis)
