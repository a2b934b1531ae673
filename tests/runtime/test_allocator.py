"""Laws of the allocator's settings: what was freed is used again, in a process started with them and in this one."""

import json
import os
import subprocess
import sys

import pytest

from volpipe.runtime import allocator

pytestmark = pytest.mark.skipif(allocator._mallopt() is None, reason="the C library is not glibc")

FAULTS = """
import json, resource
import numpy as np
from volpipe.runtime import allocator
{before}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**23)  # 64 MiB: above every threshold of the default
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(json.dumps([faults(), allocator.missing_settings()]))
"""


def measure(before="", **environment):
    """Page faults of a second large array where the first one was, and the settings that are missing."""
    clean = {name: value for name, value in os.environ.items() if name not in allocator.ENVIRONMENT}
    command = [sys.executable, "-c", FAULTS.format(before=before)]
    out = subprocess.run(command, env=clean | environment, capture_output=True, check=True, timeout=60)
    return json.loads(out.stdout)


def test_a_process_started_with_the_settings_keeps_what_it_frees():
    faults, missing = measure(**allocator.ENVIRONMENT)
    assert faults < 100
    assert missing == {}


def test_a_process_started_without_them_does_not():
    faults, missing = measure()
    assert faults > 20  # 64 MiB again, in pages of 4 KiB or 2 MiB
    assert missing == allocator.ENVIRONMENT


def test_they_can_be_set_in_a_process_that_runs():
    faults, _ = measure("assert allocator.keep_memory_in_this_process()")
    assert faults < 20


def test_threads_are_told_to_every_library():
    assert set(allocator.thread_environment(3).values()) == {"3"}
