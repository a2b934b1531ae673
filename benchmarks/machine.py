"""Where results go: `benchmarks/results/NAME.json`, each with its machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from volpipe.runtime.machine import machine, table

__all__ = ["RESULTS", "save", "table"]

RESULTS = Path(__file__).parent / "results"


def save(name: str, result: dict[str, Any]) -> Path:
    """Write a result with its machine to benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n")
    return path
