"""Every fault put into a product is named; a sound one has none."""

import json

import numpy as np
import pytest
import zarr

from volpipe.errors import ProductError, VolumeError
from volpipe.volume.layout import Layout
from volpipe.volume.product import create_product
from volpipe.volume.validate import describe, validate


@pytest.fixture
def product(tmp_path):
    """A complete product with one coarser level."""
    layout = Layout(
        (20, 33, 40), 1, np.dtype("uint8"), (0.008, 0.004, 0.004), (0.08, 0, 0), "nanometer", (8,) * 3, (16,) * 3
    )
    made = create_product(str(tmp_path / "out.ome.zarr"), layout, {"provenance": {"job": "test"}})
    rng = np.random.default_rng(0)
    made.add_level(1, (1, 2, 2))
    for level in (0, 1):
        for block in made.grid(level):
            made.write(block.core, rng.integers(1, 255, (1, *block.core.shape), dtype=np.uint8), level)
    made.publish([(1, 2, 2)])
    made.update(state="complete")
    return made


def edit(path, change):
    """Change a JSON document on disk."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_a_sound_product_has_no_problems(product):
    seen = []
    assert validate(product.location, deep=True, progress=seen.append) == []
    assert sum(seen) == len(product.grid(0)) + len(product.grid(1))


def datasets(document):
    return document["attributes"]["ome"]["multiscales"][0]["datasets"]


def axes(document):
    return document["attributes"]["ome"]["multiscales"][0]["axes"]


def scale(document, level):
    return datasets(document)[level]["coordinateTransformations"][0]["scale"]


def translation(document, level):
    return datasets(document)[level]["coordinateTransformations"][1]["translation"]


FAULTS = {
    "unit nm": (lambda d: axes(d)[0].update(unit="nm"), "nanometer"),
    "no unit": (lambda d: axes(d)[1].pop("unit"), "axis y has no unit, and others have one"),
    "type": (lambda d: axes(d)[1].update(type="channel"), "needs 'space'"),
    "order of axes": (lambda d: axes(d).reverse(), "must be z, y, x"),
    "scale of zero": (lambda d: scale(d, 0).__setitem__(0, 0), "above 0"),
    "scale of two axes": (lambda d: scale(d, 1).pop(), "needs 3"),
    "no scale": (lambda d: datasets(d)[0].pop("coordinateTransformations"), "needs one scale"),
    "scale that does not fit": (lambda d: scale(d, 1).__setitem__(0, 16), "times finer"),
    "translation that does not fit": (lambda d: translation(d, 1).__setitem__(2, 0), "voxel centres"),
    "missing level": (lambda d: datasets(d)[1].update(path="7"), "listed and missing"),
    "no levels": (lambda d: datasets(d).clear(), "lists no level"),
    "version": (lambda d: d["attributes"]["ome"].update(version="0.4"), "ome.version"),
    "no metadata": (lambda d: d["attributes"].pop("ome"), "has no ome.multiscales"),
    "unfinished": (lambda d: d["attributes"]["volpipe"].update(state="running"), "has not finished"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_the_metadata_is_named(product, tmp_path, fault):
    change, message = FAULTS[fault]
    edit(tmp_path / "out.ome.zarr" / "zarr.json", change)
    assert any(message in problem for problem in validate(product.location))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(dimension_names=["x", "y", "z"]), "dimension names"),
        (lambda d: d.update(data_type="int8"), "dtype"),
    ],
)
def test_each_fault_of_an_array_is_named(product, tmp_path, change, message):
    edit(tmp_path / "out.ome.zarr" / "1" / "zarr.json", change)
    assert any(message in problem for problem in validate(product.location))


@pytest.mark.parametrize("level", [0, 1])
def test_a_damaged_shard_is_found_by_a_deep_look_only(product, tmp_path, level):
    shard = tmp_path / "out.ome.zarr" / str(level) / "c" / "0" / "1" / "0"
    data = bytearray(shard.read_bytes())
    data[50] ^= 0xFF
    shard.write_bytes(data)
    assert validate(product.location) == []
    (problem,) = validate(product.location, deep=True)
    assert f"level {level}: shard (0, 1, 0)" in problem


def test_leftovers_of_killed_writes_are_mentioned(product, tmp_path):
    (tmp_path / "out.ome.zarr" / "0" / "c" / "0.abc.partial").write_bytes(b"half")
    (problem,) = validate(product.location, deep=True)
    assert problem.startswith("1 files *.partial")


def test_what_is_no_group_is_one_line(tmp_path):
    with pytest.raises(ProductError, match="no zarr 3 group"):
        validate(str(tmp_path / "nothing"))
    assert not list(tmp_path.iterdir())


def test_a_product_describes_itself(product):
    found = describe(product.location)
    assert found["shape"] == [20, 33, 40]
    assert found["dtype"] == "uint8"
    assert found["voxel_size_um"] == pytest.approx([0.008, 0.004, 0.004])
    assert found["translation_um"] == pytest.approx([0.08, 0, 0])
    assert (found["chunk"], found["shard"]) == ([8, 8, 8], [16, 16, 16])
    assert found["codecs"] == ["sharding_indexed", "bytes", "zstd"]
    assert [level["shape"] for level in found["levels"]] == [[20, 33, 40], [20, 17, 20]]
    assert found["levels"][1]["voxel_size_um"] == pytest.approx([0.008, 0.008, 0.008])
    assert (found["state"], found["provenance"]) == ("complete", {"job": "test"})
    assert found["bytes"] == 20 * 33 * 40
    assert found["stored"] > 1000
    json.dumps(found)


def test_an_unfinished_product_is_described_as_such(product):
    product.update(state="running")
    found = describe(product.location)
    assert (found["state"], found["shape"]) == ("running", [20, 33, 40])
    json.dumps(found)


def test_other_formats_are_described_too(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "v.tif", np.zeros((3, 9, 8), np.uint16), photometric="minisblack")
    found = describe(str(tmp_path / "v.tif"))
    assert (found["shape"], found["dtype"], found["voxel_size_um"]) == ([3, 9, 8], "uint16", None)
    assert "state" not in found
    with pytest.raises(VolumeError):
        describe(str(tmp_path / "nothing"))


def test_an_array_is_not_said_to_be_damaged(tmp_path):
    zarr.create_array(str(tmp_path / "a.zarr"), data=np.zeros((4, 4, 4), "uint8"))
    with pytest.raises(ProductError, match="is an array, not an OME-Zarr group; volpipe import makes one of it"):
        validate(str(tmp_path / "a.zarr"))
