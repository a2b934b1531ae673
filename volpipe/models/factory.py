"""A user's Python function that builds a network: "package.module:factory", called without arguments.

It is the one way in for code, so it asks for trust each time, also on a worker. The module is looked for on
Python's path and in the current directory. Imports no torch.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from volpipe.errors import ModelError, named


def source_file(location: str, trust_code: bool) -> Path:
    """The file that holds the factory; its content stands for the factory's.

    Raises:
        ModelError: not trusted, or there is no such module.
    """
    _require_trust(location, trust_code)
    module = location.split(":")[0]
    try:
        spec = importlib.util.find_spec(module)  # runs the packages above the module, hence the trust
    except ImportError:
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ModelError(
            f"model {location}: there is no module {module}; start in the directory that holds it, or install it"
        )
    return Path(spec.origin)


def call(location: str, trust_code: bool) -> Any:
    """What the factory returns.

    Raises:
        ModelError: not trusted, there is no such function, or it fails.
    """
    _require_trust(location, trust_code)
    module, name = location.split(":")
    try:
        return getattr(importlib.import_module(module), name)()
    except Exception as error:  # a user's code may raise anything
        raise ModelError(f"model {location}: the factory failed: {named(error)}") from error


def _require_trust(location: str, trust_code: bool) -> None:
    if not trust_code:
        raise ModelError(
            f"model {location}: this runs Python code from {location.split(':')[0]}; allow it by --trust-code"
        )
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # last, so that nothing installed is shadowed
