"""The floors of DESIGN.md: who may import whom, and which heavy library lives where. Read from the source."""

import ast
from pathlib import Path

import pytest

import volpipe

PACKAGE = Path(volpipe.__file__).parent

NOUNS = {"volume", "models", "stitching", "registration", "metrics", "plan"}
BELOW_NOUNS = {"errors", "geometry"}
MAY_IMPORT = {
    "__init__": set(),  # imports by name, when a name is used
    "__main__": {"cli"},
    "errors": set(),
    "geometry": {"errors"},
    **dict.fromkeys(NOUNS, BELOW_NOUNS),
    "inference": BELOW_NOUNS | NOUNS,
    "training": BELOW_NOUNS | NOUNS,
    "jobs": BELOW_NOUNS | NOUNS | {"inference", "training"},
    "runtime": BELOW_NOUNS | NOUNS | {"inference", "training", "jobs"},
    "report": BELOW_NOUNS | NOUNS | {"inference", "training", "jobs", "runtime"},
    "cli": BELOW_NOUNS | NOUNS | {"inference", "training", "jobs", "runtime", "report"},
}
HOMES = {
    "zarr": {"volume"},
    "numcodecs": {"volume"},
    "tifffile": {"volume"},
    "h5py": {"volume"},
    "tensorstore": {"volume"},
    "obstore": {"volume"},
    "torch": {"models", "registration", "inference", "training"},
    "dask": {"runtime"},
    "distributed": {"runtime"},
    "dask_cuda": {"runtime"},
    "matplotlib": {"report"},
    "click": {"cli"},
}


def imports_of(source: str) -> set[str]:
    """Dotted names that a module imports, inside functions too; `from volpipe import x` counts as `volpipe.x`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def floor_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def violations(floor: str, source: str) -> list[str]:
    found = []
    for name in imports_of(source):
        top, *rest = name.split(".")
        if top == "volpipe" and rest[0] not in MAY_IMPORT[floor] | {floor, "__version__"}:
            found.append(f"{floor} imports {name}")
        if floor not in HOMES.get(top, {floor}):
            found.append(f"{floor} imports {top}, whose home is {HOMES[top]}")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_import_from_lower_floors_only(path):
    assert violations(floor_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("floor", "source"),
    [
        ("geometry", "from volpipe.volume import open_source"),
        ("models", "from volpipe.volume.ledger import Ledger"),
        ("jobs", "def f():\n    from volpipe import runtime"),
        ("stitching", "import torch"),
        ("jobs", "def f():\n    import dask.array"),
    ],
)
def test_a_broken_import_is_seen(floor, source):
    assert violations(floor, source)
