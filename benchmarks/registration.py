"""How well slabs are registered across lost layers, beside other people's methods on the same trials in the same run.

    python benchmarks/registration.py VOLUME [VOLUME ...] --trials 200 --gaps 0,1,2,4 --scores likelihood,ncc

A volume is .npz (under the key vol) or whatever volpipe opens. Trials are those of `volpipe evaluate inverse-problem`;
with `--bend` their lower windows are bent (`bends.py`), by so much of the width.
Before that every method is asked for motions between equal layers, where nothing was lost: one whose convention is not
ours would err there, and stops the run. CPU-seconds are of this process, one thread. The peers need the extra `bench`;
what each is and how it is set stands at the head of registration_peers.py.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bends import bent, larger
from machine import RESULTS, save
from numpy.typing import NDArray
from registration_peers import peers
from scipy import ndimage
from volumes import read

from volpipe.jobs.inverse_problem_work import Method, Row, by_score, rows_of, summaries
from volpipe.metrics.registration import errors_of
from volpipe.registration.intact import Intact
from volpipe.registration.trials import TrialOptions, draw
from volpipe.report.inverse_problem_text import inverse_problem_text

CHECKED = 7  # pairs of equal layers
CHECK_MOTION = {"max_shift": 0.04, "max_angle_rad": 0.06}  # small: conventions are checked, not how far a method sees
CHECK_WITHIN = 0.004  # of the width: the median error; the wrong way round it would be ten times that
CHECK_WITHIN_VOXELS = 0.5  # of an angle, at half the width


def main() -> None:
    """Check every method's convention, then measure all of them on every volume."""
    given = _given()
    torch.set_num_threads(1)
    options = TrialOptions(0, given.window, given.layers, given.max_shift, given.max_angle, given.seed)
    methods = {score: by_score(score, options) for score in given.scores} | ({} if given.no_peers else peers(options))
    check_conventions(methods, options)
    told = []
    for path in given.volumes:
        rows = measure(read(path), given.gaps, given.trials, methods, options, given.bend)
        told.append({"volume": path.name, "table": summaries(rows, options.window)})
        print(f"{path.name}, {options}\n{inverse_problem_text(told[-1]['table'])}\n", flush=True)
    settings = {"options": asdict(options), "bend": given.bend}
    print(save(f"registration-{given.name}", settings | {"volumes": told}))


def _given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", nargs="+", type=Path)
    parser.add_argument("--trials", type=int, default=200, help="for each gap")
    parser.add_argument("--gaps", type=_whole_numbers, default=(0, 1, 2, 4))
    parser.add_argument("--scores", type=_names, default=("likelihood", "ncc"), help="of register_pair; '' for none")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--max-shift", type=float, default=0.1)
    parser.add_argument("--max-angle", type=float, default=0.1)
    parser.add_argument("--bend", type=float, default=0.0, help="of lower windows, share of the width (`bends.py`)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--name", default="cpu", help=f"of the result in {RESULTS.name}/")
    return parser.parse_args()


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def measure(
    volume: NDArray[Any],
    gaps: tuple[int, ...],
    trials: int,
    methods: dict[str, Method],
    options: TrialOptions,
    bend: float,
) -> list[Row]:
    """Every method on every trial of every gap."""
    intact = Intact.of(volume, options.window)
    rows: list[Row] = []
    for gap in gaps:
        of_gap = replace(options, gap_layers=gap)
        for number in range(trials):
            trial = bent(draw(intact, larger(of_gap), number), bend, number) if bend else draw(intact, of_gap, number)
            rows += rows_of(trial, number, methods, time.process_time)
    return rows


def check_conventions(methods: dict[str, Method], options: TrialOptions) -> None:
    """Every method finds motions between equal layers."""
    width = 2 * options.window
    noise = np.random.default_rng(0).normal(size=(width, width))
    plane = ndimage.gaussian_filter(noise, 2.0, mode="wrap") + 2 * ndimage.gaussian_filter(noise, 8.0, mode="wrap")
    intact = Intact.of(np.broadcast_to(plane, (2 * options.layers, width, width)), options.window, flatten=False)
    trials = [draw(intact, replace(options, **CHECK_MOTION), number) for number in range(CHECKED)]
    for name, method in methods.items():
        errors = errors_of([method(t).transform for t in trials], [t.truth for t in trials], options.window)
        shift, angle = float(np.median(errors.length)), float(np.median(errors.angle_rad))
        print(f"equal layers: {name:<20} shift {shift:.5f} of the width, angle {angle:.5f} rad", flush=True)
        if shift > CHECK_WITHIN or angle > max(CHECK_WITHIN, 2 * CHECK_WITHIN_VOXELS / options.window):
            raise SystemExit(f"{name}: its convention is not ours")


if __name__ == "__main__":
    main()
