"""A script that starts workers outside `if __name__ == "__main__":` is refused at once, and nothing of it is left."""

import sys
from pathlib import Path

import pytest

from volpipe.runtime import main_guard

SCRIPT = """
from pathlib import Path
from counting import CountingJob
from volpipe import RunSettings, run

{guard}
    run(CountingJob(Path("."), product="out"), RunSettings(workers=2, threads=1, memory_per_worker="1GiB"))
"""
GUARDED, UNGUARDED = 'if __name__ == "__main__":', "if True:"


def finished(processes, name, guard):
    """Exit status and lines of the script."""
    (processes.folder(name) / "script.py").write_text(SCRIPT.format(guard=guard))
    process = processes.shell(name, f"{sys.executable} script.py")
    code = process.wait(timeout=60)
    return process, code, processes.log(name).read_text().splitlines()


def test_a_script_without_the_guard_is_told_so_and_ends(processes, members_of, eventually):
    process, code, lines = finished(processes, "unguarded", UNGUARDED)
    assert code == 1
    assert lines[-1] == f"volpipe.errors.RunError: {main_guard.TEXT}"
    assert sum("Traceback" in line for line in lines) == 1, lines  # the workers themselves say nothing
    assert [path.name for path in processes.folder("unguarded").iterdir()] == ["script.py"]
    eventually(lambda: not members_of(process), within_s=20)


def test_the_same_script_with_the_guard_does_it_all(processes):
    finished(processes, "mended", UNGUARDED)
    _, code, lines = finished(processes, "mended", GUARDED)
    assert code == 0, lines
    done = Path(processes.folder("mended"), "block.log").read_text().split()
    assert sorted(map(int, done)) == list(range(12))


def test_the_environment_is_put_back(tmp_path, monkeypatch):
    monkeypatch.setenv(main_guard.MARK, "outer")
    with main_guard.told(str(tmp_path)):
        assert main_guard.os.environ[main_guard.MARK] == str(tmp_path / "unguarded")
    assert main_guard.os.environ[main_guard.MARK] == "outer"


def test_another_error_passes(tmp_path):
    with pytest.raises(RuntimeError, match="no port"), main_guard.told(str(tmp_path)):
        raise RuntimeError("no port")
