"""`volpipe evaluate inverse-problem VOL` and `volpipe evaluate self-consistency VOL OUT`."""

from __future__ import annotations

from typing import Any

import click

from volpipe.cli.options import build, options
from volpipe.cli.running import report_of, run_options, run_or_describe
from volpipe.jobs.inverse_problem import InverseProblemJob
from volpipe.jobs.self_consistency import SelfConsistencyJob


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
    _run(build(InverseProblemJob, values), values, "inverse_problem")


@command.command(name="self-consistency", short_help="On shifted windows: does a spread of answers tell their error?")
@options(SelfConsistencyJob, arguments=("volume", "output"))
@run_options
def self_consistency(**values: Any) -> None:
    """Cut pairs of slabs out of VOLUME, move one of each, register them again on shifted windows, and see whether the
    spread of the answers tells their true error.

    Prints error, spread and their rank correlation for every gap; stores them with every cell's answers and pictures in
    the folder OUTPUT. Killed, the same command goes on.
    """
    _run(build(SelfConsistencyJob, values), values, "self_consistency")


def _run(job: InverseProblemJob | SelfConsistencyJob, values: dict[str, Any], pictures: str) -> None:
    report = None if values["dry_run"] else report_of(pictures)
    run_or_describe(job, values)
    if report is None:
        return
    text, files = report(job.place)
    click.echo(text)
    for name in files:
        click.echo(name)
