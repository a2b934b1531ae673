"""Pipelines: jobs as data, and where to run them, in one YAML file.

run: {workers: 2, memory_per_worker: 4GiB}
jobs:
  - statistics: {volume: raw.ome.zarr}
  - apply: {input: raw.ome.zarr, output: boundaries.ome.zarr, model: boundaries.safetensors}
"""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from volpipe.errors import ConfigError
from volpipe.jobs.apply import ApplyJob
from volpipe.jobs.audit import AuditJob
from volpipe.jobs.fields import validation_text
from volpipe.jobs.importing import ImportJob
from volpipe.jobs.pyramid import PyramidJob
from volpipe.jobs.register import RegisterJob
from volpipe.jobs.statistics import StatisticsJob
from volpipe.jobs.warp import WarpJob
from volpipe.plan import Job
from volpipe.runtime.settings import RunSettings


class Step(BaseModel):
    """One job of a pipeline, under the name of its command."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    apply: ApplyJob | None = None
    statistics: StatisticsJob | None = None
    pyramid: PyramidJob | None = None
    audit: AuditJob | None = None
    # not `register`: every class of an abstract kind has a method of that name
    register_: RegisterJob | None = Field(None, alias="register")
    warp: WarpJob | None = None
    import_: ImportJob | None = Field(None, alias="import")

    @model_validator(mode="after")
    def _one_job(self) -> Step:
        if len(self._given()) != 1:
            raise ValueError("give one job per entry: apply, statistics, pyramid, audit, register, warp or import")
        return self

    def _given(self) -> list[Job]:
        jobs = (self.apply, self.statistics, self.pyramid, self.audit, self.register_, self.warp, self.import_)
        return [job for job in jobs if job is not None]

    @property
    def job(self) -> Job:
        """The job."""
        return self._given()[0]


class Pipeline(BaseModel):
    """Jobs that run one after the other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: RunSettings = RunSettings()
    jobs: tuple[Step, ...]

    @field_validator("jobs")
    @classmethod
    def _some_job(cls, jobs: tuple[Step, ...]) -> tuple[Step, ...]:
        """Not `min_length`: pydantic counts the jobs that are right, and would call a list of wrong ones too short."""
        if not jobs:
            raise ValueError("give at least one job")
        return jobs

    @property
    def job_list(self) -> list[Job]:
        """The jobs in order."""
        return [step.job for step in self.jobs]


def load_pipeline(path: str | Path) -> Pipeline:
    """Read a pipeline file.

    Raises:
        ConfigError: the file is missing, is not YAML, or fields are wrong: every one of them, with its path.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a pipeline file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not text in UTF-8 ({error.reason}); give a pipeline file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    try:
        return Pipeline.model_validate(content)
    except ValidationError as error:
        raise ConfigError(validation_text(error, f"{path}: ")) from None
