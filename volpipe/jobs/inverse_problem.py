"""`evaluate inverse-problem`: how well a registration finds motions that are known, by layers lost between slabs.

    intact volume --trials.draw--> pairs of slabs --register_pair--> rows --> OUTPUT/results.json
                                   of every gap       by every score

A volume is read whole, one channel, once per worker. Nothing is resumed: the file is written at the end.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from volpipe.errors import BudgetError, ConfigError, GeometryError, VolumeError
from volpipe.geometry import Box
from volpipe.jobs import inverse_problem_work, plain
from volpipe.jobs.fields import Fields, read_by
from volpipe.jobs.inverse_problem_work import NAME, InverseProblemWork, Row
from volpipe.jobs.memory import PROCESS_BYTES
from volpipe.plan import Budget, Plan, Price, Task

if TYPE_CHECKING:
    from volpipe.registration.trials import TrialOptions
    from volpipe.volume import Source

RESULTS = "results.json"
BATCH = 10  # trials of an item
MOST_VOXELS = 2**30  # 4 GiB of spline coefficients
SEARCH_BYTES = 128 * 2**20  # of a search's surfaces and spectra


class InverseProblemJob(Fields):
    """Errors, success and cost of a registration, on slabs cut from an intact volume and moved."""

    volume: str = Field(description="An intact volume: OME-Zarr, zarr, N5, precomputed, HDF5 (file.h5:/path) or TIFF.")
    output: str = Field("inverse-problem-out", description="Folder of the results.")
    gaps: tuple[int, ...] = Field((0, 1, 2, 4), min_length=1, description="Layers lost between the slabs.")
    trials: int = Field(200, ge=1, description="Pairs of slabs for each gap.")
    scores: tuple[str, ...] = Field(("likelihood", "ncc"), min_length=1, description="Of register_pair, by name.")
    window: int = Field(256, ge=16, description="Width of the slabs, voxels.")
    layers: int = Field(8, ge=1, description="Of each slab.")
    max_shift: float = Field(0.1, ge=0, le=0.5, description="In y and in x, fraction of the width.")
    max_angle_rad: float = Field(0.1, ge=0, lt=0.78, description="Of the turn.")
    seed: int = Field(0, ge=0, description="Of the trials: the same seed is the same slabs and motions.")
    bbox: str | None = Field(None, description="z0:z1,y0:y1,x0:x1: the part of the volume to draw from.")
    level: int | None = Field(None, ge=0, description="Level of a multiscale; 0 is the finest.")
    channel: int | None = Field(None, ge=0, description="One channel; needed where there are several.")
    time: int | None = Field(None, ge=0, description="Time point.")

    _box = field_validator("bbox")(read_by(Box.parse))

    @field_validator("gaps")
    @classmethod
    def _lost(cls, gaps: tuple[int, ...]) -> tuple[int, ...]:
        if min(gaps) < 0:
            raise ValueError("give layers, 0 or more")
        return gaps

    @property
    def product(self) -> None:
        """Nothing is resumed."""

    def plan(self, budget: Budget, *, anew: bool = False) -> Plan:
        """Open the volume, check that windows fit it and that scores are known.

        Raises:
            VolumeError: the volume cannot be read, has several channels, or is too small or too large.
            ConfigError: a score that is not known, or something given twice.
            ProductError: the output can be no folder.
            BudgetError: the volume does not fit into a worker.
        """
        from volpipe.volume import check_place

        self._check_names()
        check_place(self.place)
        box = self._region()
        work = InverseProblemWork(
            self._source, box, self._options(), self.gaps, self.scores, self.trials, min(BATCH, self.trials)
        )
        count = len(self.gaps) * -(-self.trials // work.batch)
        return Plan(
            title=f"inverse problems of {self.volume}",
            works={NAME: work},
            tasks=lambda: (Task(NAME, number) for number in range(count)),
            count=count,
            price=Price(
                worker_bytes=self._checked_bytes(box, budget), bytes_read=box.size * self._source.dtype.itemsize
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

    @cached_property
    def _source(self) -> Source:
        from volpipe.volume import open_source

        return open_source(self.volume, level=self.level, channel=self.channel, time=self.time)

    def _options(self) -> TrialOptions:
        """Of the longest gap."""
        from volpipe.registration.trials import TrialOptions

        return TrialOptions(max(self.gaps), self.window, self.layers, self.max_shift, self.max_angle_rad, self.seed)

    def _check_names(self) -> None:
        known = inverse_problem_work.known_scores()
        for score in self.scores:
            if score not in known:
                raise ConfigError(f"scores: {score!r} is not known; give some of {', '.join(known)}")
        for name, given in (("gaps", self.gaps), ("scores", self.scores)):
            if len(set(given)) < len(given):
                raise ConfigError(f"{name}: {','.join(map(str, given))} has one twice; give each once")

    def _region(self) -> Box:
        """What is read: within the limit, and large enough."""
        from volpipe.registration.trials import check_fits

        source, whole = self._source, Box.from_shape(self._source.shape)
        if source.channels > 1:
            raise VolumeError(f"{source.location}: has {source.channels} channels; pick one with --channel")
        box = whole if self.bbox is None else Box.parse(self.bbox)
        if not whole.contains(box):
            raise GeometryError(f"bbox {self.bbox}: reaches outside {source.location} of shape {source.shape}")
        if box.size > MOST_VOXELS:
            raise VolumeError(
                f"{source.location}: {plain.by(box.shape)} voxels are read whole, at most {MOST_VOXELS:.3g}; give a "
                "part with --bbox, or a coarser --level"
            )
        z, y, x = box.shape
        check_fits((z, y, x), self._options())
        return box

    def _checked_bytes(self, box: Box, budget: Budget) -> int:
        """Of a worker: the volume once, and a pair for each slot."""
        volume = box.size * (6 + int(self._source.dtype.itemsize))
        pair = SEARCH_BYTES + 16 * 4 * 2 * self.layers * self.window**2
        needed = PROCESS_BYTES + volume + budget.slots * pair
        if needed > budget.worker_bytes:
            raise BudgetError(
                f"inverse problem: a volume of {plain.by(box.shape)} needs {plain.size(needed)} in a worker with "
                f"{budget.slots} slots, it has {plain.size(budget.worker_bytes)}; give a part with --bbox, or "
                f"{plain.size(1.01 * needed)}"
            )
        return needed


def _joined(one: tuple[Row, ...], other: tuple[Row, ...]) -> tuple[Row, ...]:
    return one + other
