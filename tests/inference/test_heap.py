"""A heap that is kept goes back to the system once it holds more than the largest pass needed, and not before."""

import os
import subprocess
import sys

import pytest

from volpipe.inference.heap import SLACK, Heap
from volpipe.runtime.allocator import ENVIRONMENT

MEASURE = """
from volpipe.inference import heap
blocks = [b"x" * 2**16 for _ in range(2**11)]
del blocks
kept = heap.resident_bytes()
assert heap.give_back()
print(kept - heap.resident_bytes())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_a_kept_heap_can_be_given_back():
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, env=os.environ | ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 2**26


class Process:
    """One whose passes leave it at a given size, and whose heap can be given back down to 100."""

    def __init__(self):
        self.holds, self.given_back = 100, 0
        self.heap = Heap(lambda: self.holds, self._give_back)

    def _give_back(self):
        self.holds, self.given_back = 100, self.given_back + 1
        return True

    def runs(self, *sizes, bound=10_000):
        for size in sizes:
            with self.heap.forward_pass(bound):
                self.holds = size
        return self.given_back


def test_passes_of_one_shape_give_nothing_back():
    assert Process().runs(*[1000] * 20) == 0


def test_a_heap_that_grows_by_holes_is_given_back_once():
    process = Process()
    grown = int(1000 * SLACK) + 1
    assert process.runs(1000, grown, 1000, 1000) == 1


def test_the_largest_pass_counts_and_a_smaller_one_after_it_is_left_alone():
    process = Process()
    assert process.runs(1000, 2000, 2000) == 1  # a larger tile: measured on a heap without holes
    assert process.runs(1000, 2000, 1000, 2000) == 1


def test_the_promise_is_a_bound_too():
    assert Process().runs(1000, 1000, 1000, bound=900) == 2
