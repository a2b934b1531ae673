"""GPU workers. There is no GPU where these tests run: dask-cuda is real, NVIDIA's library a stand-in (standin/)."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from volpipe.errors import ConfigError
from volpipe.runtime import cluster
from volpipe.runtime.run import run
from volpipe.runtime.settings import RunSettings

STANDIN = str(Path(__file__).parent / "standin")
SETTINGS = RunSettings(cluster="cuda", memory_per_worker="1GiB")

needs_dask_cuda = [
    pytest.mark.servers,
    pytest.mark.skipif(find_spec("dask_cuda") is None, reason="dask-cuda is not installed (extra cuda13: 430 MB)"),
]


def test_without_dask_cuda_one_line_names_the_extras(job, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    one = job()
    with pytest.raises(ConfigError, match=r"dask-cuda cannot be imported.*'volpipe\[cuda12\]' or 'volpipe\[cuda13\]'"):
        run(one, SETTINGS, progress=None)
    assert not one.begun


class TestDaskCuda:
    """On the stand-in's two GPUs."""

    pytestmark = needs_dask_cuda

    @pytest.fixture
    def two_gpus(self, monkeypatch):
        """In this process and in those that it starts."""
        monkeypatch.setenv("DASK_CUDA_TEST_SINGLE_GPU", "1")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        path = [STANDIN, str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
        monkeypatch.syspath_prepend(STANDIN)
        forget_nvml(monkeypatch)

    @pytest.fixture
    def memory(self, two_gpus, monkeypatch):
        """The stand-in tells the free memory, where torch would on a GPU."""
        from standin_device import free_device_bytes

        monkeypatch.setattr(cluster, "free_device_bytes", free_device_bytes)

    @pytest.mark.usefixtures("memory")
    def test_every_gpu_gets_a_worker_with_its_settings(self):
        crew = cluster.cuda_crew(SETTINGS)
        try:
            found = crew._client.run(lambda: dict(os.environ))
        finally:
            crew.close()
        assert sorted(worker["CUDA_VISIBLE_DEVICES"] for worker in found.values()) == ["0,1", "1,0"]
        assert all(worker["MALLOC_ARENA_MAX"] == "1" for worker in found.values())
        assert (crew.budget.device, crew.budget.device_bytes) == ("cuda", 8 * 2**30)
        assert (crew.budget.slots, crew.width) == (3, 6)

    @pytest.mark.usefixtures("memory")
    def test_a_job_runs_on_them(self, job):
        one = job(count=40, parents=20)
        run(one, SETTINGS, progress=None)
        assert sorted(one.work("block").calls()) == list(range(40))
        assert one.finished == [60]

    @pytest.mark.usefixtures("two_gpus")
    def test_a_torch_that_sees_no_gpu_is_one_line(self, job):
        one = job()
        with pytest.raises(ConfigError, match=r"the GPU does not answer torch .*; check the driver"):
            run(one, SETTINGS, progress=None)
        assert not one.begun

    @pytest.mark.usefixtures("two_gpus")
    def test_more_workers_than_gpus_is_one_line(self, job):
        with pytest.raises(ConfigError, match=r"--workers 3, but there are 2 GPU\(s\)"):
            run(job(), RunSettings(cluster="cuda", workers=3), progress=None)

    @pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="there is a driver here")
    def test_without_a_driver_one_line_says_so(self, monkeypatch, job):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        forget_nvml(monkeypatch)
        with pytest.raises(ConfigError, match=r"no NVIDIA driver answers \(NVML .*; give --cluster local"):
            run(job(), SETTINGS, progress=None)


def forget_nvml(monkeypatch):
    """Import it anew, the one that is first on the path now."""
    for name in [name for name in sys.modules if name == "pynvml" or name.split(".")[0] == "dask_cuda"]:
        monkeypatch.delitem(sys.modules, name)
    import distributed.diagnostics.nvml as nvml
    import pynvml

    monkeypatch.setattr(nvml, "pynvml", pynvml)
    monkeypatch.setattr(nvml, "NVML_STATE", nvml.NVMLState.UNINITIALIZED)
