"""`volpipe statistics VOL`."""

from __future__ import annotations

from typing import Any

import click

from volpipe.cli.options import build, options
from volpipe.cli.running import run_options, run_or_describe
from volpipe.jobs.statistics import StatisticsJob


@click.command(name="statistics", short_help="Histogram and percentiles of a volume, stored beside it.")
@options(StatisticsJob, arguments=("volume",))
@run_options
def command(**values: Any) -> None:
    """Count the intensities of VOLUME and store histogram, moments and percentiles per channel beside it."""
    job = build(StatisticsJob, values)
    run_or_describe(job, values)
    if not values["dry_run"]:
        _print(job)


def _print(job: StatisticsJob) -> None:
    from volpipe.volume.statistics import read_statistics, summary

    for number, histogram in enumerate(read_statistics(job.place).channels):
        numbers = summary(histogram)
        shown = ("1", "50", "99")
        if not histogram.count:
            click.echo(f"channel {number}: empty")
            continue
        percentiles = ", ".join(f"{p} %: {numbers['percentiles'][p]:g}" for p in shown)
        left_out = "".join(f", {numbers[what]} {what}" for what in ("nan", "infinite") if numbers[what])
        click.echo(f"channel {number}: mean {numbers['mean']:g}, std {numbers['std']:g}, {percentiles}{left_out}")
    click.echo(job.place)
