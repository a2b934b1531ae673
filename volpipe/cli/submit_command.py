"""`volpipe submit PIPELINE.yaml`."""

from __future__ import annotations

import click

from volpipe.cli.running import WITHOUT, describe, pictures_option, report_of, run_and_tell
from volpipe.jobs.register import RegisterJob
from volpipe.runtime.pipeline import load_pipeline


@click.command(name="submit", short_help="Run the jobs of a pipeline file.")
@click.argument("pipeline", metavar="PIPELINE.yaml")
@click.option("--dry-run", is_flag=True, help="Print the plan of the first job and check the others; write nothing.")
@click.option("--restart", is_flag=True, help="Throw away what an earlier run made, and begin anew.")
@pictures_option()
def command(pipeline: str, dry_run: bool, restart: bool, pictures: bool) -> None:
    """Run the jobs of PIPELINE.yaml one after the other (paths are relative to the current directory)."""
    loaded = load_pipeline(pipeline)
    if dry_run:
        describe(loaded.job_list[0], loaded.run)  # a later job may read what an earlier one makes
        return
    drawn = pictures and any(isinstance(job, RegisterJob) for job in loaded.job_list)
    report = report_of("registration", WITHOUT) if drawn else None
    for job in loaded.job_list:
        run_and_tell(job, loaded.run, restart)
        if report is not None and isinstance(job, RegisterJob):
            click.echo(report(job))
