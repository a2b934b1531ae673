"""`evaluate inverse-problem`: how well a registration finds motions that are known, by layers lost between slabs.

    intact volume --trials.draw--> pairs of slabs --register_pair--> rows --> OUTPUT/results.json
                                   of every gap       by every score

Nothing is resumed: the file is written at the end.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from volpipe.jobs import inverse_problem_work, plain
from volpipe.jobs.cut_slabs import CutSlabs
from volpipe.jobs.inverse_problem_work import NAME, InverseProblemWork, Row
from volpipe.plan import Budget, Plan, Price, Task

if TYPE_CHECKING:
    from volpipe.registration.trials import TrialOptions

RESULTS = "results.json"
BATCH = 10  # trials of an item


class InverseProblemJob(CutSlabs):
    """Errors, success and cost of a registration, on slabs cut from an intact volume and moved."""

    what: ClassVar = "inverse problem"

    output: str = Field("inverse-problem-out", description="Folder of the results.")
    trials: int = Field(200, ge=1, description="Pairs of slabs for each gap.")
    scores: tuple[str, ...] = Field(("likelihood", "ncc"), min_length=1, description="Of register_pair, by name.")
    window: int = Field(256, ge=16, description="Width of the slabs, voxels.")

    @property
    def product(self) -> None:
        """Nothing is resumed."""

    def plan(self, budget: Budget, *, anew: bool = False) -> Plan:
        """Open the volume, check that windows fit it and that scores are known.

        Raises:
            VolumeError: the volume cannot be read, has several channels, or is too small or too large.
            ConfigError: a score that is not known or wants more layers, or something given twice.
            ProductError: the output lies inside the volume, or can be no folder.
            BudgetError: the volume does not fit into a worker.
        """
        from volpipe.volume import check_apart, check_place

        self._check_names(gaps=self.gaps, scores=self.scores)
        check_place(self.place)
        check_apart(self.place, self._source.location)
        options = self._options()
        box = self._region(options)
        work = InverseProblemWork(
            self._source, box, options, self.gaps, self.scores, self.trials, min(BATCH, self.trials)
        )
        count = len(self.gaps) * -(-self.trials // work.batch)
        return Plan(
            title=f"inverse problems of {self.volume}",
            works={NAME: work},
            tasks=lambda: (Task(NAME, number) for number in range(count)),
            count=count,
            price=Price(
                worker_bytes=self._checked_bytes(box, options, budget),
                bytes_read=box.size * self._source.dtype.itemsize,
            ),
            key={"input": self._source.identity(), "settings": self.model_dump(mode="json")},
            facts=(
                ("input", f"{self._source.location}  {plain.by(box.shape)} {self._source.dtype}"),
                (
                    "slabs",
                    f"{self.layers} layers of {self.window} x {self.window}, gaps {', '.join(map(str, self.gaps))}",
                ),
                ("trials", f"{self.trials} a gap, by {', '.join(self.scores)}"),
                ("result", self.place),
            ),
            reduce=_joined,
        )

    def begin(self, plan: Plan, *, fresh: bool, replace: bool) -> None:
        """Try whether the result can be written."""
        from volpipe.volume.statistics import check_writable

        check_writable(self.place)

    def finish(self, plan: Plan, value: tuple[Row, ...]) -> str:
        """Write every trial and the table of all."""
        from volpipe.volume.folder import absolute, open_folder

        order = {name: number for number, name in enumerate(self.scores)}
        rows = sorted(value, key=lambda row: (self.gaps.index(row["gap"]), order[row["score"]], row["number"]))
        found = {
            "settings": self.model_dump(mode="json"),
            "input": self._source.identity(),
            "table": inverse_problem_work.summaries(rows, self.window),
            "rows": rows,
        }
        open_folder(absolute(self.output)).put(RESULTS, json.dumps(found, indent=1).encode())
        return ""

    @property
    def place(self) -> str:
        """Where the results go."""
        return f"{self.output.rstrip('/')}/{RESULTS}"

    def _options(self) -> TrialOptions:
        """Of the longest gap."""
        from volpipe.registration.trials import TrialOptions

        return TrialOptions(max(self.gaps), self.window, self.layers, self.max_shift, self.max_angle_rad, self.seed)


def _joined(one: tuple[Row, ...], other: tuple[Row, ...]) -> tuple[Row, ...]:
    return one + other
