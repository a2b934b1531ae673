"""What a plan depends on, and what it says of its promise."""

import numpy as np
import pytest

from volpipe.jobs.apply import ApplyJob
from volpipe.jobs.memory import CAPTURE_BYTES
from volpipe.plan import Budget

SHAPE = (64, 96, 96)


@pytest.fixture
def planned(volume, tmp_path):
    source = volume(np.zeros(SHAPE, np.uint8))

    def plan(gib, **fields):
        job = ApplyJob(input=source, output=str(tmp_path / "out.ome.zarr"), model="preset:unet3d_l3_w8", **fields)
        return job.plan(Budget(worker_bytes=int(gib * 2**30)))

    return plan


def tile(plan):
    return plan.key["geometry"]["tile"]


def test_a_tile_that_decides_the_product_does_not_follow_from_memory(planned):
    assert tile(planned(2, stitching="tile")) == tile(planned(64, stitching="tile"))


@pytest.mark.parametrize(("stitching", "gib"), [("overlap", 0.68), ("exact", 0.76)])
def test_a_tile_that_does_not_is_the_largest_that_fits(planned, stitching, gib):
    small, large = planned(gib, stitching=stitching), planned(64, stitching=stitching)
    assert np.prod(tile(small)) < np.prod(tile(large))
    assert small.price.worker_bytes <= gib * 2**30
    assert small.price.flops > large.price.flops


def test_the_block_does_not_follow_from_memory(planned):
    assert planned(0.76).key["geometry"]["block"] == planned(64).key["geometry"]["block"]


def test_a_tile_by_intervals_takes_less_work_and_memory_than_by_overlap(planned):
    by_intervals, overlap = (planned(8, stitching=name, tile=(32, 32, 32)).price for name in ("exact", "overlap"))
    assert by_intervals.flops < 0.6 * overlap.flops
    assert by_intervals.useful_flops == pytest.approx(overlap.useful_flops)
    assert by_intervals.worker_bytes - CAPTURE_BYTES < overlap.worker_bytes


def test_a_promise_says_what_it_rests_on(planned):
    facts = dict(planned(4).facts)
    assert facts["stitching"] == "exact, 3d: equals whole-volume inference"
    by_hand = dict(planned(4, halo=(28, 24, 24), period=(4, 4, 4)).facts)  # more than it needs
    assert by_hand["stitching"] == facts["stitching"]
    assert by_hand["halo"] == facts["halo"]
