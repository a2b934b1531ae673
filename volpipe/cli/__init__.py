"""The command line: `volpipe COMMAND`. A command reads options, calls one function, prints its answer.

Exit status: 0 done, 1 failed after writing had begun, 2 refused before, 3 some blocks set aside (volpipe.errors).
`volpipe --help` imports no torch, dask or zarr: a command's module is loaded when the command is used.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import click

from volpipe.errors import VolpipeError, named

COMMANDS = {
    "apply": "Run a network over a volume, block by block.",
    "submit": "Run the jobs of a pipeline file.",
    "config": "Print the schema of pipeline files.",
    "import": "Copy a volume into sharded OME-Zarr.",
    "coarse": "Lay out slabs that lie at any angle or upside down.",
    "register": "Find where each slab of a stack lies.",
    "warp": "Render the reconstruction of a stack of slabs.",
    "statistics": "Histogram and percentiles of a volume, stored beside it.",
    "pyramid": "Build the coarser levels of a volume.",
    "audit": "Compute boxes of a finished product again, and say whether it is exact.",
    "probe": "Find the context and alignment that a network needs.",
    "explain": "Show what a block needs of every layer of a network, and what that costs.",
    "bench": "Measure every stitching mode on this machine.",
    "evaluate": "Measure a registration on motions that are known.",
    "info": "Say what a volume is.",
    "validate": "Check a volume's metadata, and its voxels with --deep.",
}


class LazyGroup(click.Group):
    """Knows the names and one-line helps of its commands, and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import `volpipe.cli.NAME_command`."""
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"volpipe.cli.{name}_command").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="volpipe")
@click.option("--debug", is_flag=True, help="Show the traceback of an error; may stand anywhere.")
def cli(debug: bool) -> None:
    """Neural networks over microscopy volumes that do not fit in memory, with the whole-volume result."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    sys.exit(_status([word for word in words if word != "--debug"], debug))


def _status(words: list[str], debug: bool) -> int:
    try:
        cli.main(words, prog_name="volpipe", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        click.echo(_click_line(error), err=True)
        return 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; the same command goes on where this one stopped", err=True)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
            click.echo(getattr(error, "detail", ""), err=True, nl=False)  # of the blocks that failed
        click.echo(_line(error), err=True)
        return error.exit_code if isinstance(error, VolpipeError) else 1
    return 0


def _click_line(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f" ({context.command_path} --help tells more)" if context is not None else ""
    return f"ConfigError: {' '.join(error.format_message().split()).rstrip('.')}{hint}"


def _line(error: Exception) -> str:
    if isinstance(error, VolpipeError):
        return f"{type(error).__name__}: {error}"
    return f"{named(error)} (not foreseen: --debug shows where; please report it)"
