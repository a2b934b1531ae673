"""`exact`: when it is the default, what it refuses, and that its audit sees what is wrong (law: test_law_suite.py)."""

import dataclasses
import sys

import pytest
import torch
from safetensors.torch import save_file

from volpipe.errors import ConfigError, ModelError, ProductError
from volpipe.inference.intervals.window import Window
from volpipe.inference.predictor import Predictor, _predictor
from volpipe.jobs.apply import ApplyJob
from volpipe.plan import Budget
from volpipe.runtime.run import run
from volpipe.runtime.settings import RunSettings
from volpipe.volume import open_product

SERIAL = RunSettings(serial=True, threads=1, memory_per_worker="4GiB")
BUDGET = Budget(4 * 2**30)
UNET = "preset:unet3d_l3_w2"


@pytest.fixture
def job(volume, noise, tmp_path):
    source = volume(noise((24, 32, 120)))

    def make(model=UNET, **fields):
        fields = {"input": source, "block": (32, 32, 32), "pyramid": False} | fields
        return ApplyJob(output=str(tmp_path / "out.ome.zarr"), model=model, **fields)

    return make


@pytest.fixture
def traced(tmp_path):
    """A TorchScript file, which cannot be captured."""
    path = str(tmp_path / "net.pt")
    convolution = torch.nn.Conv3d(1, 1, 3, padding=1).eval()
    with pytest.warns(DeprecationWarning, match="TorchScript|torch.jit"):
        torch.jit.trace(convolution, torch.zeros(1, 1, 16, 16, 16)).save(path)
    return path


def mode(plan):
    return dict(plan.facts)["stitching"].split(",")[0]


def test_it_is_the_default_of_networks_that_can_be_captured(job, volume, noise):
    assert mode(job().plan(BUDGET)) == "exact"
    assert mode(job(precision="bf16").plan(BUDGET)) == "exact"
    assert mode(job("preset:unet2d_l4_w2", assembly="orthoslice").plan(BUDGET)) == "exact"
    wide = volume(noise((2, 120, 120)), name="wide.ome.zarr")
    assert mode(job("preset:unet2d_l4_valid_w2", input=wide, assembly="2d").plan(BUDGET)) == "exact"


@pytest.mark.parametrize(
    ("model", "options", "name"),
    [
        (UNET, {"batch": 2}, "overlap"),
        (UNET, {"blend": "hann"}, "overlap"),
        ("preset:unet3d_l3_valid_w2", {"faces": "reflect"}, "valid"),
        ("preset:mae3d_p4_w48", {}, "windows"),
    ],
)
def test_it_is_not_where_something_else_is_asked_for(job, model, options, name):
    assert mode(job(model, **options).plan(BUDGET)) == name


def test_a_network_that_cannot_be_captured_overlaps_and_says_why(job, traced):
    fact = dict(job(traced).plan(BUDGET).facts)["stitching"]
    assert fact.startswith(
        "overlap, 3d: equals whole-volume inference; --stitching exact, which costs less, cannot run it: torch.export "
    )
    with pytest.raises(ModelError, match=r"cannot be run by intervals: torch.export .*; give --stitching overlap"):
        job(traced, stitching="exact").plan(BUDGET)


def test_what_it_cannot_do_is_one_line(job):
    with pytest.raises(ConfigError, match=r"batch 2: with --stitching exact .* leave it out, or give"):
        job(stitching="exact", batch=2).plan(BUDGET)
    with pytest.raises(ModelError, match="takes one length only"):
        job("preset:mae3d_p4_w48", stitching="exact").plan(BUDGET)


def test_a_run_does_not_go_on_in_another_mode(job):
    run(job(stitching="overlap", audit=0), SERIAL, progress=None)
    with pytest.raises(ProductError, match=r"stitching.*overlap.*exact"):
        run(job(audit=0), SERIAL, progress=None)


@pytest.mark.parametrize("whole", [True, False], ids=["by the whole network", "by other intervals"])
def test_the_audit_sees_an_interval_that_is_wrong(job, run_serially, monkeypatch, whole):
    """Large tiles leave memory for a pass of the whole network around a small box."""
    right = Window.run

    def wrong(self, out, inputs):
        made = right(self, out, inputs)
        return made * 1.001 if min(out.shape) % 8 else made  # odd boxes alone: other tiles have others

    monkeypatch.setattr(Window, "run", wrong)
    _predictor.cache_clear()
    extents = {"block": (24, 32, 64), "tile": (24, 32, 64)} if whole else {"tile": (16, 16, 16)}
    made = job(audit=8, **extents)
    plan, _ = run_serially(made)
    assert open_product(made.output).attributes["exact"] is False
    assert plan.works["audit"].whole is whole


def test_a_network_is_captured_once_however_many_tiles_there_are(job, monkeypatch):
    captured = []
    right = Predictor.program

    def counted(self, shape):
        before = len(self._programs)
        program = right(self, shape)
        captured.append(len(self._programs) - before)
        return program

    monkeypatch.setattr(Predictor, "program", counted)
    _predictor.cache_clear()
    plan = job().plan(BUDGET)
    work = plan.works["apply"]
    inference = dataclasses.replace(work.inference, tile=(16, 16, 16))
    tiles = inference.tiles(work.grid[0].core)
    voxels, box = work.read(tiles, "test")
    inference(voxels, box, tiles, work.grid[0].core)
    assert len(captured) == len(tiles) > 1
    assert sum(captured) == 1


CORNERS = """
from torch import nn


def make():
    up = nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True)
    return nn.Sequential(nn.MaxPool3d(2), nn.Conv3d(1, 2, 3, padding=1), nn.ReLU(), up, nn.Conv3d(2, 1, 3, padding=1))


class Skip(nn.Module):
    def forward(self, image):
        down = nn.functional.max_pool3d(image, 2)
        return image + nn.functional.interpolate(down, scale_factor=2, mode="trilinear", align_corners=True)
"""


@pytest.fixture
def corners(tmp_path, monkeypatch):
    """Options of a user's network that no shift leaves alone, and the network."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "corners.py").write_text(CORNERS)
    import corners

    torch.manual_seed(1)
    network = corners.make().eval()
    save_file(network.state_dict(), tmp_path / "corners.safetensors")
    yield {"model": "corners:make", "weights": str(tmp_path / "corners.safetensors"), "trust_code": True}, network
    del sys.modules["corners"]


def test_a_network_that_no_halo_makes_exact_is_exact_by_intervals(volume, noise, applied, error, corners):
    options, network = corners
    voxels = noise((22, 34, 90))
    with torch.inference_mode():
        whole = network.double()(torch.from_numpy(voxels).double()[None, None])[0].numpy()
    source = volume(voxels)
    for block in ((16, 16, 32), (16, 32, 48)):
        place, made = applied(source, block=block, pyramid=False, audit=4, **options)
        assert error(made, whole) < 1e-12
        attributes = open_product(place).attributes
        assert attributes["exact"] is True
        assert attributes["stitching"]["mode"] == "exact"
    for asked in ({"stitching": "overlap"}, {"batch": 2}):
        with pytest.raises(ModelError, match=r"Upsample.*no halo makes its tiles equal whole-volume inference"):
            applied(source, pyramid=False, **options, **asked)


def test_a_size_that_the_network_does_not_take_is_said_in_one_line(volume, noise, applied, corners, capfd):
    """A length that pooling rounds down does not meet itself behind it: torch raises there, and logs it too."""
    skipping = {"model": "corners:Skip", "trust_code": True}
    with pytest.raises(ModelError, match=r"and it cannot be run by intervals \(torch.export cannot trace it on \(21, "):
        applied(volume(noise((21, 34, 60))), pyramid=False, **skipping)
    assert "Traceback" not in capfd.readouterr().err
