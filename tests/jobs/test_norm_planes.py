"""Statistics of planes, in float64: under `exact` a product is the 2D network on each whole plane, across any axis."""

import copy
import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from volpipe.errors import ConfigError, ProductError
from volpipe.inference.statistics import PlaneSets
from volpipe.jobs.apply import ApplyJob
from volpipe.jobs.audit import AuditJob
from volpipe.jobs.norm_work import NormWork
from volpipe.models import load_model, resolve_model
from volpipe.models.generator import GeneratorArchitecture
from volpipe.models.unet import UNetArchitecture
from volpipe.plan import Budget
from volpipe.runtime import lazy
from volpipe.runtime.run import run
from volpipe.runtime.settings import RunSettings
from volpipe.runtime.worker import do_pickled_batch
from volpipe.volume import open_product
from volpipe.volume.ledger import Ledger

EXACT = 1e-12  # std of the network on whole planes
SHAPE = (5, 17, 22)  # ragged; planes of more than one block across every axis
SERIAL = RunSettings(serial=True, threads=1, memory_per_worker="4GiB")
BUDGET = Budget(4 * 2**30)
UNET = UNetArchitecture(2, levels=2, width=1, norm="instance")
RESNET = GeneratorArchitecture(2, blocks=1, width=1, norm="instance")
PASSES = 6  # of the U-Net, across one axis
ACROSS = {"2d z": [0], "2d y": [1], "2d x": [2], "orthoslice": [0, 1, 2]}
BLOCK = {"block": (16, 16, 16), "pyramid": False, "audit": 2}


def assembled(name):
    assembly, *axis = name.split()
    return {"assembly": assembly} | ({"axis": axis[0]} if axis else {})


@pytest.fixture(scope="module")
def unet(network):
    return network(UNET)


@pytest.fixture
def source(volume, noise):
    return volume(noise(SHAPE))


@pytest.fixture
def made(applied):
    """`made(source, model, norm, assembly, **options) -> (attributes, voxels, location)`."""

    def go(source, model, norm="exact", assembly="2d z", **options):
        place, voxels = applied(source, model, norm=norm, **BLOCK | assembled(assembly) | options)
        return open_product(place).attributes, voxels, place

    return go


@pytest.fixture
def on_planes(whole):
    """`on_planes(model, voxels, assembly)`: the network on whole planes; of an orthoslice the mean of three."""

    def infer(model, voxels, assembly="2d z"):
        return sum(whole(model, voxels, axis) for axis in ACROSS[assembly]) / len(ACROSS[assembly])

    return infer


@pytest.mark.parametrize(
    ("name", "assembly"),
    [("U-Net", "2d z"), ("U-Net", "2d x"), ("U-Net", "orthoslice"), ("ResNet", "2d y"), ("ResNet", "orthoslice")],
)
def test_exact_is_the_network_on_each_whole_plane(made, noise, source, network, on_planes, error, name, assembly):
    model = network(UNET if name == "U-Net" else RESNET)
    attributes, voxels, _ = made(source, model, assembly=assembly)
    assert error(voxels, on_planes(model, noise(SHAPE), assembly)) < EXACT
    assert (attributes["exact"], attributes["exact_reason"]) == (True, "")
    assert attributes["audit"]["boxes"]


@pytest.mark.parametrize("whose", ["each", "volume"])
def test_a_file_that_takes_one_image_at_a_time(made, noise, source, error, tmp_path, whose):
    """Exported with a batch of one."""
    torch.manual_seed(0)
    norm = nn.InstanceNorm2d(2, affine=True)
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1)).eval()
    lengths = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(network, (torch.zeros(1, 1, 12, 16),), dynamic_shapes=(lengths,))
    torch.export.save(program, tmp_path / "one.pt2")
    attributes, voxels, _ = made(source, str(tmp_path / "one.pt2"), norm_planes=whose)
    planes = torch.from_numpy(noise(SHAPE).astype("float64"))[:, None]
    with torch.no_grad():
        if whose == "volume":
            kept = network.double()[0](planes)
            mean, variance = kept.mean((0, 2, 3), keepdim=True), kept.var((0, 2, 3), keepdim=True, correction=0)
            scale = norm.weight.view(1, -1, 1, 1) * (variance + norm.eps).rsqrt()
            expected = network[2:]((kept - mean) * scale + norm.bias.view(1, -1, 1, 1))
        else:
            expected = torch.cat([network.double()(plane[None]) for plane in planes])
    assert error(voxels[0], expected[:, 0].numpy()) < EXACT
    assert attributes["exact"] is (whose == "each")


def test_blocks_and_files_of_planes_change_nothing(made, noise, source, unet, on_planes, error, monkeypatch):
    monkeypatch.setattr("volpipe.inference.statistics.PLANES", 4)
    attributes, voxels, place = made(source, unet, assembly="2d y", block=(16, 6, 16), tile=(8, 3, 8))
    assert error(voxels, on_planes(unet, noise(SHAPE), "2d y")) < EXACT
    assert attributes["exact"] is True
    assert len(list(Path(f"{place}.norm/planes/y/0005").iterdir())) == 5


def test_a_part_of_the_volume_has_the_statistics_of_whole_planes(made, noise, source, unet, on_planes, error):
    """And no other planes are measured. By the other engine."""
    settings = SERIAL.model_copy(update={"engine": "map-overlap"})
    attributes, voxels, place = made(source, unet, bbox="2:4,2:17,0:22", settings=settings)
    assert error(voxels, on_planes(unet, noise(SHAPE))[:, 2:4, 2:17]) < EXACT
    assert attributes["exact"] is True
    assert Path(f"{place}.norm/planes/z/0000/00000002").stat().st_size == 2 * (8 + 16)  # two planes of one channel
    with pytest.raises(ConfigError, match=r"is of planes 2:4 of 5 across z, needed are 0:5 of 5; give that of this"):
        made(source, unet, f"frozen:{place}.norm/norm.json")


@pytest.mark.parametrize("fault", ["of another plane", "one block less"])
def test_wrong_statistics_show(made, noise, source, unet, on_planes, error, monkeypatch, fault):
    """The law was seen to fail."""
    of, blocks = PlaneSets.of, NormWork.blocks
    if fault == "one block less":
        monkeypatch.setattr(NormWork, "blocks", lambda self, item: blocks(self, item % max(1, self.items - 1)))
    else:
        turned = slice(None, None, -1)
        monkeypatch.setattr(PlaneSets, "of", lambda *given: tuple(each.part(turned) for each in of(*given)))
    _, voxels, _ = made(source, unet)
    assert error(voxels, on_planes(unet, noise(SHAPE))) > 1e-3


# ---------------------------------------------------------------------- going on


class Killed(BaseException):
    pass


def test_a_killed_run_goes_on_with_the_pass_that_it_was_in(
    noise, source, unet, on_planes, error, tmp_path, monkeypatch
):
    done, right, state = Counter(), NormWork.__call__, {"killed_at": 15}

    def call(self, item):
        if done.total() == state["killed_at"]:
            state["killed_at"] = None
            raise Killed
        receipt = right(self, item)
        done[len(self.inference.statistics.of(self.axis, range(1))), item] += 1
        return receipt

    monkeypatch.setattr(NormWork, "__call__", call)
    job = ApplyJob(input=source, output=str(tmp_path / "killed"), model=unet, norm="exact", precision="fp64",
                   output_dtype="float64", **BLOCK, **assembled("2d z"))  # fmt: skip
    with pytest.raises(Killed):
        run(job, SERIAL, progress=None)
    run(ApplyJob(**job.model_dump()), SERIAL, progress=None)
    assert set(done.values()) == {1}
    assert {known for known, _ in done} == set(range(PASSES))
    first = done.copy()
    run(ApplyJob(**job.model_dump()), SERIAL, progress=None)
    assert done == first
    product = open_product(job.output)
    assert error(product.read(product.grid().region), on_planes(unet, noise(SHAPE))) < EXACT


# ---------------------------------------------------------------------- given


def test_frozen_is_the_same_product_again_and_stands_alone(made, noise, source, unet, error):
    """As a dask array too."""
    import dask.array as da

    _, expected, place = made(source, unet)
    attributes, voxels, again = made(source, unet, f"frozen:{place}.norm/norm.json")
    np.testing.assert_array_equal(voxels, expected)
    assert attributes["exact"] is True
    assert Path(f"{again}.norm/norm.json").read_text() == Path(f"{place}.norm/norm.json").read_text()
    lazily = lazy.apply(
        da.from_array(noise(SHAPE), chunks=SHAPE), unet, norm=f"frozen:{place}.norm/norm.json", assembly="2d",
        precision="fp64", output_dtype="float64",
    )  # fmt: skip
    assert error(lazily.compute(scheduler="sync")[None], expected) < EXACT
    shutil.rmtree(f"{place}.norm")
    assert run(AuditJob(volume=again), SERIAL, progress=None).result.startswith("equals whole-volume inference; 16")


def test_statistics_of_planes_are_of_their_volume(made, volume, noise, source, unet):
    _, _, place = made(source, unet)
    file = f"frozen:{place}.norm/norm.json"
    attributes, _, _ = made(volume(noise((5, 12, 16), seed=1), name="other.ome.zarr"), unet, file)
    assert "norm frozen: statistics of something else (another shape, volume)" in attributes["exact_reason"]
    thicker = volume(noise((6, 12, 16)), name="thicker.ome.zarr")
    with pytest.raises(ConfigError, match=r"is of planes 0:5 of 5 across z, needed are 0:6 of 6; give that of"):
        made(thicker, unet, file)
    with pytest.raises(ConfigError, match=r"is of other layers \(.* across z, where this network has .* across y"):
        made(source, unet, file, "2d y")


def test_planes_across_three_axes_serve_one(made, source, unet):
    _, expected, _ = made(source, unet, assembly="2d y")
    _, _, place = made(source, unet, assembly="orthoslice")
    attributes, voxels, _ = made(source, unet, f"frozen:{place}.norm/norm.json", "2d y")
    np.testing.assert_array_equal(voxels, expected)
    assert attributes["exact"] is True


@pytest.mark.parametrize("fault", ["missing", "of another run"])
def test_files_that_are_not_what_norm_json_tells_of_are_refused(made, source, unet, fault, tmp_path):
    _, _, place = made(source, unet)
    (file,) = Path(f"{place}.norm/planes/z/0002").iterdir()
    if fault == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(ConfigError, match=r"the files in planes/z/0002 beside it are missing, or hold other numbers"):
        made(source, unet, f"frozen:{place}.norm/norm.json", output=str(tmp_path / "new"))
    assert not list(tmp_path.glob("new*"))


@pytest.mark.parametrize("ledger", [False, True], ids=["", "with a ledger of ours"])
def test_a_restart_onto_what_is_not_ours_is_refused_before_any_pass(source, unet, tmp_path, ledger):
    if ledger:
        Ledger(str(tmp_path / "foreign")).begin({"of": "a product that was here"})
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "mine.txt").write_text("mine")
    job = ApplyJob(input=source, output=str(tmp_path / "foreign"), model=unet, norm="exact", assembly="2d", **BLOCK)
    with pytest.raises(ProductError, match=r"foreign: exists already, and volpipe did not make it; give another place"):
        run(job, SERIAL, restart=True, progress=None)
    assert not (tmp_path / "foreign.norm").exists()
    assert (Ledger(str(tmp_path / "foreign")).key() is not None) is ledger


def test_a_pass_whose_receipts_are_gone_is_made_again(made, source, unet, tmp_path):
    _, expected, place = made(source, unet)
    shutil.rmtree(f"{place}.norm/z/1.ledger")
    shutil.rmtree(place)
    shutil.rmtree(f"{place}.ledger")
    np.testing.assert_array_equal(made(source, unet, output=place)[1], expected)


def test_an_audit_uses_the_statistics_and_sees_others(made, volume, noise, source, unet):
    _, _, place = made(source, unet)
    (part,) = Path(f"{place}.norm/planes/z/0002").iterdir()
    part.rename(part.with_name("gone"))
    with pytest.raises(ConfigError, match=r"planes/z/0002 beside it are missing, .*--norm-file says where"):
        run(AuditJob(volume=place), SERIAL, progress=None)
    _, _, other = made(volume(noise(SHAPE, seed=1), name="other.ome.zarr"), unet)
    with pytest.raises(ProductError, match=r"was made from something else \(settings.norm: "):
        run(AuditJob(volume=place, norm_file=f"{other}.norm/norm.json"), SERIAL, progress=None)


# ---------------------------------------------------------------------- inexact


def by_one_set(model, voxels, axis):
    """The network on all planes across an axis as one batch, whose statistics are those of the batch."""
    net = copy.deepcopy(load_model(resolve_model(model)).network).double()
    for module in net.modules():
        if isinstance(module, nn.InstanceNorm2d):
            module.forward = lambda x, of=module: functional.batch_norm(
                x, None, None, of.weight, of.bias, training=True, momentum=0.0, eps=of.eps
            )
    with torch.inference_mode():
        planes = torch.from_numpy(np.moveaxis(voxels.astype("float64"), axis, 0)[:, None].copy())
        return np.moveaxis(net(planes).numpy(), 0, 1 + axis)


def test_one_set_for_all_planes_is_that_of_the_volume_and_declared(made, volume, noise, unet, error):
    voxels = noise((5, 16, 22))
    source = volume(voxels, name="even.ome.zarr")
    attributes, found, place = made(source, unet, norm_planes="volume", block=(3, 16, 16))
    assert error(found, by_one_set(unet, voxels, 0)) < EXACT
    assert attributes["exact"] is False
    assert (
        attributes["exact_reason"] == "norm planes volume: one set of statistics for all planes, where each has its own"
    )
    assert not Path(f"{place}.norm/planes").exists()
    assert "one set" in run(AuditJob(volume=place), SERIAL, progress=None).result
    file = f"frozen:{place}.norm/norm.json"
    again = made(source, unet, file)
    np.testing.assert_array_equal(again[1], found)
    assert again[0]["exact_reason"] == attributes["exact_reason"]
    made(volume(noise((7, 12, 16)), name="other.ome.zarr"), unet, file)  # of another number of planes
    with pytest.raises(ProductError, match=r"settings.norm: .* -> exact\)"):
        made(source, unet, output=place)


@pytest.mark.parametrize("planes", ["each", "volume"])
def test_pooled_is_near_and_declared(made, noise, source, unet, on_planes, planes):
    expected = on_planes(unet, noise(SHAPE), "2d y")
    attributes, voxels, _ = made(source, unet, "pooled", "2d y", norm_planes=planes)
    assert 1e-6 < float(np.abs(voxels - expected).mean() / expected.std()) < 1
    assert attributes["exact_reason"].startswith("norm pooled: statistics of the volume, of tiles that were normalised")


def test_statistics_that_others_were_written_over_are_found_anew(made, noise, source, unet, on_planes, error, tmp_path):
    """A pass that is done rests on files: those of a layer have one place."""
    for norm in ("exact", "pooled", "exact"):
        _, voxels, _ = made(source, unet, norm, output=str(tmp_path / "out"))
        assert (error(voxels, on_planes(unet, noise(SHAPE))) < EXACT) is (norm == "exact")
        for gone in ("out", "out.ledger"):
            shutil.rmtree(tmp_path / gone)


# ---------------------------------------------------------------------- the plan


def test_the_plan_tells_the_passes_across_each_axis(source, unet, tmp_path):
    def plan(norm, assembly, **options):
        job = ApplyJob(input=source, output=str(tmp_path / "out"), model=unet, norm=norm, **BLOCK,
                       **assembled(assembly), **options)  # fmt: skip
        return job.plan(BUDGET)

    exact, pooled = plan("exact", "orthoslice"), plan("pooled", "2d y", norm_planes="volume")
    assert dict(exact.facts)["norm"].startswith(
        "exact: 18 pass(es) over the volume first (of each plane: 6 across each of z, y, x, none is shared), "
    )
    assert dict(pooled.facts)["norm"].startswith("pooled: 1 pass(es) over the volume first (one set for all planes), ")
    assert exact.first[PASSES].plan(BUDGET).title.endswith("by planes across y: statistics of down.0.first.norm")
    assert exact.price.flops > 1.5 * pooled.price.flops


def test_what_a_task_carries_does_not_grow_with_the_planes(made, volume, noise, unet, tmp_path, monkeypatch):
    """Statistics of planes are read by who needs them: 16 bytes a plane and channel would be 4 KiB here."""
    monkeypatch.chdir(tmp_path)
    weighs = {}
    for planes in (4, 40):
        source = volume(noise((planes, 8, 24)), name=f"{planes}.ome.zarr")
        _, _, place = made(source, unet, output=f"out{planes}", audit=0)
        work = AuditJob(volume=place).plan(BUDGET).works["audit"]
        assert Path(work.apply.inference.statistics.folder).is_absolute()  # workers have folders of their own
        weighs[planes] = len(pickle.dumps(work))
    assert abs(weighs[40] - weighs[4]) < 64
    (outcome,) = do_pickled_batch("audit", pickle.dumps(work), [0])
    assert outcome.value[0]["largest"] < EXACT


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "exact", "assembly": "3d"},
        {"norm": "per-tile", "assembly": "2d"},
        {"norm": "frozen:a", "assembly": "2d"},
    ],
)
def test_whose_statistics_is_asked_of_passes_alone(options):
    with pytest.raises(ConfigError, match="norm_planes: only --norm exact and pooled under 2d and orthoslice find"):
        ApplyJob(input="a", output="b", model="c", norm_planes="volume", **options)
