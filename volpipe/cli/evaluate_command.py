"""`volpipe evaluate inverse-problem VOL`."""

from __future__ import annotations

from typing import Any

import click

from volpipe.cli.options import build, options
from volpipe.cli.running import report_of, run_options, run_or_describe
from volpipe.jobs.inverse_problem import InverseProblemJob


@click.group(name="evaluate", short_help="Measure a registration on motions that are known.")
def command() -> None:
    """Measure how well slabs are registered."""


@command.command(name="inverse-problem", short_help="On slabs cut from an intact volume and moved.")
@options(InverseProblemJob, arguments=("volume",))
@run_options
def inverse_problem(**values: Any) -> None:
    """Cut pairs of slabs out of VOLUME, move one of each, and see how well the motion is found.

    Prints success, errors and CPU-seconds a pair for every gap and score, beside doing nothing; stores them with every
    trial and pictures in the folder --output.
    """
    job = build(InverseProblemJob, values)
    report = None if values["dry_run"] else report_of("inverse_problem")
    run_or_describe(job, values)
    if report is None:
        return
    text, files = report(job.place)
    click.echo(text)
    for name in files:
        click.echo(name)
