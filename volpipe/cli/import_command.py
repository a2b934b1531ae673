"""`volpipe import SRC OUT.ome.zarr`."""

from __future__ import annotations

from typing import Any

import click

from volpipe.cli.options import build, options
from volpipe.cli.running import calibrate_option, run_options, run_or_describe
from volpipe.jobs.importing import ImportJob


@click.command(name="import", short_help="Copy a volume into sharded OME-Zarr.")
@options(ImportJob, arguments=("input", "output"))
@run_options
@calibrate_option
@click.option("--memory", default=None, help="The same as --memory-per-worker.")
def command(memory: str | None, **values: Any) -> None:
    """Copy the volume INPUT to OUTPUT, a sharded OME-Zarr 0.5 group, where the storage it has is unsuitable.

    Each page of a TIFF is decoded once per row of shards, as far as --memory allows.
    """
    values["memory_per_worker"] = memory or values["memory_per_worker"]
    run_or_describe(build(ImportJob, values), values)
