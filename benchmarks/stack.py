"""A stack larger than the memory of all workers: registered and rendered by the command line, killed and resumed.

    make 40 slabs --> volpipe register, killed twice --> volpipe warp, killed once --> compared with what is true
                      same command again                 same command again

A kill is SIGKILL of the command's whole process group, in the midst. Measured are
* tasks done twice: of those whose receipt was stored when the command was killed (none may be), and of those that were
  in hand or finished since the ledger was last written (these are done again);
* the largest resident memory of a worker: as the receipts say, and as the kernel counts every process of the group;
* how far the slabs are off, in voxels, as they came, by pose alone and by field: drift (a slab's mean over its tissue),
  its points on average, and one point of the tissue in a slab against the same in the next (what a seam shows).
One slab is missing and one holds noise alone: both are bridged.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, save, table
from numpy.typing import NDArray
from stack_tissue import VOXEL_UM, Truth, make

from volpipe import Budget, RegisterJob, WarpJob
from volpipe.geometry import Box, Raster
from volpipe.jobs.field_store import load_field
from volpipe.jobs.register_stack import FoundStack
from volpipe.jobs.transforms import load_transforms
from volpipe.volume import open_product, open_source
from volpipe.volume.folder import open_folder
from volpipe.volume.ledger import Ledger

SPOILT = {13: "missing", 27: "blank"}
LOOK_S = 0.2  # between two looks at a running command
MOST_S = 3600.0  # a command that takes longer is taken for stalled
TISSUE = 0.36  # of the width: points nearer to the centre are in the tissue, whatever the pose


def main() -> None:
    """Make, register, render, compare, and write the result."""
    options = _options()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="volpipe-stack-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        result = _measured(folder, options)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    for rows in (result["commands"], result["places"]):
        print(table(rows))
    settings = {name: value for name, value in vars(options).items() if name != "folder"}
    print(save(f"stack-{options.name}", {"settings": settings, **result}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slabs", type=int, default=40)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--gap", type=int, default=2, help="layers lost at each seam")
    parser.add_argument("--width", type=int, default=2048, help="voxels across a slab, uint16")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory-per-worker", default="1GiB")
    parser.add_argument("--tree-window", type=int, default=64)
    parser.add_argument("--tree-finest", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="of slabs and products, kept; by default a temporary one")
    parser.add_argument("--name", default="cpu", help=f"of the result in {RESULTS.name}/")
    return parser.parse_args()


def _measured(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    shape = {"slabs": options.slabs, "layers": options.layers, "gap": options.gap, "width": options.width}
    spoilt = {slab: kind for slab, kind in SPOILT.items() if slab < options.slabs}
    truths = make(folder, **shape, spoilt=spoilt, seed=options.seed)
    where = ["--workers", str(options.workers), "--threads", "1", "--memory-per-worker", options.memory_per_worker]
    tree = ["--tree-window", str(options.tree_window), "--tree-finest", str(options.tree_finest)]
    found, made = folder / "registration", folder / "reconstruction.ome.zarr"
    nodes = {"tree_window": options.tree_window, "tree_finest": options.tree_finest}
    register = RegisterJob(slabs=str(folder / "slabs.yaml"), output=str(found), **nodes)
    commands = [killed_and_resumed("register", register, [folder / "slabs.yaml", found, *tree, *where], (0.3, 0.7))]
    warp = WarpJob(transforms=str(found / "transforms.json"), output=str(made))
    commands.append(killed_and_resumed("warp", warp, [found / "transforms.json", made, *where], (0.4,)))
    there = sum(truth.kind != "missing" for truth in truths)
    stack_bytes = 2 * there * options.layers * options.width**2
    stack = FoundStack.read(open_folder(str(found)))
    return {
        "stack": {
            "slabs GiB": round(stack_bytes / 2**30, 2),
            "reconstruction": list(open_source(str(made)).shape),
            "bridged": list(stack.bridged),
            "trusted pairs": f"{stack.trusted} of {stack.pairs}",
            "rendered blocks that are what their receipts say": _as_received(made),
            "pictures": sorted(path.name for path in (found / "pictures").iterdir()),
        },
        "commands": commands,
        "places": _places(truths, found),
    }


# ---------------------------------------------------------------------- commands


def killed_and_resumed(command: str, job: Any, words: list[Any], kills: tuple[float, ...]) -> dict[str, Any]:
    """Run `volpipe COMMAND`, kill it when a share of its tasks is written down, again for every share, then to its end.

    Args:
        command: of volpipe.
        job: what it does, for the number of its tasks.
        words: that follow the command.
        kills: shares.

    Raises:
        RuntimeError: it ended before it was killed, failed, took too long, or did again what was written down.
    """
    product, count = Path(job.output), job.plan(Budget(worker_bytes=2**40)).count
    done, lost, drivers, workers, seconds = 0, 0, [0], [0], []
    for until in (*(share * count for share in kills), None):
        began = time.perf_counter()
        before = _stamps(product)
        driver, worker = _run(command, words, product, until)
        drivers.append(driver)
        workers.append(worker)
        seconds.append(round(time.perf_counter() - began, 1))
        receipts = Counter((entry["work"], entry["item"]) for entry in Ledger(str(product)).receipts())
        if max(receipts.values()) > 1:
            raise RuntimeError(f"{command}: done twice, though written down: {receipts.most_common(3)}")
        again = sum(stamp != before[path] for path, stamp in _stamps(product).items() if path in before)
        lost, done = lost + again, len(receipts)
        print(f"{command}: {done} tasks after {seconds[-1]} s, {again} files written again", flush=True)
    told = [entry["peak_bytes"] for entry in Ledger(str(product)).receipts()]
    return {
        "command": command,
        "tasks": done,
        "killed at": ", ".join(f"{share:.0%}" for share in kills),
        "wall s": " + ".join(map(str, seconds)),
        "written down and done twice": 0,
        "files written again": lost,
        "largest worker MiB, receipts": max(told) >> 20,
        "largest worker MiB, kernel": max(workers) >> 20,
        "driver MiB": max(drivers) >> 20,
        "compute s": round(_compute_s(product), 1),
    }


def _run(command: str, words: list[Any], product: Path, until: float | None) -> tuple[int, int]:
    """One go, killed when so many tasks are written down. Peak resident bytes: its own, and of any of its processes."""
    line = [sys.executable, "-m", "volpipe", command, *map(str, words)]
    environment = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    log = product.with_suffix(".log")
    with log.open("ab") as file:
        process = subprocess.Popen(line, stdout=file, stderr=file, env=environment, start_new_session=True)
    peak, began = (0, 0), time.perf_counter()
    try:
        while process.poll() is None and (until is None or _written_down(product) < until):
            time.sleep(LOOK_S)
            own, others = _resident(process.pid)
            peak = max(peak[0], own), max(peak[1], others)
            if time.perf_counter() - began > MOST_S:
                raise RuntimeError(f"{command}: stalled, see {log}")
    finally:
        ended = process.poll()
        if ended is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if ended or (ended == 0) != (until is None):
        raise RuntimeError(f"{command}: ended with {ended}; see {log}")
    return peak


def _written_down(product: Path) -> int:
    return sum(1 for _ in Ledger(str(product)).receipts()) if product.exists() else 0


def _resident(leader: int) -> tuple[int, int]:
    """Peak resident bytes (VmHWM) of a process, and the largest of the others in its group."""
    found = {0: 0, leader: 0}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # it has ended since
            if entry.name.isdigit() and os.getpgid(int(entry.name)) == leader:
                lines = (entry / "status").read_text().splitlines()
                peak = max((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), default=0)
                found[int(entry.name)] = peak
    return found.pop(leader), max(found.values())


def _stamps(product: Path) -> dict[Path, int]:
    """When each file of a product was written; those of its metadata are written whenever a run ends."""
    files = [path for path in product.rglob("*") if path.is_file() and path.name != "zarr.json"]
    return {path: path.stat().st_mtime_ns for path in files}


def _as_received(product: Path) -> str:
    """How many stored blocks have the checksum that whoever made them gave; a torn or a lost one has not."""
    made = [entry for entry in Ledger(str(product)).receipts() if entry["work"] == "warp"]
    stored = open_product(str(product))
    right = sum(stored.checksum(Box.parse(entry["box"])) == entry["checksum"] for entry in made)
    return f"{right} of {len(made)}"


def _compute_s(product: Path) -> float:
    return sum(sum(entry["seconds"].values()) for entry in Ledger(str(product)).receipts())


# ---------------------------------------------------------------------- where slabs lie


def _places(truths: list[Truth], found: Path) -> list[dict[str, Any]]:
    """How far the same points of the tissue are off in each slab, and from slab to slab."""
    slabs = load_transforms(found / "transforms.json").slabs
    points = _tissue(truths[0].width_um)
    off: dict[str, list[NDArray[Any]]] = {"as it came": [], "pose": [], "pose and field": []}
    for truth, slab in zip(truths, slabs, strict=True):
        if truth.kind == "tissue":
            own, pose = truth.lies(points), slab.pose.rigid
            push = pose if slab.field is None else load_field(slab.field).push
            for ways, placed in zip(off.values(), (own, pose(own), push(own)), strict=True):
                ways.append((placed - points) / VOXEL_UM[1])
    return [_row(name, each) for name, each in off.items()]


def _row(name: str, off: list[NDArray[Any]]) -> dict[str, Any]:
    """Voxels: of the mean over the tissue, of points on average, and of points of a slab against those of the next."""
    middles = [float(np.linalg.norm(one.mean(0))) for one in off[1:]]
    points = [float(np.linalg.norm(one, axis=-1).mean()) for one in off[1:]]
    seams = [float(np.linalg.norm(lower - upper, axis=-1).mean()) for upper, lower in pairwise(off)]
    return {
        "slabs placed": name,
        "drift: median": statistics.median(middles),
        "largest": max(middles),
        "last slab": middles[-1],
        "points off: median": statistics.median(points),
        "largest ": max(points),
        "across a seam: median": statistics.median(seams),
        "largest  ": max(seams),
    }


def _tissue(width_um: float) -> NDArray[np.float64]:
    raster = Raster.centred((33, 33), (width_um / 33, width_um / 33))
    points = raster.points(raster.box).reshape(-1, 2)
    return points[np.hypot(*points.T) < TISSUE * width_um]


if __name__ == "__main__":
    main()
