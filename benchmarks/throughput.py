"""What the engine costs over a bare loop: CPU-seconds of the same network on the same tiles of the same volume.

    bare      read a block with its halo, run its tiles, write it; volpipe's allocator settings and memory format
    pair      two such loops at once, each half of the blocks: what two busy cores cost each other
    user      the same loop as one would write it: tile by tile, torch's defaults, the default allocator
    serial    volpipe apply --serial
    cluster   volpipe apply on a local cluster, one worker with as many slots as cores

Four 3D convolutions (benchmarks/networks.py), uint8 in and out, one torch thread per tile. CPU-seconds of the whole
process tree, because wall time on a shared machine says little; every variant runs once per round, rounds alternate,
medians are compared. Start-up is the same command on a volume of one chunk.
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
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, save, table

HERE = Path(__file__).parent
HALO = 8
VARIANTS = ("bare", "pair", "user", "serial", "cluster")
SMALL = 64  # edge of the volume that start-up is measured on


def main() -> None:
    """Run every variant `repeats` times, alternating, and write the table."""
    options = _options()
    if options.variant:
        _run_variant(options)
        return
    folder = Path(tempfile.mkdtemp(prefix="volpipe-throughput-"))
    try:
        rows = _measure(folder, options)
    finally:
        shutil.rmtree(folder)
    print(table(rows))
    print(save(f"throughput-{options.name}", {"settings": vars(options), "rows": rows}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="edge of the volume, voxels")
    parser.add_argument("--shard", type=int, default=256)
    parser.add_argument("--tile", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--name", default="cpu", help=f"of the result in {RESULTS.name}/")
    parser.add_argument("--variant", choices=VARIANTS, help="(internal) run one variant in this process")
    parser.add_argument("--folder", type=Path, help="(internal)")
    parser.add_argument("--part", default="0/1", help="(internal) which of how many parts of the blocks")
    return parser.parse_args()


def _measure(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    for size in (options.size, SMALL):
        make_volume(folder / f"raw{size}.ome.zarr", (size,) * 3, min(options.shard, size))
    save_weights(folder / "net.safetensors")
    seconds: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(options.repeats):
        for variant in VARIANTS:
            for size in (SMALL, options.size):
                found = _process_seconds(variant, size, folder, options)
                seconds.setdefault((variant, size), []).append(found)
                print(f"{variant:8} {size:5} {found[0]:7.1f} CPU-s {found[1]:7.1f} s", flush=True)
    return _rows(seconds, options.size)


def _rows(seconds: dict[tuple[str, int], list[tuple[float, float]]], size: int) -> list[dict[str, Any]]:
    total = {v: statistics.median(cpu for cpu, _ in seconds[v, size]) for v in VARIANTS}
    wall = {v: statistics.median(s for _, s in seconds[v, size]) for v in VARIANTS}
    startup = {v: statistics.median(cpu for cpu, _ in seconds[v, SMALL]) for v in VARIANTS}
    net = {v: total[v] - startup[v] for v in VARIANTS}
    return [
        {
            "variant": v,
            "CPU-s": round(total[v], 2),
            "of it start-up": round(startup[v], 2),
            "wall s": round(wall[v], 2),
            "over bare, without start-up": round(net[v] / net["bare"], 3),
            "over bare, with": round(total[v] / total["bare"], 3),
            "over user, without": round(net[v] / net["user"], 3),
            "over user, with": round(total[v] / total["user"], 3),
        }
        for v in VARIANTS
    ]


def _process_seconds(variant: str, size: int, folder: Path, options: argparse.Namespace) -> tuple[float, float]:
    """(CPU-seconds, wall seconds) of one variant in a process tree of its own."""
    command = [sys.executable, __file__, "--variant", variant, "--size", str(size), "--folder", str(folder)]
    command += ["--shard", str(min(options.shard, size)), "--tile", str(min(options.tile, size))]
    environment = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    if variant in ("bare", "pair"):
        from volpipe.runtime.allocator import ENVIRONMENT

        environment |= ENVIRONMENT
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    before, began = _children_seconds(), time.perf_counter()
    parts = ("0/2", "1/2") if variant == "pair" else ("0/1",)
    running = [subprocess.Popen([*command, "--part", part], env=environment, **quiet) for part in parts]
    if any(process.wait() for process in running):
        raise RuntimeError(f"{variant} failed: {' '.join(command)}")
    return _children_seconds() - before, time.perf_counter() - began


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _run_variant(options: argparse.Namespace) -> None:
    raw = options.folder / f"raw{options.size}.ome.zarr"
    out = options.folder / f"out-{options.variant}{options.part[0]}.ome.zarr"
    for old in (out, Path(f"{out}.ledger")):
        shutil.rmtree(old, ignore_errors=True)
    loops = {"bare": bare_loop, "pair": bare_loop, "user": user_loop}
    if options.variant in loops:
        loops[options.variant](raw, out, options)
    else:
        volpipe_apply(raw, out, options)


def volpipe_apply(raw: Path, out: Path, options: argparse.Namespace) -> None:
    """The command line, as a user gives it."""
    sys.path.insert(0, str(HERE))
    from volpipe.cli import main as cli

    where = ["--serial", "--threads", "1"] if options.variant == "serial" else ["--workers", "1"]
    cli(
        ["apply", str(raw), str(out), "--model", "networks:four_convolutions", "--trust-code",
         "--weights", str(options.folder / "net.safetensors"), "--halo", str(HALO), "--period", "1",
         "--input-scale", str(1 / 255), "--output-dtype", "uint8", "--output-range", "0,1", "--no-pyramid",
         "--stitching", "overlap", "--block", str(options.shard), "--tile", str(options.tile), *where]
    )  # fmt: skip


def bare_loop(raw: Path, out: Path, options: argparse.Namespace) -> None:
    """Nothing but the work, block by block, as fast as it goes; shards stored as volpipe stores them."""
    import torch
    import zarr

    network = _network(options.folder).to(memory_format=torch.channels_last_3d)
    source, product = zarr.open_array(raw / "0", mode="r"), _empty_product(out, options)
    part, parts = map(int, options.part.split("/"))
    for core in _cells((0, 0, 0), source.shape, options.shard)[part::parts]:
        low, window = _window(source, core)
        block = np.empty([b - a for a, b in core], np.uint8)
        for own in _cells([a for a, _ in core], [b for _, b in core], options.tile):
            first, tile = _cut(window, low, own, source.shape)
            x = torch.from_numpy(tile).float().div_(255)[None, None]
            with torch.inference_mode():
                y = network(x.contiguous(memory_format=torch.channels_last_3d))[0, 0].numpy()
            block[_slices(own, [a for a, _ in core])] = np.rint(y[_slices(own, first)] * 255)
        product[_slices(core, (0, 0, 0))] = block


def user_loop(raw: Path, out: Path, options: argparse.Namespace) -> None:
    """Tile by tile, torch's own memory format."""
    import torch
    import zarr

    network = _network(options.folder)
    source, product = zarr.open_array(raw / "0", mode="r"), _empty_product(out, options, shards=False)
    for own in _cells((0, 0, 0), source.shape, options.tile):
        low, window = _window(source, own)
        x = torch.from_numpy(window).float().div_(255)[None, None]
        with torch.inference_mode():
            y = network(x)[0, 0].numpy()
        product[_slices(own, (0, 0, 0))] = np.rint(y[_slices(own, low)] * 255)


def _network(folder: Path) -> Any:
    import torch
    from networks import four_convolutions
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    network = four_convolutions()
    network.load_state_dict(load_file(folder / "net.safetensors"))
    return network.eval()


def _empty_product(out: Path, options: argparse.Namespace, shards: bool = True) -> Any:
    import zarr
    from zarr.codecs import ZstdCodec

    chunks, shard = (min(64, options.size),) * 3, (options.shard,) * 3
    return zarr.create_array(
        out / "0", shape=(options.size,) * 3, dtype="uint8", chunks=chunks, shards=shard if shards else None,
        compressors=ZstdCodec(level=3, checksum=True),
    )  # fmt: skip


Range = tuple[int, int]


def _cells(start: Any, stop: Any, edge: int) -> list[list[Range]]:
    axes = [[(i, min(i + edge, b)) for i in range(a, b, edge)] for a, b in zip(start, stop, strict=True)]
    return [[z, y, x] for z in axes[0] for y in axes[1] for x in axes[2]]


def _window(source: Any, own: list[Range]) -> tuple[list[int], Any]:
    low = [max(0, a - HALO) for a, _ in own]
    return low, source[tuple(slice(a, b + HALO) for a, (_, b) in zip(low, own, strict=True))]


def _cut(window: Any, low: list[int], own: list[Range], shape: Any) -> tuple[list[int], Any]:
    first = [max(0, a - HALO) for a, _ in own]
    last = [min(n, b + HALO) for (_, b), n in zip(own, shape, strict=True)]
    return first, window[tuple(slice(a - o, b - o) for a, b, o in zip(first, last, low, strict=True))]


def _slices(box: list[Range], origin: Any) -> tuple[slice, ...]:
    return tuple(slice(a - o, b - o) for (a, b), o in zip(box, origin, strict=True))


def make_volume(path: Path, shape: tuple[int, int, int], shard: int, dtype: str = "uint8") -> None:
    """A finished volume of smooth noise, one shard in memory at a time."""
    from volpipe.volume import Layout, create_product

    layout = Layout(shape, 1, np.dtype(dtype), (0.01,) * 3, chunk=(min(64, shard),) * 3, shard=(shard,) * 3)
    product = create_product(str(path), layout, {})
    top = np.iinfo(dtype).max // 3
    noise = np.random.default_rng(0).integers(0, top, (1, *layout.shard), dtype, endpoint=True)
    smooth = noise + np.roll(noise, 1, axis=2) + np.roll(noise, 1, axis=3)
    for number, block in enumerate(layout.grid):
        clip = (slice(None), *(slice(0, n) for n in block.core.shape))
        product.write(block.core, np.ascontiguousarray(np.roll(smooth, number, axis=3)[clip]))
    product.update(state="complete")


def save_weights(path: Path) -> None:
    """Random weights of the network, the same everywhere."""
    from networks import four_convolutions
    from safetensors.torch import save_file

    from volpipe.models import initialise

    save_file(initialise(four_convolutions(), seed=0).state_dict(), path)


if __name__ == "__main__":
    main()
