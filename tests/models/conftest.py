"""Small random networks in float64, and one tile of them against the whole volume."""

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
