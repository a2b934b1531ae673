"""One file holds a network and all that must be known to apply it, or says what is wrong with it."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from volpipe.errors import ModelError, WriteError
from volpipe.models import (
    GeneratorArchitecture,
    Normalisation,
    UNetArchitecture,
    load_checkpoint,
    save_checkpoint,
)
from volpipe.models.architecture import build_random
from volpipe.models.layers import folded

UNET = UNetArchitecture(3, levels=2, width=2, out_channels=2, pooling=((1, 2, 2),), activation="softmax")
PARTS = {
    "normalisation": Normalisation.from_range(0, 255),
    "voxel_size_um": (0.008, 0.004, 0.004),
    "output_channels": ("cell", "boundary"),
    "provenance": {"data": "made up", "licence": "CC0", "commit": "abc", "command": ["train", "--epochs", 3]},
}


@pytest.fixture
def saved(tmp_path, random_network):
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, random_network(UNET).float(), UNET, **PARTS)
    return path


def rewrite(path, tensors=lambda t: t, header=lambda h: h):
    """The same file with something changed in it."""
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["volpipe"])
    changed = header(metadata)
    save_file(tensors(load_file(path)), path, {} if changed is None else {"volpipe": json.dumps(changed)})


def test_what_is_saved_is_loaded(saved, random_network, random_image):
    loaded = load_checkpoint(saved)
    assert loaded.architecture == UNET
    assert {name: getattr(loaded, name) for name in PARTS} == PARTS
    image = random_image(1, 1, 3, 8, 8).float()
    assert torch.equal(loaded.network.eval()(image), random_network(UNET).float()(image))


@pytest.mark.parametrize(
    "architecture",
    [
        UNET,
        UNetArchitecture(2, levels=3, width=3, upsampling="nearest", downsampling="strided"),
        GeneratorArchitecture(3, blocks=1, width=2),
        GeneratorArchitecture(2, blocks=1, width=2, upsampling="bilinear", padding="zero"),
    ],
)
def test_folding_batch_norms_changes_nothing_but_rounding(architecture, random_image):
    network = build_random(architecture, seed=5).double().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):  # as training would leave it
            for tensor, low, high in (
                (module.running_mean, -1, 1),
                (module.running_var, 0.5, 2),
                (module.weight.data, 0.5, 2),
            ):
                tensor.copy_(torch.linspace(low, high, len(tensor), dtype=torch.float64))
    image = random_image(1, 1, *(8,) * architecture.ndim).double()
    small = folded(network)
    assert not [m for m in small.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert (small(image) - network(image)).abs().max() < 1e-12
    assert [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]  # a copy was folded


def test_a_model_knows_all_that_its_architecture_knows(saved):
    model = load_checkpoint(saved).model()
    assert model.footprint == UNET.footprint()
    assert (model.ndim, model.in_channels, model.out_channels, model.output_range) == (3, 1, 2, (0.0, 1.0))
    assert not model.network.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in model.network.parameters())


def test_a_generator_is_saved_alike(tmp_path, random_network):
    architecture = GeneratorArchitecture(2, blocks=1, width=2, norm="instance")
    path = tmp_path / "g.safetensors"
    save_checkpoint(path, random_network(architecture), architecture, Normalisation.identity(1), None, ("x",), {})
    assert load_checkpoint(path).architecture == architecture
    assert "stem.norm" in load_checkpoint(path).model().exactness


def without(key):
    return lambda tensors: {k: v for k, v in tensors.items() if k != key}


@pytest.mark.parametrize(
    ("change", "say"),
    [
        ({"tensors": without("head.weight")}, "tensor head.weight is missing"),
        ({"tensors": lambda t: {**t, "head.bias": torch.zeros(5)}}, r"tensor head.bias has shape \(5,\).*\(2,\)"),
        ({"tensors": lambda t: {**t, "extra": torch.zeros(1)}}, "tensor extra does not belong"),
        ({"tensors": lambda t: {**t, "head.bias": torch.full((2,), torch.nan)}}, "head.bias holds NaN"),
        ({"header": lambda h: None}, "not a volpipe checkpoint"),
        ({"header": lambda h: {**h, "format": 99}}, "format 99"),
        ({"header": lambda h: {**h, "architecture": {"kind": "vit"}}}, "'vit' is unknown"),
        ({"header": lambda h: {k: v for k, v in h.items() if k != "normalisation"}}, "normalisation"),
        ({"header": lambda h: {**h, "output_channels": ["one"]}}, "output_channels has 1"),
        ({"header": lambda h: [1]}, "header"),
    ],
)
def test_a_file_that_does_not_fit_says_what(saved, change, say):
    rewrite(saved, **change)
    with pytest.raises(ModelError, match=say):
        load_checkpoint(saved)


def test_a_damaged_or_missing_file_is_refused(saved, tmp_path):
    saved.write_bytes(saved.read_bytes()[:-7])
    for path in (saved, tmp_path / "none.safetensors"):
        with pytest.raises(ModelError, match=r"can be read|no such file"):
            load_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [
        {"normalisation": Normalisation.identity(2)},
        {"voxel_size_um": (1.0, 1.0)},
        {"voxel_size_um": (1.0, 0.0, 1.0)},
        {"output_channels": ("one",)},
    ],
)
def test_parts_that_do_not_fit_each_other_are_not_saved(change, tmp_path, random_network):
    path = tmp_path / "net.safetensors"
    with pytest.raises(ModelError, match="checkpoint"):
        save_checkpoint(path, random_network(UNET), UNET, **{**PARTS, **change})
    assert list(tmp_path.iterdir()) == []


def test_another_architectures_weights_are_not_saved(tmp_path, random_network):
    other = UNetArchitecture(3, levels=2, width=3, out_channels=2)
    with pytest.raises(ModelError, match="has shape"):
        save_checkpoint(tmp_path / "net.safetensors", random_network(other), UNET, **PARTS)


def test_a_write_that_fails_leaves_nothing(saved, random_network, monkeypatch):
    before = saved.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WriteError, match="No space left"):
        save_checkpoint(saved, random_network(UNET, seed=9), UNET, **PARTS)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["net.safetensors"]
