"""`volpipe register SLABS.yaml OUT`."""

from __future__ import annotations

from typing import Any

import click

from volpipe.cli.options import build, options
from volpipe.cli.running import WITHOUT, pictures_option, report_of, run_options, run_or_describe
from volpipe.jobs.register import RegisterJob


@click.command(short_help="Find where each slab of a stack lies.")
@options(RegisterJob, arguments=("slabs", "output"))
@run_options
@pictures_option()
def command(pictures: bool, **values: Any) -> None:
    """Find where each of the slabs that SLABS lists lies in the first one; OUTPUT/transforms.json is for volpipe warp.

    OUTPUT/pictures/index.html shows what was found; the same command again draws it again.

    A slab that is missing, or without tissue, is bridged, and that is said: its pose is between those of its
    neighbours, at an end that of the one beside it. SLABS is a file:

    \b
      slabs:                                       from above
        - slab0.ome.zarr
        - {volume: slab1.ome.zarr, layers: [3, 70]}
        - {layers: 75}                             missing
        - {volume: slab3.ome.zarr, flipped: true,  upside down, turned: volpipe
           start: {angle_rad: 2.1}}                coarse finds and writes both
      gap_layers: 2                                lost at each seam; or [2, 3, 2]
      voxel_size_um: [50, 40, 40]                  where slabs do not say it
      fill: 0                                      value of what was not imaged
      max_shift: 0.1                               of the width, between slabs
      max_angle_rad: 0.1
    \b
      volume: brain.ome.zarr                       or cut planes
      cuts: [[0, 75], [77, 152]]
    """
    job = build(RegisterJob, values)
    report = report_of("registration", WITHOUT) if pictures and not values["dry_run"] else None
    run_or_describe(job, values)
    if report is not None:
        click.echo(report(job))
