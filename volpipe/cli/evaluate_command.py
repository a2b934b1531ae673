"""`volpipe evaluate inverse-problem VOL`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from volpipe.cli.options import build, options
from volpipe.cli.running import run_options, run_or_describe
from volpipe.errors import ConfigError
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
    report = None if values["dry_run"] else _report()  # before the run: what is missing then would be missed late
    run_or_describe(job, values)
    if report is None:
        return
    text, files = report(job.place)
    click.echo(text)
    for name in files:
        click.echo(name)


def _report() -> Callable[[str], tuple[str, list[str]]]:
    try:
        from volpipe.report.inverse_problem import report
    except ModuleNotFoundError as error:
        raise ConfigError(f"pictures: {error.name} is missing; pip install 'volpipe[report]'") from None
    return report
