"""What users import: every public name exists, and importing the package or asking for help stays quick."""

import subprocess
import sys

import pytest

import volpipe

HEAVY = ("torch", "dask", "distributed", "zarr", "matplotlib", "scipy")


@pytest.mark.parametrize("name", volpipe.__all__)
def test_every_public_name_exists_and_says_what_it_is(name):
    assert getattr(volpipe, name).__doc__


def test_the_version_is_the_installed_one():
    from importlib.metadata import version

    assert volpipe.__version__ == version("volpipe")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = volpipe.nothing_of_the_kind


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["apply", "--help"],
        ["audit", "--help"],
        ["evaluate", "--help"],
        ["register", "--help"],
        ["evaluate", "inverse-problem", "--help"],
        ["evaluate", "self-consistency", "--help"],
        ["config", "schema"],
    ],
)
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys\nfrom volpipe.cli import main\n"
        f"try:\n    main({command!r})\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\nassert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)
