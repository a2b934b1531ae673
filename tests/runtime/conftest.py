import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

import volpipe
from volpipe.runtime import allocator

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


def hear_interrupts():
    """A shell that runs the tests in the background lets them ignore Ctrl-C, and what they start would too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Processes:
    """Commands that run in folders of their own, and end with whatever they started."""

    def __init__(self, folder):
        self._folder, self._running = folder, []

    def start(self, name, *command, **environment):
        """Start `python -m COMMAND`; what it says goes to `log(name)`."""
        return self._start(name, [sys.executable, "-m", *map(str, command)], environment)

    def shell(self, name, script, **environment):
        """Start a script of the shell."""
        return self._start(name, ["bash", "-ec", script], environment)

    def _start(self, name, command, environment):
        folder = self.folder(name)
        package = str(Path(volpipe.__file__).parents[1])
        paths = {"PYTHONPATH": [environment.pop("PYTHONPATH", ""), package, FOLDER],
                 "PATH": [str(Path(sys.executable).parent), os.environ["PATH"]]}  # fmt: skip
        environment |= {variable: os.pathsep.join(filter(None, parts)) for variable, parts in paths.items()}
        ours = {name: value for name, value in os.environ.items() if name not in allocator.ENVIRONMENT}
        with self.log(name).open("wb") as log:
            process = subprocess.Popen(
                command, cwd=folder, env=ours | environment, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, preexec_fn=hear_interrupts,
            )  # fmt: skip
        self._running.append(process)
        return process

    def folder(self, name):
        """Where it runs."""
        (self._folder / name).mkdir(exist_ok=True)
        return self._folder / name

    def log(self, name):
        return self._folder / f"{name}.log"

    def end(self):
        for process in self._running:
            for member in session(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(member, signal.SIGKILL)
            process.wait()


def session(leader):
    """Processes of a session, by their ids."""
    members = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, its_leader = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(its_leader) == leader and state != "Z":
                members.append(int(folder.name))
    return members


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    processes = Processes(tmp_path_factory.mktemp("processes"))
    yield processes
    processes.end()


@pytest.fixture
def members_of():
    """`members_of(process)`: the ids of all processes of its session."""
    return lambda process: session(process.pid)


@pytest.fixture(scope="module")
def free_port():
    """`free_port()`: a port of 127.0.0.1 that nobody listens on."""

    def find():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


@pytest.fixture(scope="module")
def start_scheduler(processes, free_port):
    """`start_scheduler() -> (process, address)`, ready or not."""

    def start():
        port = free_port()
        command = ("dask", "scheduler", "--host", "127.0.0.1", "--port", port, "--dashboard-address", "127.0.0.1:0")
        return processes.start(f"scheduler-{port}", *command), f"tcp://127.0.0.1:{port}"

    return start


@pytest.fixture
def eventually():
    """`eventually(condition)`: wait until it holds."""

    def wait(condition, within_s=60.0):
        until = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.05)

    return wait
