"""Is the memory promise kept? Each case runs a real job on a local cluster; the peak is what the system counted.

    growth   a cheap network over a volume and over one four times larger, same shards, in alternation: the peaks must
             be the same (the smaller is three blocks wide, so that both have blocks of every shape: faces, edges,
             interior; workers of one run differ by a tenth, so medians over the workers of --repeats runs are compared)
    unet2d   a U-Net of 4 levels, width 16, uint16 in and uint8 out, 2 workers of 2 GiB, a volume of 2 GiB, by planes
    unet3d   the same in 3D, on an eighth of that volume: 64 blocks

The peak is VmHWM of each worker process (the kernel's count), the promise is the plan's and holds the largest of them.
The U-Nets compute for some ten minutes each: choose with --cases.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import RESULTS, save, table
from throughput import make_volume

from volpipe import ApplyJob, RunSettings, run
from volpipe.runtime.run import Summary

HERE = Path(__file__).parent
GROWTH = {"model": "preset:unet3d_l3_w2", "block": (128,) * 3, "tile": (64,) * 3, "output_dtype": "uint8"}
UNET = {"output_dtype": "uint8", "output_range": (-1.0, 1.0), "pyramid": False}
CASES: dict[str, list[dict[str, Any]]] = {
    "growth": [
        {"shape": (384, 384, 384), "dtype": "uint8", "job": GROWTH | {"output_range": (0.0, 1.0)}},
        {"shape": (768, 768, 384), "dtype": "uint8", "job": GROWTH | {"output_range": (0.0, 1.0)}},
    ],
    "unet2d": [
        {"shape": (1024,) * 3, "dtype": "uint16", "job": UNET | {"model": "preset:unet2d_l4_w16", "assembly": "2d"}},
    ],
    "unet3d": [
        {
            "shape": (512,) * 3,
            "dtype": "uint16",
            "job": UNET | {"model": "preset:unet3d_l4_w16", "block": (128,) * 3},
        },
    ],
}


def main() -> None:
    """Run the cases and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="growth", help=f"comma-separated: {', '.join(CASES)}")
    parser.add_argument("--stitching", default="overlap", choices=("overlap", "exact"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory-per-worker", default="2GiB")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each volume")
    parser.add_argument("--name", default="cpu", help=f"of the results in {RESULTS.name}/")
    options = parser.parse_args()
    for name in options.cases.split(","):
        rounds = [[_run(case, options) for case in CASES[name]] for _ in range(options.repeats)]
        rows = [_row(case, runs) for case, runs in zip(CASES[name], zip(*rounds, strict=True), strict=True)]
        for row in rows:
            row["median / first"] = round(row["median MiB"] / rows[0]["median MiB"], 3)
        print(table(rows))
        by = "" if options.stitching == "overlap" else f"{options.stitching}-"
        print(save(f"memory-{name}-{by}{options.name}", {"settings": vars(options), "rows": rows}))


def _run(case: dict[str, Any], options: argparse.Namespace) -> Summary:
    folder = Path(tempfile.mkdtemp(prefix="volpipe-memory-"))
    try:
        raw = folder / "raw.ome.zarr"
        make_volume(raw, case["shape"], 256, case["dtype"])
        job = ApplyJob(input=str(raw), output=str(folder / "out.ome.zarr"), stitching=options.stitching, **case["job"])
        settings = RunSettings(workers=options.workers, threads=1, memory_per_worker=options.memory_per_worker)
        return run(job, settings)
    finally:
        shutil.rmtree(folder)


def _row(case: dict[str, Any], runs: Sequence[Summary]) -> dict[str, Any]:
    promised = runs[0].plan.price.worker_bytes
    peaks = sorted(peak for each in runs for peak in each.peak_bytes.values())
    return {
        "volume": " x ".join(map(str, case["shape"])) + f" {case['dtype']}",
        "blocks": runs[0].done,
        "promised MiB": promised >> 20,
        "peak of each worker MiB": " ".join(str(peak >> 20) for peak in peaks),
        "largest / promise": round(max(peaks) / promised, 3),
        "median MiB": round(statistics.median(peaks) / 2**20),
        "wall s": round(statistics.median(each.wall_s for each in runs), 1),
    }


if __name__ == "__main__":
    main()
