"""The commands of deploy/README.md, run as they stand there, so that they cannot rot."""

import os
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml

from volpipe.runtime import allocator, cluster
from volpipe.runtime.settings import RunSettings

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
def commands(free_port):
    """`commands(label)`: a block of the page, for a scheduler on this machine."""
    page, port = (DEPLOY / "README.md").read_text(), free_port()
    blocks = dict(re.findall(r"^```bash (\S+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    here = {"HEAD:8786": f"127.0.0.1:{port}", "--port 8786": f"--port {port}", "--host HEAD": "--host 127.0.0.1",
            ":8787": "127.0.0.1:0"}  # fmt: skip

    def adapted(label):
        text = blocks[label]
        for there, ours in here.items():
            text = text.replace(there, ours)
        assert "HEAD" not in text
        return text

    return adapted


@pytest.fixture
def on_machine(processes):
    """`on_machine(name, script)`: run it in a folder of its own, with this repository's deploy/ in it."""

    def start(name, script, **environment):
        folder = processes.folder(name)
        if not (folder / "deploy").exists():
            (folder / "deploy").symlink_to(DEPLOY)
        return processes.shell(name, script, **environment)

    return start


def test_the_page_leads_from_nothing_to_a_product(commands, on_machine, processes, write_as):
    on_machine("head", commands("scheduler"))
    for name in ("node1", "node2"):
        on_machine(name, commands("worker"))
    source = write_as("ome-zarr-0.5", np.zeros((8, 40, 40), "uint8"), processes.folder("desk"))
    Path(source).rename(processes.folder("desk") / "raw.ome.zarr")
    assert on_machine("desk", commands("run")).wait(timeout=120) == 0, processes.log("desk").read_text()
    said = processes.log("desk").read_text()
    assert "2 worker(s) of 4 slot(s) in all at tcp://127.0.0.1" in said
    assert "warning" not in said
    assert "done: " in said


@pytest.mark.servers
@pytest.mark.skipif(find_spec("dask_cuda") is None, reason="dask-cuda is not installed (extra cuda13: 430 MB)")
def test_the_page_starts_a_worker_per_gpu(commands, on_machine, processes):
    """On the stand-in's two GPUs, which torch does not see."""
    on_machine("head", commands("scheduler"))
    standin = str(Path(__file__).parent / "standin")
    on_machine("gpus", commands("gpu-worker"), PYTHONPATH=standin, DASK_CUDA_TEST_SINGLE_GPU="1")
    address = re.search(r"tcp://\S+", commands("gpu-worker"))[0]
    crew = cluster.remote_crew(RunSettings(cluster=address, workers=2))
    try:
        found = crew._client.run(os.getenv, "CUDA_VISIBLE_DEVICES")
    finally:
        crew.close()
    assert sorted(found.values()) == ["0,1", "1,0"]
    assert (crew.width, crew.budget.device) == (6, "cpu")
    assert len(crew.where.splitlines()) == 1  # nothing to warn of


def flat(tree, path=""):
    """Nested settings as dotted names; the environment stays whole."""
    if not isinstance(tree, dict) or path.endswith("environ"):
        return {path: tree}
    return {k: v for name, part in tree.items() for k, v in flat(part, f"{path}.{name}".strip(".")).items()}


def test_workers_by_hand_have_the_settings_of_ours():
    assert flat(yaml.safe_load((DEPLOY / "dask.yaml").read_text())) == cluster.worker_config(threads=1)


def test_the_page_names_what_it_is_about():
    page = (DEPLOY / "README.md").read_text()
    assert set(re.findall(r"^```bash (\S+)", page, re.MULTILINE)) == {"scheduler", "worker", "run", "gpu-worker", "tls"}
    assert all(name in (DEPLOY / "dask.yaml").read_text() for name in allocator.ENVIRONMENT)
