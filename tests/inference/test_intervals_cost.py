"""What a block by intervals costs, on meta tensors: against overlap-and-crop, against hand counts, and its memory."""

import gc
import weakref

import pytest
import torch
from torch import nn

from volpipe.geometry import Box
from volpipe.inference.intervals import capture
from volpipe.inference.precision import Precision
from volpipe.inference.price import count_pass, forward_price
from volpipe.models.presets import preset
from volpipe.stitching.overlap import Overlap

# preset, what is changed, own voxels along an axis; at most this share of overlap's FLOPs and of its peak
CASES = [
    ("unet3d_l4", {}, 64, 0.30, 0.35),
    ("unet3d_l4", {}, 128, 0.40, 0.35),
    ("unet3d_l4", {"upsampling": "nearest"}, 128, 0.40, 0.35),
    ("unet3d_l3", {}, 128, 0.55, 0.45),
    ("resnet6_3d", {}, 128, 0.48, 0.25),
    ("unet2d_l4", {"levels": 5}, 512, 0.70, 0.55),
]


def in_the_middle(ndim, own, period=32):
    """A volume in which a block is interior, and the block."""
    size = period * ((4 * own + 256) // period)
    start = size // 2 // period * period
    return (size,) * ndim, Box((start,) * ndim, (start + own,) * ndim)


@pytest.mark.parametrize(("name", "changes", "own", "flops", "peak"), CASES)
def test_a_block_costs_a_part_of_overlap_and_crop(name, changes, own, flops, peak):
    architecture = preset(name, width=32, **changes)
    with torch.device("meta"):
        network = architecture.build().eval()
    shape, block = in_the_middle(architecture.ndim, own)
    price = capture(network, shape).plan(block).cost()
    tile = Overlap().alone(block, shape, architecture.footprint())
    overlap_flops, overlap_peak = count_pass(network, torch.empty(1, 1, *tile.read.shape, device="meta"))
    assert price.flops <= flops * overlap_flops
    assert price.peak_bytes <= peak * overlap_peak


def test_a_program_of_real_weights_is_priced_like_a_forward_pass(model):
    network = nn.Conv2d(2, 3, 5, padding=2)
    program = capture(network, (40, 40), in_channels=2)
    price = program.plan(Box.from_shape((40, 40))).cost(batch=4)
    assert price == forward_price(model(network), (40, 40), 4, Precision("fp32"))
    assert price.flops == 4 * 2 * 2 * 3 * 25 * 40 * 40
    assert price.weight_bytes == 4 * (2 * 3 * 25 + 3)
    inner = program.plan(Box((10, 10), (20, 30))).cost()
    assert inner.flops == 2 * 2 * 3 * 25 * 10 * 20
    assert inner.peak_bytes == 4 * (2 * 14 * 24 + 3 * 10 * 20)


def test_the_first_two_convolutions_are_never_whole():
    layers = [nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 1, 3), nn.Conv2d(1, 1, 3)]
    network = nn.Sequential(*layers).to("meta")
    plan = capture(network, (512, 512)).plan(Box.from_shape((506, 506)))
    image, between, made = 512 * 512, 16 * 510 * 66, 508 * 508  # a slab of 64 voxels and two more
    part = 508 * 64
    assert plan.cost().peak_bytes <= 4 * (image + between + made + part)
    twice = 7 * 2 * 510  # seven faces between slabs, where two rows are computed again
    assert plan.cost().flops == 2 * 9 * (16 * (510 * 510 + twice + 508 * 508) + 506 * 506)


def test_no_tensor_waits_for_the_garbage_collector():
    class Dense(nn.Module):
        def forward(self, x):
            return torch.cat([x, x + 1, x * 2], 1)

    window = torch.rand(1, 1, 8, 8)
    gone = weakref.ref(window)
    plan = capture(Dense(), (8, 8)).plan(Box.from_shape((8, 8)))
    gc.disable()
    try:
        plan(window)
        del window
        assert gone() is None
    finally:
        gc.enable()
