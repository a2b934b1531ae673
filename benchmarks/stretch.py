"""What `register_pair(affine=True)` is worth: corners of windows whose tissue is stretched, and of such as are not.

    python benchmarks/stretch.py VOLUME --trials 40 --gaps 0,1,2 --stretches 0,0.01,0.02

Trials are those of `volpipe evaluate inverse-problem`. Their lower window is drawn a little larger and sampled again,
by cubic splines, stretched by E about its centre: by what is said along one axis, turned at random, and by up to as
much, or squeezed, across it. So the truth is `R (1 + E)`. Errors are of the worst corner, in voxels.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import RESULTS, save, table
from numpy.typing import NDArray
from scipy import ndimage
from volumes import read

from volpipe import Affine, Rigid, register_pair
from volpipe.registration.intact import Intact
from volpipe.registration.trials import Trial, TrialOptions, draw

LARGER = 24  # voxels, of the window that is sampled again
MAX_SHIFT = 0.09  # of the larger window: 0.1 of the window


def main() -> None:
    """Every gap and stretch, on the same trials."""
    given = _given()
    torch.set_num_threads(1)
    options = TrialOptions(0, given.window + LARGER, given.layers, MAX_SHIFT, seed=given.seed)
    intact = Intact.of(read(given.volume), given.window)
    rows = [
        measured(intact, replace(options, gap_layers=int(gap)), stretch, given.trials)
        for gap in given.gaps
        for stretch in given.stretches
    ]
    print(table(rows))
    print(save(f"stretch-{given.name}", {"volume": given.volume.name, "settings": str(options), "rows": rows}))


def _given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume", type=Path)
    parser.add_argument("--trials", type=int, default=40, help="for each gap and stretch")
    parser.add_argument("--gaps", type=_numbers, default=(0, 1, 2))
    parser.add_argument("--stretches", type=_numbers, default=(0.0, 0.01, 0.02))
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", default="cpu", help=f"of the result in {RESULTS.name}/")
    return parser.parse_args()


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def measured(intact: Intact, options: TrialOptions, stretch: float, trials: int) -> dict[str, Any]:
    """Errors of the rigid and of the affine answer, and what both cost."""
    window, errors, spent = options.window - LARGER, [], 0.0
    for number in range(trials):
        upper, lower, truth = stretched(draw(intact, options, number), stretch, number)
        start = time.process_time()
        found = register_pair(upper, lower, gap_layers=options.gap_layers, affine=True)
        spent += time.process_time() - start
        errors.append([off(found.transform, truth, window), off(found.affine, truth, window)])
    rigid, affine = np.transpose(errors)
    said = {"gap": options.gap_layers, "stretch": stretch, "trials": trials}
    for name, one in (("rigid", rigid), ("affine", affine)):
        said |= {f"{name} median": float(np.median(one)), f"{name} 90 %": float(np.quantile(one, 0.9))}
    return said | {"affine under 0.5": float(np.mean(affine < 0.5)), "CPU s": spent / trials}


def stretched(trial: Trial, by: float, number: int) -> tuple[NDArray[Any], NDArray[Any], Affine]:
    """(upper, lower, truth) of the window's size."""
    random = np.random.default_rng((number, round(1e6 * by)))
    axes = Rigid(float(random.uniform(0, np.pi))).matrix
    matrix = axes @ np.diag([1 + by, 1 + by * random.uniform(-1, 1)]) @ axes.T
    inner, size = slice(LARGER // 2, -LARGER // 2), trial.upper.shape[-1] - LARGER
    corner = (trial.lower.shape[-1] - 1) / 2 - matrix @ np.full(2, (size - 1) / 2)
    lower = [ndimage.affine_transform(layer, matrix, corner, (size, size)) for layer in trial.lower]
    rows = tuple(tuple(row) for row in matrix.tolist())
    return trial.upper[:, inner, inner], np.stack(lower), Affine.of(trial.truth) @ Affine(rows)


def off(found: Rigid | Affine, truth: Affine, window: int) -> float:
    """Of the worst corner."""
    half = (window - 1) / 2
    corners = np.array([(y, x) for y in (-half, half) for x in (-half, half)])
    return float(np.linalg.norm(found(corners) - truth(corners), axis=-1).max())


if __name__ == "__main__":
    main()
