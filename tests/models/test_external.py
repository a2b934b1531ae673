"""Users' networks: torch.export, TorchScript, factories; what cannot be applied is refused in one line."""

import subprocess
import sys
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from volpipe.errors import ModelError
from volpipe.models import load_model, resolve_model
from volpipe.models.layers import OneByOne

BY_HAND = {"halo": (4,), "period": (2,)}


class Net(nn.Module):
    """Two convolutions around a pooling; `tail` comes last."""

    def __init__(self, ndim=2, inputs=2, tail=None):
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[ndim]
        self.pool = {2: nn.MaxPool2d, 3: nn.MaxPool3d}[ndim](2)
        self.first, self.last = conv(inputs, 4, 3, padding=1), conv(4, 3, 3, padding=1)
        self.grow = nn.Upsample(scale_factor=2.0)
        self.tail = nn.Identity() if tail is None else tail

    def forward(self, image):
        return self.tail(self.last(self.grow(self.pool(torch.relu(self.first(image))))))


class Heads(nn.Module):
    """Three channels and one, in a tuple, a list or a dictionary."""

    def __init__(self, returns):
        super().__init__()
        self.returns = returns

    def forward(self, image):
        return self.returns((image, image[:, :1] ** 2))


def export(network, path, shape, dynamic, train=False):
    dims = dict.fromkeys(dynamic, torch.export.Dim.AUTO)
    program = torch.export.export(network.train(train), (torch.zeros(shape),), dynamic_shapes=(dims,))
    torch.export.save(program, path)
    return str(path)


def script(network, path, trace=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        made = torch.jit.script(network.eval()) if trace is None else torch.jit.trace(network.eval(), trace)
        made.save(str(path))
    return str(path)


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """Write a module with a factory; returns its location. Each has its own name, as Python keeps modules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])

    def make(name, body):
        (tmp_path / f"{name}.py").write_text(f"import torch\nfrom torch import nn\n\ndef make():\n    {body}\n")
        return f"{name}:make"

    return make


@pytest.mark.parametrize("ndim", [2, 3])
def test_an_exported_network_tells_its_axes_and_channels(tmp_path, ndim):
    network = Net(ndim)
    path = export(network, tmp_path / "net.pt2", (1, 2, 16, 24, 32)[: 2 + ndim], range(2, 2 + ndim))
    model = load_model(resolve_model(path, **BY_HAND))
    assert (model.ndim, model.in_channels, model.out_channels) == (ndim, 2, 3)
    assert (model.footprint, model.exactness, model.output_range, model.voxel_size_um) == (None, "", None, None)
    image = torch.rand(3, 2, *(20, 12, 16)[:ndim])  # a batch, though it was exported for one image
    assert torch.allclose(model.network(image), network(image), atol=1e-6)


class Mixing(nn.Module):
    """What stands beside an image in its batch changes it."""

    def __init__(self, how):
        super().__init__()
        self.how, self.last = how, nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, image):
        if self.how == "attention":  # over the first axis, as with batch_first=False
            tokens = image.flatten(1).unsqueeze(1)
            image = nn.functional.scaled_dot_product_attention(*(tokens.transpose(0, 1),) * 3).view_as(image)
        if self.how in ("mean", "amin"):
            image = image - (image.mean(0, keepdim=True) if self.how == "mean" else image.amin(0, keepdim=True))
        return self.last(image)


@pytest.mark.parametrize("how", ["mean", "amin", "attention", "alone"])
def test_images_of_a_batch_do_not_see_each_other(tmp_path, how):
    network = load_model(resolve_model(script(Mixing(how), tmp_path / "net.pt", torch.rand(2, 1, 8, 8)))).network
    images = torch.rand(3, 1, 8, 8)
    each = torch.cat([network(image[None]) for image in images])
    assert torch.allclose(network(images), each, atol=1e-6)
    assert isinstance(network, OneByOne) == (how != "alone")


def test_an_exported_network_with_a_free_batch_takes_any(tmp_path):
    path = export(Net(), tmp_path / "net.pt2", (2, 2, 16, 16), (0, 2, 3))
    network = load_model(resolve_model(path, **BY_HAND)).network
    assert network(torch.rand(5, 2, 18, 20)).shape == (5, 3, 18, 20)


COPIED = """
import copy, sys, threading, warnings
from volpipe.models.model import load_model, resolve_model
network = load_model(resolve_model(sys.argv[1])).network
threads = [threading.Thread(target=copy.deepcopy, args=(network,)) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_what_torch_says_of_itself_reaches_nobody(tmp_path):
    path = export(Net(), tmp_path / "net.pt2", (2, 2, 16, 16), (0, 2, 3))
    done = subprocess.run([sys.executable, "-c", COPIED, path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("network", "shape", "dynamic", "train", "say"),
    [
        (Net(), (1, 2, 16, 16), (2,), False, "one length only along x; export it again .*torch.export.Dim.AUTO for"),
        (Net(), (1, 2, 16, 16), (), False, "along y, x"),
        (Net(), (2, 2, 16, 16), (2, 3), False, "exported for batches of 2"),
        (Net(tail=nn.Dropout()), (1, 2, 16, 16), (2, 3), True, "training mode"),
        (nn.Conv1d(1, 1, 3), (1, 1, 16), (2,), False, "takes 3 axes"),
    ],
)
def test_an_export_that_cannot_be_tiled_is_refused(tmp_path, network, shape, dynamic, train, say):
    path = export(network, tmp_path / "net.pt2", shape, dynamic, train)
    with pytest.raises(ModelError, match=say):
        load_model(resolve_model(path))


@pytest.mark.parametrize("returns", [tuple, list, lambda heads: dict(zip("ab", heads, strict=True))])
def test_images_that_a_network_returns_are_channels_of_one(tmp_path, returns):
    network = Net(tail=Heads(returns)).eval()
    model = load_model(resolve_model(export(network, tmp_path / "net.pt2", (1, 2, 16, 16), (2, 3))))
    assert model.out_channels == 4
    image = torch.rand(2, 2, 24, 16)
    heads = network(image)
    expected = torch.cat(tuple(heads.values() if isinstance(heads, dict) else heads), 1)
    torch.testing.assert_close(model.network(image), expected)


@pytest.mark.parametrize("trace", [None, torch.zeros(1, 2, 16, 16)], ids=["scripted", "traced"])
@pytest.mark.parametrize("suffix", [".pt", ".ts", ".pth"])
def test_a_torchscript_network_is_applied_to_scaled_floats(tmp_path, trace, suffix):
    network = Net()
    path = script(network, tmp_path / f"net{suffix}", trace)
    model = load_model(resolve_model(path, input_scale=1 / 255, input_offset=-0.5, **BY_HAND))
    assert (model.ndim, model.in_channels, model.out_channels) == (2, 2, 3)
    assert (model.normalisation.scale, model.normalisation.offset) == ((1 / 255,) * 2, (-0.5,) * 2)
    image = torch.rand(2, 2, 12, 20)
    assert torch.allclose(model.network(image), network(image), atol=1e-6)


def test_a_script_that_does_not_tell_its_axes_is_told(tmp_path):
    path = script(nn.Sigmoid(), tmp_path / "net.pt")
    both = r"give --ndim 2 or 3 and --in-channels N \(ndim= and in_channels= of resolve_model\)$"
    for given, say in (
        ({}, both),
        ({"in_channels": 2}, r"give --ndim 2 or 3 \(ndim= of resolve_model\)$"),
        ({"ndim": 3}, r"give --in-channels N \(in_channels= of resolve_model\)$"),
    ):
        with pytest.raises(ModelError, match=say):
            load_model(resolve_model(path, **given))
    assert load_model(resolve_model(path, ndim=3, in_channels=2)).out_channels == 2


NORMS = [
    (nn.InstanceNorm2d(3), "instance norm"),
    (nn.GroupNorm(3, 3), "group norm"),
    (nn.InstanceNorm2d(3, track_running_stats=True), ""),
    (nn.BatchNorm2d(3), ""),
]


@pytest.mark.parametrize(("norm", "reason"), NORMS, ids=lambda value: str(value)[:14])
def test_statistics_of_the_tile_are_named_in_every_kind_of_file(tmp_path, norm, reason):
    network = Net(tail=norm)
    paths = [
        script(network, tmp_path / "scripted.pt"),
        export(network, tmp_path / "net.pt2", (1, 2, 16, 16), (2, 3)),
    ]
    for path in paths:
        exactness = load_model(resolve_model(path)).exactness
        assert exactness.startswith(reason) if reason else exactness == ""
        assert not reason or "tail" in exactness or "norm)" in exactness


def test_a_factory_builds_and_safetensors_fill_it(factory, tmp_path):
    network = nn.Conv3d(1, 2, 3, padding=1)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    location = factory("good_factory", "return nn.Conv3d(1, 2, 3, padding=1)")
    ref = resolve_model(location, weights="w.safetensors", trust_code=True, halo=(1,), period=(1,))
    model = load_model(ref)
    image = torch.rand(1, 1, 8, 8, 8)
    assert (model.network(image) - network(image)).abs().max() < 1e-6
    assert (model.ndim, model.footprint) == (3, None)


def test_a_factorys_hash_covers_code_and_weights(factory, tmp_path):
    def sha(value, body):
        save_file({"weight": torch.full((1, 1, 1, 1), value), "bias": torch.zeros(1)}, tmp_path / "w.safetensors")
        return resolve_model(factory("hashed", body), weights="w.safetensors", trust_code=True).sha256

    one, two = "return nn.Conv2d(1, 1, 1)", "return nn.Conv2d(1, 1, 1, 1)"
    assert sha(1.0, one) == sha(1.0, one)
    assert len({sha(1.0, one), sha(2.0, one), sha(1.0, two)}) == 3


@pytest.mark.parametrize(
    ("name", "body", "weights", "say"),
    [
        ("f_raises", "raise KeyError('depth')", None, "the factory failed: KeyError: 'depth'"),
        ("f_nothing", "return 3", None, "returned int"),
        ("f_bare", "return nn.Conv2d(1, 1, 1)", None, "give them by --weights"),
        ("f_other", "return nn.Conv2d(1, 1, 1)", {"weight": torch.zeros(1, 1, 1, 1)}, 'do not fit it.*"bias"'),
        ("f_broken", "return nn.Conv2d(1, 1, 1)", b"nonsense", "not a safetensors file"),
        ("f_random", "return nn.Dropout(0.5).requires_grad_(False)", None, "--ndim 2 or 3"),
    ],
)
def test_a_factory_that_gives_no_network_is_refused(factory, tmp_path, name, body, weights, say):
    path = tmp_path / "w.safetensors"
    if isinstance(weights, bytes):
        path.write_bytes(weights)
    elif weights:
        save_file(weights, path)
    given = None if weights is None else "w.safetensors"
    ref = resolve_model(factory(name, body), weights=given, trust_code=True)
    with pytest.raises(ModelError, match=say):
        load_model(ref)


@pytest.mark.parametrize(
    ("name", "result", "say"),
    [
        ("t_random", "torch.nn.functional.dropout(x)", "two results"),
        ("t_labels", "x.argmax(1, keepdim=True)", "labels are chosen after stitching"),
        ("t_nested", "(x, (x, x))", "returns tuple of Tensor and tuple; wrap it so that it returns tensors"),
        ("t_number", "0.5", "returns float; wrap it so that it returns tensors"),
        ("t_none", "{'image': x, 'loss': None}", "returns dict of NoneType and Tensor; wrap it"),
        ("t_sizes", "x, x[..., ::2]", r"images of \(32, 16\) and \(32, 32\) voxels; wrap it so that they"),
        ("t_nan", "x / 0", "NaN or infinity"),
        ("t_axes", "x[:, 0]", "return an image with the axes of the input"),
        ("t_fails", "x.reshape(7)", r"fails on a tile of shape \(1, 1, 64, 64\) .*--period"),
    ],
)
def test_what_one_tile_shows_is_checked(factory, name, result, say):
    body = f"""class N(nn.Module):
        def forward(self, x):
            return {result}
    return N()"""
    ref = resolve_model(factory(name, body), trust_code=True, ndim=2, in_channels=1)
    with pytest.raises(ModelError, match=say):
        load_model(ref)


def test_two_factories_of_one_module_are_two_models(factory):
    location = factory("twins", "return nn.Conv3d(1, 1, 3)")
    module = location.partition(":")[0]
    hashes = {resolve_model(f"{module}:{name}", trust_code=True).sha256 for name in ("make", "make_another")}
    assert len(hashes) == 2


def test_a_factory_is_not_run_without_trust(factory, tmp_path):
    location = factory("untrusted", "return nn.Identity()")
    (tmp_path / "untrusted.py").write_text("raise SystemExit('was run')")
    with pytest.raises(ModelError, match="--trust-code"):
        resolve_model(location)
