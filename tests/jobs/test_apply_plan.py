"""What a plan depends on, and what it says of its promise."""

import importlib

import numpy as np
import pytest
from safetensors.torch import save_file

from volpipe.inference import predictor
from volpipe.inference.intervals import recipe
from volpipe.jobs.apply import ApplyJob
from volpipe.jobs.memory import CAPTURE_BYTES
from volpipe.plan import Budget

SHAPE = (64, 96, 96)
BUDGET = Budget(worker_bytes=4 * 2**30)


@pytest.fixture
def planned(volume, tmp_path):
    source = volume(np.zeros(SHAPE, np.uint8))

    def plan(gib, **fields):
        fields = {"model": "preset:unet3d_l3_w8"} | fields
        job = ApplyJob(input=source, output=str(tmp_path / "out.ome.zarr"), **fields)
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


COORDINATES = """
import torch
from torch import nn


class Places(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv3d(4, 2, 1), nn.InstanceNorm3d(2)

    def forward(self, x):
        lines = [torch.linspace(-1, 1, n, device=x.device, dtype=x.dtype) for n in x.shape[2:]]
        return self.norm(self.conv(torch.cat([x, torch.stack(torch.meshgrid(lines, indexing="ij"))[None]], 1)))
"""


def test_what_a_program_holds_beside_the_weights_is_promised_of_passes_too(planned, tmp_path, monkeypatch):
    """7 MiB of coordinates: once kept (twice, as weights are), once made for each block."""
    (tmp_path / "places.py").write_text(COORDINATES)
    monkeypatch.syspath_prepend(tmp_path)
    save_file(importlib.import_module("places").Places().state_dict(), tmp_path / "places.safetensors")

    def promised():
        predictor.program_to_price.cache_clear()
        network = {"model": "places:Places", "weights": str(tmp_path / "places.safetensors"), "trust_code": True}
        plan = planned(4, norm="exact", tile=(32, 32, 32), block=(32, 32, 32), **network)
        return plan.price.worker_bytes, plan.first[0].plan(BUDGET).price.worker_bytes

    kept = promised()
    monkeypatch.setattr(recipe, "LARGE_BYTES", 2**20)
    for more, less in zip(kept, promised(), strict=True):
        assert more - less == pytest.approx(2 * 4 * 3 * np.prod(SHAPE), rel=0.1)
