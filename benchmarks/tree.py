"""How the coarse-to-fine tree brings a tenth of error at its root down to its leaves, on tissue that is bent.

    python benchmarks/tree.py [VOLUME --width 256]

    plane  --turned-->  upper slab, `width` across              both sampled from the volume's layers by cubic splines,
           --bent, turned and shifted-->  lower slab            the lower one from those beyond the gap

Without a volume one is made: waves of all lengths that turn into others with depth, short ones sooner: layers d apart
correlate by cos(0.1 d sqrt(300 / length)). The bend moves tissue by up to 0.6 % of the width and strains it by up to
3 %. The start is off by a tenth of the width and 0.05 rad, each time another way. Told are the share of children whose
start is within a tenth of their width, and how far leaves end from the truth, in voxels, trusted or not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import RESULTS, save, table
from numpy.typing import NDArray
from scipy import fft, ndimage
from volumes import read

from volpipe import Rigid, register_pair
from volpipe.geometry import NodeGrid, Raster, SlabFrame
from volpipe.registration.intact import Intact
from volpipe.registration.tree import LevelReader, TreeSearch, register_tree
from volpipe.volume.downsample import downsample

BASE = Rigid(0.1, (0.3, -0.4))  # of the upper slab in the plane: off the grid
POSE = Rigid(-0.15, (4.0, -7.0))  # of the lower one in the upper one
KICK_RAD = 0.05
MADE = 1440  # voxels across the plane that is made

Points = NDArray[np.float64]


def main() -> None:
    """Every gap and window, from every start."""
    given = _given()
    torch.set_num_threads(1)
    deep = 2 * given.layers + max(given.gaps)
    volume = made(deep) if given.volume is None else read(given.volume)
    intact = Intact.of(volume, given.width // 2, flatten=given.volume is not None)
    rows = [measured(intact, gap, window, given) for gap in given.gaps for window in given.windows]
    print(table(rows))
    name = "made" if given.volume is None else given.volume.name
    print(save(f"tree-{given.name}", {"volume": name, "width": given.width, "layers": given.layers, "rows": rows}))


def _given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume", type=Path, nargs="?")
    parser.add_argument("--width", type=int, default=1024, help="of the root, and of the upper slab")
    parser.add_argument("--windows", type=_whole_numbers, default=(64, 32))
    parser.add_argument("--gaps", type=_whole_numbers, default=(0, 1, 2))
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--name", default="cpu", help=f"of the result in {RESULTS.name}/")
    return parser.parse_args()


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def made(deep: int) -> NDArray[np.float32]:
    """A volume (z, y, x)."""
    random = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(fft.fftfreq(MADE), fft.rfftfreq(MADE), indexing="ij")).clip(1 / 600)
    height = frequency**-1.5 * (frequency < 1 / 3)
    now, later = (height * fft.rfft2(random.standard_normal((MADE, MADE))) for _ in range(2))
    turn = 0.1 * np.sqrt(300 * frequency)
    layers = (fft.irfft2(np.cos(z * turn) * now + np.sin(z * turn) * later, (MADE, MADE)) for z in range(deep))
    return np.stack([layer.astype(np.float32) for layer in layers])


def bent(width: int) -> Callable[[Points], Points]:
    """Where tissue of the lower slab lies in the upper one, (..., 2) from their centres."""
    far, long = 0.006 * width, 0.2 * width

    def place(points: Points) -> Points:
        y, x = np.moveaxis(points, -1, 0)
        return POSE(points + far * np.stack([np.sin(x / long + 1), np.cos(y / long)], axis=-1))

    return place


def measured(intact: Intact, gap: int, window: int, given: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    width, truth = given.width, bent(given.width)
    size = (width, min(intact.shape[1:]))
    below = given.layers + gap
    upper = slab(intact, range(given.layers), BASE, size[0])
    lower = slab(intact, range(below, below + given.layers), lambda points: BASE(truth(points)), size[1])
    coarsest = (width // window).bit_length() - 1
    frame, under = (SlabFrame((n, n), (1.0, 1.0)) for n in size)
    grid = NodeGrid(frame, window, coarsest)
    readers = [pyramid(layers, coarsest) for layers in (upper, lower)]
    starts, leaves, trusted, began = [], [], [], time.process_time()
    for number in range(given.starts):
        search = TreeSearch(grid, under, *readers, register_pair, 1.0, gap, start=kick(number, width) @ POSE)
        found = register_tree(search)
        for node, estimate in found.items():
            if node.level < coarsest:
                starts.append(off(grid, node, found[node.parent].transform, truth) / grid.width(node.level))
            if node.level == 0:
                leaves.append(off(grid, node, estimate.transform, truth))
                trusted.append(estimate.trusted)
    spent = time.process_time() - began
    said = {"gap": gap, "window": window, "nodes": given.starts * len(grid)}
    said |= {
        "children within a tenth": np.mean(np.array(starts) <= 0.1),
        "leaves under 1": np.mean(np.array(leaves) < 1),
    }
    said |= {
        "leaf median": np.median(leaves),
        "leaf 95 %": np.quantile(leaves, 0.95),
        "leaves trusted": np.mean(trusted),
    }
    return {name: float(one) for name, one in (said | {"CPU s a node": spent / said["nodes"]}).items()}


def slab(intact: Intact, layers: range, place: Callable[[Points], Points], size: int) -> NDArray[np.float32]:
    """(z, y, x) of some layers, whose points lie where they are placed, from the plane's centre; NaN outside."""
    raster = Raster.centred((size, size), (1.0, 1.0))
    at = place(raster.points(raster.box)) + (np.array(intact.shape[1:]) - 1) / 2
    cut = {"output": np.float32, "order": 3, "prefilter": False, "cval": np.nan}
    return np.stack([ndimage.map_coordinates(intact.coefficients[z], np.moveaxis(at, -1, 0), **cut) for z in layers])


def pyramid(layers: NDArray[np.float32], coarsest: int) -> LevelReader:
    """All levels in memory."""
    return LevelReader([downsample(layers[None], (1, 2**k, 2**k), "mean")[0] for k in range(coarsest + 1)])


def kick(number: int, width: int) -> Rigid:
    """How far a start is off."""
    way = 2.4 * number
    return Rigid(KICK_RAD * (-1) ** number, (0.1 * width * np.sin(way), 0.1 * width * np.cos(way)))


def off(grid: NodeGrid, node: Any, motion: Rigid, truth: Callable[[Points], Points]) -> float:
    """From the truth, at the tissue that belongs to a node's centre, in voxels."""
    centre = np.array(grid.centre_um(node))
    return float(np.hypot(*(centre - truth(motion.inverse(centre)))))


if __name__ == "__main__":
    main()
