import importlib.util
import sys
from pathlib import Path

import pytest

# Workers import the job's module by name: it must be a real module, in this process and in theirs.
FOLDER = str(Path(__file__).parent)


def _counting():
    if "counting" not in sys.modules:
        spec = importlib.util.spec_from_file_location("counting", Path(FOLDER, "counting.py"))
        sys.modules["counting"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["counting"]


@pytest.fixture
def counting(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return _counting()


@pytest.fixture
def job(counting, tmp_path):
    """Make a job in the test's folder: `job(count=4)`."""

    def make(**fields):
        return counting.CountingJob(tmp_path, **fields)

    return make
