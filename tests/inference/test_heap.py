"""A heap that is kept goes back to the system once it is above its bound, and not before."""

import os
import subprocess
import sys

import pytest

from volpipe.runtime.allocator import ENVIRONMENT

MEASURE = """
from volpipe.inference import heap
blocks = [b"x" * 2**16 for _ in range(2**11)]
del blocks
kept = heap.resident_bytes()
assert not heap.give_back_above(kept + 2**26)
assert heap.resident_bytes() > kept - 2**20
assert heap.give_back_above(kept - 2**26)
print(kept - heap.resident_bytes())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_a_kept_heap_is_given_back_above_the_bound_alone():
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, env=os.environ | ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 2**26
