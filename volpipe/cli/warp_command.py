"""`volpipe warp TRANSFORMS.json OUT.ome.zarr`."""

from __future__ import annotations

from typing import Any

import click

from volpipe.cli.options import build, options
from volpipe.cli.running import calibrate_option, run_options, run_or_describe
from volpipe.jobs.warp import WarpJob


@click.command(short_help="Render the reconstruction of a stack of slabs.")
@options(WarpJob, arguments=("transforms", "output"))
@run_options
@calibrate_option
def command(**values: Any) -> None:
    """Render the slabs of TRANSFORMS, each as its pose or field places it, to OUTPUT, a sharded OME-Zarr 0.5 group.

    Gaps between slabs are left empty and listed; labels/known in OUTPUT is 1 where a slab was, and finite.
    """
    run_or_describe(build(WarpJob, values), values)
