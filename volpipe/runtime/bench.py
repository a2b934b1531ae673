"""`bench`: what every stitching mode costs on this machine, beside what the machine can do at all.

    network x stitching x assembly x engine x precision  --a real job, thrown away-->  Measured
    the same tiles through the network alone, memory, the store                        Limits

Every case is planned before the first one runs, and before anything is written where the results go: one that does not
fit is refused at once. Before they run, one block of the first case is made by each engine and thrown away, so that no
case pays for this process's imports. What is not warmed up: workers are started anew for each case (`CPU-s` has that,
seconds of blocks have not), a case that meets a network first loads it, and the first one to read a volume finds the
page cache as it is; `repeats` takes medians. CPU-seconds are of the whole process tree, start-up of workers included;
on a shared machine compare them and the ratios within one run, not seconds.
"""

from __future__ import annotations

import resource
import shutil
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from volpipe.geometry import Box
from volpipe.jobs.apply import ApplyJob
from volpipe.jobs.apply_work import ApplyWork
from volpipe.jobs.audit import AuditJob
from volpipe.plan import Budget, Plan
from volpipe.runtime.bench_cases import BenchOptions, Case, cases
from volpipe.runtime.limits import Limits, limits_of
from volpipe.runtime.run import Summary, open_crew, run
from volpipe.runtime.settings import RunSettings
from volpipe.volume import Layout, Product, check_place, create_product, open_product, open_source
from volpipe.volume.product import COMPLETE

BOXES = 4  # of each audit


@dataclass(frozen=True)
class Measured:
    """One run of a case.

    Attributes:
        voxels: of the product.
        slots: blocks in hand at once, over all workers.
        wall_s: of the blocks, workers started before.
        cpu_s: of the whole process tree, from start to end.
        read_s, compute_s, write_s: added over all slots; None where the engine does not tell.
        useful: share of the network's operations that whole-volume inference would need too.
        promised_bytes, peak_bytes: of the largest worker.
        device_promised_bytes, device_peak_bytes: of a worker's GPU; 0 without one.
        audit: largest audited difference, in the unit of what is stored.
        exact: what the product says.
    """

    voxels: int
    slots: int
    wall_s: float
    cpu_s: float
    read_s: float | None
    compute_s: float | None
    write_s: float
    useful: float
    promised_bytes: int
    peak_bytes: int
    device_promised_bytes: int
    device_peak_bytes: int
    audit: float
    exact: bool


Say = Callable[[str], None]
Jobs = Mapping[Case, ApplyJob]  # by case without its engine: one job is run by both, and its network settled once


def bench(options: BenchOptions, settings: RunSettings, folder: Path, say: Say = lambda _: None) -> dict[str, Any]:
    """Measure every case.

    Args:
        options: what.
        settings: where; its engine is left out of account.
        folder: where the results are to go, which need not exist: what is measured is written to its disk, and removed.
        say: told of each case as it begins.

    Returns:
        settings, rows of one case each, and limits by network, stitching, assembly and precision, as JSON.

    Raises:
        UsageError: the network does not fit the volume, or a case cannot be run; nothing was written.
    """
    check_place(str(folder / "bench.json"))
    near = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    place = Path(tempfile.mkdtemp(prefix=".volpipe-bench-", dir=near))
    try:
        noise = None if options.volume else empty_noise(place / "noise.ome.zarr", options.size)
        volume = options.volume or str(place / "noise.ome.zarr")
        chosen = list(cases(options, open_source(volume).channels))
        jobs = {key: _job(key, options, volume, place) for key in dict.fromkeys(map(_limit_key, chosen))}
        block = _first_block(_planned(jobs, settings)[_limit_key(chosen[0])])
        if noise is not None:
            fill_with_noise(noise)
        _warm_up(jobs[_limit_key(chosen[0])], block, options.engines, settings, say)
        rows = _measure(chosen, jobs, options.repeats, settings, say)
        limits = {key: _limits(job, place, settings) for key, job in jobs.items()}
        return {
            "settings": {**options.model_dump(mode="json"), **settings.model_dump(mode="json", exclude={"engine"})},
            "rows": [_row(case, rows[case], limits[_limit_key(case)]) for case in chosen],
            "limits": [_told_limits(key, found) for key, found in limits.items()],
        }
    finally:
        shutil.rmtree(place, ignore_errors=True)


def empty_noise(location: Path, size: int) -> Product:
    """A volume that can be planned on, uint8; `fill_with_noise` gives it its voxels."""
    shard = 64 * min(4, -(-size // 64))
    layout = Layout((size,) * 3, 1, np.dtype("uint8"), (0.01,) * 3, chunk=(64,) * 3, shard=(shard,) * 3)
    product = create_product(str(location), layout, {})
    product.update(state=COMPLETE)
    return product


def fill_with_noise(product: Product) -> None:
    """Smooth noise, one shard in memory at a time."""
    layout = product.layout
    noise = np.random.default_rng(0).integers(0, 85, (1, *layout.shard), "uint8")
    smooth = noise + np.roll(noise, 1, axis=2) + np.roll(noise, 1, axis=3)
    for block in layout.grid:
        product.write(block.core, np.ascontiguousarray(smooth[(slice(None), *(slice(n) for n in block.core.shape))]))


# ---------------------------------------------------------------------- all cases


def _planned(jobs: Jobs, settings: RunSettings) -> dict[Case, Plan]:
    """The plans of all: whatever does not fit is refused now."""
    budget = _budget(settings)
    return {key: job.plan(budget) for key, job in jobs.items()}


def _budget(settings: RunSettings) -> Budget:
    if settings.cluster == "local":
        return settings.local_budget()
    with open_crew(settings) as crew:  # whose workers say what they have
        return crew.budget


def _first_block(plan: Plan) -> Box:
    """In voxels of the volume."""
    work: ApplyWork = plan.works["apply"]  # type: ignore[assignment]
    return work.inference.footprint.inputs(work.grid[0].core)


def _warm_up(job: ApplyJob, block: Box, engines: Sequence[str], settings: RunSettings, say: Say) -> None:
    small = ApplyJob(**job.model_dump() | {"bbox": str(block)})  # anew: a copy would keep what was planned
    for engine in engines:
        say(f"warm-up: one block, {engine}")
        run(small, settings.model_copy(update={"engine": engine}), restart=True, progress=None)


def _measure(
    chosen: Sequence[Case], jobs: Jobs, repeats: int, settings: RunSettings, say: Say
) -> dict[Case, list[Measured]]:
    rows: dict[Case, list[Measured]] = {case: [] for case in chosen}
    for turn in range(repeats):
        for number, case in enumerate(chosen, start=1):
            say(f"{turn * len(chosen) + number}/{repeats * len(chosen)} {_told(case)}")
            rows[case].append(_run(jobs[_limit_key(case)], case, settings))
    return rows


# ---------------------------------------------------------------------- one case


def _job(case: Case, options: BenchOptions, volume: str, place: Path) -> ApplyJob:
    fields: dict[str, Any] = {"normalise": options.normalise, "weights": options.weights, "block": options.block}
    return ApplyJob(
        input=volume, output=str(place / "product.ome.zarr"), model=case.model, trust_code=options.trust_code,
        tile=None if dict(case.options).get("stitching") == "windows" else options.tile, assembly=case.assembly,
        precision=case.precision, pyramid=False, audit=0, **fields, **dict(case.options),
    )  # fmt: skip


def _run(job: ApplyJob, case: Case, settings: RunSettings) -> Measured:
    before = _cpu_s()
    summary = run(job, settings.model_copy(update={"engine": case.engine}), restart=True, progress=None)
    cpu_s = _cpu_s() - before
    audit = AuditJob(volume=job.output, boxes=BOXES, trust_code=job.trust_code)
    run(audit, settings.model_copy(update={"engine": "blocks"}), progress=None)  # apart, so that no rate holds it
    return _measured(summary, open_product(job.output).attributes, cpu_s, open_source(job.output).shape)


def _measured(summary: Summary, told: dict[str, Any], cpu_s: float, shape: Sequence[int]) -> Measured:
    price, seconds = summary.plan.price, summary.seconds_of["apply"]
    return Measured(
        voxels=int(np.prod(shape)),
        slots=summary.slots,
        wall_s=summary.wall_s,
        cpu_s=cpu_s,
        read_s=seconds.get("read"),
        compute_s=seconds.get("compute"),
        write_s=seconds.get("write", 0.0),
        useful=price.useful_flops / price.flops if price.flops else 1.0,
        promised_bytes=price.worker_bytes,
        peak_bytes=max(summary.peak_bytes.values()),
        device_promised_bytes=price.device_bytes,
        device_peak_bytes=summary.device_peak_bytes,
        audit=told["audit"]["largest"],
        exact=told["exact"],
    )


def _cpu_s() -> float:
    """CPU-seconds of this process and of all that it waited for."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _limit_key(case: Case) -> Case:
    """Limits do not depend on the engine."""
    return Case(case.model, case.options, case.assembly, "blocks", case.precision)


def _limits(job: ApplyJob, place: Path, settings: RunSettings) -> Limits:
    shutil.rmtree(place / "product.ome.zarr", ignore_errors=True)
    shutil.rmtree(place / "product.ome.zarr.ledger", ignore_errors=True)
    return limits_of(job, settings.model_copy(update={"engine": "blocks"}))


def _told_limits(key: Case, found: Limits) -> dict[str, Any]:
    named = {"network": key.network, "stitching": key.stitching, "assembly": key.assembly, "precision": key.precision}
    return {**named, **asdict(found)}


def _row(case: Case, found: list[Measured], limits: Limits) -> dict[str, Any]:
    """Medians of the runs, rates beside the limit of the network alone."""

    def of(name: str) -> Any:
        values = [getattr(one, name) for one in found]
        return None if None in values else statistics.median(values)

    rate = statistics.median(one.voxels / one.wall_s for one in found)
    return {
        "network": case.network,
        "stitching": case.stitching,
        "assembly": case.assembly,
        "engine": case.engine,
        "precision": case.precision,
        "Mvoxel/s": rate / 1e6,
        "wall s": of("wall_s"),
        "slots": found[0].slots,
        "of the network alone": rate / limits.forward,
        "CPU-s": of("cpu_s"),
        "read s": of("read_s"),
        "compute s": of("compute_s"),
        "write s": of("write_s"),
        "useful": of("useful"),
        "promised MiB": None if case.engine == "map-overlap" else of("promised_bytes") / 2**20,
        "peak MiB": max(one.peak_bytes for one in found) / 2**20,
        "GPU promised MiB": of("device_promised_bytes") / 2**20,
        "GPU peak MiB": max(one.device_peak_bytes for one in found) / 2**20,
        "audit": max(one.audit for one in found),
        "exact": all(one.exact for one in found),
    }


def _told(case: Case) -> str:
    return f"{case.model}: {case.stitching}, {case.assembly}, {case.engine}, {case.precision}"
