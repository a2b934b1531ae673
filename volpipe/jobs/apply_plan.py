"""The plan of `apply`: the tile for a memory budget, the price of all blocks, the tasks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from volpipe import stitching
from volpipe.geometry import floor_to
from volpipe.inference.precision import Precision
from volpipe.inference.price import ForwardPrice, cast_bytes, forward_price, joined_price, weight_bytes
from volpipe.inference.statistics import BYTES
from volpipe.jobs import memory, plain, tiling
from volpipe.jobs.apply_setup import Setup
from volpipe.jobs.apply_work import NAME, ApplyWork
from volpipe.jobs.audit import NAME as AUDIT
from volpipe.jobs.audit import AuditWork, audit_tasks, audit_work, joined
from volpipe.jobs.norm_pass import passes_of, statistics_of
from volpipe.jobs.pyramid import pyramid_bytes, pyramid_tasks, pyramid_works
from volpipe.plan import Budget, Plan, Price, Task
from volpipe.volume import Product
from volpipe.volume.folder import absolute
from volpipe.volume.ledger import Ledger, changes

Tile = tuple[int, ...]
MANY_PASSES, LARGE = 10, 2**27  # voxels: below, passes are soon done


def plan_of(setup: Setup, budget: Budget, anew: bool = False) -> Plan:
    """Choose the tile and put everything together; see `Job`.

    Raises:
        BudgetError: no tile fits.
        GeometryError: the tile given is off the period.
    """
    first = passes_of(setup)
    if setup.norm.by_passes:
        setup.norm_statistics = None if anew else statistics_of(setup)
    pricing = Pricing(setup, budget)
    tile = _tile(setup, budget, pricing, anew)
    pricing.forward(pricing.reads(tile).smallest)  # a network that needs more than the thinnest tile says so now
    passes = [each.plan(budget, anew=anew).price for each in first]
    price = _with_passes(pricing.price(tile), passes)
    apply = _work(setup, budget, tile, price.device_bytes or price.worker_bytes)
    audit = pricing.audited(audit_work(setup, apply, setup.job.audit))
    return Plan(
        title=f"apply {setup.job.model} to {setup.job.input}",
        works={NAME: apply, AUDIT: audit, **pyramid_works(apply.product, setup.factors, setup.method)},
        tasks=lambda: _tasks(setup, audit),
        count=_count(setup, audit),
        price=price,
        key=setup.key(tile),
        facts=_facts(setup, tile, price, budget.device, passes),
        reduce=joined,
        skips=None if setup.mask is None else apply.skips,
        first=first,
    )


def _with_passes(price: Price, passes: Sequence[Price]) -> Price:
    return replace(
        price,
        worker_bytes=max([price.worker_bytes, *(each.worker_bytes for each in passes)]),
        device_bytes=max([price.device_bytes, *(each.device_bytes for each in passes)]),
        bytes_read=price.bytes_read + sum(each.bytes_read for each in passes),
        flops=price.flops + sum(each.flops for each in passes),
    )


def _count(setup: Setup, audit: AuditWork) -> int:
    levels = sum(len(level.grid) for level in setup.layout.levels(setup.factors)[1:])
    return len(setup.grid) + len(audit.spots) + levels


@dataclass
class Pricing:
    """What a tile would cost under a budget; the forward pass of each shape is priced once."""

    setup: Setup
    budget: Budget
    _forwards: dict[tuple[Tile, Tile], ForwardPrice] = field(default_factory=dict)

    def reads(self, tile: Tile) -> tiling.Reads:
        """Voxels read over the region."""
        setup = self.setup
        return tiling.reads(setup.mode, setup.grid, setup.source.shape, tile, setup.footprint)

    def forward(self, tile: stitching.Tile) -> ForwardPrice:
        """The forward passes on a batch of tiles as this one."""
        key = (tile.own.shape, tile.read.shape)
        if key not in self._forwards:
            one = self._by_intervals if self.setup.mode.by_intervals else self._whole
            batch = self.setup.job.batch
            passes = [one(inputs * batch, seen, axis) for inputs, seen, axis in self.setup.assembly.passes(tile)]
            values = tile.own.size * batch * self.setup.model.out_channels
            self._forwards[key] = joined_price(passes, values * self._value_bytes)
        return self._forwards[key]

    def audited(self, work: AuditWork) -> AuditWork:
        """By the whole network, where tiles can be run by themselves and none takes more memory than one of the run."""
        setup = self.setup
        if not setup.mode.by_intervals or setup.settled.by_intervals_alone or setup.norm.over_volume:
            return work
        whole, passes = replace(work, whole=True), self.setup.assembly.passes
        seen = {tile.read.shape: tile for tile in (whole.tile(spot, 1) for spot in work.spots)}.values()
        peaks = [self._whole(*one).peak_bytes for tile in seen for one in passes(tile)]
        allowed = self.forward(self.reads(work.apply.inference.tile).largest).peak_bytes
        return whole if max(peaks, default=0) <= allowed else work

    def whole_flops(self, tile: stitching.Tile) -> float:
        """Of whole-volume inference, for every voxel of the volume; from what a tile reads."""
        passes = self.setup.assembly.passes(tile)
        return sum(self._whole(1, seen, axis).flops / seen.read.size for _, seen, axis in passes)

    def _whole(self, inputs: int, tile: stitching.Tile, axis: int | None) -> ForwardPrice:
        precision = Precision(self.setup.job.precision)
        return forward_price(self.setup.model, tile.read.shape, inputs, precision, self.budget.device)

    def _by_intervals(self, inputs: int, tile: stitching.Tile, axis: int | None) -> ForwardPrice:
        program = self.setup.program(axis)
        cost = program.held(inputs).plan(tile.outputs).cost(inputs, self.budget.device)
        beside = cast_bytes(self.setup.model, tile.read.shape, inputs, Precision(self.setup.job.precision))
        beside += inputs * sum(program.groups) * BYTES
        return replace(cost, peak_bytes=cost.peak_bytes + beside, weight_bytes=self._weight_bytes)

    @property
    def _weight_bytes(self) -> int:
        """And of what programs hold beside them: a worker has that of every axis."""
        setup = self.setup
        programs = [setup.program(axis) for axis in setup.assembly.axes] if setup.mode.by_intervals else []
        beside = sum(program.constant_bytes for program in programs)
        return weight_bytes(setup.model.network, Precision(setup.job.precision)) + beside

    @property
    def _value_bytes(self) -> int:
        return Precision(self.setup.job.precision).storage.itemsize

    def promise(self, tile: Tile) -> tuple[int, int]:
        """(bytes of a worker process, bytes of a GPU) with this tile."""
        setup, reads = self.setup, self.reads(tile)
        forward = self.forward(reads.largest)
        block = memory.BlockMemory(
            read=reads.largest_block * setup.input_voxel_bytes,
            product=math.prod(setup.grid.shape) * setup.output_voxel_bytes,
            summed=math.prod(setup.grid.shape) * setup.model.out_channels * self._value_bytes if setup.job.blend else 0,
            forward=forward.peak_bytes,
        )
        host = max(
            memory.worker_bytes(
                block, forward.weight_bytes, self.budget.slots, self.budget.device, captured=setup.mode.by_intervals
            ),
            memory.PROCESS_BYTES + self.budget.slots * pyramid_bytes(setup.layout, setup.factors),
        )
        on_gpu = self.budget.device != "cpu"
        return host, memory.device_bytes(block, forward.weight_bytes) if on_gpu else 0

    def fits(self, tile: Tile) -> bool:
        """True if both promises can be kept."""
        host, device = self.promise(tile)
        return host <= self.budget.worker_bytes and device <= (self.budget.device_bytes or device)

    def price(self, tile: Tile) -> Price:
        """Of the whole run."""
        reads = self.reads(tile)
        flops = self.forward(reads.largest).flops / (self.setup.job.batch * reads.largest.read.size)
        worker, device = self.promise(tile)
        region = self.setup.grid.region.size
        covered = region / math.prod(self.setup.footprint.scale)
        return Price(
            worker_bytes=worker,
            device_bytes=device,
            bytes_read=reads.blocks * self.setup.input_voxel_bytes,
            bytes_written=region * self.setup.output_voxel_bytes,
            flops=flops * reads.tiles,
            useful_flops=min(flops * reads.tiles, self.whole_flops(reads.largest) * float(covered)),
        )


def _tile(setup: Setup, budget: Budget, pricing: Pricing, anew: bool) -> Tile:
    """As given, as the run that goes on began with, or the largest that fits."""
    fixed = setup.job.tile or (None if anew else _tile_begun_with(setup))
    if fixed is not None:
        tiling.check_tile(fixed, setup.footprint)
    candidates = iter([fixed]) if fixed else _candidates(setup)
    return tiling.largest_that_fits(candidates, pricing.fits, lambda tile: _refusal(setup, budget, pricing, tile))


def _tile_begun_with(setup: Setup) -> Tile | None:
    """The tile of an unfinished or finished run that differs in nothing else."""
    stored = Ledger(setup.job.output).key() or {}
    tile = tuple(stored.get("geometry", {}).get("tile", ()))
    return tile if tile and not changes(stored, setup.key(tile)) else None


def _candidates(setup: Setup) -> Iterator[Tile]:
    """Where the product depends on the tile, that one is a function of block and network alone."""
    if setup.mode.inexact:
        return iter([tiling.standard_tile(setup.grid.shape, setup.footprint)])
    return tiling.tile_candidates(setup.grid.shape, setup.footprint)


def _refusal(setup: Setup, budget: Budget, pricing: Pricing, tile: Tile) -> str:
    host, device = pricing.promise(tile)
    if device > (budget.device_bytes or device):
        return (
            f"tile {tile}: needs {plain.size(device)} of GPU memory, there is {plain.size(budget.device_bytes or 0)}; "
            "give --precision bf16 or another model"
        )
    smaller = next((block for block in _smaller_blocks(setup.grid.shape) if _block_fits(setup, budget, block)), None)
    would = f"--block {','.join(map(str, smaller))}" if smaller else f"--memory-per-worker {host / 2**30 + 0.05:.1f}GiB"
    return (
        f"block {setup.grid.shape} with tile {tile}: needs {plain.size(host)} in a worker with {budget.slots} slots, "
        f"it has {plain.size(budget.worker_bytes)}; give {would}"
    )


def _smaller_blocks(block: Tile) -> Iterator[Tile]:
    while max(block) >= 2 * tiling.CHUNK:
        half = max(tiling.CHUNK, floor_to(max(block) // 2, tiling.CHUNK))
        block = tuple(min(b, half) for b in block)
        yield block


def _block_fits(setup: Setup, budget: Budget, block: Tile) -> bool:
    """True if the same job with this block would be taken."""
    job = setup.job.model_copy(update={"block": block})
    pricing = Pricing(Setup(job), budget)
    *_, smallest = [job.tile] if job.tile else _candidates(pricing.setup)
    return pricing.fits(smallest)


def _work(setup: Setup, budget: Budget, tile: Tile, promised: int) -> ApplyWork:
    product, inference = Product(absolute(setup.job.output), setup.layout), setup.inference(tile, budget, promised)
    return ApplyWork(setup.source, product, setup.mask, setup.grid, inference)


def _tasks(setup: Setup, audit: AuditWork) -> Iterator[Task]:
    yield from (Task(NAME, number) for number in range(len(setup.grid)))
    yield from audit_tasks(audit)
    yield from pyramid_tasks(setup.layout, setup.factors, setup.grid, NAME)


def _facts(setup: Setup, tile: Tile, price: Price, device: str, passes: Sequence[Price]) -> tuple[tuple[str, str], ...]:
    grid, source, layout, inexact = setup.grid, setup.source, setup.layout, setup.inexact()
    promise = f"inexact ({inexact})" if inexact else setup.on_trust() or "equals whole-volume inference"
    promise += f"; --stitching exact, which costs less, cannot run it: {setup.not_exact}" if setup.not_exact else ""
    blocks = price.flops - sum(each.flops for each in passes)
    useful = price.useful_flops / blocks if blocks else 1.0
    facts = [
        ("input", f"{source.location}  {plain.by(source.shape)} {source.dtype}, {source.channels} channel(s)"),
        ("product", f"{setup.job.output}  {plain.by(layout.shape)} {layout.dtype}, {layout.channels} channel(s)"),
        ("stitching", f"{setup.mode.name}, {setup.assembly.name}: {promise}"),
        ("blocks", f"{len(grid)} of {plain.by(grid.shape)}, tiles of {plain.by(tile)}"),
        _context(setup),
        ("read, write", f"{plain.size(price.bytes_read)}, {plain.size(price.bytes_written)} uncompressed"),
        ("compute", f"{price.flops / 1e12:.3g} TFLOP, {useful:.0%} of it useful"),
        ("memory", f"{plain.size(price.worker_bytes)} promised per worker"),
    ]
    if setup.norm.over_volume:
        facts.insert(3, ("norm", _norm(setup, passes)))
    if device == "cpu" and not Precision(setup.job.precision).is_fast_on_cpu:
        facts.append(("precision", f"{setup.job.precision}: this CPU has no instructions for it; fp32 is far faster"))
    if price.device_bytes:
        facts.append(("GPU memory", f"{plain.size(price.device_bytes)} promised"))
    return tuple(facts)


def _norm(setup: Setup, passes: Sequence[Price]) -> str:
    if setup.norm.kind == "frozen":
        return f"statistics of {setup.norm.file}"
    read, tflop = plain.size(sum(each.bytes_read for each in passes)), sum(each.flops for each in passes) / 1e12
    text = f"{setup.norm.kind}: {len(passes)} pass(es) over the volume first{_across(setup, len(passes))}, "
    text += f"{tflop:.3g} TFLOP, {read} read"
    if len(passes) > MANY_PASSES and math.prod(setup.source.shape) >= LARGE:
        takes = "two" if len(setup.assembly.axes) == 1 else "four"
        text += f"; --norm pooled takes {takes}, its blocks included, and is inexact"
    return text


def _across(setup: Setup, passes: int) -> str:
    """Of passes by planes, how many an axis takes, and whose statistics they find."""
    axes = setup.assembly.across
    if not axes or not passes:
        return ""
    whose = "of each plane" if setup.norm.of_each_plane else "one set for all planes"
    shared = "" if len(axes) == 1 else f": {passes // len(axes)} across each of {', '.join(axes)}, none is shared"
    return f" ({whose}{shared})"


def _context(setup: Setup) -> tuple[str, str]:
    footprint = setup.footprint
    if setup.mode.name == "windows":
        windows = [axis.window or 1 for axis in footprint.axes]
        return "window", f"{plain.by(windows)} voxels, token {plain.by(footprint.period)}"
    halo = ", ".join(f"{before}+{after}" for before, after in footprint.halo)
    return "halo", f"{halo} voxels, period {plain.by(footprint.period)}"
