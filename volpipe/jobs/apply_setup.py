"""Everything that `apply` opens, checks and derives before it may be planned; each check is one line to the user.

source --> fit (fit.py) --> region, block grid, layout --> key, attributes           (apply_plan: tile, price, tasks)

Region, blocks and layout are in voxels of the product, which has the resolution of the network's output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeVar

from volpipe import __version__
from volpipe.errors import ConfigError, GeometryError, ModelError
from volpipe.geometry import BlockGrid, Box
from volpipe.jobs import tiling
from volpipe.jobs.fit import Fit
from volpipe.plan import Plan
from volpipe.stitching.assembly import AXES
from volpipe.stitching.valid import Valid
from volpipe.volume import Layout, Mask, Source, check_apart, check_place, levels_of, open_source
from volpipe.volume.multiscale import default_factors
from volpipe.volume.product import RUNNING
from volpipe.volume.statistics import load_statistics

if TYPE_CHECKING:
    from volpipe.jobs.apply import ApplyJob

Number = TypeVar("Number", int, float)
FORMAT = 3  # of the key: raised when the same key would mean other voxels
VOXEL_SIZE_TOLERANCE = 0.10  # a network trained at another voxel size sees other structures
VOXEL_SIZE_ROUNDING = 0.001  # between what a file states and what a person types


class Setup(Fit):
    """A checked `ApplyJob`: what it reads, what it makes, and how.

    Args:
        made_of: the input's identity when statistics over it were found; as it is now if not given.
    """

    def __init__(self, job: ApplyJob, made_of: Mapping[str, Any] | None = None) -> None:
        self.job = job
        self.source: Source = open_source(job.input, level=job.level, channel=job.channel, time=job.time)
        self._identity = made_of or self.source.identity()
        check_place(job.output)
        check_apart(job.output, self.source.location)
        self._check_given_voxel_size()
        super().__init__(
            job, self.source.shape, self.source.channels, self.source.location, lambda: load_statistics(self.source)
        )
        self._check_voxel_size()
        self.mask = self._mask()
        self.grid = BlockGrid(self.region(), self._block())
        self.layout = self._layout()
        self.factors = self._factors()

    # ------------------------------------------------------------------ checks

    def _mask(self) -> Mask | None:
        if self.job.mask is None:
            return None
        source = open_source(self.job.mask)
        check_apart(self.job.output, source.location)
        return Mask(source, self.source.shape, self.voxel_size_um)

    def _check_given_voxel_size(self) -> None:
        given, stated = self.job.voxel_size_um, self.source.voxel_size_um
        if given is not None and stated is not None and _differs(stated, given):
            raise ConfigError(
                f"--voxel-size-um {_um(given)}: {self.source.location} states {_um(stated)}; leave the option out, or "
                "correct the volume's metadata"
            )

    def _check_voxel_size(self) -> None:
        trained, given = self.model.voxel_size_um, self.voxel_size_um
        if trained is None or given is None or self._off(given) <= VOXEL_SIZE_TOLERANCE:
            return
        sizes = [(i, level.voxel_size_um) for i, level in enumerate(levels_of(self.job.input))]
        others = [(i, size) for i, size in sizes if size is not None and i != (self.job.level or 0)]
        levels = [(i, size) for i, size in others if self._off(size) < self._off(given)]
        nearest = min(levels, key=lambda level: self._off(level[1]), default=None)
        hint = "resample the volume or give another model"
        if nearest is not None and self._off(nearest[1]) <= VOXEL_SIZE_TOLERANCE:
            hint = f"give --level {nearest[0]}"
        elif nearest is not None:
            hint = f"the nearest is level {nearest[0]} with {_um(nearest[1])}; {hint}"
        raise ModelError(f"{self.job.model}: trained at voxels of {_um(trained)}, the volume has {_um(given)}; {hint}")

    def _off(self, size: tuple[float, ...]) -> float:
        """Largest relative difference to what the network was trained at, over the axes of all planes that it sees."""
        trained = self.model.voxel_size_um or ()
        seen = [[s for name, s in zip(AXES, size, strict=True) if name != across] for across in self.assembly.across]
        return max(abs(b / a - 1) for axes in seen or [list(size)] for a, b in zip(trained, axes, strict=True))

    # ------------------------------------------------------------------ geometry

    @property
    def voxel_size_um(self) -> tuple[float, float, float] | None:
        """Of the input: as given, or as it states; None leaves the product without a unit."""
        return self.job.voxel_size_um or self.source.voxel_size_um

    def region(self) -> Box:
        """See `Fit`: of that the part that `--bbox` asks for.

        Raises:
            GeometryError: it reaches outside.
        """
        whole = super().region()
        if self.job.bbox is None:
            return whole
        box = self._outputs_of(Box.parse(self.job.bbox))
        if not whole.contains(box):
            gives = self.footprint.inputs(whole)
            has = "" if gives == Box.from_shape(self.source.shape) else f"; stitching {self.mode.name} gives {gives}"
            raise GeometryError(
                f"bbox {self.job.bbox}: reaches outside {self.source.location} of shape {self.source.shape}{has}"
            )
        return box

    def _outputs_of(self, box: Box) -> Box:
        """The product's voxels that cover a box of the volume."""
        scale = self.footprint.scale
        start, stop = (tuple(a * s for a, s in zip(side, scale, strict=True)) for side in (box.start, box.stop))
        if any(value.denominator != 1 for value in (*start, *stop)):
            steps = tuple(s.denominator for s in scale)
            raise GeometryError(f"bbox {box}: a voxel of the product covers {steps} voxels; give multiples of that")
        return Box(tuple(map(int, start)), tuple(map(int, stop)))

    def _block(self) -> tuple[int, ...]:
        block = self.job.block or tiling.default_block(self.region().shape)
        tiling.chunk_of(block)
        return block

    def _layout(self) -> Layout:
        start, size, scale = self.grid.region.start, self.voxel_size_um, self.footprint.scale
        moved = zip(self.source.translation_um, start, size or (1.0, 1.0, 1.0), scale, strict=True)
        # a voxel lies at its centre: the first of the product at that of the voxels it covers
        z, y, x = (t + float((a + Fraction(1, 2)) / k - Fraction(1, 2)) * s for t, a, s, k in moved)
        return Layout(
            shape=triple(self.grid.region.shape),
            channels=self.encoding.channels(self.model.out_channels),
            dtype=self.encoding.dtype(self.model.out_channels),
            voxel_size_um=None if size is None else triple([s / float(k) for s, k in zip(size, scale, strict=True)]),
            translation_um=(z, y, x),
            chunk=triple(tiling.chunk_of(self.grid.shape)),
            shard=triple(self.grid.shape),
        )

    def _factors(self) -> tuple[tuple[int, int, int], ...]:
        if not self.job.pyramid:
            return ()
        return default_factors(self.layout.shape, self.layout.voxel_size_um or (1.0, 1.0, 1.0), self.layout.chunk)

    @property
    def method(self) -> str:
        """How the coarser levels are made."""
        return "mode" if self.encoding.name == "labels" else "mean"

    @property
    def input_voxel_bytes(self) -> int:
        """Bytes of one voxel of the input, all channels."""
        return self.source.channels * int(self.source.dtype.itemsize)

    @property
    def output_voxel_bytes(self) -> int:
        """Bytes of one voxel of the product, all channels."""
        return self.layout.voxel_bytes

    # ------------------------------------------------------------------ what is written with the product

    def key(self, tile: tuple[int, ...]) -> dict[str, Any]:
        """Content of everything that the product depends on; compared before a run goes on."""
        return {
            "volpipe": FORMAT,
            "weights": self.ref.sha256,
            "input": self.source.identity(),
            "mask": None if self.mask is None else self.mask.source.identity(),
            "settings": self.job.settings()
            | {
                "stitching": self.mode.name,
                "normalisation": asdict(self.normalisation),
                "norm": self._norm() if self.norm_statistics is None else self.norm_statistics.sha256,
            },
            "geometry": {
                "bbox": str(self.grid.region),
                "block": list(self.grid.shape),
                "tile": list(tile),
                "footprint": [axis.as_json() for axis in self.footprint.axes],
                "levels": [list(factors) for factors in self.factors],
            },
        }

    def _norm(self) -> str:
        """What `--norm` asks for, where its statistics are not known."""
        return f"{self.job.norm}, planes {self.norm.planes}" if self.norm.planes == "volume" else self.job.norm

    def made_of(self) -> dict[str, Any]:
        """See `Fit`: of the volume by its content."""
        return super().made_of() | {"volume": self._identity}

    def attributes(self, plan: Plan) -> dict[str, Any]:
        """The product's `volpipe` attributes: how to read its values, what they promise, where they come from."""
        return {
            "state": RUNNING,
            **self.encoding.attributes(),
            "classes" if self.encoding.name == "labels" else "channels": list(self.model.output_channels),
            "stitching": {
                "mode": self.mode.name,
                "blend": self.job.blend,
                "faces": self.job.faces if isinstance(self.mode, Valid) else None,
                "assembly": self.assembly.name,
                "axis": self.assembly.axis if self.assembly.name == "2d" else None,
                "inexact": self.inexact(),
                "on_trust": self.on_trust(),
            },
            "provenance": {
                "software": f"volpipe {__version__}",
                "job": self.job.model_dump(mode="json"),
                **plan.key,
            },
        }


def triple(extent: Sequence[Number]) -> tuple[Number, Number, Number]:
    """An extent that has three axes, as the type checker wants it."""
    z, y, x = extent
    return z, y, x


def _um(size: tuple[float, ...]) -> str:
    return " x ".join(f"{s:g}" for s in size) + " um"


def _differs(stated: tuple[float, ...], given: tuple[float, ...]) -> bool:
    return any(abs(b / a - 1) > VOXEL_SIZE_ROUNDING for a, b in zip(stated, given, strict=True))
