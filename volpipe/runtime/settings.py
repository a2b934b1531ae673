"""Where to run and with how much: the options that change no voxel of the product."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from volpipe.errors import ConfigError
from volpipe.jobs.fields import Fields, read_by
from volpipe.plan import Budget

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
SHARE_OF_MEMORY = 0.8  # of the machine, when nobody says how much: the rest is the page cache's and the driver's
GPU_SLOTS = 3  # one computes under the device's lease while the others read and write


class RunSettings(Fields):
    """Where and with how much a job runs."""

    cluster: str = Field(
        "local", description="local, cuda (all GPUs of this machine) or tcp://ADDRESS of a Dask scheduler."
    )
    engine: Literal["blocks", "map-overlap"] = Field(
        "blocks", description="blocks, or dask.array.map_overlap: the same product, dearer, for apply alone."
    )
    serial: bool = Field(False, description="Run in this process, one block after the other, without Dask.")
    workers: int | None = Field(None, ge=1, description="Worker processes to start (local, cuda) or to wait for (tcp).")
    threads: int | None = Field(
        None, ge=1, description="Blocks in hand per worker (with serial: threads of the network)."
    )
    memory_per_worker: str | None = Field(None, description="Memory that a worker may reach, as 4GiB.")
    retries: int = Field(2, ge=0, description="Times that a failing block is tried again before it is set aside.")

    @field_validator("cluster")
    @classmethod
    def _known_cluster(cls, cluster: str) -> str:
        if cluster in ("local", "cuda") or re.fullmatch(r"(tcp|tls)://\S+", cluster):
            return cluster
        raise ValueError("give local, cuda or tcp://ADDRESS")

    _readable_memory = field_validator("memory_per_worker")(read_by(lambda text: parse_bytes(text)))

    @field_validator("serial")
    @classmethod
    def _serial_is_here(cls, serial: bool, info: ValidationInfo) -> bool:
        if serial and info.data.get("cluster", "local") != "local":
            raise ValueError("serial runs in this process; leave out serial or cluster")
        return serial

    @field_validator("workers")
    @classmethod
    def _workers_are_elsewhere(cls, workers: int | None, info: ValidationInfo) -> int | None:
        if workers is not None and info.data.get("serial"):
            raise ValueError("serial runs in this process; leave out serial or workers")
        return workers

    @field_validator("threads")
    @classmethod
    def _threads_are_ours_to_give(cls, threads: int | None, info: ValidationInfo) -> int | None:
        if threads is not None and info.data.get("cluster", "local") not in ("local", "cuda"):
            raise ValueError("workers of a scheduler keep the threads that they were started with; leave it out")
        return threads

    def local_budget(self) -> Budget:
        """The budget of a worker on this machine (of this process, if serial)."""
        from dask.system import CPU_COUNT as cores  # of this process: affinity and cgroups counted

        if self.serial:
            return Budget(self.memory_bytes(1), slots=1, threads=self.threads or cores)
        workers = self.workers or 1
        slots = self.threads or max(1, cores // workers)
        return Budget(self.memory_bytes(workers), slots, threads=max(1, cores // (workers * slots)))

    def memory_bytes(self, workers: int) -> int:
        """Bytes per worker: as given, or this machine's share."""
        if self.memory_per_worker is not None:
            return parse_bytes(self.memory_per_worker)
        from distributed.system import MEMORY_LIMIT  # of this process: cgroups and ulimits counted

        return int(SHARE_OF_MEMORY * MEMORY_LIMIT / workers)


def parse_bytes(text: str) -> int:
    """Read `4GiB`, `500 MB` or a plain number of bytes.

    Raises:
        ConfigError: it is neither.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in _UNITS:
        raise ConfigError(f"memory {text!r}: give a number with a unit, as 4GiB or 500MB")
    return int(float(match[1]) * _UNITS[match[2].lower()])
