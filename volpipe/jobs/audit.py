"""`audit`: is a product what its network gives? A few small boxes across faces are computed again from the input.

    apply      ... blocks --> ("audit", i), which needs the blocks that its box touches --> finish: exact, or why not
    audit OUT  the same boxes and more, of a finished product, from what its provenance says of how it was made

A box is computed on other tiles than those of the run, and compared as it is stored (stitching/audit.py). For an
inexact mode it is the same network on tiles of the same size that lie elsewhere: how much the product depends on where
its tiles lie.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from pydantic import Field

from volpipe.errors import ConfigError, ModelError, ProductError, RunError, VolumeError
from volpipe.geometry import BlockGrid, Box, Footprint, ceil_to, floor_to
from volpipe.jobs.apply import ApplyJob
from volpipe.jobs.fields import Fields
from volpipe.jobs.norm import parse_norm
from volpipe.plan import Budget, Plan, Price, Receipt, Task
from volpipe.stitching import Tile
from volpipe.stitching.audit import SIDE, Finding, Spot, judge, rank, spots, verdict
from volpipe.stitching.overlap import Overlap
from volpipe.volume.layout import blocks_touched
from volpipe.volume.ledger import changes

if TYPE_CHECKING:
    from volpipe.jobs.apply_setup import Setup
    from volpipe.jobs.apply_work import ApplyWork

NAME, APPLY = "audit", "apply"
MARGIN = 16  # voxels by which a box is grown on a side: what a short halo spoils lies outside the box
FEWEST, MOST = 2, 8  # boxes of a run that does not say how many
MOVED = {  # what an error of a kind may come from, and the options that tell better
    VolumeError: "--input and --mask say",
    ModelError: "--model and --weights say",
    ConfigError: "--norm-file says",
}
TILES_A_BOX = 50  # of such a run: what the audit adds stays a few per cent


@dataclass(frozen=True)
class AuditWork:
    """Looks at one spot of what `apply` stored.

    Attributes:
        apply: the work that made it.
        has_faces: False if a single tile made it all.
        whole: what `exact` made is compared with the whole network on all that a tile reads: another way to the same
            numbers, which shares no rule of an interval with it. Else with the intervals of another tile.
    """

    apply: ApplyWork
    spots: tuple[Spot, ...]
    has_faces: bool
    whole: bool = False

    def __call__(self, item: int) -> Receipt:
        """Read what is stored, compute it twice, compare."""
        spot, inference = self.spots[item], self.apply.inference
        began = time.perf_counter()
        stored = self.apply.product.read(self.apply.place(spot.box))
        read = time.perf_counter()
        again, other = (self._computed(spot, which) for which in (0, 1))
        finding = judge(spot, stored, again, other, inference.encoding.name, inference.precision)
        seconds = {"read": read - began, "compute": time.perf_counter() - read}
        return Receipt(NAME, item, seconds=seconds, bytes_read=stored.nbytes, value=[asdict(finding)])

    def _computed(self, spot: Spot, which: int) -> Any:
        """The encoded voxels of a spot's box, from one of the two tiles that are laid around it."""
        tile = self.tile(spot, which)
        voxels, box = self.apply.read([tile], f"the audit of {spot.box}")
        inference = self.apply.inference
        if self.whole:
            inference = replace(inference, mode=Overlap())
        values = inference(voxels, box, [tile], tile.own)
        return values[(slice(None), *spot.box.relative_to(tile.own.start).slices)]

    def tile(self, spot: Spot, which: int) -> Tile:
        """One of the two tiles that are laid around a spot. It owns the spot's box; by intervals all that was laid
        around it: of the box alone both would compute the same."""
        inference = self.apply.inference
        mode, volume, footprint = inference.mode, inference.volume, inference.footprint
        around = _same_tile_around if mode.inexact else partial(_around, thin=self.whole)
        region = mode.region(volume, footprint)
        if not inference.statistics.everywhere:
            region = region.intersect(self.apply.grid.region)
        axes = zip(spot.box.start, spot.box.stop, inference.tile, footprint.output_period, region.stop, strict=True)
        start, stop = zip(*(around(*axis, which) for axis in axes), strict=True)
        around_it = mode.alone(Box(start, stop).intersect(region), volume, footprint)
        return around_it if mode.by_intervals else replace(around_it, own=spot.box)


def _around(a: int, b: int, tile: int, period: int, end: int, which: int, *, thin: bool) -> tuple[int, int]:
    """[a, b) grown on the period and clipped to the product: two tiles of different sizes, so that kernels add up in
    another order, and no larger than the run's by more than three periods; or `thin` ones, no larger than they must.
    The second one is larger on both sides: near a face of the volume one of them is clipped."""
    margin = which * period + (0 if thin else max(period, min((tile - (b - a)) // 2, MARGIN)))
    return max(0, floor_to(a - margin, period)), min(end, ceil_to(b + margin, period))


def _same_tile_around(a: int, b: int, tile: int, period: int, end: int, which: int) -> tuple[int, int]:
    """The same where a tile's size shows in the result: two tiles of the run's size, moved inside the product."""
    before = max(0, tile - (b - a)) // (2, 4)[which]
    earliest = min(floor_to(a, period), ceil_to(b - tile, period))  # a window must hold all of [a, b)
    start = max(floor_to(a - before, period), earliest)
    size = max(tile, ceil_to(b - start, period))
    start = max(0, min(start, ceil_to(end - size, period)))
    return start, min(end, start + size)


def audit_work(setup: Setup, apply: ApplyWork, count: int | None, seed: int = 0) -> AuditWork:
    """The work on the spots of a product.

    Args:
        count: of boxes; None chooses by the number of tiles.
        seed: other boxes for another seed.
    """
    tile = apply.inference.tile
    faces = _faces(setup, tile)
    if count is None:
        tiles = math.prod(1 + len(there) for there in faces)
        count = min(max(tiles // TILES_A_BOX, FEWEST), MOST)
    content = json.dumps(setup.key(tile), sort_keys=True, default=str).encode()
    sides = [min(SIDE, max(1, edge // 2)) for edge in tile]

    def made(box: Box) -> bool:
        return not any(apply.skips(block.number) for block in blocks_touched(apply.grid, box))

    found = spots(setup.grid.region, faces, sides, count, zlib.crc32(content) + seed, made)
    return AuditWork(apply, tuple(found), any(faces))


def audit_tasks(work: AuditWork, *, finished: bool = False) -> Iterator[Task]:
    """One task a spot; of a product that is not `finished` it needs the blocks that its box touches."""
    for item, spot in enumerate(work.spots):
        blocks = [] if finished else blocks_touched(work.apply.grid, spot.box)
        yield Task(NAME, item, tuple((APPLY, block.number) for block in blocks))


def joined(one: list[Any] | None, two: list[Any] | None) -> list[Any]:
    """Findings of two receipts; those of blocks carry none."""
    return (one or []) + (two or [])


def outcome(setup: Setup, work: AuditWork, value: list[Mapping[str, Any]] | None) -> tuple[dict[str, Any], str]:
    """(attributes of the product, one line for people) from the findings of all receipts."""
    findings = [Finding(**found) for found in value or []]
    audit = verdict(findings, setup.encoding.name)
    reason = _reason(setup, work, audit)
    seen = (
        f"{len(findings)} boxes across faces, largest difference {audit['largest']:.3g} {audit['unit']}, "
        f"a step above {audit['smallest_step_seen']:.2g} would show"
    )
    promise = f"not exact ({reason})" if reason else "equals whole-volume inference"
    return {"exact": not reason, "exact_reason": reason, "audit": audit}, f"{promise}; {seen}" if findings else promise


def _reason(setup: Setup, work: AuditWork, audit: Mapping[str, Any]) -> str:
    """Why a product may not be called exact, or ""."""
    if setup.inexact():
        return setup.inexact()
    if audit["seams"]:
        by_hand = "; is the halo given by hand too small?" if setup.on_trust() else ""
        return f"{len(audit['seams'])} of {audit['boxes']} boxes differ from what the network gives there{by_hand}"
    if setup.on_trust():
        return setup.on_trust()
    return "not audited" if work.has_faces and not audit["boxes"] else ""


def _faces(setup: Setup, tile: tuple[int, ...]) -> list[list[int]]:
    """Per axis that the network sees, where tiles or blocks meet inside the product, in voxels of the volume."""
    return [_faces_across(setup, tile, axis) if seen else [] for axis, seen in enumerate(setup.assembly.sees)]


def _faces_across(setup: Setup, tile: tuple[int, ...], axis: int) -> list[int]:
    region, footprint = setup.grid.region, Footprint((setup.footprint.axes[axis],))
    volume = (setup.source.shape[axis],)
    starts = set()
    for block in BlockGrid(Box((region.start[axis],), (region.stop[axis],)), (setup.grid.shape[axis],)):
        starts |= {t.own.start[0] for t in setup.mode.tiles(block.core, volume, (tile[axis],), footprint)}
    return sorted(starts)[1:]


class AuditJob(Fields):
    """Recompute small boxes of a finished product from its input, and say whether it is what its network gives."""

    volume: str = Field(description="A product of volpipe apply.")
    boxes: int = Field(16, ge=1, description="How many boxes are computed again.")
    seed: int = Field(0, ge=0, description="Other boxes for another seed.")
    fail_above: float | None = Field(
        None, ge=0, description="Fail if a voxel differs by more, in the unit of what is stored; also of inexact modes."
    )
    input: str | None = Field(None, description="Where the input lies now, if it was moved.")
    model: str | None = Field(None, description="Where the model lies now, if it was moved.")
    weights: str | None = Field(None, description="Where the weights of a factory lie now, if they were moved.")
    mask: str | None = Field(None, description="Where the mask lies now, if it was moved.")
    norm_file: str | None = Field(None, description="Where the norm.json of --norm lies now, if it was moved.")
    trust_code: bool = Field(False, description="Run the code of a package.module:factory model.")

    @property
    def product(self) -> None:
        """None: an audit leaves nothing to go on with."""
        return

    def plan(self, budget: Budget, *, anew: bool = False) -> Plan:
        """Open the product and what it was made of, and choose the boxes.

        Raises:
            ProductError: the product is not one of `apply`, not finished, or its input or model changed.
        """
        from volpipe.jobs.apply_plan import Pricing, plan_of

        made = plan_of(self._setup, budget)
        apply: ApplyWork = made.works[APPLY]  # type: ignore[assignment]
        work = Pricing(self._setup, budget).audited(audit_work(self._setup, apply, self.boxes, self.seed))
        return Plan(
            title=f"audit {self.volume}",
            works={NAME: work},
            tasks=lambda: audit_tasks(work, finished=True),
            count=len(work.spots),
            price=Price(worker_bytes=made.price.worker_bytes, device_bytes=made.price.device_bytes),
            facts=(
                ("boxes", f"{len(work.spots)} across faces of blocks and tiles"),
                *(fact for fact in made.facts if fact[0] in ("stitching", "halo", "memory")),
            ),
            reduce=joined,
        )

    def begin(self, plan: Plan, *, fresh: bool, replace: bool) -> None:
        """Nothing is made."""

    def finish(self, plan: Plan, value: Any) -> str:
        """Write down what was found, unless an earlier audit says more: it saw a seam, or more boxes.

        Raises:
            RunError: a voxel differs by more than `fail_above`.
        """
        from volpipe.volume import open_product

        found, line = outcome(self._setup, plan.works[NAME], value)  # type: ignore[arg-type]
        product, audit = open_product(self.volume), found["audit"]
        earlier = product.attributes["audit"]
        if rank(audit) >= rank(earlier):
            product.update(**found)
        elif earlier["seams"]:
            line += f"; not exact all the same: an earlier audit found {len(earlier['seams'])} boxes that differ"
        if self.fail_above is not None and audit["largest"] > self.fail_above:
            raise RunError(f"{self.volume}: a voxel differs by {audit['largest']:.3g} {audit['unit']}, more than "
                           f"--fail-above {self.fail_above:g}; {line}")  # fmt: skip
        return line

    @cached_property
    def _setup(self) -> Setup:
        from volpipe.jobs.apply_setup import Setup
        from volpipe.jobs.norm_pass import folder_of
        from volpipe.jobs.norm_statistics import NAME as NORM

        made = self._provenance()
        moved = {"input": self.input, "model": self.model, "weights": self.weights, "mask": self.mask}
        given = {"output": self.volume, "tile": made["geometry"]["tile"], **moved}
        known = {name: value for name, value in given.items() if value is not None}
        if parse_norm(made["job"]["norm"]).over_volume:
            known["norm"] = f"frozen:{self.norm_file or f'{folder_of(self.volume)}/{NORM}'}"
            known["norm_planes"] = "each"  # the file says whose they are
        job = ApplyJob(**made["job"] | known | {"trust_code": self.trust_code})  # not on what a product says
        try:
            setup = Setup(job, made_of=made["input"])
            now = setup.key(job.tile or ())
        except (VolumeError, ModelError, ConfigError) as error:
            options = next(options for kind, options in MOVED.items() if isinstance(error, kind))
            raise type(error)(f"{error} (was it moved? {options} where it lies now)") from error
        self._check_unchanged(made, now)
        return setup

    def _provenance(self) -> dict[str, Any]:
        """How the product was made, as its attributes tell."""
        from volpipe.volume import open_product
        from volpipe.volume.product import COMPLETE

        own = open_product(self.volume).attributes
        made = own.get("provenance", {})
        if "job" not in made or "tile" not in made.get("geometry", {}):
            raise ProductError(f"{self.volume}: does not tell what network made it; give a product of volpipe apply")
        if own.get("state") != COMPLETE:
            raise ProductError(f"{self.volume}: is not finished; give the command that makes it again")
        return dict(made)

    def _check_unchanged(self, made: Mapping[str, Any], now: dict[str, Any]) -> None:
        """Refuse another input or model: what differs would not be the stitching."""
        before = {name: made[name] for name in now}
        for name, given in (("input", self.input), ("mask", self.mask)):
            if given is not None:  # a copy has another place and other times
                for key in (before, now):
                    key[name] = {of: it for of, it in (key[name] or {}).items() if of not in ("location", "modified")}
        changed = changes(before, now)
        if changed:
            raise ProductError(f"{self.volume}: was made from something else ({'; '.join(changed)}); give --input, "
                               "--model, --weights or --mask where they lie now")  # fmt: skip
