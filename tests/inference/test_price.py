"""What a forward pass costs, against numbers counted by hand."""

import dataclasses
import io
import re
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from volpipe.errors import ModelError
from volpipe.geometry import Footprint
from volpipe.inference.precision import Precision
from volpipe.inference.price import ForwardPrice, forward_price, joined_price
from volpipe.models import kernels, load_model, resolve_model

FP32, FP64, BF16 = (Precision(name) for name in ("fp32", "fp64", "bf16"))
VOXELS = 10 * 12


@pytest.fixture(autouse=True)
def half_is_fast(monkeypatch):
    """Whatever CPU this is."""
    monkeypatch.setattr(kernels, "has_fast", lambda dtype: dtype != torch.float64)


def test_floating_point_operations_of_convolutions(model, two_layers):
    price = forward_price(model(two_layers()), (10, 12), 5, FP32)
    assert price.flops == 2 * 5 * VOXELS * (4 * 2 * 3 * 3 + 3 * 4)


def test_the_peak_is_what_is_alive_at_once(model, two_layers):
    image, hidden, out = (5 * VOXELS * channels * 4 for channels in (2, 4, 3))
    price = forward_price(model(two_layers()), (10, 12), 5, FP32)
    assert price.peak_bytes == image + max(hidden + hidden, hidden + out)  # ReLU makes a second hidden tensor


def test_what_is_needed_later_stays_alive(model):
    class Skip(nn.Module):
        def forward(self, image):
            doubled = image * 2
            return torch.cat([(doubled + 1) * 3, doubled, image], dim=1)

    image = VOXELS * 2 * 4
    assert forward_price(model(Skip(), 2, 2, 6), (10, 12), 1, FP32).peak_bytes == image * (1 + 1 + 1 + 3)


def test_work_in_place_costs_nothing(model, two_layers):
    network = two_layers()
    network[1] = nn.ReLU(inplace=True)
    image, hidden, out = (VOXELS * channels * 4 for channels in (2, 4, 3))
    assert forward_price(model(network), (10, 12), 1, FP32).peak_bytes == image + hidden + out


def test_weights_are_counted_once(model, two_layers):
    assert forward_price(model(two_layers()), (10, 12), 7, FP32).weight_bytes == 4 * (4 * 2 * 9 + 4 + 3 * 4 + 3)


def test_passes_one_after_the_other_keep_the_sum_and_the_latest():
    passes = [ForwardPrice(10.0, 100, 7), ForwardPrice(20.0, 300, 7)]
    assert joined_price(passes, 40) == ForwardPrice(30.0, 380, 7)
    assert joined_price(passes[:1], 40) == passes[0]


def test_buffers_are_held_too(model, two_layers):
    network = two_layers()
    before = forward_price(model(network), (10, 12), 1, FP32).weight_bytes
    network.register_buffer("positions", torch.zeros(7, 5))
    assert forward_price(model(network), (10, 12), 1, FP32).weight_bytes == before + 4 * 35


def test_weights_are_counted_as_they_are_held(model, two_layers):
    fp32, fp64, bf16 = (
        forward_price(model(two_layers()), (10, 12), 1, precision).weight_bytes for precision in (FP32, FP64, BF16)
    )
    assert (fp64, bf16) == (2 * fp32, fp32)


def test_half_precision_halves_the_activations(model, two_layers):
    full, half = (forward_price(model(two_layers()), (10, 12), 2, precision) for precision in (FP32, BF16))
    in_and_out = 4 * 2 * VOXELS * (2 + 3)  # in fp32 beside them
    assert half.peak_bytes == full.peak_bytes / 2 + in_and_out
    assert half.flops == full.flops


def test_float64_counts_what_torch_unrolls(model, two_layers):
    image, hidden = (VOXELS * channels * 8 for channels in (2, 4))
    windows = 2 * 3 * 3 * VOXELS * 8  # of the first convolution, while it makes its output
    price = forward_price(model(two_layers()), (10, 12), 1, FP64)
    assert price.peak_bytes == pytest.approx(image + windows + hidden, abs=hidden)
    assert price.peak_bytes >= image + windows


def test_half_precision_unrolls_too_where_a_cpu_has_no_instructions_for_it(model, two_layers, monkeypatch):
    fast = forward_price(model(two_layers()), (10, 12), 1, BF16).peak_bytes
    monkeypatch.setattr(kernels, "has_fast", lambda dtype: dtype == torch.float32)
    windows = 2 * 3 * 3 * VOXELS * 2
    assert forward_price(model(two_layers()), (10, 12), 1, BF16).peak_bytes == pytest.approx(fast + windows, rel=0.3)
    assert forward_price(model(two_layers()), (10, 12), 1, BF16, device="cuda").peak_bytes == fast
    assert not BF16.is_fast_on_cpu
    assert FP64.is_fast_on_cpu


def test_a_batch_costs_so_many_tiles(model, two_layers):
    one, four = (forward_price(model(two_layers()), (10, 12), batch, FP32) for batch in (1, 4))
    assert (four.flops, four.peak_bytes) == (4 * one.flops, 4 * one.peak_bytes)


@pytest.fixture(params=["trace", "script"])
def scripted(two_layers, request):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if request.param == "script":
            return torch.jit.script(two_layers().eval())
        return torch.jit.trace(two_layers().eval(), torch.rand(1, 2, 8, 8))


@pytest.mark.parametrize("shape", [(10, 12), (640, 960)], ids=["as it is", "from a smaller tile"])
@pytest.mark.parametrize("precision", [FP32, FP64, BF16], ids=["fp32", "fp64", "bf16"])
def test_torchscript_costs_the_same(model, two_layers, scripted, precision, shape):
    known, found = (forward_price(model(network), shape, 3, precision) for network in (two_layers(), scripted))
    assert found.flops == pytest.approx(known.flops)
    assert found.peak_bytes == pytest.approx(known.peak_bytes, rel=1e-6)
    assert found.weight_bytes == known.weight_bytes


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_torchscript_in_half_precision_costs_the_same_where_it_is_slow(
    model, two_layers, scripted, device, monkeypatch
):
    monkeypatch.setattr(kernels, "has_fast", lambda dtype: dtype == torch.float32)
    networks = (two_layers(), scripted)
    known, found = (forward_price(model(network), (64, 64), 1, BF16, device).peak_bytes for network in networks)
    assert found == pytest.approx(known, rel=1e-6)


@pytest.mark.parametrize(
    "made", [torch.jit.script, lambda network: torch.jit.trace(network, torch.rand(1, 2, 8, 8, 8))]
)
def test_torchscript_counts_what_torch_unrolls(model, two_layers, made):
    """Its convolutions stay on torch's kernels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        network = saved(made(two_layers(3).eval()))
    voxels = 32**3
    assert forward_price(model(network, 3), (32, 32, 32), 1, FP32).peak_bytes >= 4 * voxels * (2 + 2 * 27)


def test_a_network_that_makes_tensors_of_its_own_is_priced(model):
    class Positions(nn.Module):
        def forward(self, image):
            return image + torch.linspace(0, 1, image.shape[-1])  # without device=: fails on meta tensors

    price = forward_price(model(Positions(), 2, 2, 2), (10, 12), 1, FP32)
    assert price.peak_bytes >= 2 * 2 * VOXELS * 4


def test_nothing_is_allocated_for_a_tile_that_could_never_be(model, two_layers):
    price = forward_price(model(two_layers(3), 3), (4096, 4096, 4096), 1, FP32)
    assert price.peak_bytes > 2**40


def test_the_model_is_left_as_it_was():
    given = load_model(resolve_model("preset:unet2d_l4_w2"))
    forward_price(given, (64, 64), 1, FP64)
    assert {(p.device.type, p.dtype) for p in given.network.parameters()} == {("cpu", torch.float32)}


class Halves(nn.Module):
    """Fails on odd lengths."""

    def forward(self, image):
        small = nn.functional.max_pool2d(image, 2)
        return image + nn.functional.interpolate(small, scale_factor=2.0)


def saved(network):
    buffer = io.BytesIO()
    torch.jit.save(network, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


@pytest.mark.parametrize(
    "made",
    [
        lambda network: network,
        torch.jit.script,
        lambda network: saved(torch.jit.script(network)),
        lambda network: saved(torch.jit.trace(network, torch.rand(1, 2, 8, 8))),
    ],
    ids=["python", "script", "saved script", "saved trace"],
)
def test_a_network_that_fails_on_the_tile_is_one_line(model, made):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        network = made(Halves())
    with pytest.raises(ModelError) as stop:
        forward_price(model(network, 2, 2, 2), (10, 13), 1, FP32)
    said = r"the network fails on a tile of \(10, 13\) voxels \(The size of tensor a .*\); check --period"
    assert re.fullmatch(said, str(stop.value))


def test_the_tile_that_failed_is_the_one_that_is_named(model):
    network = dataclasses.replace(model(Halves(), 2, 2, 2), footprint=Footprint.from_halo((1, 1), (3, 3)))
    with pytest.raises(ModelError, match=r"a tile of \(66, 63\) voxels"):
        forward_price(network, (660, 63), 1, FP32)


def test_the_count_itself_needs_no_compiler():
    """torch's compiler takes seconds to import; every dispatch mode asks for it unless it says otherwise."""
    script = (
        "import sys, torch\n"
        "from volpipe.inference.price import count_pass\n"
        "network = torch.nn.Conv3d(1, 2, 3).to('meta')\n"
        "assert count_pass(network, torch.empty(1, 1, 8, 8, 8, device='meta'))[0] == 2 * 2 * 27 * 6**3\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
