"""`volpipe apply IN OUT --model M`."""

from __future__ import annotations

from typing import Any

import click

from volpipe.cli.options import build, options
from volpipe.cli.running import calibrate_option, run_options, run_or_describe
from volpipe.jobs.apply import ApplyJob


@click.command(name="apply", short_help="Run a network over a volume, block by block.")
@options(ApplyJob, arguments=("input", "output"))
@run_options
@calibrate_option
def command(**values: Any) -> None:
    """Run a network over the volume INPUT and write the product OUTPUT, an OME-Zarr 0.5 group.

    With --stitching exact or overlap the product is what the network would give on the whole volume. The same command
    again does only what is missing.
    """
    run_or_describe(build(ApplyJob, values), values)
