"""What `exact` costs beside `overlap`, on the same tiles of one network: whole jobs, or on a GPU single tiles.

    job     volpipe apply --serial, interior blocks of one tile each, in a process of its own: CPU-seconds of all of it,
            and with the start-up (the same command on one small tile) taken off
    tile    on a GPU instead: one forward pass on an interior tile, milliseconds and peak memory

CPU-seconds, one thread, modes alternating, medians. On a GPU: `--device cuda --width 32 --precision bf16`.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, save, table
from numpy.typing import NDArray
from throughput import make_volume

from volpipe.geometry import Box
from volpipe.inference.precision import Precision
from volpipe.inference.predictor import Predictor
from volpipe.models import load_model, resolve_model

MODES = ("exact", "overlap")
BLOCKS = (3, 3, 3)  # interior ones, of a volume with one more block on each side
SMALL = 16  # own voxels of the tile that start-up is measured on
TIMES = 5  # that a tile is computed; the median counts


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=8, help="of the U-Net 3D of 4 levels")
    parser.add_argument("--own", type=int, default=128, help="edge of a tile's own voxels")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--name", default="cpu", help=f"of the result in {RESULTS.name}/")
    options = parser.parse_args()
    measured = _on_gpu(options) if options.device == "cuda" else _jobs(options)
    rows = [{"mode": mode, **measured[mode]} for mode in MODES]
    for row in rows:
        ratios = {name: round(value / measured["overlap"][name], 3) for name, value in row.items() if name != "mode"}
        row |= {f"{name}, ratio": ratio for name, ratio in ratios.items()}
    print(table(rows))
    print(save(f"exact-{options.name}", {"settings": vars(options), "rows": rows}))


def _jobs(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    folder = Path(tempfile.mkdtemp(prefix="volpipe-exact-"))
    try:
        own = options.own
        make_volume(folder / "raw.ome.zarr", tuple((n + 2) * own for n in BLOCKS), own)
        seconds: dict[tuple[str, int], list[float]] = {}
        for _ in range(options.repeats):
            for mode in MODES:
                for edge in (SMALL, own):
                    found = _job_seconds(mode, edge, folder, options)
                    seconds.setdefault((mode, edge), []).append(found)
                    print(f"{mode:8} {edge:4} {found:7.1f} CPU-s", flush=True)
        median = {key: statistics.median(found) for key, found in seconds.items()}
        return {
            mode: {"CPU-s": median[mode, own], "without start-up": median[mode, own] - median[mode, SMALL]}
            for mode in MODES
        }
    finally:
        shutil.rmtree(folder)


def _job_seconds(mode: str, edge: int, folder: Path, options: argparse.Namespace) -> float:
    """CPU-seconds of a process that makes the interior blocks, or one small tile among them."""
    ends = [n * options.own for n in BLOCKS] if edge == options.own else [edge] * 3
    box = ",".join(f"{options.own}:{options.own + end}" for end in ends)
    command = [
        sys.executable, "-m", "volpipe", "apply", str(folder / "raw.ome.zarr"), str(folder / "out.ome.zarr"),
        "--model", f"preset:unet3d_l4_w{options.width}", "--stitching", mode, "--precision", options.precision,
        "--block", str(edge), "--tile", str(edge), "--bbox", box, "--no-pyramid", "--audit", "0",
        "--serial", "--threads", "1", "--memory-per-worker", "16GiB", "--restart",
    ]  # fmt: skip
    before = _children_seconds()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ, OMP_NUM_THREADS="1"))
    return _children_seconds() - before


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _on_gpu(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Of a tile in the middle of a volume four times as long."""
    import torch

    model = load_model(resolve_model(f"preset:unet3d_l4_w{options.width}"))
    predict = Predictor(model, model.normalisation, "cuda", Precision(options.precision))
    assert model.footprint is not None  # our own network
    own, length = options.own, 4 * options.own
    a, b = 3 * own // 2, 5 * own // 2
    plan = predict.program((length,) * 3).plan(Box((a,) * 3, (b,) * 3))
    reads = [axis.read(a, b, length) for axis in model.footprint.axes]
    whole = _noise([stop - start for start, stop in reads])
    part = _noise(plan.read.shape)
    found = {}
    for mode, once in (("exact", lambda: predict(part, plan)), ("overlap", lambda: predict(whole))):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        seconds = statistics.median(_wall_s(once) for _ in range(TIMES))
        found[mode] = {"ms": 1e3 * seconds, "peak GPU MiB": torch.cuda.max_memory_reserved() / 2**20}
    return found


def _noise(shape: Any) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (1, 1, *shape), "uint8")


def _wall_s(once: Callable[[], Any]) -> float:
    """Of a pass whose values have come back to the host."""
    began = time.perf_counter()
    once()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
