"""What every command that runs a job shares: the options of where, and what is printed before, during and after."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import click

from volpipe.cli.options import build, options
from volpipe.errors import ConfigError
from volpipe.plan import Job, Plan
from volpipe.runtime.settings import RunSettings

WITHOUT = ", or give --no-pictures"  # what else helps a command that may leave its pictures out


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--cluster, --workers, ..., --dry-run, --restart."""
    function = click.option("--restart", is_flag=True, help="Throw away what an earlier run made, and begin anew.")(
        function
    )
    function = click.option("--dry-run", is_flag=True, help="Print the plan and its price; write nothing.")(function)
    return options(RunSettings)(function)


def calibrate_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--calibrate, of commands that write a product of their own."""
    return click.option("--calibrate", is_flag=True, help="With --dry-run: run three blocks and tell the hours.")(
        function
    )


def pictures_option(
    text: str = "Draw the page of pictures of a registration, OUTPUT/pictures/index.html.",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--no-pictures, of commands that draw what they found."""
    return click.option("--pictures/--no-pictures", default=True, help=f"{text} [default: pictures]")


def report_of(name: str, also: str = "") -> Any:
    """What draws the pictures of a kind of job; asked for before a run, since what is missing after it is missed late.

    Args:
        name: of the module.
        also: what else helps where it cannot be had.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        return import_module(f"volpipe.report.{name}").report
    except ModuleNotFoundError as error:
        raise ConfigError(f"pictures: {error.name} is missing; pip install 'volpipe[report]'{also}") from None


def run_or_describe(job: Job, values: dict[str, Any]) -> None:
    """Run a job, or with --dry-run print what it would do."""
    settings, calibrate = build(RunSettings, values), values.get("calibrate", False)
    if calibrate and not values["dry_run"]:
        raise ConfigError("--calibrate: give it with --dry-run")
    if values["dry_run"]:
        describe(job, settings, calibrate=calibrate, restart=values["restart"])
    else:
        run_and_tell(job, settings, values["restart"])


def describe(job: Job, settings: RunSettings, *, calibrate: bool = False, restart: bool = False) -> None:
    """Print the plan; with `calibrate` also the hours, from three blocks run for it (`restart`: of all blocks)."""
    from volpipe.runtime.calibrate import dry_run

    plan, estimate = dry_run(job, settings, calibrate, restart=restart)
    print_plan(plan)
    if estimate is not None:
        click.echo(f"  {'time':<12} {estimate}")


def run_and_tell(job: Job, settings: RunSettings, restart: bool) -> None:
    """Run a job and print its plan, its progress and what it did."""
    from volpipe.runtime.run import run

    summary = run(
        job,
        settings,
        restart=restart,
        on_plan=print_plan,
        on_start=print_where,
    )
    click.echo(summary.text())
    if summary.result:
        click.echo(summary.result)


def print_where(where: str) -> None:
    """Where a run goes, and what was found wrong with it, one a line."""
    place, *warnings = where.splitlines()
    click.echo(f"  {'runs on':<12} {place}")
    for warning in warnings:
        click.echo(f"  {'warning':<12} {warning}", err=True)


def print_plan(plan: Plan) -> None:
    """Title and facts, one a line."""
    click.echo(plan.title)
    for label, text in plan.facts:
        click.echo(f"  {label:<12} {text}")
