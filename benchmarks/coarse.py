"""Does the coarse stage lay slabs down rightly, and does it know when it does not? At any angle, either side up.

    volume  | layers | lost | layers |       the lower slab turned by any angle, shifted by up to a tenth of the window
                                             in y and x, and laid upside down in half of the trials

Without --window the planes are whole, with empty ground around: their diagonal fits. With one, tissue fills a square of
so many voxels, anywhere in the plane (where that is not 1.6 times as wide, corners of turned squares are empty). Right
is what `register` can take over: the same side up, within a tenth of the window and 0.1 rad. --noise takes unlike noise
for the lower slab: nothing is right.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, save, table
from numpy.typing import NDArray
from scipy import ndimage
from volumes import read

from volpipe import Rigid
from volpipe.geometry import Raster
from volpipe.geometry.transform import wrapped
from volpipe.jobs.coarse import SURE
from volpipe.registration.coarse import coarse_alignment

LAYERS = 4
NEAR, NEAR_RAD = 0.1, 0.1  # the prior of `register_pair`
ROOM = 1.62  # times a window: sqrt(2) of a turn, and a shift of a tenth to both sides


def main() -> None:
    """Every gap."""
    given = _given()
    volume = np.moveaxis(read(given.volume), given.axis, 0).astype(np.float32)
    rows = [measured(volume, gap, given) for gap in given.gaps]
    print(table(rows))
    if given.name:
        settings = vars(given) | {"volume": given.volume.name}
        print(save(f"coarse-{given.name}", {"settings": settings, "rows": rows}))


def _given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume", type=Path)
    parser.add_argument("--axis", type=int, default=0, help="the axis that is cut across")
    parser.add_argument("--window", type=int, help="voxels across that tissue fills; whole planes if not given")
    parser.add_argument("--gaps", type=lambda text: tuple(map(int, text.split(","))), default=(0, 2, 8))
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--noise", action="store_true", help="the lower slab is noise")
    parser.add_argument("--name", help=f"of the result in {RESULTS.name}/")
    return parser.parse_args()


def measured(volume: NDArray[np.float32], gap: int, given: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    told = np.array([trial(volume, gap, given, seed) for seed in range(given.trials)])
    right, sure = told[:, 0] > 0, told[:, 1] >= SURE
    return {
        "lost": gap,
        "n": given.trials,
        "right": float(right.mean()),
        "called sure": float(sure.mean()),
        "right of those": float(right[sure].mean()) if sure.any() else None,
        "right of others": float(right[~sure].mean()) if (~sure).any() else None,
        "CPU s a pair": float(told[:, 2].mean()),
    }


def trial(volume: NDArray[np.float32], gap: int, given: argparse.Namespace, seed: int) -> tuple[bool, float, float]:
    """Whether a pair was laid rightly, its confidence, and CPU-seconds."""
    random, (depth, *plane) = np.random.default_rng(seed), volume.shape
    size = given.window or math.ceil(1.1 * math.hypot(*plane))
    room = np.maximum(0, (np.array(plane) - ROOM * size) / 2) if given.window else np.zeros(2)
    edge = 0 if given.window else depth // 10  # a whole organ's first planes hold nothing
    first = int(random.integers(edge, depth - edge - 2 * LAYERS - gap + 1))
    centre = (np.array(plane) - 1) / 2 + random.uniform(-1, 1, 2) * room
    truth = Rigid(random.uniform(-math.pi, math.pi), tuple(random.uniform(-0.1, 0.1, 2) * size))
    upper = slab(volume[first : first + LAYERS], size, centre, Rigid())
    below = first + LAYERS + gap
    lower = slab(volume[below : below + LAYERS], size, centre, truth)
    if given.noise:
        lower = random.normal(lower.mean(), lower.std(), lower.shape)
    flipped = bool(random.integers(2))
    began = time.process_time()
    found = coarse_alignment(upper, lower[::-1, :, ::-1] if flipped else lower)
    spent = time.process_time() - began
    turn = abs(wrapped(found.transform.angle_rad - truth.angle_rad))
    away = np.abs(np.subtract(found.transform.shift, truth.shift)).max()
    near = found.flipped == flipped and turn <= NEAR_RAD and away <= NEAR * size
    return near and not given.noise, found.confidence, spent


def slab(layers: NDArray[np.float32], size: int, centre: NDArray[np.float64], place: Rigid) -> NDArray[np.float32]:
    """(z, y, x) of layers whose points lie where they are placed about a centre; 0 outside."""
    raster = Raster.centred((size, size), (1.0, 1.0))
    at = np.moveaxis(place(raster.points(raster.box)) + centre, -1, 0)
    return np.stack([ndimage.map_coordinates(layer, at, order=1) for layer in layers])


if __name__ == "__main__":
    main()
