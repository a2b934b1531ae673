"""`warp`: render the reconstruction of a stack of slabs, out of core, from a transforms file (jobs/transforms.py).

    z   | slab 0 | gap | slab 1 | missing slab | gap | slab 2 |      each layer is owned by one slab or gap
    y, x  a voxel is read where pose or field say that it lies in its slab

A block is one shard of the product, and reads what it needs of each slab that it meets. Gaps, missing slabs and what
lies outside a slab hold `fill`; the product's attribute `gaps` lists the empty layers of level 0 (`[{"first_layer",
"layers", "slab"}]`, slab null for lost tissue), `bridged` those of slabs whose pose is a guess, and its label image
`labels/known` is 1 where a slab is, and is finite.

Law: the voxels do not depend on blocks or their order (registration/warp.py). The product's coordinates are those of
the reconstruction, in micrometres. Layers are taken, not blended: at another level than the slabs were registered at, a
layer is the one that holds its centre (on the face of two, the lower). Coarser levels of the product average over gaps
where they halve z; rendered from a level of the slabs, they do not.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from volpipe.geometry import Box
from volpipe.jobs.fields import Fields, one_for_three, read_by
from volpipe.plan import Budget, Plan

if TYPE_CHECKING:
    from volpipe.jobs.warp_setup import Setup

KNOWN = "known"


class WarpJob(Fields):
    """Render the reconstruction of a stack of slabs."""

    transforms: str = Field(description="The transforms file of the stack, as volpipe register writes it.")
    output: str = Field(description="The product, an OME-Zarr 0.5 group that does not exist yet.")
    level: int | None = Field(None, ge=0, description="Level of the slabs' pyramids; by default the registered one.")
    order: Literal["0", "1", "3"] | None = Field(
        None, description="0 nearest, 1 linear, 3 cubic; by default 0 for labels and integers of 32 bits, 3 for images."
    )
    fill: float = Field(0.0, description="Value of gaps, of what lies outside the slabs and of what is not finite.")
    bbox: str | None = Field(None, description="z0:z1,y0:y1,x0:x1: the part of the reconstruction to render.")
    chunk: tuple[int, int, int] = Field((64, 64, 64), description="Unit of compression z, y, x.")
    shard: tuple[int, int, int] = Field((256, 256, 256), description="Unit of file and of work z, y, x: whole chunks.")
    pyramid: bool = Field(True, description="Build the coarser levels of the product.")

    _extents = field_validator("chunk", "shard", mode="before", json_schema_input_type=int | tuple[int, int, int])(
        one_for_three
    )
    _box = field_validator("bbox")(read_by(Box.parse))

    @field_validator("order", mode="before", json_schema_input_type=int | str | None)
    @classmethod
    def _number(cls, order: Any) -> Any:
        return str(order) if isinstance(order, int) else order

    @property
    def product(self) -> str:
        """Where the product goes."""
        return self.output

    @cached_property
    def _setup(self) -> Setup:
        from volpipe.jobs.warp_setup import Setup

        return Setup(self)

    def plan(self, budget: Budget, *, anew: bool = False) -> Plan:
        """Open transforms, fields and slabs, lay the reconstruction out, price its blocks.

        Raises:
            ConfigError: the transforms file is wrong, or the fill is no value of the slabs.
            VolumeError: a slab cannot be read, or is of another dtype, channels or voxel size than the others.
            ProductError: a field cannot be read, or the output lies inside a slab.
            GeometryError: a field folds, or the bbox reaches outside.
            BudgetError: a block does not fit into a worker.
        """
        from volpipe.jobs.warp_work import plan_of

        return plan_of(self._setup, budget)

    def begin(self, plan: Plan, *, fresh: bool, replace: bool) -> None:
        """Make product and label image, empty and marked as running, with the levels still unlisted."""
        from volpipe.volume import create_product, open_product
        from volpipe.volume.labels import create_labels, labels_of
        from volpipe.volume.product import COMPLETE

        if fresh:
            create_product(self.output, self._setup.layout, self._setup.attributes(plan), replace=replace)
            create_labels(self.output, KNOWN, self._setup.layout)
        product = open_product(self.output)
        if product.attributes["state"] == COMPLETE:
            return  # its levels may have been made anew since, by `volpipe pyramid`
        for each in (product, labels_of(self.output, KNOWN, self._setup.layout)):
            for level, factors in enumerate(self._setup.factors, start=1):
                each.add_level(level, factors)

    def finish(self, plan: Plan, value: Any) -> str:
        """List the levels and declare both complete."""
        from volpipe.volume import open_product
        from volpipe.volume.labels import labels_of
        from volpipe.volume.product import COMPLETE

        product = open_product(self.output)
        if product.attributes["state"] != COMPLETE:
            for each, method in (
                (labels_of(self.output, KNOWN, self._setup.layout), "mode"),
                (product, self._setup.method),
            ):
                each.publish(self._setup.factors, method)
                each.update(state=COMPLETE)
        return ""
