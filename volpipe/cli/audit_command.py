"""`volpipe audit OUT`."""

from __future__ import annotations

from typing import Any

import click

from volpipe.cli.options import build, options
from volpipe.cli.running import print_plan, print_where
from volpipe.jobs.audit import AuditJob
from volpipe.runtime.settings import RunSettings


@click.command(name="audit", short_help="Compute boxes of a finished product again, and say whether it is exact.")
@options(AuditJob, arguments=("volume",))
@options(RunSettings)
def command(**values: Any) -> None:
    """Compute small boxes across faces of blocks and tiles of the product VOLUME again from its input, and compare.

    What is found is written into the product's attributes: `exact`, and why not. Of an inexact stitching the boxes are
    computed on other tiles: how much the product depends on where its tiles lie.
    """
    from volpipe.runtime.run import run

    summary = run(build(AuditJob, values), build(RunSettings, values), on_plan=print_plan, on_start=print_where)
    click.echo(summary.result)
