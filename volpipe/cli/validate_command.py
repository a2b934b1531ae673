"""`volpipe validate VOL`."""

from __future__ import annotations

import click

from volpipe.errors import RunError


@click.command(name="validate", short_help="Check a volume's metadata, and its voxels with --deep.")
@click.argument("volume", metavar="VOLUME")
@click.option("--deep", is_flag=True, help="Decode every shard, and compare a product's with its ledger.")
def command(volume: str, deep: bool) -> None:
    """Check that VOLUME is what its metadata says: OME-NGFF 0.5, levels that fit each other, finished."""
    from volpipe.volume.validate import validate

    problems = validate(volume, deep=deep)
    for problem in problems:
        click.echo(problem)
    if problems:
        raise RunError(f"{volume}: {len(problems)} problem(s)")
    click.echo(f"{volume}: valid")
