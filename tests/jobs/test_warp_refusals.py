"""What `warp` refuses: options, transforms files and fields that do not fit, each in one line."""

import json
import math

import pytest
from warp_scene import PLENTY, POSES

from volpipe import WarpJob
from volpipe.errors import ConfigError, GeometryError, ProductError, VolumeError
from volpipe.jobs.transforms import load_transforms


def test_a_field_that_folds_is_refused_when_it_is_loaded(tissue, tmp_path):
    import zarr

    path = tissue()
    array = zarr.open_group(str(tmp_path / "bent.field.zarr"))["displacement"]
    array[1, :, 4:] = -5.0
    with pytest.raises(GeometryError, match="folds at y"):
        WarpJob(transforms=path, output=str(tmp_path / "out")).plan(PLENTY)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"bbox": "0:15,0:41,0:60"}, GeometryError, "reaches outside the reconstruction"),
        ({"fill": 256}, ConfigError, "no value of uint8; give a whole number from 0 to 255"),
        ({"fill": 0.5}, ConfigError, "no value of uint8"),
        ({"fill": math.nan}, ConfigError, "no value of uint8"),
        ({"level": 1}, VolumeError, "slab 0: .*--level 1 is not there"),
        ({"order": 2}, ConfigError, "order: must be '0', '1' or '3'"),
        ({"shard": (20, 20, 20), "chunk": 8}, GeometryError, "whole chunks"),
        ({"output": "transforms.json0.ome.zarr/out"}, ProductError, "inside the input"),
        ({"output": "bent.field.zarr"}, ProductError, "inside the input"),
        ({"output": "."}, ProductError, "the input .*transforms.json lies inside it"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_written(tissue, tmp_path, change, error, said):
    path = tissue("uint8")
    before = sorted(tmp_path.rglob("*"))
    options = {"output": "out.ome.zarr"} | change
    with pytest.raises(error, match=said):
        WarpJob(**options | {"transforms": path, "output": str(tmp_path / options["output"])}).plan(PLENTY)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda c: c.update(voxel_size_um=[0.5, 0.2, 0.2]), VolumeError, "slab 0, .*the transforms file says"),
        (lambda c: c["slabs"][2].update(layers=[0, 6]), VolumeError, "slab 2, .*it has 5"),
        (lambda c: c["slabs"][1].update(volume=None), ConfigError, r"slabs\.1: a missing slab .*give its layers"),
        (lambda c: c["slabs"][1].update(layers=[2, 2]), ConfigError, r"slabs\.1: layers \[2, 2\]"),
        (lambda c: c["slabs"][0].update(gap_layers=-1), ConfigError, r"slabs\.0\.gap_layers: .*greater than or equal"),
        (lambda c: c["slabs"][0].update(colour="red"), ConfigError, r"slabs\.0\.colour: no such setting"),
        (
            lambda c: c["slabs"][0]["pose"].update(angle_rad=math.nan),
            ConfigError,
            r"slabs\.0\.pose\.angle_rad: .*finite",
        ),
        (lambda c: c["slabs"][1]["pose"].update(angle_rad=0.3), ConfigError, "slab 1: .*fitted to"),
        (lambda c: c["slabs"][1].update(field="nothing.zarr"), ProductError, "no zarr 3 group"),
        (lambda c: c["slabs"][1].update(volume="nothing.zarr"), VolumeError, "slab 1: .*no such file"),
        (lambda c: c.update(slabs=[]), ConfigError, "slabs: "),
        (lambda c: c.update(version=2), ConfigError, "version: must be 1"),
    ],
)
def test_a_wrong_transforms_file_is_refused_in_one_line(tissue, tmp_path, change, error, said):
    path = tissue("uint8")
    content = json.loads((tmp_path / "transforms.json").read_text())
    change(content)
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(error, match=said) as refusal:
        WarpJob(transforms=path, output=str(tmp_path / "out")).plan(PLENTY)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", [None, "{", "[1, 2]", b"\xff\xfe"])
def test_what_is_no_transforms_file_is_refused(tmp_path, text):
    path = tmp_path / "t.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=r"t\.json: "):
        load_transforms(path)


def test_slabs_of_different_kinds_are_refused(stack, noise, tmp_path):
    for other in (noise((3, 30, 44), "uint16"), noise((2, 3, 30, 44), "uint8")):
        path = stack([(noise((3, 30, 44), "uint8"), {}), (other, {})], name=f"{other.ndim}.json")
        with pytest.raises(VolumeError, match="give slabs that are alike"):
            WarpJob(transforms=path, output=str(tmp_path / "out")).plan(PLENTY)


def test_transforms_go_through_their_file_and_back(tissue, tmp_path):
    loaded = load_transforms(tissue())
    assert [slab.pose.rigid for slab in loaded.slabs] == list(POSES)
    assert loaded.slabs[1].field == str(tmp_path / "bent.field.zarr")
    loaded.store(tmp_path / "again.json")
    assert load_transforms(tmp_path / "again.json") == loaded
