"""What a plan depends on, and what it says of its promise."""

import numpy as np
import pytest

from volpipe.jobs.apply import ApplyJob
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


def test_a_tile_that_does_not_is_the_largest_that_fits(planned):
    small, large = planned(0.68), planned(64)
    assert np.prod(tile(small)) < np.prod(tile(large))
    assert small.price.worker_bytes <= 0.68 * 2**30
    assert small.price.flops > large.price.flops


def test_the_block_does_not_follow_from_memory(planned):
    assert planned(0.68).key["geometry"]["block"] == planned(64).key["geometry"]["block"]


def test_a_promise_says_what_it_rests_on(planned):
    facts = dict(planned(4).facts)
    assert facts["stitching"] == "overlap, 3d: equals whole-volume inference"
    by_hand = dict(planned(4, halo=(28, 24, 24), period=(4, 4, 4)).facts)  # more than it needs
    assert by_hand["stitching"] == facts["stitching"]
    assert by_hand["halo"] == facts["halo"]
