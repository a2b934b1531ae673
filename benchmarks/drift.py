"""Does a stack of slabs stay straight? Slabs with known poses are cut from one volume, registered, and compared.

    volume  | 4 layers | 2 lost | 4 layers | 2 lost | ...      each slab a window of its own pose (turn and shift),
                                                               sampled from the intact plane by cubic splines;
                                                       bent, with --bend, by a field without shift or turn

Windows have their margin inside the plane and lie between the voxels; gain and offset vary from slab to slab. Drift is
how far a slab's centre lies from where it should, in slab 0's frame, as a fraction of the width; of slabs that are
missing or noise none is told. Cut across different axes a volume is not alike: planes that were imaged one by one and
aligned afterwards jump, and how they did so in a gap cannot be told from the slabs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bends import field
from machine import RESULTS, save, table
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from volpipe import Rigid
from volpipe.registration.solve import StackSolution
from volpipe.registration.stack import register_stack

Slabs = list[NDArray[Any] | None]
Case = tuple[str, Callable[[Slabs, np.random.Generator], None], dict[str, Any]]


def main() -> None:
    """Cut, register, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume", help="an .npz of one array (z, y, x)")
    parser.add_argument("--axis", type=int, default=0, help="the axis that is cut across")
    parser.add_argument("--slabs", type=int, default=40)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--gap", type=int, default=2)
    parser.add_argument("--window", type=int, default=192)
    parser.add_argument("--bend", type=float, default=0.0, help="root mean square of each slab's bend, of its width")
    parser.add_argument("--score", default="likelihood")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--name", help=f"of the result in {RESULTS.name}/")
    options = parser.parse_args()
    rows = measured(options)
    print(table(rows))
    if options.name:
        settings = vars(options) | {"volume": Path(options.volume).name}
        print(save(f"drift-{options.name}", {"settings": settings, "rows": rows}))


def measured(options: argparse.Namespace, **further: Any) -> list[dict[str, Any]]:
    """One row a case and seed; `further` goes to `register_stack`."""
    volume = np.moveaxis(_loaded(options.volume), options.axis, 0)
    rows = []
    for seed in range(options.seeds):
        slabs, poses = cut(volume, options, np.random.default_rng(seed))
        for name, spoil, how in _cases():
            given = list(slabs)
            spoil(given, np.random.default_rng(seed))
            began = time.process_time()
            found = register_stack(given, gap_layers=options.gap, score=options.score, **further, **how)
            cpu_s = time.process_time() - began
            there = [i for i in range(1, len(slabs)) if given[i] is slabs[i]]
            rows.append({"case": name, "seed": seed, **drift(found, poses, there, options.window), "CPU-s": cpu_s})
            print(rows[-1], flush=True)
    return rows


def cut(volume: NDArray[Any], options: argparse.Namespace, random: np.random.Generator) -> tuple[Slabs, list[Rigid]]:
    """Slabs and their poses in the volume: any two are within 0.1 of the width and 0.1 rad."""
    period = options.layers + options.gap
    first = random.integers(0, len(volume) - options.slabs * period + options.gap + 1)
    slabs: Slabs = []
    poses = []
    for top in first + period * np.arange(options.slabs):
        poses.append(Rigid(random.uniform(-0.05, 0.05), tuple(random.uniform(-0.05, 0.05, 2) * options.window)))
        bend = options.bend * options.window * field(random, options.window) if options.bend else 0.0
        layers = [sampled(plane, poses[-1], options.window, bend) for plane in volume[top : top + options.layers]]
        slabs.append((np.stack(layers) * random.uniform(0.8, 1.25) + random.uniform(-20, 20)).astype(np.float32))
    return slabs, poses


def sampled(plane: NDArray[Any], pose: Rigid, width: int, bend: Any = 0.0) -> NDArray[Any]:
    """A window of a plane, about the plane's centre, each voxel from so much further on."""
    line = np.arange(width) - (width - 1) / 2
    points = np.stack(np.meshgrid(line, line, indexing="ij")) + bend
    places = pose(np.moveaxis(points, 0, -1)) + (np.array(plane.shape) - 1) / 2
    if places.min() < 2 or (places > np.array(plane.shape) - 3).any():
        raise SystemExit(
            f"drift: a window of {width} does not fit into a plane of {plane.shape}; give a smaller --window"
        )
    return map_coordinates(plane.astype(np.float32), np.moveaxis(places, -1, 0), order=3)


def _cases() -> list[Case]:
    def none(slabs: Slabs, random: np.random.Generator) -> None: ...

    def missing(slabs: Slabs, random: np.random.Generator) -> None:
        slabs[len(slabs) // 2] = None

    def noise(slabs: Slabs, random: np.random.Generator) -> None:
        middle = slabs[len(slabs) // 2]
        assert middle is not None
        slabs[len(slabs) // 2] = random.normal(128, 40, middle.shape).astype(np.float32)

    return [
        ("slant left in", none, {"slant": False}),
        ("neighbours alone", none, {"skips": ()}),
        ("all", none, {}),
        ("one slab missing", missing, {}),
        ("one slab noise", noise, {}),
    ]


def drift(found: StackSolution, poses: Sequence[Rigid], there: Sequence[int], width: int) -> dict[str, Any]:
    """Of the slabs that are there, bridged or not."""
    true = [poses[0].inverse @ pose for pose in poses]
    far = [np.hypot(*np.subtract(found.poses[i].shift, true[i].shift)) / width for i in there]
    turned = [abs(found.poses[i].angle_rad - true[i].angle_rad) for i in there]
    return {
        "end drift": float(far[-1]),
        "mean drift": float(np.mean(far)),
        "mean turn, rad": float(np.mean(turned)),
        "bridged": str(found.bridged),
        "trusted": f"{sum(weight > 0 for weight in found.weights.values())} of {len(found.weights)}",
    }


def _loaded(path: str) -> NDArray[Any]:
    with np.load(Path(path)) as arrays:
        (name,) = arrays.files
        found: NDArray[Any] = arrays[name]
    return found


if __name__ == "__main__":
    main()
