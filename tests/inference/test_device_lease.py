"""A GPU is leased to one block of a process at a time, while its neighbours are read and written."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from volpipe.geometry import BlockGrid, Box, Footprint
from volpipe.inference import block
from volpipe.jobs.apply_work import ApplyWork
from volpipe.models.normalisation import Normalisation
from volpipe.stitching import Assembly, Encoding
from volpipe.stitching.overlap import Overlap

SHAPE, SLOTS = (8, 8, 48), 3


class Phases:
    """How many threads are in a phase at once, and which phases ever met."""

    def __init__(self):
        self._lock, self._now = threading.Lock(), []
        self.most, self.met = {}, set()

    @contextmanager
    def phase(self, name):
        with self._lock:
            self.met |= {frozenset((name, other)) for other in self._now}
            self._now.append(name)
            self.most[name] = max(self.most.get(name, 0), self._now.count(name))
        time.sleep(0.02)
        yield
        with self._lock:
            self._now.remove(name)


class Volume:
    """Source and product of a work that does nothing but take its time."""

    shape, location = SHAPE, "nowhere"

    def __init__(self, phases):
        self._phases = phases

    def read(self, box):
        with self._phases.phase("read"):
            return np.zeros((1, *box.shape), "uint8")

    def write(self, box, voxels):
        with self._phases.phase("write"):
            return 0


@pytest.fixture
def run_blocks(monkeypatch):
    """`run_blocks(device) -> Phases` of six blocks in three threads."""

    def go(device):
        phases = Phases()

        def network(stored):
            with phases.phase("compute"):
                return stored.astype("float32")

        monkeypatch.setattr(block, "predictor", lambda *arguments: network)
        volume = Volume(phases)
        inference = block.BlockInference(
            volume=SHAPE, model=None, normalisation=Normalisation.identity(1), mode=Overlap(),
            assembly=Assembly("3d", "z"), encoding=Encoding("float32", None),
            footprint=Footprint.from_halo((0, 0, 0), (1, 1, 1)), tile=(8, 8, 8), batch=1, out_channels=1,
            precision="fp32", device=device, threads=1, promised_bytes=2**40, nan=None,
        )  # fmt: skip
        work = ApplyWork(volume, volume, None, BlockGrid(Box.from_shape(SHAPE), (8, 8, 8)), inference)
        with ThreadPoolExecutor(SLOTS) as slots:
            list(slots.map(work, range(6)))
        return phases

    return go


def test_blocks_take_turns_on_a_gpu_and_overlap_around_it(run_blocks):
    phases = run_blocks("cuda:stand-in")
    assert phases.most["compute"] == 1
    assert phases.most["read"] > 1
    assert {frozenset(("compute", "read")), frozenset(("compute", "write"))} & phases.met


def test_blocks_compute_side_by_side_on_a_cpu(run_blocks):
    assert run_blocks("cpu").most["compute"] > 1
