"""One pair of slabs, registered once for every offset of the window grid; and the table of many.

    item = gap x trial      trial n of the seed --> Reruns --> displacements of its cells by every run

The prior is that of the trials, and a little more: what a turn about the slabs' centres moves a run's own centre by.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from volpipe.geometry import Box
from volpipe.inference.device import use_threads
from volpipe.jobs.inverse_problem_work import intact_of, motion_of, told
from volpipe.plan import Receipt

if TYPE_CHECKING:
    from volpipe.registration.consistency import Offset, Reruns
    from volpipe.registration.tree import Pair
    from volpipe.registration.trials import TrialOptions
    from volpipe.volume import Source

NAME = "self-consistency"
MOST_SHIFT = 0.5  # of the width, that register_pair takes
DIGITS = 4  # of a displacement in voxels, as stored

Row = dict[str, Any]


@dataclass(frozen=True)
class SelfConsistencyWork:
    """Draws any pair of slabs and registers it again and again.

    Attributes:
        source: one channel.
        box: the part of it that slabs are drawn from.
        options: of the trials, but for the gap; the window is the slabs' width.
        gaps: layers lost.
        trials: for each gap.
        offsets: of the runs, voxels.
        width: of what a run registers.
        window: of a node.
        score: its name.
    """

    source: Source
    box: Box
    options: TrialOptions
    gaps: tuple[int, ...]
    trials: int
    offsets: tuple[Offset, ...]
    width: int
    window: int
    score: str

    @property
    def count(self) -> int:
        """How many items."""
        return len(self.gaps) * self.trials

    def reruns(self, gap_layers: int) -> Reruns:
        """How a pair across a gap is registered."""
        from volpipe.registration.consistency import Reruns

        options, turned = self.options, self.options.max_angle_rad * self.window / self.width
        reach = min(options.max_shift * options.window / self.width + turned, MOST_SHIFT)
        return Reruns(
            self.offsets, self.width, self.window, pair_by(self.score), gap_layers, reach, options.max_angle_rad
        )

    def __call__(self, item: int) -> Receipt:
        """Do one pair; the receipt's value is its row, in a list."""
        from volpipe.registration.trials import draw

        use_threads(1)
        gap, number = divmod(item, self.trials)
        options = replace(self.options, gap_layers=self.gaps[gap])
        began = time.perf_counter()
        intact = intact_of(self.source, self.box, options.window)
        read = time.perf_counter()
        trial = draw(intact, options, number)
        found = self.reruns(trial.gap_layers).displacements(trial.upper, trial.lower)
        seconds = {"read": read - began, "compute": time.perf_counter() - read}
        named = {"gap": trial.gap_layers, "number": number, "block": trial.block, "truth": told(trial.truth)}
        return Receipt(NAME, item, seconds=seconds, value=[named | {"moved_vox": found.round(DIGITS).tolist()}])


def pair_by(score: str) -> Pair:
    """`register_pair` by a score."""
    from volpipe.registration.pair import register_pair

    return partial(register_pair, score=score)


def measured(row: Row, cells: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Of every cell of a trial: `spread`, and the error of the `first` run and of the `mean` of all, voxels, (n,)."""
    from volpipe.metrics.consistency import error_of, spread_of
    from volpipe.registration.consistency import true_displacements

    moved = np.asarray(row["moved_vox"], np.float64)
    truth = true_displacements(motion_of(row["truth"]), np.asarray(cells, np.float64))
    return {"spread": spread_of(moved), "first": error_of(moved[0], truth), "mean": error_of(moved.mean(axis=0), truth)}


def summaries(rows: Sequence[Row], cells: Sequence[Sequence[float]]) -> list[Row]:
    """A line of the table for every gap, in the order in which they come, at the end of several gaps all together: by
    the error of the first run, and by that of the mean.

    Args:
        rows: of the work.
        cells: centres, (n, 2), voxels from the slabs' centres.
    """
    from volpipe.metrics.consistency import consistency

    found = []
    gaps = list(dict.fromkeys(row["gap"] for row in rows))
    for gap in [*gaps, "all"] if len(gaps) > 1 else gaps:
        mine = [row for row in rows if gap in (row["gap"], "all")]
        each = [measured(row, cells) for row in mine]
        for answer in ("first", "mean"):
            told_of = consistency([one["spread"] for one in each], [one[answer] for one in each],
                                  [row["block"] for row in mine])  # fmt: skip
            found.append({"gap": gap, "answer": answer, **told_of})
    return found
