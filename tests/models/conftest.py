"""Small random networks in float64, and one tile of them against the whole volume."""

import itertools

import pytest
import torch
from torch import nn

from volpipe.models.architecture import build_random


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def random_network():
    def make(architecture, seed=1):
        network = build_random(architecture, seed)
        generator = torch.Generator().manual_seed(seed)
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # statistics that do something
                module.running_mean.normal_(std=0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
        return network.double().eval().requires_grad_(False)

    return make


@pytest.fixture
def random_image():
    def make(*shape, seed=2):
        return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture
def tile_error():
    """Largest difference, in std of the whole result, between one tile's own outputs and the whole volume's."""

    def measure(network, image, whole, axis, own, read):
        tile = network(image.narrow(2 + axis, read[0], read[1] - read[0]))
        mine = tile.narrow(2 + axis, own[0] - read[0], own[1] - own[0])
        return float((mine - whole.narrow(2 + axis, own[0], own[1] - own[0])).abs().max() / whole.std())

    return measure


@pytest.fixture
def tiled_error(random_image):
    """Largest difference, in std of the whole result, between a network tiled by what a probe found and the whole.

    Written from the rule alone, so that it shares nothing with the probe or the stitching: an output block [a, b),
    both 0 mod P, reads [floor_P(a - before), ceil_P(b + after)) into the size class, clipped to the image.
    """

    def reads(axis, length, end):
        period, size_class = axis.period, axis.size_class
        own = max(2, (axis.need_before + axis.need_after) // (2 * period)) * period
        for start in range(0, end, own):
            stop = min(start + own, end)
            first = max(0, (start - axis.need_before) // period * period)
            last = -(-stop // period) * period + axis.need_after
            last += (size_class - (last - first)) % period
            yield start, stop, first, min(last, length)

    def measure(network, found, channels=1, periods=5):
        axes, scale = found.footprint.axes, found.footprint.scale
        lengths = [max(0, a.need_before) + max(0, a.need_after) + periods * a.period for a in axes]
        lengths = [n + (a.size_class - n) % a.period for n, a in zip(lengths, axes, strict=True)]
        image = random_image(1, channels, *lengths)
        with torch.no_grad():
            whole = network(image)
            worst = 0.0
            ends = [int(n / s) for n, s in zip(whole.shape[2:], scale, strict=True)]
            for tile in itertools.product(*(reads(*args) for args in zip(axes, lengths, ends, strict=True))):
                part = network(image[(..., *(slice(first, last) for _, _, first, last in tile))])
                rows = list(zip(tile, scale, strict=True))
                mine = part[(..., *(slice(int((a - f) * s), int((b - f) * s)) for (a, b, f, _), s in rows))]
                theirs = whole[(..., *(slice(int(a * s), int(b * s)) for (a, b, _, _), s in rows))]
                worst = max(worst, float((mine - theirs).abs().max()))
        return worst / float(whole.std())

    return measure
