"""`evaluate self-consistency`: whether a registration that comes out otherwise on shifted windows errs there.

    intact volume --trials.draw--> pair of slabs --Reruns--> a cell's displacement by every run --> OUTPUT/results.json
                                   of every gap    k offsets

One task is one pair of slabs; its displacements travel in its receipt, so that a run that was killed goes on from the
ledger.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from volpipe import __version__
from volpipe.jobs import plain, self_consistency_work
from volpipe.jobs.cut_slabs import CutSlabs
from volpipe.jobs.self_consistency_work import NAME, Row, SelfConsistencyWork
from volpipe.plan import Budget, Plan, Price, Task

if TYPE_CHECKING:
    from volpipe.registration.trials import TrialOptions

RESULTS = "results.json"


class SelfConsistencyJob(CutSlabs):
    """Spread of a registration over shifted windows, beside its true error, on slabs cut from an intact volume."""

    what: ClassVar = "self-consistency"

    output: str = Field(description="Folder of the results; it does not exist yet.")
    trials: int = Field(20, ge=1, description="Pairs of slabs for each gap.")
    offsets: int = Field(5, ge=2, le=16, description="Places of the window grid; the whole tree is walked for each.")
    score: str = Field("likelihood", description="Of register_pair, by name.")
    width: int = Field(256, ge=32, description="Voxels across of what a run registers: tree-window times 2, 4, 8, ...")
    tree_window: int = Field(32, ge=16, description="Voxels across a node of the tree, at its own level.")

    @property
    def product(self) -> str:
        """Where the product goes."""
        return self.output

    def plan(self, budget: Budget, *, anew: bool = False) -> Plan:
        """Open the volume, check that slabs fit it, that a tree fits them and that the score is known.

        Raises:
            VolumeError: the volume cannot be read, has several channels, or is too small or too large.
            GeometryError: the width is no power of two of tree windows.
            ConfigError: a score that is not known or wants more layers, or a gap given twice.
            ProductError: the output lies inside the volume, or can be no folder.
            BudgetError: the volume does not fit into a worker.
        """
        from volpipe.registration.consistency import check_width, offsets_of
        from volpipe.volume import check_apart, check_place

        check_place(self.output)
        self._check_names(gaps=self.gaps, score=(self.score,))
        check_apart(self.output, self._source.location)
        check_width(self.width, self.tree_window)
        options, offsets = self._options(), offsets_of(self.offsets, self.tree_window)
        box = self._region(options)
        work = SelfConsistencyWork(
            self._source, box, options, self.gaps, self.trials, offsets, self.width, self.tree_window, self.score
        )
        return Plan(
            title=f"self-consistency on {self.volume}",
            works={NAME: work},
            tasks=lambda: (Task(NAME, number) for number in range(work.count)),
            count=work.count,
            price=Price(
                worker_bytes=self._checked_bytes(box, options, budget),
                bytes_read=box.size * self._source.dtype.itemsize,
            ),
            key={"input": self._source.identity(), "settings": self._settings()},
            facts=(
                ("input", f"{self._source.location}  {plain.by(box.shape)} {self._source.dtype}"),
                ("slabs", f"{self.layers} layers of {options.window} x {options.window}, {self.trials} pairs for each "
                          f"gap of {', '.join(map(str, self.gaps))} layers"),
                ("runs", f"{len(offsets)} of each, by {self.score} on {self.width} x {self.width}: "
                         f"{', '.join(f'{y},{x}' for y, x in offsets)} voxels from the corner"),
                ("cells", f"{len(work.reruns(0).cells)} of {self.tree_window} x {self.tree_window}"),
                ("result", self.place),
            ),
            reduce=_joined,
        )  # fmt: skip

    def begin(self, plan: Plan, *, fresh: bool, replace: bool) -> None:
        """Make the folder, empty and marked as running."""
        from volpipe.volume.results import begin_results

        if fresh:
            begin_results(self.output, replace=replace)

    def finish(self, plan: Plan, value: list[Row]) -> str:
        """Write the answers of every trial and the table of all."""
        from volpipe.volume.folder import absolute, open_folder
        from volpipe.volume.results import finish_results

        rows = sorted(value, key=lambda row: (self.gaps.index(row["gap"]), row["number"]))
        work: Any = plan.works[NAME]
        cells = work.reruns(0).cells.tolist()
        found = {
            "settings": self.model_dump(mode="json"),
            "input": self._source.identity(),
            "offsets_vox": work.offsets,
            "cells_vox": cells,
            "table": self_consistency_work.summaries(rows, cells),
            "rows": rows,
        }
        open_folder(absolute(self.output)).put(RESULTS, json.dumps(found).encode())
        finish_results(self.output, {"provenance": {"software": f"volpipe {__version__}", **plan.key}})
        return ""

    @property
    def place(self) -> str:
        """Where the results go."""
        return f"{self.output.rstrip('/')}/{RESULTS}"

    def _settings(self) -> dict[str, Any]:
        """What the results depend on beside the volume's content."""
        return self.model_dump(mode="json", exclude={"output"})

    def _options(self) -> TrialOptions:
        """Of the longest gap; the shift stays a fraction of what a run registers."""
        from volpipe.registration.consistency import slab_width
        from volpipe.registration.trials import TrialOptions

        slab = slab_width(self.width, self.tree_window)
        reach = self.max_shift * self.width / slab
        return TrialOptions(max(self.gaps), slab, self.layers, reach, self.max_angle_rad, self.seed)


def _joined(one: list[Row], other: list[Row]) -> list[Row]:
    return one + other
