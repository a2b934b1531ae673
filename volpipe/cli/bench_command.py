"""`volpipe bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from volpipe.cli.options import build, options
from volpipe.runtime.bench_cases import BenchOptions
from volpipe.runtime.settings import RunSettings


@click.command(name="bench", short_help="Measure every stitching mode on this machine.")
@options(BenchOptions)
@options(RunSettings, leave_out=("engine",))
@click.option("--out", default="bench-out", show_default=True, help="Folder of table, JSON and plot.")
def command(out: str, **values: Any) -> None:
    """Run a network in every stitching mode, assembly, engine and precision, and compare with what the machine can do.

    Without --model a small network of every kind is run, without --volume on smooth noise. Speeds of a shared machine
    compare within one run only.
    """
    from volpipe.report.bench_text import bench_text
    from volpipe.report.throughput import throughput
    from volpipe.runtime.bench import bench
    from volpipe.runtime.machine import machine

    folder, given, where = Path(out), build(BenchOptions, values), machine()
    found = bench(given, build(RunSettings, values), folder, lambda line: click.echo(line, err=True))
    folder.mkdir(parents=True, exist_ok=True)  # only now: what is refused leaves nothing
    title = f"{given.volume or f'noise of {given.size} voxels a side'}, {where['cores']} cores, {where['processor']}"
    text = f"{title}\n\n{bench_text(found)}"
    (folder / "bench.json").write_text(json.dumps({"machine": where, **found}, indent=1) + "\n")
    (folder / "bench.txt").write_text(text + "\n")
    throughput(folder / "bench.png", found["rows"], title=title)
    click.echo(text)
    for name in ("bench.txt", "bench.json", "bench.png"):
        click.echo(str(folder / name))
