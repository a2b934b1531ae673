"""What does the audit see? Faults are planted at one face of a right product, and boxes across that face are audited.

    none                the product as it was made
    step p %            every voxel of one block times 1 + p / 100
    halo short          the block was computed with one period less of context
    read shifted        the block is what the network gives one voxel further on

A crop of the sample volume (FIB-SEM), the demo's trained U-Net and a random ResNet generator, products in float32 and
uint8: how many of the boxes call the face a seam.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, save, table
from numpy.typing import NDArray

from volpipe import ApplyJob, AxisFootprint, Box, Budget, Footprint, RunSettings, run
from volpipe.jobs.apply_work import ApplyWork
from volpipe.jobs.audit import AuditWork
from volpipe.stitching.audit import SIDE, Finding, spots

PIPELINES = Path(__file__).parent.parent / "pipelines"
VOLUME = PIPELINES / "data" / "medulla.ome.zarr"
MODELS = {
    "trained U-Net": str(PIPELINES / "weights" / "medulla_boundaries.safetensors"),
    "random ResNet-6": "preset:resnet6_3d_w4",
}
OUTPUTS: dict[str, dict[str, Any]] = {
    "float32": {"output_dtype": "float32"},
    "uint8": {"output_dtype": "uint8", "output_range": (-1.0, 1.0)},
}
BLOCK, BOX = (32, 32, 32), "0:96,0:32,0:32"
FAULTY = 1  # the middle one of three blocks along z
STEPS = (0.01, 0.1, 1.0, 5.0)

Fault = Callable[[ApplyWork, NDArray[Any]], NDArray[Any]]


def main() -> None:
    """Audit every fault and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=int, default=8)
    parser.add_argument("--name", default="cpu", help=f"of the result in {RESULTS.name}/")
    options = parser.parse_args()
    rows = [row for model in MODELS for output in OUTPUTS for row in _rows(model, output, options.boxes)]
    print(table(rows))
    print(save(f"seams-{options.name}", {"settings": vars(options), "rows": rows}))


def _rows(model: str, output: str, boxes: int) -> Iterator[dict[str, Any]]:
    folder = Path(tempfile.mkdtemp(prefix="volpipe-seams-"))
    try:
        job = ApplyJob(
            input=str(VOLUME), output=str(folder / "out.ome.zarr"), model=MODELS[model], block=BLOCK, bbox=BOX,
            stitching="overlap", pyramid=False, audit=0, **OUTPUTS[output],
        )  # fmt: skip
        run(job, RunSettings(serial=True, memory_per_worker="4GiB"), progress=None)
        work = job.plan(Budget(4 * 2**30)).works["apply"]
        assert isinstance(work, ApplyWork)
        core = work.grid[FAULTY].core
        place = core.relative_to(work.grid.region.start)
        right = work.product.read(place)
        audit = AuditWork(work, tuple(spots(work.grid.region, [[core.start[0]], [], []], (SIDE,) * 3, boxes, 0)), True)
        for name, fault in _faults().items():
            work.product.write(place, fault(work, right))
            found = [Finding(**finding) for item in range(boxes) for finding in audit(item).value]
            yield _row(model, output, name, found)
    finally:
        shutil.rmtree(folder)


def _row(model: str, output: str, fault: str, found: list[Finding]) -> dict[str, Any]:
    return {
        "network": model,
        "product": output,
        "fault": fault,
        "seams": f"{sum(f.is_seam for f in found)} of {len(found)}",
        "largest difference": max(f.largest for f in found),
        "mean of a side": max(f.step for f in found),
        "a step above would show": max(f.step_allowed for f in found),
    }


def _faults() -> dict[str, Fault]:
    steps = {f"step {step:g} %": _step(1 + step / 100) for step in STEPS}
    return {"none": lambda work, right: right, **steps, "halo one period short": _short, "read shifted": _shifted}


def _step(factor: float) -> Fault:
    def step(work: ApplyWork, right: NDArray[Any]) -> NDArray[Any]:
        changed = right * factor
        return np.clip(np.rint(changed), 0, 255).astype(right.dtype) if right.dtype == np.uint8 else changed

    return step


def _short(work: ApplyWork, right: NDArray[Any]) -> NDArray[Any]:
    less = [
        AxisFootprint(a.need_before - a.period, a.need_after - a.period, a.period)
        for a in work.inference.footprint.axes
    ]
    short = replace(work.inference, footprint=Footprint(tuple(less)))
    return _computed(replace(work, inference=short), work.grid[FAULTY].core)


def _shifted(work: ApplyWork, right: NDArray[Any]) -> NDArray[Any]:
    return _computed(work, work.grid[FAULTY].core.shift((0, 0, 1)))


def _computed(work: ApplyWork, core: Box) -> NDArray[Any]:
    """What a work makes of a box, not stored."""
    tiles = work.inference.tiles(core)
    return work.inference(*work.read(tiles, "the benchmark"), tiles, core)


if __name__ == "__main__":
    main()
