"""Users' networks under `apply`: one product from every kind of file; what cannot be tiled is refused or declared."""

import importlib
import sys
import warnings

import numpy as np
import pytest
import torch
import zarr
from safetensors.torch import save_file
from torch import nn

from volpipe.errors import GeometryError, ModelError, ProductError
from volpipe.jobs.audit import AuditJob
from volpipe.models.checkpoint import load_checkpoint
from volpipe.models.generator import GeneratorArchitecture
from volpipe.models.unet import UNetArchitecture
from volpipe.runtime.run import run
from volpipe.runtime.settings import RunSettings

SHAPE = (14, 22, 42)
OURS = UNetArchitecture(3, levels=2, width=2, norm="none")
SHORT = {"halo": (8, 8, 8), "period": (2, 2, 2)}
BLOCK = {"block": (16, 16, 16)}
THEIRS = """
import torch
from torch import nn


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv3d(1, 2, 3, padding=1), nn.Conv3d(2, 2, 3, padding=1)
        self.c, self.d = nn.Conv3d(2, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding=1)
        self.up = nn.ConvTranspose3d(4, 2, 2, stride=2)
        self.e, self.f = nn.Conv3d(4, 2, 3, padding=1), nn.Conv3d(2, 2, 3, padding=1)
        self.g, self.pool = nn.Conv3d(2, 1, 1), nn.MaxPool3d(2)

    def forward(self, image):
        skip = self.b(self.a(image).relu()).relu()
        deep = self.d(self.c(self.pool(skip)).relu()).relu()
        joined = torch.cat([skip, self.up(deep)], dim=1)
        return self.g(self.f(self.e(joined).relu()).relu())
"""  # the same function as OURS, as a user might have written it


@pytest.fixture
def ours(network):
    """Path of a checkpoint of ours."""
    return network(OURS)


@pytest.fixture
def theirs(tmp_path, monkeypatch, ours):
    """A user's network with the same weights, in a module that only `python` in its own folder would find."""
    (tmp_path / "their_networks.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(tmp_path)
    network = importlib.import_module("their_networks").Small()
    weights = load_checkpoint(ours).network.state_dict().values()
    network.load_state_dict(dict(zip(network.state_dict(), weights, strict=True)))
    del sys.modules["their_networks"]
    yield network.eval()
    sys.modules.pop("their_networks", None)


def exported(network, folder):
    dims = dict.fromkeys((0, 2, 3, 4), torch.export.Dim.AUTO)
    program = torch.export.export(network, (torch.zeros(2, 1, 8, 12, 16),), dynamic_shapes=(dims,))
    torch.export.save(program, folder / "net.pt2")
    return {"model": str(folder / "net.pt2")}


def traced(network, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(network, torch.rand(1, 1, 8, 12, 16)).save(str(folder / "net.pt"))
    return {"model": str(folder / "net.pt")}


def factory(network, folder):
    save_file(network.state_dict(), folder / "weights.safetensors")
    weights = str(folder / "weights.safetensors")
    return {"model": "their_networks:Small", "weights": weights, "trust_code": True}


@pytest.mark.parametrize("kind", [exported, traced, factory])
def test_a_users_file_gives_the_product_of_our_own(volume, noise, applied, error, tmp_path, ours, theirs, kind):
    source = volume(noise(SHAPE))
    _, expected = applied(source, ours, **BLOCK)
    _, made = applied(source, **kind(theirs, tmp_path), **BLOCK)
    assert error(made, expected) < 1e-12


def test_stored_values_are_scaled_and_moved_for_a_users_network(
    volume, noise, applied, whole, error, tmp_path, ours, theirs
):
    voxels = noise(SHAPE, "uint8")
    given = {**exported(theirs, tmp_path), **BLOCK}
    _, made = applied(volume(voxels), **given, input_scale=0.02, input_offset=-3.0)
    assert error(made, whole(ours, voxels * 0.02 - 3.0)) < 1e-12


def test_workers_load_a_users_code_too(volume, noise, applied, tmp_path, theirs, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    source, given = volume(noise(SHAPE)), {**factory(theirs, tmp_path), **BLOCK}
    _, serial = applied(source, **given)
    _, parallel = applied(source, settings=RunSettings(workers=1, threads=1, memory_per_worker="1GiB"), **given)
    np.testing.assert_array_equal(parallel, serial)


def test_code_is_not_run_unless_trusted(volume, noise, applied, tmp_path, ours, theirs):
    given = factory(theirs, tmp_path) | {"trust_code": False}
    with pytest.raises(ModelError, match="--trust-code"):
        applied(volume(noise(SHAPE)), **given)
    assert "their_networks" not in sys.modules


def test_an_audit_runs_no_code_unless_trusted_again(volume, noise, applied, tmp_path, theirs):
    place, _ = applied(volume(noise(SHAPE)), **factory(theirs, tmp_path), **BLOCK)
    sys.modules.pop("their_networks")
    serial = RunSettings(serial=True, threads=1, memory_per_worker="4GiB")
    with pytest.raises(ModelError, match="--trust-code"):
        run(AuditJob(volume=str(place)), serial, progress=None)
    assert "their_networks" not in sys.modules
    run(AuditJob(volume=str(place), trust_code=True), serial, progress=None)


def test_an_audit_is_told_where_moved_weights_lie_and_takes_no_others(volume, noise, applied, tmp_path, theirs):
    place, _ = applied(volume(noise(SHAPE)), **factory(theirs, tmp_path), **BLOCK)
    (tmp_path / "weights.safetensors").rename(tmp_path / "moved.safetensors")
    serial = RunSettings(serial=True, threads=1, memory_per_worker="4GiB")
    audit = {"volume": place, "trust_code": True}
    with pytest.raises(ModelError, match=r"weights\.safetensors: there is no such file"):
        run(AuditJob(**audit), serial, progress=None)
    run(AuditJob(**audit, weights=str(tmp_path / "moved.safetensors")), serial, progress=None)
    other = {name: value + 1 for name, value in theirs.state_dict().items()}
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(ProductError, match=r"from something else \(weights: .*--weights or --mask where they lie now"):
        run(AuditJob(**audit, weights=str(tmp_path / "other.safetensors")), serial, progress=None)


def test_a_halo_by_hand_that_is_too_small_shows(volume, noise, applied, error, tmp_path, ours, theirs):
    source, short = volume(noise(SHAPE)), {"halo": (4, 4, 4), "period": (2, 2, 2)}
    _, expected = applied(source, ours, **BLOCK)
    for model in ({"model": ours}, exported(theirs, tmp_path)):
        with pytest.raises(ModelError, match=r"--halo 4,4,4.*needs 8,8,8 and 2,2,2.*--allow-inexact"):
            applied(source, **model, **short)
        place, made = applied(source, **model, **short, allow_inexact=True, **BLOCK)
        assert error(made, expected) > 1e-3
        stated = zarr.open(place).attrs["volpipe"]
        assert stated["exact"] is False
        assert "--halo 4,4,4" in stated["exact_reason"]


def test_a_period_by_hand_that_is_none_is_refused(volume, noise, applied, tmp_path, ours, theirs):
    source = volume(noise(SHAPE))
    for model in ({"model": ours}, exported(theirs, tmp_path)):
        with pytest.raises(ModelError, match=r"--period 3, but it needs"):
            applied(source, **model, halo=(12,), period=(3,))


def test_tiles_that_see_nothing_of_each_other_need_no_halo(volume, noise, applied, error, tmp_path, ours, theirs):
    source, given = volume(noise(SHAPE)), exported(theirs, tmp_path)
    _, expected = applied(source, ours, stitching="tile", **BLOCK)
    _, made = applied(source, **given, stitching="tile", halo=(0,), period=(1,), **BLOCK)
    assert error(made, expected) < 1e-12


@pytest.mark.parametrize("engine", ["blocks", "map-overlap"])
def test_an_export_that_takes_no_length_of_one_period_sees_more(
    volume, noise, applied, error, tmp_path, theirs, engine
):
    """Two planes, and 2 voxels left over along y: at period 2 torch specialises on both."""
    voxels, given = noise((2, 18, 42)), exported(theirs, tmp_path)
    source = volume(voxels)
    with torch.inference_mode():
        padded = np.pad(voxels.astype("float64"), [(0, 2), (0, 0), (0, 0)], mode="edge")
        expected = theirs.double()(torch.from_numpy(padded)[None, None])[0, :, :2].numpy()
    settings = RunSettings(serial=True, threads=1, memory_per_worker="4GiB", engine=engine)
    _, made = applied(source, **given, settings=settings, block=(2, 16, 16))
    assert error(made, expected) < 1e-12
    place, _ = applied(source, **given, settings=settings, block=(2, 16, 16), stitching="tile")
    assert zarr.open(place).attrs["volpipe"]["exact"] is False


def test_a_volume_that_a_mirror_does_not_fit_into_is_padded(volume, noise, network, applied, error):
    path, voxels = network(GeneratorArchitecture(3, blocks=1, width=2)), noise((3, 20, 20))
    with torch.inference_mode():
        padded = np.pad(voxels.astype("float64"), [(0, 5), (0, 0), (0, 0)], mode="edge")
        expected = (
            load_checkpoint(path).model().network.double()(torch.from_numpy(padded)[None, None])[0, :, :3].numpy()
        )
    _, made = applied(volume(voxels), path, block=(3, 16, 16))
    assert error(made, expected) < 1e-12


class Sliding(nn.Module):
    """Uses a window of 3 voxels and hides NaN, so that it cannot be probed."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, image):
        return self.conv(torch.nan_to_num(image))


def test_a_network_that_cannot_be_probed_runs_by_hand_and_says_so(volume, noise, applied, tmp_path):
    source, given = volume(noise(SHAPE)), traced(Sliding().eval(), tmp_path)
    with pytest.raises(ModelError, match=r"NaN gives values.*nan_to_num.*give --norm exact .*or --allow-inexact"):
        applied(source, **given)
    with pytest.raises(ModelError, match=r"footprint is not known .*give --halo and --period, or --stitching tile"):
        applied(source, **given, allow_inexact=True)
    place, _ = applied(source, **given, halo=(1,), period=(1,), allow_inexact=True, **BLOCK)
    assert zarr.open(place).attrs["volpipe"]["exact"] is False


def test_a_network_on_which_the_probe_fails_runs_by_hand_on_trust(
    volume, noise, applied, error, tmp_path, ours, theirs, monkeypatch
):
    def fails(*_, **__):
        raise MemoryError("no room")

    monkeypatch.setattr("volpipe.models.probe.Trial", fails)
    source, given = volume(noise(SHAPE)), exported(theirs, tmp_path)
    with pytest.raises(ModelError, match=r"not known \(the probe failed: no room\).*give --halo and --period"):
        applied(source, **given, stitching="overlap")
    _, expected = applied(source, ours, **BLOCK)
    by_its_graph, made = applied(source, **given, **BLOCK)
    assert error(made, expected) < 1e-12
    assert zarr.open(by_its_graph).attrs["volpipe"]["exact"] is True
    place, made = applied(source, **given, **SHORT, **BLOCK)
    assert error(made, expected) < 1e-12
    stated = zarr.open(place).attrs["volpipe"]
    assert stated["stitching"]["on_trust"] == "halo and period are taken on trust, the probe failed: no room"
    assert (stated["exact"], stated["exact_reason"]) == (False, stated["stitching"]["on_trust"])


def test_a_users_network_without_padding_is_for_valid_alone(volume, noise, applied, error, tmp_path):
    network = nn.Sequential(nn.Conv3d(1, 2, 5), nn.ReLU(), nn.Conv3d(2, 1, 3)).eval()
    voxels, given = noise(SHAPE), traced(network, tmp_path)
    source = volume(voxels)
    with pytest.raises(ModelError, match="lose 6 voxels; give --stitching valid"):
        applied(source, **given, stitching="overlap")
    _, made = applied(source, **given, **BLOCK)  # the network says what fits it
    with torch.inference_mode():
        expected = network.double()(torch.from_numpy(voxels.astype("float64"))[None, None])[0].numpy()
    assert made.shape == expected.shape
    assert error(made, expected) < 1e-12


def test_a_footprint_is_remembered_by_the_content_of_the_file(volume, noise, applied, tmp_path, theirs, monkeypatch):
    source, given = volume(noise(SHAPE)), exported(theirs, tmp_path)
    applied(source, **given, **BLOCK)

    def asked_again(*_):
        raise AssertionError("probed again")

    monkeypatch.setattr("volpipe.models.measured.probe", asked_again)
    applied(source, **given, **BLOCK)
    for remembered in (tmp_path / "cache" / "volpipe" / "footprints").iterdir():  # by file, and by structure
        remembered.write_text(remembered.read_text()[:-9])  # torn
    with pytest.raises(AssertionError, match="probed again"):
        applied(source, **given, **BLOCK)
    monkeypatch.undo()


def test_a_factory_is_probed_each_time(volume, noise, applied, tmp_path, theirs):
    applied(volume(noise(SHAPE)), **factory(theirs, tmp_path), **BLOCK)
    assert not (tmp_path / "cache").exists()


def test_instance_norm_is_refused_unless_asked_for_and_then_declared(volume, noise, applied, network):
    source = volume(noise(SHAPE))
    model = network(UNetArchitecture(3, levels=2, width=2, norm="instance"))
    with pytest.raises(ModelError, match=r"instance norm.*give --norm exact .*pooled .*frozen:FILE or per-tile"):
        applied(source, model)
    place, _ = applied(source, model, norm="per-tile", **BLOCK)
    assert "instance norm" in zarr.open(place).attrs["volpipe"]["stitching"]["inexact"]


def test_a_network_without_padding_is_for_valid_alone(volume, noise, applied):
    source, valid = volume(noise(SHAPE)), "preset:unet3d_l3_valid_w2"
    with pytest.raises(ModelError, match="valid convolutions lose 40 voxels; give --stitching valid"):
        applied(source, valid, stitching="overlap")
    with pytest.raises(ModelError, match="loses no voxels at its faces; give --stitching overlap"):
        applied(source, "preset:unet3d_l3_w2", stitching="valid")
    with pytest.raises(GeometryError, match="give a larger volume, --faces reflect or a padded network"):
        applied(source, valid, stitching="valid")


def test_a_2d_network_needs_the_2d_assembly(volume, noise, applied):
    source = volume(noise(SHAPE))
    with pytest.raises(ModelError, match="a 2D network under --assembly 3d; give --assembly 2d"):
        applied(source, "preset:unet2d_l4_w2")
    with pytest.raises(ModelError, match="a 3D network under --assembly 2d; give --assembly 3d"):
        applied(source, "preset:unet3d_l3_w2", assembly="2d")


def test_channels_must_fit(volume, noise, applied, tmp_path, ours, theirs):
    source = volume(noise((2, *SHAPE)))
    for model in ({"model": ours}, exported(theirs, tmp_path), traced(theirs, tmp_path)):
        with pytest.raises(ModelError, match=r"takes 1 channel.*has 2.*--channel"):
            applied(source, **model)
