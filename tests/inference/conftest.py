"""Small models around any network."""

import pytest
import torch
from torch import nn

from volpipe.geometry import Footprint
from volpipe.models.model import Model
from volpipe.models.normalisation import Normalisation


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def model():
    """`model(network, ndim, in_channels, out_channels)`."""

    def make(network, ndim=2, in_channels=2, out_channels=3):
        for parameter in network.eval().parameters():  # one by one: a script has no `requires_grad_` of its own
            parameter.requires_grad_(False)
        return Model(
            network=network,
            ndim=ndim,
            in_channels=in_channels,
            out_channels=out_channels,
            footprint=Footprint.pointwise(ndim),
            normalisation=Normalisation.identity(in_channels),
            voxel_size_um=None,
            output_channels=tuple("abcdefgh"[:out_channels]),
            output_range=None,
            exactness="",
        )

    return make


@pytest.fixture
def two_layers():
    """Convolution of 3, ReLU, convolution of 1: 2 -> 4 -> 3 channels."""

    def make(ndim=2):
        conv = nn.Conv2d if ndim == 2 else nn.Conv3d
        torch.manual_seed(0)
        return nn.Sequential(conv(2, 4, 3, padding=1), nn.ReLU(), conv(4, 3, 1))

    return make
