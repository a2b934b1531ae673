"""`apply`: a network over a volume of any size.

    ApplyJob(...).plan(budget)   opens the volume and the model, checks that they fit, chooses block and tile, prices
    .begin(plan)                 makes the product
    .finish(plan)                lists the pyramid and declares it complete

The product does not depend on workers or memory: the block follows from the volume; the tile from the memory in
`exact` and `overlap`, where it changes nothing but rounding, and from the block in `tile`. A run that goes on keeps
its tile.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from volpipe.geometry import Box
from volpipe.jobs.fields import Size, one_for_three, read_by
from volpipe.jobs.network_options import NetworkOptions
from volpipe.plan import Budget, Plan

if TYPE_CHECKING:
    from volpipe.jobs.apply_setup import Setup

# torch and zarr are imported when a job is planned, not when its options are read: `--help` and a pipeline's errors
# come at once.


class ApplyJob(NetworkOptions):
    """Apply a network to a volume, block by block."""

    input: str = Field(description="The volume: OME-Zarr, zarr, N5, precomputed, HDF5 (file.h5:/path) or TIFF.")
    output: str = Field(description="The product, an OME-Zarr 0.5 group that does not exist yet.")
    block: tuple[int, int, int] | None = Field(None, description="Core of a block z, y, x: one shard of the product.")
    bbox: str | None = Field(None, description="z0:z1,y0:y1,x0:x1: the part of the volume to make.")
    mask: str | None = Field(None, description="A volume of any resolution; blocks where it is zero are skipped.")
    level: int | None = Field(None, ge=0, description="Level of a multiscale input; 0 is the finest.")
    channel: int | None = Field(None, ge=0, description="Channel of the input; all if not given.")
    time: int | None = Field(None, ge=0, description="Time point of the input.")
    voxel_size_um: tuple[Size, Size, Size] | None = Field(
        None, description="Of the input z, y, x, where it states none; another than it states is refused."
    )
    audit: int | None = Field(
        None, ge=0, description="Boxes across faces that are computed again from the input; a few if not given."
    )
    pyramid: bool = Field(True, description="Build the coarser levels of the product.")

    _extents = field_validator("block", mode="before", json_schema_input_type=int | tuple[int, int, int] | None)(
        one_for_three
    )
    _sizes = field_validator(
        "voxel_size_um", mode="before", json_schema_input_type=float | tuple[float, float, float] | None
    )(one_for_three)

    _box = field_validator("bbox")(read_by(Box.parse))

    @property
    def product(self) -> str:
        """Where the product goes."""
        return self.output

    @cached_property
    def _setup(self) -> Setup:
        from volpipe.jobs.apply_setup import Setup

        return Setup(self)

    def plan(self, budget: Budget, *, anew: bool = False) -> Plan:
        """Open and check everything, choose block and tile, and price the run.

        Raises:
            UsageError: one line of what does not fit, and what would.
        """
        from volpipe.jobs.apply_plan import plan_of

        return plan_of(self._setup, budget, anew)

    def begin(self, plan: Plan, *, fresh: bool, replace: bool) -> None:
        """Make the product, empty and marked as running, with the levels of its pyramid still unlisted."""
        from volpipe.jobs.norm_pass import folder_of
        from volpipe.jobs.norm_statistics import NAME
        from volpipe.volume import create_product, open_product
        from volpipe.volume.folder import open_folder
        from volpipe.volume.product import COMPLETE

        found, place = self._setup.norm_statistics, folder_of(self.output)
        if found is not None and (fresh or open_folder(place).get(NAME) is None):
            found.store(place)
        if fresh:
            create_product(self.output, self._setup.layout, self._setup.attributes(plan), replace=replace)
        product = open_product(self.output)
        if product.attributes["state"] == COMPLETE:
            return  # its levels may have been made anew since, by `volpipe pyramid`
        for level, factors in enumerate(self._setup.factors, start=1):
            product.add_level(level, factors)  # one that is there is kept

    def finish(self, plan: Plan, value: Any) -> str:
        """List the levels and declare the product complete, and exact if the audit says so.

        One that is complete keeps its levels, and an audit that saw a seam or looked at more boxes (`volpipe audit`).
        """
        from volpipe.jobs.audit import outcome
        from volpipe.stitching.audit import rank
        from volpipe.volume import open_product
        from volpipe.volume.product import COMPLETE

        found, line = outcome(self._setup, plan.works["audit"], value)  # type: ignore[arg-type]
        product = open_product(self.output)
        made = product.attributes
        if made["state"] != COMPLETE:
            product.publish(self._setup.factors, self._setup.method)
        elif rank(made["audit"]) >= rank(found["audit"]):
            return ""
        product.update(state=COMPLETE, **found)
        return line

    def settings(self) -> dict[str, Any]:
        """The options that change the numbers, for the ledger's key (places, weights and geometry stand there too)."""
        elsewhere = {
            "input",
            "output",
            "model",
            "weights",
            "trust_code",
            "block",
            "tile",
            "bbox",
            "mask",
            "pyramid",
            "audit",
            "norm_planes",
        }
        return self.model_dump(mode="json", exclude=elsewhere)
