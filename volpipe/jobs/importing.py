"""`import`: copy a volume from whatever it is stored in to sharded OME-Zarr 0.5.

    pages of a TIFF        a block = a row of shards: as many pages as a shard is thick, over all y and x
    |=================|
    |=================|    each page is decoded once, if a row fits into memory; else rows are cut in y, then in x,
    |=================|    and the plan says how often a page is decoded

A block is whole shards and grows until it covers the source's chunks; a source in small cubes needs no rows. Inside a
block the source is read slab by slab, so that little more than the block itself is in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from volpipe import __version__
from volpipe.errors import ConfigError, VolumeError
from volpipe.jobs.fields import Fields, Size, one_for_three, read_by
from volpipe.plan import Budget, Plan
from volpipe.volume.units import micrometres_per

if TYPE_CHECKING:
    from volpipe.volume import Layout, Source

DTYPES = ("uint8", "uint16", "int16", "float32")
FORMAT = 1  # of the key: raised when the same key would mean other voxels


class ImportJob(Fields):
    """Copy a volume into sharded OME-Zarr."""

    input: str = Field(description="The volume: OME-Zarr, zarr, N5, precomputed, HDF5 (file.h5:/path) or TIFF.")
    output: str = Field(description="The product, an OME-Zarr 0.5 group that does not exist yet.")
    voxel_size: tuple[Size, Size, Size] | None = Field(
        None, description="Voxel size z, y, x in --unit; needed where the input states none."
    )
    unit: str | None = Field(None, description="Unit of --voxel-size and of the product, as nanometer.")
    chunk: tuple[int, int, int] = Field((64, 64, 64), description="Unit of compression z, y, x.")
    shard: tuple[int, int, int] = Field((256, 256, 256), description="Unit of file z, y, x: whole chunks.")
    level: int | None = Field(None, ge=0, description="Level of a multiscale input; 0 is the finest.")
    channel: int | None = Field(None, ge=0, description="Channel of the input; all if not given.")
    time: int | None = Field(None, ge=0, description="Time point of the input.")

    _extents = field_validator("chunk", "shard", mode="before", json_schema_input_type=int | tuple[int, int, int])(
        one_for_three
    )
    _sizes = field_validator(
        "voxel_size", mode="before", json_schema_input_type=float | tuple[float, float, float] | None
    )(one_for_three)
    _known_unit = field_validator("unit")(read_by(micrometres_per))

    @property
    def product(self) -> str:
        """Where the product goes."""
        return self.output

    def plan(self, budget: Budget, *, anew: bool = False) -> Plan:
        """Open the input, choose the block, price the copy.

        Raises:
            VolumeError: the input cannot be read or imported, or its voxel size is not known.
            ProductError: the output and the input lie inside each other.
            BudgetError: one shard does not fit into a worker.
        """
        from volpipe.jobs.import_work import plan_of

        return plan_of(self, budget, anew)

    def begin(self, plan: Plan, *, fresh: bool, replace: bool) -> None:
        """Make the product, empty and marked as running."""
        from volpipe.volume import create_product

        if fresh:
            create_product(self.output, self.layout, {"provenance": self._provenance(plan)}, replace=replace)

    def finish(self, plan: Plan, value: Any) -> str:
        """Declare the product complete."""
        from volpipe.volume import open_product
        from volpipe.volume.product import COMPLETE

        open_product(self.output).update(state=COMPLETE)
        return ""

    @cached_property
    def source(self) -> Source:
        """The input, opened and checked."""
        from volpipe.volume import check_apart, check_place, open_source

        check_place(self.output)
        source = open_source(self.input, level=self.level, channel=self.channel, time=self.time)
        check_apart(self.output, source.location)
        if source.dtype.name not in DTYPES:
            raise VolumeError(f"{self.input}: {source.dtype.name} is not imported; give {', '.join(DTYPES)}")
        return source

    @cached_property
    def layout(self) -> Layout:
        """Of the product."""
        from volpipe.volume import Layout

        return Layout(
            shape=self.source.shape,
            channels=self.source.channels,
            dtype=self.source.dtype,
            voxel_size_um=self._voxel_size_um(),
            translation_um=self.source.translation_um,
            unit=self.unit or "micrometer",
            chunk=self.chunk,
            shard=self.shard,
        )

    def _voxel_size_um(self) -> tuple[float, float, float]:
        unit_um = 1.0 if self.unit is None else micrometres_per(self.unit)
        if self.voxel_size is not None:
            if self.unit is None:
                raise ConfigError(f"--voxel-size {self.voxel_size}: give its --unit too, as nanometer")
            z, y, x = (size * unit_um for size in self.voxel_size)
            return z, y, x
        if self.source.voxel_size_um is None:
            raise VolumeError(f"{self.input}: states no voxel size; give --voxel-size Z,Y,X and --unit")
        return self.source.voxel_size_um

    def key(self, block: Sequence[int]) -> dict[str, Any]:
        """Content of everything that the product depends on, and the block by which receipts are numbered."""
        return {
            "volpipe": FORMAT,
            "input": self.source.identity(),
            "geometry": {
                "voxel_size_um": list(self._voxel_size_um()),
                "unit": self.layout.unit,
                "chunk": list(self.layout.chunk),
                "shard": list(self.layout.shard),
                "block": list(block),
            },
        }

    def _provenance(self, plan: Plan) -> dict[str, Any]:
        return {"software": f"volpipe {__version__}", "job": self.model_dump(mode="json"), **plan.key}
