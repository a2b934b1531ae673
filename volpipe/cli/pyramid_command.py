"""`volpipe pyramid VOL`."""

from __future__ import annotations

from typing import Any

import click

from volpipe.cli.options import build, options
from volpipe.cli.running import run_options, run_or_describe
from volpipe.jobs.pyramid import PyramidJob


@click.command(name="pyramid", short_help="Build the coarser levels of a volume.")
@options(PyramidJob, arguments=("volume",))
@run_options
def command(**values: Any) -> None:
    """Build the coarser levels of the OME-Zarr 0.5 group VOLUME, in place, each from the one before it."""
    run_or_describe(build(PyramidJob, values), values)
