"""Convolutions on other kernels compute what torch's own would."""

import copy
import warnings

import pytest
import torch
from torch import nn

from volpipe.models.kernels import conv3d, unrolls, use_fast_kernels
from volpipe.models.programs import rewritten

CONVOLUTIONS = [
    nn.Conv3d(1, 4, 3, padding=1),
    nn.Conv3d(1, 4, (1, 3, 3), padding="same", padding_mode="reflect"),
    nn.Conv3d(3, 2, (5, 3, 1), padding="same"),
    nn.Conv3d(3, 2, (2, 4, 3), padding="same"),
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
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
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


def exported(network, image, decomposed=False):
    dims = dict.fromkeys(range(2, image.ndim), torch.export.Dim.AUTO)
    program = torch.export.export(network.eval(), (image,), dynamic_shapes=(dims,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch's own
        program = program.run_decompositions({}) if decomposed else program
    return rewritten(program.module()).requires_grad_(False)


def called(program):
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=name)
@pytest.mark.parametrize("decomposed", [False, True], ids=["as exported", "decomposed"])
def test_an_exported_program_is_the_same_function_of_the_image(conv, decomposed):
    image = torch.randn(1, conv.in_channels, 9, 8, 11)
    fast = exported(copy.deepcopy(conv), image, decomposed)
    assert conv3d in called(fast)
    with torch.inference_mode():
        assert (fast(image) - conv(image)).abs().max() < 1e-5
        assert copy.deepcopy(fast).to("meta")(image.to("meta")).shape == conv(image).shape
        conv, fast = copy.deepcopy(conv).double(), copy.deepcopy(fast).double()
        assert (fast(image.double()) - conv(image.double())).abs().max() < 1e-13


class Normed(nn.Module):
    """Convolutions and batch norms; `shared` is seen by another one too."""

    def __init__(self, ndim, bias):
        super().__init__()
        conv, norm = {2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}[ndim]
        self.first, self.shared = conv(2, 4, 3, padding=1, bias=bias), conv(4, 4, 1, bias=bias)
        self.norms = nn.ModuleList([norm(4), norm(4, affine=False)])
        for norm in self.norms:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)

    def forward(self, image):
        shared = self.shared(torch.relu_(self.norms[0](self.first(image))))
        return self.norms[1](shared) + shared


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_batch_norms_of_a_program_go_into_the_convolutions_that_they_alone_see(ndim, bias):
    network, image = Normed(ndim, bias).eval(), torch.randn(1, 2, *(6, 7, 8)[-ndim:])
    fast = exported(copy.deepcopy(network), image)
    assert called(fast).count(torch.ops.aten.batch_norm.default) == 1
    assert not [name for name in fast.state_dict() if name.startswith(("first", "norms.0.running"))]
    with torch.inference_mode():
        assert (fast(image) - network(image)).abs().max() < 1e-5
        fast, network = copy.deepcopy(fast).double(), network.double()
        assert (fast(image.double()) - network(image.double())).abs().max() < 1e-5  # folded in fp32


def test_half_precision_of_a_program_stays_torchs():
    conv, image = nn.Conv3d(4, 4, 3), torch.randn(1, 4, 6, 7, 8)
    fast = exported(copy.deepcopy(conv), image)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(image), conv(image))


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

    model = Model(network, 3, 1, 1, None, Normalisation.identity(1), None, ("out",), None, "")
    price = forward_price(model, (side,) * 3, 1, Precision("fp32"))
    return price.peak_bytes, price.flops


def test_the_price_tells_the_kernels_apart():
    """27 times the image for torch's own; as many operations either way."""
    from volpipe.models.layers import for_inference

    slow = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 1, 3, padding=1)).requires_grad_(False)
    fast = for_inference(copy.deepcopy(slow))
    (slow_peak, slow_flops), (fast_peak, fast_flops) = peak_and_flops(slow, 32), peak_and_flops(fast, 32)
    assert fast_peak < slow_peak / 10
    assert fast_flops == slow_flops == 2 * 2 * 4 * 27 * 32**3


def test_a_program_costs_what_its_network_does():
    from volpipe.models.layers import for_inference

    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 1, 1))
    program = exported(copy.deepcopy(network), torch.zeros(1, 1, 8, 9, 10))
    assert peak_and_flops(program, 32) == peak_and_flops(for_inference(network), 32)


@pytest.mark.parametrize(("channels", "side"), [(1, 128), (4, 64), (6, 64), (16, 24), (16, 48)])
def test_the_rule_is_torchs(channels, side):
    """`unrolls` says where torch's own convolution leaves oneDNN: what comes out is not channels-last there."""
    image = torch.randn(1, channels, side, side, side).contiguous(memory_format=torch.channels_last_3d)
    conv = nn.Conv3d(channels, 2, 3, padding=1).to(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        direct = conv(image).is_contiguous(memory_format=torch.channels_last_3d)
    assert direct is not unrolls(image, conv.weight)
