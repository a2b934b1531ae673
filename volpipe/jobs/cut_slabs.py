"""What the jobs share that cut pairs of slabs out of an intact volume (`registration.trials`): what is cut, and whether
the volume and a worker's memory have room for it.

    volume --bbox--> part --draw--> pairs of slabs with a known motion

A volume is read whole, one channel, once per worker.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from volpipe.errors import BudgetError, ConfigError, GeometryError, VolumeError
from volpipe.geometry import Box
from volpipe.jobs import plain
from volpipe.jobs.fields import Fields, read_by
from volpipe.jobs.memory import PROCESS_BYTES
from volpipe.plan import Budget

if TYPE_CHECKING:
    from volpipe.registration.trials import TrialOptions
    from volpipe.volume import Source

MOST_VOXELS = 2**30  # 4 GiB of spline coefficients
SEARCH_BYTES = 128 * 2**20  # of a search's surfaces and spectra


class CutSlabs(Fields):
    """Slabs cut from an intact volume and moved."""

    what: ClassVar[str]  # in errors

    volume: str = Field(description="An intact volume: OME-Zarr, zarr, N5, precomputed, HDF5 (file.h5:/path) or TIFF.")
    gaps: tuple[int, ...] = Field((0, 1, 2, 4), min_length=1, description="Layers lost between the slabs.")
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

    @cached_property
    def _source(self) -> Source:
        from volpipe.volume import open_source

        return open_source(self.volume, level=self.level, channel=self.channel, time=self.time)

    def _check_names(self, **given: tuple[object, ...]) -> None:
        """Scores are known and can be had of so few layers, and nothing is given twice."""
        from volpipe.jobs.inverse_problem_work import known_scores

        known = known_scores()
        for name, values in given.items():
            for score in values if name.startswith("score") else ():
                if score not in known:
                    raise ConfigError(f"{name}: {score!r} is not known; give some of {', '.join(known)}")
                if score == "likelihood" and self.layers < 2:
                    raise ConfigError(
                        f"layers: {self.layers}; the likelihood needs two, to see how tissue changes with depth; give "
                        "more layers, or another score"
                    )
            if len(set(values)) < len(values):
                raise ConfigError(f"{name}: {','.join(map(str, values))} has one twice; give each once")

    def _region(self, options: TrialOptions) -> Box:
        """What is read: within the limit, and large enough.

        Raises:
            VolumeError, GeometryError: it is not, or has several channels.
        """
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
        check_fits((z, y, x), options)
        return box

    def _checked_bytes(self, box: Box, options: TrialOptions, budget: Budget) -> int:
        """Of a worker: the volume once, and a pair for each slot."""
        volume = box.size * (6 + int(self._source.dtype.itemsize))
        pair = SEARCH_BYTES + 16 * 4 * 2 * self.layers * options.window**2
        needed = PROCESS_BYTES + volume + budget.slots * pair
        if needed > budget.worker_bytes:
            raise BudgetError(
                f"{self.what}: a volume of {plain.by(box.shape)} needs {plain.size(needed)} in a worker with "
                f"{budget.slots} slots, it has {plain.size(budget.worker_bytes)}; give a part with --bbox, or "
                f"{plain.size(1.01 * needed)}"
            )
        return needed
