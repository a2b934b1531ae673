"""One batch of inverse problems: draw each, ask every score, write down what it said and what it cost.

    item = gap x batch      trial n of the seed --> register_pair by each score --> one row a score

The intact volume is read and made ready once per process; slots share it. Seconds are of the thread that worked, torch
with one: what a pair costs, whoever else is busy. The first pair of a process is done twice, so that none pays for
imports.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from volpipe.errors import VolumeError
from volpipe.geometry import Box, Rigid
from volpipe.inference.device import use_threads
from volpipe.plan import Receipt

if TYPE_CHECKING:
    from volpipe.registration.estimate import PairEstimate
    from volpipe.registration.intact import Intact
    from volpipe.registration.trials import Trial, TrialOptions
    from volpipe.volume import Source

NAME = "inverse problem"

Row = dict[str, Any]
Method = Callable[["Trial"], "PairEstimate"]

_MAKING = Lock()


@dataclass(frozen=True)
class InverseProblemWork:
    """Draws and solves any batch.

    Attributes:
        source: one channel.
        box: the part of it that windows are drawn from.
        options: of the trials, but for the gap.
        gaps: layers lost.
        scores: names.
        trials: for each gap.
        batch: trials of an item.
    """

    source: Source
    box: Box
    options: TrialOptions
    gaps: tuple[int, ...]
    scores: tuple[str, ...]
    trials: int
    batch: int

    def __call__(self, item: int) -> Receipt:
        """Do one batch; the receipt's value is its rows."""
        from volpipe.registration.trials import draw

        use_threads(1)
        gap, first = divmod(item, -(-self.trials // self.batch))
        options = replace(self.options, gap_layers=self.gaps[gap])
        began = time.perf_counter()
        intact = intact_of(self.source, self.box, options.window)
        methods = {score: by_score(score, options) for score in self.scores}
        read, rows = time.perf_counter(), []
        for number in range(first * self.batch, min((first + 1) * self.batch, self.trials)):
            rows += rows_of(draw(intact, options, number), number, methods)
        seconds = {"read": read - began, "compute": time.perf_counter() - read}
        return Receipt(NAME, item, seconds=seconds, value=tuple(rows))


def intact_of(source: Source, box: Box, window: int) -> Intact:
    """The volume, made ready once in this process; other slots wait for it."""
    with _MAKING:
        return _intact(cast(Any, source), box, window)  # which are values


@lru_cache(maxsize=1)
def _intact(source: Source, box: Box, window: int) -> Intact:
    from volpipe.registration.intact import Intact

    voxels = source.read(box)[0]
    if not np.isfinite(voxels).all():
        raise VolumeError(f"{source.location}: has voxels that are not finite; give --bbox around what is whole")
    return Intact.of(voxels, window)


def known_scores() -> tuple[str, ...]:
    """The names that `by_score` takes."""
    from volpipe.registration.scores import SCORES

    return tuple(SCORES)


def by_score(score: str, options: TrialOptions) -> Method:
    """`register_pair` by a score within the prior that trials are drawn from.

    The likelihood is shown the slabs in the gap's middle too; the others stand for what is published, and are not.
    """
    from volpipe.registration.pair import register_pair

    def method(trial: Trial) -> PairEstimate:
        return register_pair(
            trial.upper, trial.lower, gap_layers=trial.gap_layers, score=score,
            max_shift=options.max_shift, max_angle_rad=options.max_angle_rad, carry=score == "likelihood",
        )  # fmt: skip

    return method


def rows_of(
    trial: Trial, number: int, methods: Mapping[str, Method], clock: Callable[[], float] = time.thread_time
) -> list[Row]:
    """What every method said of a trial, JSON-able: angles in radians, shifts (y, x) in voxels, seconds of `clock`."""
    rows = []
    for name, method in methods.items():
        _warm(name, method, trial)
        began = clock()
        estimate = method(trial)
        cpu_s = clock() - began
        said = {"confidence": estimate.confidence, "accepted": estimate.accepted, "cpu_s": cpu_s}
        named = {"gap": trial.gap_layers, "score": name, "number": number, "block": trial.block}
        rows.append(named | {"truth": told(trial.truth), "estimate": told(estimate.transform)} | said)
    return rows


_WARMED: set[str] = set()


def _warm(name: str, method: Method, trial: Trial) -> None:
    if name not in _WARMED:
        _WARMED.add(name)
        method(trial)


def told(motion: Rigid) -> dict[str, Any]:
    """As JSON."""
    return {"angle_rad": float(motion.angle_rad), "shift_vox": [float(part) for part in motion.shift]}


def motion_of(stored: dict[str, Any]) -> Rigid:
    """What `told` told."""
    y, x = stored["shift_vox"]
    return Rigid(stored["angle_rad"], (y, x))


def summaries(rows: Sequence[Row], width: float) -> list[Row]:
    """A line of the table for every gap and score, in the order in which they come, the identity first of each gap.

    At the end stand several gaps together ("all"): a confidence must tell their successes from their failures.

    Args:
        rows: of `rows_of`, of the same trials for every score.
        width: of the windows, voxels.
    """
    from volpipe.metrics.registration import errors_of, identity_errors, summary

    found = []
    gaps = list(dict.fromkeys(row["gap"] for row in rows))
    for gap in [*gaps, "all"] if len(gaps) > 1 else gaps:
        of_gap = [row for row in rows if gap in (row["gap"], "all")]
        for number, score in enumerate(dict.fromkeys(row["score"] for row in of_gap)):
            mine = [row for row in of_gap if row["score"] == score]
            truths, blocks = [motion_of(row["truth"]) for row in mine], [row["block"] for row in mine]
            if number == 0:
                nothing = summary(identity_errors(truths, width), blocks)
                found.append({"gap": gap, "score": "identity", **nothing, "cpu_s": 0.0})
            errors = errors_of([motion_of(row["estimate"]) for row in mine], truths, width)
            said = [row["confidence"] for row in mine]
            sure = None if None in said else said
            cpu_s = float(np.mean([row["cpu_s"] for row in mine]))
            found.append({"gap": gap, "score": score, **summary(errors, blocks, sure), "cpu_s": cpu_s})
    return found
