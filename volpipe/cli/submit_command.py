"""`volpipe submit PIPELINE.yaml`."""

from __future__ import annotations

import click

from volpipe.cli.running import describe, run_and_tell
from volpipe.runtime.pipeline import load_pipeline


@click.command(name="submit", short_help="Run the jobs of a pipeline file.")
@click.argument("pipeline", metavar="PIPELINE.yaml")
@click.option("--dry-run", is_flag=True, help="Print the plan of the first job and check the others; write nothing.")
@click.option("--restart", is_flag=True, help="Throw away what an earlier run made, and begin anew.")
def command(pipeline: str, dry_run: bool, restart: bool) -> None:
    """Run the jobs of PIPELINE.yaml one after the other (paths are relative to the current directory)."""
    loaded = load_pipeline(pipeline)
    for job in loaded.job_list[: 1 if dry_run else None]:  # a later job may read what an earlier one makes
        if dry_run:
            describe(job, loaded.run)
        else:
            run_and_tell(job, loaded.run, restart)
