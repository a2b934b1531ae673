"""`volpipe bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from volpipe.cli.options import build, options
from volpipe.runtime.bench import BenchOptions
from volpipe.runtime.settings import RunSettings

COLUMNS = (
    "network", "stitching", "assembly", "engine", "precision", "Mvoxel/s", "of the network alone", "CPU-s", "useful",
    "promised MiB", "peak MiB", "audit", "exact",
)  # fmt: skip


@click.command(name="bench", short_help="Measure every stitching mode on this machine.")
@options(BenchOptions)
@options(RunSettings, leave_out=("engine",))
@click.option("--out", default="bench-out", show_default=True, help="Folder of table, JSON and plot.")
def command(out: str, **values: Any) -> None:
    """Run a network in every stitching mode, assembly, engine and precision, and compare with what the machine can do.

    Without --model a small network of every kind is run, without --volume on smooth noise. Speeds of a shared machine
    compare within one run only.
    """
    from volpipe.report.throughput import throughput
    from volpipe.runtime.bench import bench
    from volpipe.runtime.machine import machine, table

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    given = build(BenchOptions, values)
    found = bench(given, build(RunSettings, values), folder, lambda line: click.echo(line, err=True))
    text = table([{name: row[name] for name in COLUMNS} for row in found["rows"]])
    (folder / "bench.json").write_text(json.dumps({"machine": machine(), **found}, indent=1) + "\n")
    (folder / "bench.txt").write_text(text + "\n")
    where = machine()
    title = f"{given.volume or f'noise of {given.size} voxels a side'}, {where['cores']} cores, {where['processor']}"
    throughput(folder / "bench.png", found["rows"], title=title)
    click.echo(text)
    for name in ("bench.txt", "bench.json", "bench.png"):
        click.echo(str(folder / name))
