"""Products: every voxel written is read back, shards have one writer, and standard readers agree."""

import ast
import json
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import yaozarrs
import zarr

import volpipe
from volpipe.errors import GeometryError, ProductError, ReadError, VolumeError, WriteError
from volpipe.geometry import Box
from volpipe.volume import check_apart
from volpipe.volume.layout import Layout
from volpipe.volume.product import COMPLETE, checksum_of, create_product, open_product


def layout_of(shape=(21, 40, 37), channels=1, dtype="uint16", chunk=8, shard=16, **more):
    more = {"voxel_size_um": (0.04, 0.004, 0.004), "unit": "nanometer", **more}
    return Layout(shape, channels, np.dtype(dtype), chunk=(chunk,) * 3, shard=(shard,) * 3, **more)


def voxels_of(layout, seed=0):
    values = np.random.default_rng(seed).integers(0, 200, (layout.channels, *layout.shape))
    return values.astype(layout.dtype)


def fill(product, voxels, level=0):
    return {
        block.core: product.write(block.core, voxels[:, *block.core.slices], level) for block in product.grid(level)
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float32", "uint64", "float64"])
@pytest.mark.parametrize("shape", [(21, 40, 37), (16, 32, 16), (3, 5, 7), (1, 1, 100)])
def test_every_voxel_written_is_read_back(tmp_path, shape, dtype, channels):
    layout = layout_of(shape, channels, dtype)
    product = create_product(str(tmp_path / "out.ome.zarr"), layout, {})
    voxels = voxels_of(layout)
    receipts = fill(product, voxels)
    assert all(product.checksum(box) == crc for box, crc in receipts.items())
    reopened = open_product(str(tmp_path / "out.ome.zarr"))
    assert reopened.layout == layout
    assert np.array_equal(reopened.read(layout.grid.region), voxels)
    assert np.array_equal(reopened.read(Box((0, 0, 0), (1, 1, 5))), voxels[:, :1, :1, :5])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("unit", ["nanometer", "micrometer", None])
def test_products_are_valid_ome_zarr_at_every_stage(tmp_path, channels, unit):
    more = {"unit": unit} if unit else {"voxel_size_um": None, "unit": "micrometer"}
    layout = layout_of(channels=channels, **more)
    path = tmp_path / "out.ome.zarr"
    product = create_product(str(path), layout, {})
    yaozarrs.validate_zarr_store(str(path))
    product.add_level(1, (1, 2, 2))
    yaozarrs.validate_zarr_store(str(path))
    product.publish([(1, 2, 2)])
    yaozarrs.validate_zarr_store(str(path))
    assert open_product(str(path)).layout == layout


def test_metadata_by_hand(tmp_path):
    path = tmp_path / "cells.ome.zarr"
    product = create_product(str(path), layout_of(translation_um=(0.08, 0.4, 0.0)), {"provenance": {"from": "x"}})
    product.add_level(1, (1, 2, 2))
    product.publish([(1, 2, 2)], "mean")
    product.update(state="complete")
    attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    multiscale = attributes["ome"]["multiscales"][0]
    assert attributes["ome"]["version"] == "0.5"
    assert multiscale["name"] == "cells"
    assert multiscale["axes"] == [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    finest, coarser = (dataset["coordinateTransformations"] for dataset in multiscale["datasets"])
    assert finest == [
        {"type": "scale", "scale": [40.0, 4.0, 4.0]},
        {"type": "translation", "translation": [80.0, 400.0, 0.0]},
    ]
    assert coarser == [
        {"type": "scale", "scale": [40.0, 8.0, 8.0]},
        {"type": "translation", "translation": [80.0, 402.0, 2.0]},
    ]
    assert attributes["volpipe"] == {"state": "complete", "provenance": {"from": "x"}}


def test_storage_is_sharded_zstd_with_checksums_and_names(tmp_path):
    create_product(str(tmp_path / "out.zarr"), layout_of(), {})
    array = json.loads((tmp_path / "out.zarr" / "0" / "zarr.json").read_text())
    (sharding,) = array["codecs"]
    assert sharding["name"] == "sharding_indexed"
    assert sharding["configuration"]["chunk_shape"] == [8, 8, 8]
    assert [codec["name"] for codec in sharding["configuration"]["codecs"]] == ["bytes", "zstd"]
    assert sharding["configuration"]["codecs"][1]["configuration"]["checksum"] is True
    assert [codec["name"] for codec in sharding["configuration"]["index_codecs"]] == ["bytes", "crc32c"]
    assert array["dimension_names"] == ["z", "y", "x"]


def test_plain_zarr_finds_every_level_by_its_path(tmp_path):
    path = str(tmp_path / "out.zarr")
    product = create_product(path, layout_of(), {})
    voxels = voxels_of(product.layout)
    fill(product, voxels)
    product.add_level(1, (1, 2, 2))
    coarse = voxels[:, :, ::2, ::2]
    fill(product, coarse, level=1)
    product.publish([(1, 2, 2)])
    group = zarr.open_group(path, mode="r")
    listed = group.attrs["ome"]["multiscales"][0]["datasets"]
    assert np.array_equal(group[listed[0]["path"]][:], voxels[0])
    assert np.array_equal(group[listed[1]["path"]][:], coarse[0])


def test_a_level_is_listed_only_when_it_is_published(tmp_path):
    product = create_product(str(tmp_path / "out.zarr"), layout_of(), {})
    product.add_level(1, (2, 2, 2))
    assert product.levels == 1
    product.publish([(2, 2, 2)])
    product.publish([(2, 2, 2)])
    assert product.levels == 2
    product.add_level(1, (2, 2, 2))  # there and the same: nothing to do
    with pytest.raises(ProductError, match="another level 1"):
        product.add_level(1, (1, 2, 2))
    product.remove_levels()
    assert product.levels == 1
    product.add_level(1, (1, 2, 2))
    assert product.grid(1).region.shape == (21, 20, 19)


def test_a_level_left_by_an_interrupted_run_is_kept_if_it_fits(tmp_path):
    product = create_product(str(tmp_path / "out.zarr"), layout_of(), {})
    product.add_level(1, (2, 2, 2))
    fill(product, np.full((1, *product.grid(1).region.shape), 7, np.uint16), level=1)
    product.add_level(1, (2, 2, 2))
    assert (product.read(product.grid(1).region, 1) == 7).all()
    product.add_level(1, (1, 2, 2))
    assert not product.read(product.grid(1).region, 1).any()


@pytest.mark.parametrize(
    "box",
    [
        Box((0, 0, 0), (8, 16, 16)),  # half a shard
        Box((8, 0, 0), (21, 16, 16)),  # does not start on one
        Box((16, 32, 32), (32, 40, 37)),  # past the end
        Box((0, 0, 0), (0, 16, 16)),  # empty
        Box((0, 0, 0), (16, 16, 15)),
    ],
)
def test_a_box_that_cuts_a_shard_is_refused(tmp_path, box):
    product = create_product(str(tmp_path / "out.zarr"), layout_of(), {})
    with pytest.raises(GeometryError, match="whole shards"):
        product.write(box, np.zeros((1, *box.shape), np.uint16))


def test_a_box_may_be_several_shards_up_to_the_end(tmp_path):
    product = create_product(str(tmp_path / "out.zarr"), layout_of(), {})
    voxels, box = voxels_of(product.layout), Box((0, 16, 16), (21, 40, 37))
    crc = product.write(box, voxels[:, *box.slices])
    assert crc == checksum_of(voxels[:, *box.slices]) == product.checksum(box)


@pytest.mark.parametrize(("channels", "dtype"), [(2, "uint16"), (1, "uint8")])
def test_voxels_of_another_shape_or_dtype_are_refused(tmp_path, channels, dtype):
    product = create_product(str(tmp_path / "out.zarr"), layout_of(), {})
    with pytest.raises(GeometryError, match="give uint16"):
        product.write(Box((0, 0, 0), (16, 16, 16)), np.zeros((channels, 16, 16, 16), dtype))


def test_zeros_are_not_stored_and_negative_zeros_are(tmp_path):
    product = create_product(str(tmp_path / "out.zarr"), layout_of((16, 16, 32), dtype="float32"), {})
    left, right = Box((0, 0, 0), (16, 16, 16)), Box((0, 0, 16), (16, 16, 32))
    product.write(left, np.zeros((1, 16, 16, 16), np.float32))
    crc = product.write(right, np.full((1, 16, 16, 16), -0.0, np.float32))
    stored = sorted(path.name for path in (tmp_path / "out.zarr" / "0" / "c").rglob("*") if path.is_file())
    assert stored == ["1"]
    assert product.checksum(right) == crc


def test_writing_again_replaces_what_was_there(tmp_path):
    product = create_product(str(tmp_path / "out.zarr"), layout_of((16, 16, 16)), {})
    box = product.grid()[0].core
    product.write(box, np.ones((1, 16, 16, 16), np.uint16))
    second = np.zeros((1, 16, 16, 16), np.uint16)
    second[:, :8, :8, :8] = 5
    assert product.write(box, second) == product.checksum(box)


@pytest.mark.parametrize("length", [0, 100, -1])
def test_a_torn_shard_is_an_error_to_read_and_no_obstacle_to_write(tmp_path, length):
    product = create_product(str(tmp_path / "out.zarr"), layout_of((16, 16, 16)), {})
    box, voxels = product.grid()[0].core, voxels_of(product.layout)
    product.write(box, voxels)
    shard = tmp_path / "out.zarr" / "0" / "c" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:length])
    with pytest.raises(ReadError, match="does not decode"):
        product.read(box)
    product.write(box, voxels)
    assert np.array_equal(product.read(box), voxels)


def test_a_flipped_bit_is_seen(tmp_path):
    product = create_product(str(tmp_path / "out.zarr"), layout_of((16, 16, 16)), {})
    box = product.grid()[0].core
    product.write(box, voxels_of(product.layout))
    shard = tmp_path / "out.zarr" / "0" / "c" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[200] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ReadError, match="does not decode"):
        product.read(box)


def test_a_full_disk_is_one_line_and_leaves_the_old_shard(tmp_path, monkeypatch):
    product = create_product(str(tmp_path / "out.zarr"), layout_of((16, 16, 16)), {})
    box, voxels = product.grid()[0].core, voxels_of(product.layout)
    product.write(box, voxels)

    def full(self, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)  # the last step of zarr-python's atomic write
        with pytest.raises(WriteError, match="the disk is full"):
            product.write(box, voxels + 1)
    assert np.array_equal(product.read(box), voxels)
    assert not list((tmp_path / "out.zarr").rglob("*.partial"))


def test_a_write_that_is_killed_leaves_the_old_shard(tmp_path):
    # The process dies after zarr wrote the bytes and before it renames them: the worst moment.
    product = create_product(str(tmp_path / "out.zarr"), layout_of((16, 16, 16)), {})
    box, voxels = product.grid()[0].core, voxels_of(product.layout)
    product.write(box, voxels)
    code = (
        "import os, signal, sys, pathlib\n"
        "from volpipe.volume.product import open_product\n"
        "product = open_product(sys.argv[1])\n"
        "box = product.grid()[0].core\n"
        "voxels = product.read(box) + 1\n"
        "pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "product.write(box, voxels)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, product.location], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list((tmp_path / "out.zarr").rglob("*.partial"))
    assert np.array_equal(product.read(box), voxels)


def test_products_pickle_and_threads_share_them(tmp_path):
    product = create_product(str(tmp_path / "out.zarr"), layout_of(), {})
    copy, voxels = pickle.loads(pickle.dumps(product)), voxels_of(product.layout)
    blocks = list(product.grid())
    threads = [
        threading.Thread(target=lambda b=block: copy.write(b.core, voxels[:, *b.core.slices])) for block in blocks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(product.read(product.grid().region), voxels)


def test_what_exists_is_not_overwritten(tmp_path):
    path = tmp_path / "out.zarr"
    create_product(str(path), layout_of(), {"run": 1})
    with pytest.raises(ProductError, match="exists"):
        create_product(str(path), layout_of(), {})
    product = create_product(str(path), layout_of((8, 8, 8)), {"run": 2}, replace=True)
    assert product.attributes["run"] == 2
    assert open_product(str(path)).layout.shape == (8, 8, 8)


@pytest.mark.parametrize("make", ["file", "folder", "zarr"])
def test_what_volpipe_did_not_make_is_never_removed(tmp_path, make):
    path = tmp_path / "precious"
    if make == "zarr":
        zarr.create_group(str(path))
    elif make == "folder":
        path.mkdir()
        (path / "thesis.tex").write_text("x")
    else:
        path.write_text("x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ProductError, match="did not make"):
        create_product(str(path), layout_of(), {}, replace=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_is_a_place_like_any_other(tmp_path):
    (tmp_path / "out.zarr").mkdir()
    assert create_product(str(tmp_path / "out.zarr"), layout_of(), {}).levels == 1


def test_a_wrong_unit_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(VolumeError, match="nanometer"):
        create_product(str(tmp_path / "out.zarr"), layout_of(unit="nm"), {})
    assert not list(tmp_path.iterdir())


def test_what_is_not_a_product_is_one_line(tmp_path):
    with pytest.raises(ProductError, match="no zarr 3 group"):
        open_product(str(tmp_path / "nothing"))
    zarr.create_group(str(tmp_path / "bare.zarr"))
    with pytest.raises(ProductError, match=r"not an OME-NGFF 0\.5 volume"):
        open_product(str(tmp_path / "bare.zarr"))


@pytest.mark.parametrize(
    ("output", "source"),
    [("a/in.zarr/out", "a/in.zarr"), ("a", "a/in.zarr"), ("a/in.zarr", "a/in.zarr"), ("a/x.h5/o", "a/x.h5:/raw")],
)
def test_an_output_that_touches_the_input_is_refused(tmp_path, output, source):
    with pytest.raises(ProductError, match="inside"):
        check_apart(str(tmp_path / output), str(tmp_path / source))


@pytest.mark.parametrize(
    ("output", "source"), [("a/out.zarr", "a/in.zarr"), ("a/in.zarr2", "a/in.zarr"), ("t/out.zarr", "t/*.tif")]
)
def test_neighbours_do_not_touch(tmp_path, output, source):
    check_apart(str(tmp_path / output), str(tmp_path / source))
    check_apart("s3://bucket/out.zarr", "s3://bucket/in.zarr")


def test_the_word_of_a_finished_product_stands_in_one_place():
    """Who writes it and who asks for it mean the same."""
    package = Path(volpipe.__file__).parent
    homes = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value == COMPLETE
    ]
    assert homes == ["volume/product.py"]
