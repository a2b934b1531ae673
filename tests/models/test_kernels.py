"""Convolutions on other kernels compute what torch's own would."""

import copy

import pytest
import torch
from torch import nn

from volpipe.models.kernels import unrolls, use_fast_kernels

CONVOLUTIONS = [
    nn.Conv3d(1, 4, 3, padding=1),
    nn.Conv3d(1, 4, (1, 3, 3), padding="same", padding_mode="reflect"),
    nn.Conv3d(3, 2, (5, 3, 1), padding="same"),
    nn.Conv3d(3, 2, 3, padding="valid"),
    nn.Conv3d(3, 2, 3, padding=(0, 1, 2)),
    nn.Conv3d(4, 4, 3, padding=(0, 1, 2), padding_mode="circular"),
    nn.Conv3d(1, 2, 2, stride=2, bias=False),
    nn.Conv3d(16, 8, 3, padding=1),
    nn.Conv3d(4, 6, 3, groups=2),
    nn.Conv3d(1, 2, 3, dilation=2),
    nn.Conv3d(1, 4, 1),
    nn.Conv3d(3, 4, 1, padding="same", bias=False),
    nn.Conv3d(3, 4, 1, padding=1),
    nn.Conv3d(3, 4, 1, stride=2),
    nn.Conv3d(4, 4, 1, groups=2),
]
LEFT_ALONE = [nn.Conv2d(1, 4, 3), nn.Conv2d(3, 4, 1), nn.LazyConv3d(4, 3)]


def name(conv: nn.Module) -> str:
    return repr(conv)


@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=name)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_function_of_the_image(conv, memory_format, dtype):
    conv = copy.deepcopy(conv).to(dtype)
    fast = use_fast_kernels(nn.Sequential(copy.deepcopy(conv)))
    assert type(fast[0]) is not type(conv)
    image = torch.randn(2, conv.in_channels, 9, 8, 7, dtype=dtype).to(memory_format=memory_format)
    tolerance = 1e-13 if dtype == torch.float64 else 1e-5
    with torch.inference_mode():
        for part in (image, image[:1], image[0]):  # torch takes images without a batch too
            assert (fast(part) - conv(part)).abs().max() < tolerance
            assert (fast.to("meta")(part.to("meta"))).shape == conv(part).shape
            fast = use_fast_kernels(nn.Sequential(copy.deepcopy(conv)))
    assert fast.state_dict().keys() == nn.Sequential(conv).state_dict().keys()


def test_half_precision_stays_torchs():
    """Autocast knows torch's operations only: ours would run in float32."""
    conv = nn.Conv3d(4, 4, 3)
    fast = use_fast_kernels(copy.deepcopy(conv))
    image = torch.randn(1, 4, 6, 6, 6)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert fast(image).dtype == torch.bfloat16
        assert torch.equal(fast(image), conv(image))


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


def peak_and_flops(network, side):
    from volpipe.inference.precision import Precision
    from volpipe.inference.price import forward_price
    from volpipe.models.model import Model
    from volpipe.models.normalisation import Normalisation

    model = Model(network.float().eval(), 3, 1, 1, None, Normalisation.identity(1), None, ("out",), None, "")
    price = forward_price(model, (side,) * 3, 1, Precision("fp32"))
    return price.peak_bytes, price.flops


def test_the_price_tells_the_kernels_apart():
    """27 times the image for torch's own; as many operations either way."""
    from volpipe.models.layers import for_inference

    slow = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 1, 3, padding=1))
    fast = for_inference(copy.deepcopy(slow))
    (slow_peak, slow_flops), (fast_peak, fast_flops) = peak_and_flops(slow, 32), peak_and_flops(fast, 32)
    assert fast_peak < slow_peak / 10
    assert fast_flops == slow_flops == 2 * 2 * 4 * 27 * 32**3


@pytest.mark.parametrize(("channels", "side"), [(1, 128), (4, 64), (6, 64), (16, 24), (16, 48)])
def test_the_rule_is_torchs(channels, side):
    """`unrolls` says where torch's own convolution leaves oneDNN: what comes out is not channels-last there."""
    image = torch.randn(1, channels, side, side, side).contiguous(memory_format=torch.channels_last_3d)
    conv = nn.Conv3d(channels, 2, 3, padding=1).to(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        direct = conv(image).is_contiguous(memory_format=torch.channels_last_3d)
    assert direct is not unrolls(image, conv.weight)
