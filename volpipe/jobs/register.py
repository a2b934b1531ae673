"""`register`: from a stack of slabs to the transforms file that `warp` renders.

    pairs of slabs ----+--> poses of all --> OUT/transforms.json        every arrow is a file of OUT, every stage a task
                       +--> a tree over each slab --> OUT/slab003.field.zarr    where slabs are wider than the window

OUT/transforms.json     see jobs/transforms.py; there when all is done
OUT/stack.json          poses, and every pair with its confidence and the weight it was given
OUT/slab003.field.zarr  see jobs/field_store.py
OUT/pairs, nodes, fields              what the tasks found (jobs/register_stack.py, register_tree.py)
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from volpipe import __version__
from volpipe.jobs.fields import Fields
from volpipe.jobs.transforms import Pose, Slab, Transforms
from volpipe.plan import Budget, Plan

if TYPE_CHECKING:
    from volpipe.jobs.register_setup import Setup

TRANSFORMS = "transforms.json"


class RegisterJob(Fields):
    """Find where each slab of a stack lies."""

    slabs: str = Field(description="The slabs file: volumes, layers lost between them, how far they may lie apart.")
    output: str = Field(description="Folder of the transforms file and of what it rests on; it does not exist yet.")
    score: Literal["likelihood", "ncc", "mutual-information", "pixel_ncc", "2d", "trivial"] = Field(
        "likelihood", description="Of register_pair, for whole slabs."
    )
    slant: bool = Field(True, description="Take off what the tissue moves with depth by itself.")
    window: int = Field(256, ge=16, description="Voxels across, about, of whole slabs as they are compared.")
    tree: bool = Field(True, description="Find how slabs are bent, if they are 1.42 times as wide as --window.")
    tree_window: int = Field(32, ge=16, description="Voxels across a node of the tree, at its own level.")
    tree_finest: int = Field(0, ge=0, description="Level of the finest nodes: 0 is that of the slabs file.")

    @property
    def product(self) -> str:
        """Where the product goes."""
        return self.output

    @cached_property
    def _setup(self) -> Setup:
        from volpipe.jobs.register_setup import Setup

        return Setup(self)

    def settings(self) -> dict[str, Any]:
        """What the transforms depend on beside the slabs."""
        return self.model_dump(mode="json", exclude={"slabs", "output"})

    def plan(self, budget: Budget, *, anew: bool = False) -> Plan:
        """Read the slabs file, open every slab, see what is paired with what.

        Raises:
            ConfigError: the slabs file is wrong, or a gap is longer than a slab beside it.
            VolumeError: a slab cannot be read, or is of another voxel size than the others.
            GeometryError: slabs too narrow to be registered.
            ProductError: the output lies inside a slab.
            BudgetError: a pair does not fit into a worker.
        """
        from volpipe.jobs.register_plan import plan_of

        return plan_of(self._setup, budget)

    def begin(self, plan: Plan, *, fresh: bool, replace: bool) -> None:
        """Make the folder, empty and marked as running."""
        from volpipe.volume.results import begin_results

        if fresh:
            begin_results(self.output, replace=replace)

    def finish(self, plan: Plan, value: Any) -> str:
        """Write the transforms file, and say how many pairs were trusted, and what slabs are blank or bridged."""
        from volpipe.jobs.register_plan import fieldless
        from volpipe.jobs.register_stack import FoundStack
        from volpipe.volume.folder import absolute, open_folder
        from volpipe.volume.results import are_complete, finish_results

        folder = open_folder(absolute(self.output))
        found = FoundStack.read(folder)
        if not are_complete(self.output):
            entries = tuple(self._slabs(found))
            made = Transforms(version=1, voxel_size_um=self._setup.voxel_size_um, slabs=entries)
            folder.put(TRANSFORMS, made.text.encode())
            provenance = {"software": f"volpipe {__version__}", "job": self.model_dump(mode="json"), **plan.key}
            finish_results(self.output, {"provenance": provenance})
        told = {
            "no tissue at their gaps": found.blank,
            "bridged": found.bridged,
            "without a field": fieldless(self._setup),
        }
        slabs = [f"; {what}: slabs {', '.join(map(str, which))}" for what, which in told.items() if which]
        return found.told + "".join(slabs) + (f"\n{found.looks_filled}" if found.looks_filled else "")

    def _slabs(self, found: Any) -> Iterator[Slab]:
        from volpipe.jobs.register_plan import fields_of

        given, stack, field_of = self._setup.slabs, self._setup.stack, fields_of(self._setup)
        for number, (entry, pose) in enumerate(zip(given.entries, found.poses, strict=True)):
            yield Slab(
                volume=entry.volume,
                level=given.level,
                layers=self._setup.runs[number],
                flipped=entry.flipped,
                gap_layers=(*stack.gaps, 0)[number],
                pose=Pose(angle_rad=pose.angle_rad, shift_um=pose.shift),
                bridged=number in found.bridged,
                field=field_of(number),
            )
