"""`bench`: what every stitching mode costs on this machine, beside what the machine can do at all.

    network x stitching x assembly x engine x precision  --a real job, thrown away-->  Measured
    the same tiles through the network alone, memory, the store                        Limits

A case is one that the network fits: padded networks have `tile`, `overlap` and blends, those without padding `valid`,
2D networks also orthoslices. CPU-seconds are of the whole process tree, start-up of workers included; on a shared
machine compare them and the ratios within one run, not seconds.
"""

from __future__ import annotations

import resource
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from volpipe.errors import ConfigError
from volpipe.geometry import Footprint
from volpipe.jobs.apply import ApplyJob
from volpipe.jobs.audit import AuditJob
from volpipe.jobs.fields import Fields, one_for_three
from volpipe.runtime.limits import Limits, limits_of
from volpipe.runtime.run import Summary, run
from volpipe.runtime.settings import RunSettings
from volpipe.volume import Layout, create_product, open_product, open_source

PRESETS = ("unet3d_l3_w8", "unet3d_l3_valid_w8", "unet2d_l4_w8", "unet2d_l4_valid_w8", "mae3d_p4_w48")
PADDED: tuple[dict[str, Any], ...] = ({"stitching": "tile"}, {"stitching": "overlap"}, {"blend": "gaussian"})
VALID: tuple[dict[str, Any], ...] = ({"stitching": "valid"}, {"stitching": "valid", "faces": "reflect"})
BOXES = 4  # of each audit

Engine = Literal["blocks", "map-overlap"]
Precision = Literal["fp32", "bf16", "fp16", "fp64"]


class BenchOptions(Fields):
    """What is measured, and on what."""

    volume: str | None = Field(None, description="The volume; smooth noise if not given.")
    size: int = Field(256, ge=64, description="Edge of the noise, voxels of uint8.")
    model: str | None = Field(None, description="One network, as for apply; a small one of every kind if not given.")
    weights: str | None = Field(None, description="Weights (.safetensors) of a package.module:factory model.")
    trust_code: bool = Field(False, description="Run the code of a package.module:factory model.")
    normalise: str = Field("model", description="As for apply.")
    block: tuple[int, int, int] | None = Field(None, description="Core of a block z, y, x.")
    tile: tuple[int, int, int] | None = Field(None, description="Own voxels of a tile z, y, x.")
    engines: tuple[Engine, ...] = Field(("blocks", "map-overlap"), description="blocks, map-overlap.")
    precisions: tuple[Precision, ...] = Field(("fp32", "bf16"), description="fp32, bf16, fp16, fp64.")
    repeats: int = Field(1, ge=1, description="Runs of each case, in turns; the medians count.")

    _extents = field_validator(
        "block", "tile", mode="before", json_schema_input_type=int | tuple[int, int, int] | None
    )(one_for_three)


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    model: str
    options: tuple[tuple[str, Any], ...]
    assembly: str
    engine: str
    precision: str

    @property
    def stitching(self) -> str:
        """As people say it: `valid, reflect`."""
        given = dict(self.options)
        name = given.get("stitching") or ("overlap" if "blend" in given else "windows")
        return ", ".join([name, *(value for key, value in self.options if key != "stitching")])


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
    audit: float
    exact: bool


def bench(
    options: BenchOptions, settings: RunSettings, folder: Path, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure every case.

    Args:
        options: what.
        settings: where; its engine is left out of account.
        folder: the disk to write to; what is written there is removed.
        say: told of each case as it begins.

    Returns:
        settings, and rows of one case each, as JSON.

    Raises:
        UsageError: the network does not fit the volume.
    """
    place = Path(tempfile.mkdtemp(prefix=".volpipe-bench-", dir=folder))
    try:
        volume = options.volume or make_noise(place / "noise.ome.zarr", options.size)
        chosen = list(cases(options, open_source(volume).channels))
        rows = {case: [] for case in chosen}  # type: dict[Case, list[Measured]]
        for turn in range(options.repeats):
            for number, case in enumerate(chosen, start=1):
                say(f"{turn * len(chosen) + number}/{options.repeats * len(chosen)} {_told(case)}")
                rows[case].append(_run(_job(case, options, volume, place), case, settings))
        limits = {key: _limits(key, options, volume, place, settings) for key in {_limit_key(c) for c in chosen}}
        return {
            "settings": {**options.model_dump(mode="json"), **settings.model_dump(mode="json", exclude={"engine"})},
            "rows": [_row(case, rows[case], limits[_limit_key(case)]) for case in chosen],
            "limits": [{"network": k.model, "precision": k.precision, **asdict(found)} for k, found in limits.items()],
        }
    finally:
        shutil.rmtree(place, ignore_errors=True)


def cases(options: BenchOptions, channels: int) -> Iterator[Case]:
    """Every way in which the networks can be stitched."""
    models = [options.model] if options.model else [f"preset:{name}" for name in PRESETS]
    for model in models:
        ndim, footprint = _network(options, model, channels)
        for assembly in ("3d",) if ndim == 3 else ("2d", "orthoslice"):
            for given in _stitchings(footprint, assembly):
                for engine in options.engines:
                    for precision in options.precisions:
                        yield Case(model, tuple(given.items()), assembly, engine, precision)


def _network(options: BenchOptions, model: str, channels: int) -> tuple[int, Footprint]:
    from volpipe.models import load_model, resolve_model
    from volpipe.models.settle import settle

    ref = resolve_model(model, weights=options.weights, trust_code=options.trust_code)
    loaded = load_model(ref)
    if loaded.in_channels != channels:
        raise ConfigError(f"{model}: takes {loaded.in_channels} channels, the volume has {channels}; give another one")
    settled = settle(ref, loaded, halo="ignored", allow_inexact=False)
    if settled.footprint is None:
        raise ConfigError(f"{model}: cannot be tiled exactly ({settled.unknown}); bench compares modes that can be")
    return loaded.ndim, settled.footprint


def _stitchings(footprint: Footprint, assembly: str) -> Sequence[dict[str, Any]]:
    if any(axis.window for axis in footprint.axes):
        return ({"stitching": "windows"},)
    if any(axis.lost for axis in footprint.axes):
        return () if assembly == "orthoslice" else VALID  # planes that lose different voxels have no mean
    return PADDED


def make_noise(location: Path, size: int) -> str:
    """A finished volume of smooth noise, uint8, one shard in memory at a time."""
    shard = 64 * min(4, -(-size // 64))
    layout = Layout((size,) * 3, 1, np.dtype("uint8"), (0.01,) * 3, chunk=(64,) * 3, shard=(shard,) * 3)
    product = create_product(str(location), layout, {})
    noise = np.random.default_rng(0).integers(0, 85, (1, *layout.shard), "uint8")
    smooth = noise + np.roll(noise, 1, axis=2) + np.roll(noise, 1, axis=3)
    for block in layout.grid:
        product.write(block.core, np.ascontiguousarray(smooth[(slice(None), *(slice(n) for n in block.core.shape))]))
    product.update(state="complete")
    return product.location


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


def _limits(case: Case, options: BenchOptions, volume: str, place: Path, settings: RunSettings) -> Limits:
    shutil.rmtree(place / "product.ome.zarr", ignore_errors=True)
    shutil.rmtree(place / "product.ome.zarr.ledger", ignore_errors=True)
    return limits_of(_job(case, options, volume, place), settings.model_copy(update={"engine": "blocks"}))


def _row(case: Case, found: list[Measured], limits: Limits) -> dict[str, Any]:
    """Medians of the runs, rates beside the limit of the network alone."""

    def of(name: str) -> Any:
        values = [getattr(one, name) for one in found]
        return None if None in values else statistics.median(values)

    rate = statistics.median(one.voxels / one.wall_s for one in found)
    alone = limits.forward * of("useful")
    return {
        "network": case.model.removeprefix("preset:"),
        "stitching": case.stitching,
        "assembly": case.assembly,
        "engine": case.engine,
        "precision": case.precision,
        "Mvoxel/s": rate / 1e6,
        "wall s": of("wall_s"),
        "slots": found[0].slots,
        "of the network alone": rate / alone,
        "CPU-s": of("cpu_s"),
        "read s": of("read_s"),
        "compute s": of("compute_s"),
        "write s": of("write_s"),
        "useful": of("useful"),
        "promised MiB": None if case.engine == "map-overlap" else of("promised_bytes") / 2**20,
        "peak MiB": max(one.peak_bytes for one in found) / 2**20,
        "audit": max(one.audit for one in found),
        "exact": all(one.exact for one in found),
    }


def _told(case: Case) -> str:
    return f"{case.model}: {case.stitching}, {case.assembly}, {case.engine}, {case.precision}"
