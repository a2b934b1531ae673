"""`volpipe register SLABS.yaml OUT`."""

from __future__ import annotations

from typing import Any

import click

from volpipe.cli.options import build, options
from volpipe.cli.running import run_options, run_or_describe
from volpipe.jobs.register import RegisterJob


@click.command(short_help="Find where each slab of a stack lies.")
@options(RegisterJob, arguments=("slabs", "output"))
@run_options
def command(**values: Any) -> None:
    """Find where each of the slabs that SLABS lists lies in the first one; OUTPUT/transforms.json is for volpipe warp.

    A slab that is missing, or without tissue, is bridged: its pose is interpolated, and that is said.
    """
    run_or_describe(build(RegisterJob, values), values)
