"""Statistics over the volume, in float64: `exact` is the network on the whole volume, the others say why not."""

import base64
import importlib
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from volpipe.errors import ConfigError, ModelError, ProductError, RunError
from volpipe.inference.intervals import Moments
from volpipe.jobs.apply import ApplyJob
from volpipe.jobs.audit import AuditJob
from volpipe.jobs.norm_pass import NormPass
from volpipe.jobs.norm_work import NormWork
from volpipe.models.generator import GeneratorArchitecture
from volpipe.models.unet import UNetArchitecture
from volpipe.plan import Budget
from volpipe.runtime.run import run
from volpipe.runtime.settings import RunSettings
from volpipe.volume import open_product

EXACT = 1e-12  # std of the whole-volume result
SHAPE = (13, 18, 41)
SERIAL = RunSettings(serial=True, threads=1, memory_per_worker="4GiB")
BUDGET = Budget(4 * 2**30)
NETWORKS = {
    "U-Net L3, instance norm": (UNetArchitecture(3, levels=3, width=2, norm="instance"), 10),
    "U-Net L3, group norm": (UNetArchitecture(3, levels=3, width=2, norm="group"), 10),
    "ResNet-6, instance norm": (GeneratorArchitecture(3, blocks=6, width=1, norm="instance"), 17),
}
SMALL, PASSES = UNetArchitecture(3, levels=2, width=2, norm="instance"), 6
BLOCK = {"block": (16, 16, 16), "pyramid": False}
SQUEEZE_EXCITE = """
import torch
from torch import nn


class Gate(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.pool, self.a, self.b = nn.AdaptiveAvgPool3d(1), nn.Conv3d(channels, 2, 1), nn.Conv3d(2, channels, 1)

    def forward(self, image):
        return image * self.b(self.a(self.pool(image)).relu()).sigmoid()


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.one = nn.Conv3d(1, 4, 3, padding=1), Gate(4)
        self.second, self.two, self.last = nn.Conv3d(4, 4, 3, padding=1), Gate(4), nn.Conv3d(4, 1, 3, padding=1)

    def forward(self, image):
        return self.last(self.two(self.second(self.one(self.first(image)).relu()).relu()))
"""


@pytest.fixture
def source(volume, noise):
    return volume(noise(SHAPE))


@pytest.fixture
def small(network):
    return network(SMALL)


@pytest.fixture
def made(applied):
    """`made(source, model, norm, **options) -> (attributes, voxels, location)`."""

    def go(source, model, norm="exact", **options):
        place, voxels = applied(source, model, norm=norm, **BLOCK | options)
        return open_product(place).attributes, voxels, place

    return go


@pytest.mark.parametrize("name", NETWORKS)
def test_exact_is_the_network_on_the_whole_volume(made, noise, source, network, whole, error, name):
    architecture, passes = NETWORKS[name]
    model = network(architecture)
    attributes, voxels, place = made(source, model)
    assert error(voxels, whole(model, noise(SHAPE))) < EXACT
    assert (attributes["exact"], attributes["exact_reason"]) == (True, "")
    assert attributes["audit"]["boxes"]
    layers = json.loads(Path(f"{place}.norm/norm.json").read_text())["layers"]
    assert len(layers) == passes
    assert {layer["operation"] for layer in layers} == {f"{architecture.norm}_norm"}


@pytest.fixture
def gated(tmp_path, monkeypatch):
    """A user's network, in a module that only `python` in its own folder would find."""
    (tmp_path / "gated.py").write_text(SQUEEZE_EXCITE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    yield importlib.import_module("gated").Gated().eval()
    sys.modules.pop("gated", None)


def factory(network, folder):
    save_file(network.state_dict(), folder / "gated.safetensors")
    return {"model": "gated:Gated", "weights": str(folder / "gated.safetensors"), "trust_code": True}


def exported(network, folder):
    dims = dict.fromkeys((0, 2, 3, 4), torch.export.Dim.AUTO)
    program = torch.export.export(network, (torch.zeros(2, 1, 8, 12, 16),), dynamic_shapes=(dims,))
    torch.export.save(program, folder / "gated.pt2")
    return {"model": str(folder / "gated.pt2")}


@pytest.mark.parametrize("kind", [factory, exported])
def test_a_users_squeeze_excite_network_is_exact(made, noise, source, error, tmp_path, gated, kind):
    """Its footprint is probed with its statistics held; without `--norm` it is refused by the module's name."""
    given = kind(gated, tmp_path)
    with pytest.raises(ModelError, match=r"module one.*give --norm exact"):
        made(source, norm="refuse", **given)
    assert made(source, norm="per-tile", **given)[0]["stitching"]["mode"] == "overlap"  # with the norms apart, its halo
    attributes, voxels, _ = made(source, **given)
    with torch.inference_mode():
        expected = gated.double()(torch.from_numpy(noise(SHAPE).astype("float64"))[None, None])[0].numpy()
    assert error(voxels, expected) < EXACT
    assert attributes["exact"] is True


def test_blocks_and_tiles_change_nothing(made, noise, source, small, whole, error):
    expected = whole(small, noise(SHAPE))
    for options in (  # two workers: tests/jobs/test_law_suite.py
        {"block": (8, 20, 24), "tile": (8, 16, 16)},
        {"block": (48, 48, 48)},
        {"settings": RunSettings(serial=True, threads=1, memory_per_worker="4GiB", engine="map-overlap")},
    ):
        attributes, voxels, _ = made(source, small, **options)
        assert error(voxels, expected) < EXACT
        assert attributes["exact"] is True


def test_a_part_of_the_volume_has_the_statistics_of_all_of_it(made, noise, source, small, whole, error):
    _, voxels, _ = made(source, small, bbox="0:13,2:18,16:41")
    expected = whole(small, noise(SHAPE))
    assert error(voxels, expected[:, :, 2:18, 16:41]) < EXACT


def rows_of(moments):
    return base64.b64encode(moments.as_bytes()).decode()


def test_a_statistic_of_one_block_less_shows(made, noise, source, small, whole, error, monkeypatch):
    """The law was seen to fail: the last block of every pass is not counted."""
    right = NormWork.__call__

    def short(self, item):
        receipt = right(self, item)
        if item < self.items - 1:
            return receipt
        nothing = [{**each, "rows": rows_of(Moments.unit(each["groups"]))} for each in receipt.value["0"]]
        return type(receipt)(receipt.work, item, None, receipt.seconds, value={"0": nothing})

    monkeypatch.setattr(NormWork, "__call__", short)
    _, voxels, _ = made(source, small)
    assert error(voxels, whole(small, noise(SHAPE))) > 1e-3


# ---------------------------------------------------------------------- going on


class Killed(BaseException):
    pass


@pytest.fixture
def counted(monkeypatch):
    """Every item of a pass that was done, by (norms known before, item); `killed_at` raises at the n-th."""
    done, right = Counter(), NormWork.__call__
    state = {"killed_at": None}

    def call(self, item):
        if done.total() == state["killed_at"]:
            state["killed_at"] = None
            raise Killed
        receipt = right(self, item)
        done[len(self.inference.statistics.of(None, range(1))), item] += 1
        return receipt

    monkeypatch.setattr(NormWork, "__call__", call)
    return done, state


@pytest.mark.parametrize("killed_at", [6, 20], ids=["between passes", "in the fourth pass"])
def test_a_killed_run_goes_on_with_the_pass_that_it_was_in(source, small, tmp_path, made, counted, killed_at):
    done, state = counted
    job = ApplyJob(
        input=source, output=str(tmp_path / "killed"), model=small, norm="exact", precision="fp64",
        output_dtype="float64", **BLOCK,
    )  # fmt: skip
    state["killed_at"] = killed_at
    with pytest.raises(Killed):
        run(job, SERIAL, progress=None)
    assert done.total() == killed_at
    run(ApplyJob(**job.model_dump()), SERIAL, progress=None)
    assert set(done.values()) == {1}
    assert {known for known, _ in done} == set(range(PASSES))
    whole = open_product(job.output)
    _, expected, _ = made(source, small)
    np.testing.assert_array_equal(whole.read(whole.grid().region), expected)


def test_the_same_command_again_does_nothing_and_restart_does_all(source, small, made, tmp_path, counted):
    done, _ = counted
    made(source, small, output=str(tmp_path / "out"))
    first = done.copy()
    made(source, small, output=str(tmp_path / "out"))
    assert done == first
    job = ApplyJob(input=source, output=str(tmp_path / "out"), model=small, norm="exact", precision="fp64",
                   output_dtype="float64", **BLOCK)  # fmt: skip
    run(job, SERIAL, restart=True, progress=None)
    assert set(done.values()) == {2}


def test_a_killed_restart_goes_on_with_its_own_passes_and_with_none_of_the_run_that_it_threw_away(
    source, small, made, tmp_path, counted
):
    """What a factory imports may have changed, which no key tells."""
    done, state = counted
    made(source, small, output=str(tmp_path / "out"))
    job = ApplyJob(input=source, output=str(tmp_path / "out"), model=small, norm="exact", precision="fp64",
                   output_dtype="float64", **BLOCK)  # fmt: skip
    state["killed_at"] = done.total() + 8  # in its second pass
    with pytest.raises(Killed):
        run(job, SERIAL, restart=True, progress=None)
    made(source, small, output=str(tmp_path / "out"))
    assert set(done.values()) == {2}


def test_what_cannot_be_gone_on_with_is_refused_before_any_pass(source, small, made, tmp_path):
    made(source, small, "per-tile", output=str(tmp_path / "out"))
    with pytest.raises(ProductError, match=r"out: was begun with something else .* --restart"):
        made(source, small, output=str(tmp_path / "out"))
    assert not (tmp_path / "out.norm").exists()


def test_statistics_without_their_product_are_found_anew_or_written_again(source, small, network, made, tmp_path):
    place = str(tmp_path / "out")
    made(source, small, output=place)
    (tmp_path / "out.norm" / "norm.json").unlink()
    made(source, small, output=place)
    run(AuditJob(volume=place), SERIAL, progress=None)
    (tmp_path / "out.norm" / "norm.json").rename(tmp_path / "moved.json")
    with pytest.raises(ConfigError, match=r"no such file.*was it moved. --norm-file says where it lies now"):
        run(AuditJob(volume=place), SERIAL, progress=None)
    run(AuditJob(volume=place, norm_file=str(tmp_path / "moved.json")), SERIAL, progress=None)
    for gone in ("out", "out.ledger"):
        shutil.rmtree(tmp_path / gone)
    other = network(UNetArchitecture(3, levels=1, width=2, norm="group"))
    assert made(source, other, output=place)[0]["exact"] is True


def test_a_product_never_goes_on_with_other_statistics(source, small, made, tmp_path):
    made(source, small, output=str(tmp_path / "out"))
    with pytest.raises(ProductError, match=r"out: was begun with something else \(settings.norm: .* -> pooled"):
        made(source, small, "pooled", output=str(tmp_path / "out"))
    _, _, other = made(source, small, "pooled")
    with pytest.raises(ProductError, match=r"out: was begun with something else \(settings.norm: "):
        made(source, small, f"frozen:{other}.norm/norm.json", output=str(tmp_path / "out"))


def test_a_pass_is_not_begun_before_those_that_it_rests_on(source, small, tmp_path):
    job = ApplyJob(input=source, output=str(tmp_path / "out"), model=small, norm="exact", **BLOCK)
    second = job.plan(BUDGET).first[1]
    assert isinstance(second, NormPass)
    with pytest.raises(RunError, match="passes before it are not done"):
        run(second, SERIAL, progress=None)


# ---------------------------------------------------------------------- inexact


def test_pooled_is_near_and_declared(made, noise, source, small, whole, counted):
    expected = whole(small, noise(SHAPE))
    attributes, voxels, _ = made(source, small, "pooled")
    _, per_tile, _ = made(source, small, "per-tile", stitching="tile", tile=(16, 16, 16))
    done, _ = counted
    assert {known for known, _ in done} == {0}  # one pass
    errors = [float(np.abs(each - expected).mean() / expected.std()) for each in (voxels, per_tile)]
    assert 1e-6 < errors[0] < errors[1]
    assert attributes["exact"] is False
    assert attributes["exact_reason"].startswith("norm pooled: statistics of the volume, of tiles that were normalised")


def test_frozen_is_the_same_product_again(made, source, small):
    _, expected, place = made(source, small)
    attributes, voxels, again = made(source, small, f"frozen:{place}.norm/norm.json")
    np.testing.assert_array_equal(voxels, expected)
    assert attributes["exact"] is True
    assert Path(f"{again}.norm/norm.json").read_text() == Path(f"{place}.norm/norm.json").read_text()


def test_frozen_of_another_volume_or_precision_is_declared(made, volume, noise, source, small):
    _, _, place = made(source, small)
    file = f"frozen:{place}.norm/norm.json"
    other = volume(noise((16, 16, 40), seed=1), name="other.ome.zarr")
    attributes, _, _ = made(other, small, file)
    assert attributes["exact"] is False
    assert "norm frozen: statistics of something else (another shape, volume)" in attributes["exact_reason"]
    attributes, _, _ = made(source, small, file, precision="fp32", output_dtype="float32")
    assert "(another precision)" in attributes["exact_reason"]
    _, _, pooled = made(source, small, "pooled")
    attributes, _, _ = made(source, small, f"frozen:{pooled}.norm/norm.json")
    assert attributes["exact_reason"].startswith("norm pooled")


def test_frozen_of_another_network_is_refused(made, source, small, network, tmp_path):
    _, _, place = made(source, small)
    file = f"frozen:{place}.norm/norm.json"
    with pytest.raises(ConfigError, match=r"is of other layers \(.*down.0.first.norm.*stem.norm.*; give that of this"):
        made(source, network(GeneratorArchitecture(3, blocks=1, width=1, norm="instance")), file)
    text = Path(f"{place}.norm/norm.json").read_text()
    changed = tmp_path / "changed.json"
    changed.write_text(text.replace(json.loads(text)["weights"], "0" * 64))
    with pytest.raises(ConfigError, match=r"is of other weights \(000000000000, the model has "):
        made(source, small, f"frozen:{changed}")
    for wrong in (tmp_path / "none.json", place):
        with pytest.raises(
            ConfigError, match=r"there is no such file; give the norm.json of another run's OUTPUT.norm"
        ):
            made(source, small, f"frozen:{wrong}")
    changed.write_text("{}")
    with pytest.raises(ConfigError, match="holds no statistics of norms"):
        made(source, small, f"frozen:{changed}")


# ---------------------------------------------------------------------- audit, arrays, precisions


def test_an_audit_uses_the_statistics_and_sees_others(made, source, small, tmp_path):
    _, _, place = made(source, small)
    assert run(AuditJob(volume=place), SERIAL, progress=None).result.startswith("equals whole-volume inference; 16")
    (tmp_path / "moved").mkdir()
    moved = str(Path(source).rename(tmp_path / "moved" / "in.ome.zarr"))
    result = run(AuditJob(volume=place, input=moved), SERIAL, progress=None).result
    assert result.startswith("equals whole-volume inference; 16")
    file = Path(f"{place}.norm/norm.json")
    stored = json.loads(file.read_text())
    stored["layers"][2]["mean"][0] += 0.01
    file.write_text(json.dumps(stored))
    with pytest.raises(ProductError, match=r"was made from something else \(settings.norm: "):
        run(AuditJob(volume=place, input=moved), SERIAL, progress=None)


def test_a_network_without_padding_is_what_it_gives_on_the_volume(made, volume, noise, network, whole, error):
    model = network(UNetArchitecture(3, levels=2, width=2, norm="instance", padding="valid"))
    voxels = noise((22, 26, 50))
    _, found, _ = made(volume(voxels, name="large.ome.zarr"), model)
    assert found.shape == (1, 6, 10, 34)
    assert error(found, whole(model, voxels)) < EXACT


def test_a_dask_array_takes_statistics_but_is_not_passed_over(made, noise, source, small, error):
    import dask.array as da

    from volpipe.runtime import lazy

    array = da.from_array(noise(SHAPE), chunks=(16, 16, 24))
    with pytest.raises(ConfigError, match=r"norm exact: a dask array is not passed over; give frozen:FILE or per-tile"):
        lazy.apply(array, small, norm="exact")
    _, expected, place = made(source, small)
    with pytest.warns(da.PerformanceWarning):
        lazily = lazy.apply(array, small, norm=f"frozen:{place}.norm/norm.json", precision="fp64",
                            output_dtype="float64")  # fmt: skip
    assert error(lazily.compute(scheduler="sync")[None], expected) < EXACT


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_precisions_are_near(made, noise, source, small, whole, error, precision):
    expected = whole(small, noise(SHAPE))
    attributes, voxels, _ = made(source, small, precision=precision, output_dtype="float32")
    assert error(voxels, expected) < {"fp32": 1e-5, "bf16": 0.2}[precision]
    assert attributes["exact"] is True
