"""Laws of the settings: what has no effect is refused, and memory is read as it is written."""

import pytest

from volpipe.errors import ConfigError
from volpipe.runtime.settings import RunSettings, parse_bytes


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("4GiB", 2**32), ("500 MB", 5 * 10**8), ("1.5gib", 3 * 2**29), ("1024", 1024), (" 2 TB ", 2 * 10**12)],
)
def test_memory_is_read_with_its_unit(text, nbytes):
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize("text", ["4 apples", "GiB", "-1GiB", "", "1e9"])
def test_memory_without_sense_is_refused(text):
    with pytest.raises(ConfigError, match="give a number with a unit, as 4GiB or 500MB"):
        parse_bytes(text)


@pytest.mark.parametrize("cluster", ["local", "cuda", "tcp://10.0.0.1:8786", "tls://head:8786"])
def test_the_clusters_there_are(cluster):
    assert RunSettings(cluster=cluster).cluster == cluster


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"cluster": "slurm"}, "cluster: give local, cuda or tcp://ADDRESS (given: 'slurm')"),
        ({"serial": True, "cluster": "cuda"}, "serial: serial runs in this process"),
        ({"serial": True, "workers": 2}, "workers: serial runs in this process"),
        ({"threads": 2, "cluster": "tcp://a:1"}, "threads: workers of a scheduler keep the threads"),
        ({"workers": 0}, "workers: must be greater than or equal to 1 (given: 0)"),
        ({"processes": 2}, "processes: no such setting (given: 2)"),
    ],
)
def test_what_cannot_be_or_has_no_effect_is_one_line(options, line):
    with pytest.raises(ConfigError) as error:
        RunSettings(**options)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cores", [1, 2, 6, 16])
@pytest.mark.parametrize("workers", [None, 1, 2, 4])
@pytest.mark.parametrize("threads", [None, 1, 3])
def test_slots_and_threads_never_ask_for_more_than_the_cores(monkeypatch, cores, workers, threads):
    monkeypatch.setattr("dask.system.CPU_COUNT", cores)
    budget = RunSettings(workers=workers, threads=threads, memory_per_worker="1GiB").local_budget()
    asked = (workers or 1) * (threads or 1)
    assert (workers or 1) * budget.slots * budget.threads <= max(cores, asked)
    assert budget.worker_bytes == 2**30


def test_memory_is_shared_by_the_workers_where_nobody_says_how_much(monkeypatch):
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 10 * 2**30)
    assert RunSettings(workers=2).local_budget().worker_bytes == 4 * 2**30
