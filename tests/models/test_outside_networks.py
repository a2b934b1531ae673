"""Networks from outside: MONAI's, and a bioimage.io package through bioimageio.core; exact, or refused by name."""

import hashlib
import re
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from volpipe.geometry import AxisFootprint
from volpipe.models import load_model, resolve_model
from volpipe.models.probe import probe
from volpipe.models.settle import settle

EXACT = 1e-12  # std of the whole result
pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        not (find_spec("monai") and find_spec("bioimageio")), reason="not installed (extra outside: 170 MB)"
    ),
    pytest.mark.filterwarnings("ignore"),  # theirs
]
SMALL_UNET = {"in_channels": 1, "out_channels": 2, "channels": (4, 8, 16), "strides": (2, 2), "num_res_units": 2}
SEGRESNET = {"in_channels": 1, "out_channels": 2, "init_filters": 8}
DYNUNET = {"in_channels": 1, "out_channels": 2, "filters": (4, 8, 16), "strides": (1, 2, 2), "kernel_size": (3, 3, 3),
           "upsample_kernel_size": (2, 2)}  # fmt: skip


def monai(name, ndim, **options):
    from monai.networks import nets

    torch.manual_seed(0)
    return getattr(nets, name)(spatial_dims=ndim, **options).eval()


# by hand for UNet and DynUNet (nnU-Net's); the others' need is what makes them exact
FOUND = {
    "UNet 2D": ("UNet", 2, {**SMALL_UNET, "norm": "batch"}, AxisFootprint(21, 22, 4)),
    "UNet 3D": ("UNet", 3, {**SMALL_UNET, "norm": "batch"}, AxisFootprint(21, 22, 4)),
    "UNet without residual units": (
        "UNet", 2, {**SMALL_UNET, "norm": "batch", "num_res_units": 0}, AxisFootprint(7, 8, 4)),
    "DynUNet": ("DynUNet", 2, {**DYNUNET, "norm_name": "batch"}, AxisFootprint(19, 16, 4)),
    "SegResNet": ("SegResNet", 2, {**SEGRESNET, "norm": "batch"}, AxisFootprint(122, 115, 8)),
    "BasicUNet": (
        "BasicUNet", 2, {"in_channels": 1, "out_channels": 2, "features": (4, 4, 8, 8, 16, 4), "norm": "batch"},
        AxisFootprint(94, 94, 16)),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_monais_networks_with_batch_norm_are_found_and_exact(name, tiled_error):
    kind, ndim, options, footprint = FOUND[name]
    network = monai(kind, ndim, **options)
    found = probe(network, ndim, 1)
    assert (found.refusal, found.failure) == ("", "")
    assert set(found.footprint.axes) == {footprint}
    assert tiled_error(network.double(), found, periods=3) <= EXACT


REFUSED = {
    "UNet as it comes": ("UNet", SMALL_UNET, r"module model\.0\.conv\.unit0\.adn\.N: InstanceNorm2d"),
    "SegResNet as it comes": ("SegResNet", SEGRESNET, r"module down_layers\.0\.1\.norm1: GroupNorm"),
    "DynUNet as it comes": (
        "DynUNet", {**DYNUNET, "norm_name": "instance"}, r"module input_block\.norm1: InstanceNorm2d"),
    "AttentionUnet as it comes": (
        "AttentionUnet", {"in_channels": 1, "out_channels": 2, "channels": (4, 8), "strides": (2,)}, "InstanceNorm2d"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_monais_networks_with_statistics_of_the_tile_are_refused_by_name(name):
    kind, options, named = REFUSED[name]
    found = probe(monai(kind, 2, **options), 2, 1)
    assert found.footprint is None
    assert re.search(named, found.refusal), found.refusal


def test_a_wide_monai_unet_takes_seconds():
    """Its channels are thinned like our own."""
    network = monai("UNet", 3, **{**SMALL_UNET, "channels": (32, 64, 128), "norm": "batch"})
    found = probe(network, 3, 1)
    assert set(found.footprint.axes) == {AxisFootprint(21, 22, 4)}
    assert found.seconds < 60


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A bioimage.io package of MONAI's U-Net, its weights as TorchScript and as a state dict, opened offline."""
    monkeypatch.setenv("BIOIMAGEIO_CACHE_PATH", str(tmp_path / "cache"))
    from bioimageio.core import load_model_description
    from bioimageio.spec import save_bioimageio_package

    network = monai("UNet", 2, **SMALL_UNET, norm="batch")
    image = torch.rand(1, 1, 64, 64)
    torch.jit.trace(network, image).save(str(tmp_path / "traced.pt"))
    torch.save(network.state_dict(), tmp_path / "state.pt")
    np.save(tmp_path / "image.npy", image.numpy())
    np.save(tmp_path / "result.npy", network(image).detach().numpy())
    (tmp_path / "README.md").write_text("# A U-Net\n\n## Validation\nNone: its weights are random.\n")
    zipped = save_bioimageio_package(_description(tmp_path), output_path=tmp_path / "package.zip")
    return load_model_description(zipped)


def _description(folder):
    from bioimageio.spec.model import v0_5 as spec

    def file(name):
        return spec.FileDescr(source=folder / name)

    def size_of_input(axis):
        return spec.SpaceOutputAxis(id=axis, size=spec.SizeReference(tensor_id="image", axis_id=axis))

    multiples_of_4 = spec.ParameterizedSize(min=16, step=4)
    across = [spec.SpaceInputAxis(id=axis, size=multiples_of_4) for axis in "yx"]
    image = [spec.BatchAxis(), spec.ChannelAxis(channel_names=["raw"]), *across]
    result = [spec.BatchAxis(), spec.ChannelAxis(channel_names=["a", "b"]), size_of_input("y"), size_of_input("x")]
    unet = spec.ArchitectureFromLibraryDescr(
        callable="UNet", import_from="monai.networks.nets", kwargs={"spatial_dims": 2, "norm": "batch", **SMALL_UNET}
    )
    state = folder / "state.pt"
    return spec.ModelDescr(
        name="a small U-Net",
        description="made for a test",
        authors=[spec.Author(name="volpipe")],
        cite=[spec.CiteEntry(text="none", doi="10.1234/none")],
        license="MIT",
        documentation=file("README.md"),
        inputs=[spec.InputTensorDescr(id="image", axes=image, test_tensor=file("image.npy"))],
        outputs=[spec.OutputTensorDescr(id="result", axes=result, test_tensor=file("result.npy"))],
        weights=spec.WeightsDescr(
            torchscript=spec.TorchscriptWeightsDescr(source=folder / "traced.pt", pytorch_version="2.6"),
            pytorch_state_dict=spec.PytorchStateDictWeightsDescr(
                source=state,
                sha256=hashlib.sha256(state.read_bytes()).hexdigest(),
                pytorch_version="2.6",
                architecture=unet,
            ),
        ),
    )


def test_the_script_in_a_bioimageio_package_is_a_model(package, tmp_path, monkeypatch, tiled_error):
    from bioimageio.core import create_prediction_pipeline
    from bioimageio.core.digest_spec import get_test_input_sample

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "footprints"))
    weights = tmp_path / "weights.pt"
    weights.write_bytes(package.weights.torchscript.get_reader().read())
    ref = resolve_model(str(weights))
    model = load_model(ref)
    settled = settle(ref, model, halo="ignored", allow_inexact=False)
    assert set(settled.footprint.axes) == {AxisFootprint(21, 22, 4)}
    sample = get_test_input_sample(package)
    image = torch.from_numpy(sample.members["image"].data.values)
    theirs = create_prediction_pipeline(package).predict_sample_without_blocking(sample).members["result"].data.values
    assert np.abs(model.network(image).numpy() - theirs).max() <= 1e-6


def test_the_network_in_a_bioimageio_package_is_found_and_exact(package, tiled_error):
    from bioimageio.core.backends.pytorch_backend import load_torch_model

    network = load_torch_model(package.weights.pytorch_state_dict, load_state=True, devices=["cpu"]).eval()
    found = probe(network, 2, 1)
    assert set(found.footprint.axes) == {AxisFootprint(21, 22, 4)}
    assert tiled_error(network.double(), found) <= EXACT
