"""`volpipe config schema`."""

from __future__ import annotations

import json

import click

from volpipe.runtime.pipeline import Pipeline


@click.group(name="config", short_help="Print the schema of pipeline files.")
def command() -> None:
    """Print the schema of pipeline files."""


@command.command()
def schema() -> None:
    """Print the JSON schema of pipeline files, for editors that check YAML while it is typed."""
    click.echo(json.dumps(Pipeline.model_json_schema(), indent=2))
