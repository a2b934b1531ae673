"""Convolutions on other kernels compute what torch's own would."""

import copy

import pytest
import torch
from torch import nn

from volpipe.models.kernels import use_fast_kernels

CONVOLUTIONS = [
    nn.Conv3d(1, 4, 3, padding=1),
    nn.Conv3d(1, 4, (1, 3, 3), padding="same", padding_mode="reflect"),
    nn.Conv3d(1, 2, 2, stride=2, bias=False),
    nn.Conv3d(1, 2, 3, dilation=2),
    nn.Conv3d(1, 4, 1),
    nn.Conv3d(3, 4, 1, bias=False),
    nn.Conv2d(3, 4, 1, padding="same"),
]
LEFT_ALONE = [
    nn.Conv3d(2, 4, 3),
    nn.Conv2d(1, 4, 3),
    nn.Conv2d(4, 4, 1, groups=2),
    nn.Conv2d(3, 4, 1, padding=1),
    nn.Conv2d(3, 4, 1, stride=2),
    nn.LazyConv3d(4, 3),
]


def name(conv: nn.Module) -> str:
    return repr(conv)


@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=name)
@pytest.mark.parametrize("memory_format", ["contiguous", "channels last"])
def test_the_same_function_of_the_image(conv, memory_format):
    conv = copy.deepcopy(conv).double()
    fast = use_fast_kernels(nn.Sequential(copy.deepcopy(conv)))
    assert type(fast[0]) is not type(conv)
    image = torch.randn(2, conv.in_channels, *(9, 8, 7)[: len(conv.kernel_size)], dtype=torch.float64)
    if memory_format == "channels last":
        image = image.movedim(1, -1).contiguous().movedim(-1, 1)
    assert (fast(image) - conv(image)).abs().max() < 1e-13
    assert (fast(image[0]) - conv(image[0])).abs().max() < 1e-13  # torch takes images without a batch too
    assert fast.state_dict().keys() == nn.Sequential(conv).state_dict().keys()


@pytest.mark.parametrize("conv", LEFT_ALONE, ids=name)
def test_others_are_left_alone(conv):
    kind = type(conv)
    assert type(use_fast_kernels(nn.Sequential(conv))[0]) is kind


def test_a_users_subclass_is_left_alone():
    class Doubled(nn.Conv3d):
        def forward(self, image):
            return 2 * super().forward(image)

    conv = Doubled(1, 1, 1)
    assert type(use_fast_kernels(conv)) is Doubled


def test_hooks_stay():
    conv = nn.Conv3d(1, 1, 3)
    conv.register_forward_hook(lambda module, given, out: out + 100)
    assert use_fast_kernels(conv)(torch.zeros(1, 1, 3, 3, 3)).min() > 90


def test_a_network_of_one_channel_unrolls_nothing():
    """The price counts what torch's kernel would unroll (27 times the image); it must find nothing to count."""
    from volpipe.inference.precision import Precision
    from volpipe.inference.price import forward_price
    from volpipe.models.layers import for_inference
    from volpipe.models.model import Model
    from volpipe.models.normalisation import Normalisation

    def peak(network):
        model = Model(network.float().eval(), 3, 1, 1, None, Normalisation.identity(1), None, ("out",), None, "")
        return forward_price(model, (32,) * 3, 1, Precision("fp32")).peak_bytes

    slow = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 1, 3, padding=1))
    assert peak(for_inference(copy.deepcopy(slow))) < peak(slow) / 3
