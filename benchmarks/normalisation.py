"""What do tiles cost a network with instance norm? Each way to its statistics, beside the network on the whole image.

    per tile, no halo      the network on a tile alone
    per tile, full halo    the network on a tile with all of its context, cropped: no halo cures the norms
    frozen from k          statistics of k tiles that were normalised by their own, then held for all
    pooled                 the same of all tiles: `--norm pooled`
    exact                  a pass over the image for every norm: `--norm exact`

A plane of the sample volume (FIB-SEM) in 16 tiles, a random ResNet-3 generator, in float64. Errors are in standard
deviations of the whole result; the jump is the mean step of the error from one pixel to the next across faces of tiles.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import RESULTS, save, table
from torch import Tensor

from volpipe import Box, open_source
from volpipe.geometry import BlockGrid
from volpipe.inference.intervals import Moments, Program, Survey, capture, passes
from volpipe.models.architecture import build_random
from volpipe.models.generator import GeneratorArchitecture

VOLUME = Path(__file__).parent.parent / "pipelines" / "data" / "medulla.ome.zarr"
PLANE, SIDE, ACROSS = 62, 240, 4  # the middle plane; 4 x 4 tiles of 60
FROZEN_FROM = (1, 2, 4, 8)
TARGET = 1e-9  # of `exact`


@dataclass(frozen=True)
class Case:
    """A network, an image, and what the one makes of the whole of the other."""

    network: torch.nn.Module
    program: Program
    image: Tensor
    whole: Tensor

    def tiles(self, size: Sequence[int]) -> list[Box]:
        """16 of a tensor of the network, each as large a share of it."""
        return [block.core for block in BlockGrid(Box.from_shape(size), tuple(n // ACROSS for n in size))]

    def cut(self, box: Box) -> Tensor:
        """The image there."""
        return self.image[(..., *box.slices)]


def main() -> None:
    """Run every option and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--name", default="cpu", help=f"of the result in {RESULTS.name}/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        case = _case(options.blocks, options.width)
        rows = [_row(case, name, *option) for name, option in _options(case).items()]
    print(table(rows))
    print(save(f"normalisation-{options.name}", {"settings": vars(options), "rows": rows}))
    assert rows[-1]["max error"] < TARGET, f"exact is off by {rows[-1]['max error']:.3g} std"


def _case(blocks: int, width: int) -> Case:
    source = open_source(str(VOLUME))
    image = source.read(Box((PLANE, 0, 0), (PLANE + 1, SIDE, SIDE)))[0].astype("float64")
    image = torch.from_numpy((image - image.mean()) / image.std())[None]
    network = build_random(GeneratorArchitecture(2, blocks=blocks, width=width, norm="instance"), seed=1)
    network = network.double().eval()
    return Case(network, capture(network, (SIDE, SIDE)), image, network(image))


def _options(case: Case) -> dict[str, tuple[int, Callable[[], Tensor]]]:
    """By name: passes over the image, and what makes the result."""
    layers, exact = len(case.program.reductions), passes(case.program)
    frozen = {
        f"frozen from {k} of 16": (1, lambda k=k: _given(case, _measured(case, [layers], 16 // k))) for k in FROZEN_FROM
    }
    return {
        "per tile, no halo": (1, lambda: _joined(case, lambda tile: case.network(case.cut(tile)))),
        "per tile, full halo": (1, lambda: _joined(case, lambda tile: _cropped(case, tile))),
        **frozen,
        "pooled": (2, lambda: _given(case, _measured(case, [layers]))),
        "exact": (1 + len(exact), lambda: _given(case, _measured(case, exact))),
    }


def _joined(case: Case, made: Callable[[Box], Tensor]) -> Tensor:
    out = torch.empty_like(case.whole)
    for tile in case.tiles(case.program.shape):
        out[(..., *tile.slices)] = made(tile)
    return out


def _cropped(case: Case, tile: Box) -> Tensor:
    axes = zip(case.network.architecture.footprint().axes, tile.start, tile.stop, strict=True)
    start, stop = zip(*(axis.read(a, b, SIDE) for axis, a, b in axes), strict=True)
    return case.network(case.cut(Box(start, stop)))[(..., *tile.relative_to(start).slices)]


def _given(case: Case, moments: Sequence[Moments]) -> Tensor:
    program = case.program.given(moments)
    return _joined(case, lambda tile: (plan := program.plan(tile))(case.cut(plan.read)))


def _measured(case: Case, counts: Sequence[int], every: int = 1) -> list[Moments]:
    """Statistics by passes that measure so many norms each, of every n-th tile."""
    known: list[Moments] = []
    for count in counts:
        survey = Survey(case.program.given(known), count)
        plans = map(survey.plan, case.tiles(survey.size)[::every])
        parts = [survey.moments(plan(case.cut(plan.read))) for plan in plans]
        known += [reduce(Moments.merge, each) for each in zip(*parts, strict=True)]
    return known


def _row(case: Case, name: str, count: int, made: Callable[[], Tensor]) -> dict[str, Any]:
    began = time.process_time()
    error = ((made() - case.whole) / case.whole.std()).numpy()
    seconds = time.process_time() - began
    return {
        "option": name,
        "mean error": float(np.abs(error).mean()),
        "max error": float(np.abs(error).max()),
        "jump across faces": _jump(error),
        "passes": count,
        "CPU-seconds": round(seconds, 2),
    }


def _jump(error: np.ndarray[Any, Any]) -> float:
    faces = [n * SIDE // ACROSS for n in range(1, ACROSS)]
    steps = [np.take(error, faces, axis) - np.take(error, [f - 1 for f in faces], axis) for axis in (-2, -1)]
    return float(np.mean([np.abs(each).mean() for each in steps]))


if __name__ == "__main__":
    main()
