"""HDF5, N5 and precomputed: which dataset, which axes, which voxel size."""

import json

import h5py
import numpy as np
import pytest
import tensorstore as ts

from volpipe.errors import VolumeError
from volpipe.geometry import Box
from volpipe.volume.source import levels_of, open_source


@pytest.fixture
def h5(tmp_path):
    """Write datasets into a file and return its path."""

    def write(attributes=(), labels="", file_name="a.h5", **datasets):
        with h5py.File(tmp_path / file_name, "w") as file:
            for name, array in datasets.items():
                made = file.create_dataset(name.replace("__", "/"), data=array)
                made.attrs.update(attributes)
                for axis, label in enumerate(labels):
                    made.dims[axis].label = label
        return tmp_path / file_name

    return write


def test_the_only_volume_of_a_file_may_be_left_unnamed(h5, crop):
    path = h5(volumes__raw=crop, table=np.zeros((3, 2)))
    box = Box((1, 2, 3), (30, 40, 50))
    for location in (path, f"{path}:/volumes/raw", f"{path}:volumes/raw"):
        np.testing.assert_array_equal(open_source(location).read(box)[0], crop[box.slices])
    assert open_source(path).chunk == (1, 1, 53)  # stored in one piece


@pytest.mark.parametrize("name", ["", ":/volumes", ":/absent"])
def test_otherwise_the_datasets_are_listed(name, h5, crop):
    path = h5(volumes__raw=crop, volumes__labels=crop)
    with pytest.raises(VolumeError, match=r"a\.h5:/volumes/labels, a\.h5:/volumes/raw"):
        open_source(f"{path}{name}")


def test_a_file_without_a_volume_is_refused(h5):
    with pytest.raises(VolumeError, match="holds 0 datasets with three axes or more"):
        open_source(h5(table=np.zeros((3, 2))))


def test_what_is_no_hdf5_is_refused(tmp_path):
    (tmp_path / "a.h5").write_text("nothing")
    with pytest.raises(VolumeError, match="its metadata cannot be read"):
        open_source(tmp_path / "a.h5")


def test_axes_come_from_labels_or_axistags(h5):
    array = np.random.default_rng(6).integers(0, 255, (4, 5, 6, 2), dtype=np.uint8)
    tags = json.dumps({"axes": [{"key": key} for key in "zyxc"]})
    for path in (h5(labels="zyxc", raw=array), h5({"axistags": tags}, file_name="b.h5", raw=array)):
        source = open_source(path)
        assert (source.axes, source.channels, source.shape) == ("zyxc", 2, (4, 5, 6))
        np.testing.assert_array_equal(source.read(Box((0, 0, 0), (4, 5, 6))), array.transpose(3, 0, 1, 2))
    assert open_source(h5(file_name="c.h5", raw=array)).axes == "czyx"


@pytest.mark.parametrize(
    ("attributes", "voxel_size", "translation"),
    [
        ({"element_size_um": (0.04, 0.004, 0.005)}, (0.04, 0.004, 0.005), (0, 0, 0)),
        ({"resolution": (40, 4, 5), "offset": (400, 40, 50)}, (0.04, 0.004, 0.005), (0.4, 0.04, 0.05)),
        ({}, None, (0, 0, 0)),
    ],
)
def test_hdf5_attributes_state_the_voxel_size(attributes, voxel_size, translation, h5, crop):
    source = open_source(h5(attributes, raw=crop))
    assert source.voxel_size_um == (voxel_size and pytest.approx(voxel_size))
    assert source.translation_um == pytest.approx(translation)


def test_a_voxel_size_of_zero_is_refused(h5, crop):
    with pytest.raises(
        VolumeError, match="voxel size 0 along y; it must be above zero: correct its attribute resolution"
    ):
        open_source(h5({"resolution": (40, 0, 4)}, raw=crop))


def test_a_compression_that_is_not_installed_is_named(crop, tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", data=crop, compression="lzf")
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: False)
    with pytest.raises(VolumeError, match="its compression lzf needs one more package: pip install hdf5plugin"):
        open_source(tmp_path / "a.h5")


@pytest.fixture
def n5(tmp_path):
    """Write one N5 dataset with attributes and return the container."""

    def write(array, path="raw", **attributes):
        folder = tmp_path / "a.n5" / path
        metadata = {"dimensions": array.shape[::-1], "blockSize": [8] * array.ndim, "dataType": array.dtype.name}
        metadata |= {"compression": {"type": "raw"}, **attributes}
        spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{folder}/"}, "metadata": metadata}
        ts.open(spec, create=True).result().write(array.T).result()
        return tmp_path / "a.n5"

    return write


COSEM = {"scale": [8, 4, 5], "translate": [80, 40, 50], "units": ["nm"] * 3, "axes": ["z", "y", "x"]}


@pytest.mark.parametrize(
    ("attributes", "voxel_size", "translation"),
    [
        ({"pixelResolution": {"dimensions": [5, 4, 8], "unit": "nm"}}, (0.008, 0.004, 0.005), (0, 0, 0)),
        ({"resolution": [5, 4, 8], "units": ["nm", "nm", "nm"]}, (0.008, 0.004, 0.005), (0, 0, 0)),
        ({"resolution": [5, 4, 8], "unit": "um", "downsamplingFactors": [2, 2, 1]}, (8, 8, 10), (0, 0, 0)),
        ({"transform": COSEM}, (0.008, 0.004, 0.005), (0.08, 0.04, 0.05)),
        ({"resolution": [5, 4, 8]}, None, (0, 0, 0)),
        ({}, None, (0, 0, 0)),
    ],
)
def test_n5_attributes_state_the_voxel_size(attributes, voxel_size, translation, n5, crop):
    source = open_source(n5(crop, **attributes) / "raw")
    assert source.shape == crop.shape
    assert source.voxel_size_um == (voxel_size and pytest.approx(voxel_size))
    assert source.translation_um == pytest.approx(translation)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"resolution": [5, 0, 8], "unit": "nm"}, "voxel size 0 along y"),
        ({"resolution": [5, 4, 8], "unit": "cubits"}, 'unit "cubits" is not'),
    ],
)
def test_wrong_n5_attributes_are_refused(attributes, message, n5, crop):
    with pytest.raises(VolumeError, match=message):
        open_source(n5(crop, **attributes) / "raw")


def test_an_n5_group_is_its_levels_or_lists_its_datasets(n5, crop):
    n5(crop, "em/s0")
    n5(crop[::2, ::2, ::2], "em/s1", resolution=[4, 4, 8], unit="nm", downsamplingFactors=[2, 2, 2])
    container = n5(crop, "labels/neurons")
    assert [level.shape for level in levels_of(container / "em")] == [(37, 45, 53), (19, 23, 27)]
    coarse = open_source(container / "em", level=1)
    np.testing.assert_array_equal(coarse.read(Box((0, 0, 0), (19, 23, 27)))[0], crop[::2, ::2, ::2])
    with pytest.raises(VolumeError, match="give one of its datasets: em/s0, em/s1, labels/neurons"):
        open_source(container)


def test_an_n5_compression_that_is_not_known_is_refused_at_once(n5, crop):
    path = n5(crop) / "raw" / "attributes.json"
    path.write_text(path.read_text().replace('"raw"', '"lzfoo"'))
    with pytest.raises(VolumeError, match="lzfoo"):
        open_source(path.parent)


def test_an_n5_of_other_dimensions_is_refused(n5):
    with pytest.raises(VolumeError, match=r"has 4 axes; an N5 volume has three \(x, y, z\)"):
        open_source(n5(np.zeros((2, 3, 4, 5), np.uint8)) / "raw")


@pytest.fixture
def precomputed(tmp_path):
    """Write a precomputed volume (c, z, y, x) of two levels with an offset and return its folder."""

    def write(array, encoding="raw", kind="image"):
        for level, step in enumerate((1, 2)):
            data = array[:, :, ::step, ::step].transpose(3, 2, 1, 0)
            spec = {
                "driver": "neuroglancer_precomputed",
                "kvstore": {"driver": "file", "path": f"{tmp_path}/p/"},
                "scale_index": level,
                "multiscale_metadata": {"type": kind, "data_type": array.dtype.name, "num_channels": len(array)},
                "scale_metadata": {
                    "size": data.shape[:3],
                    "resolution": [4 * step, 4 * step, 8],
                    "chunk_size": [16, 16, 16],
                    "encoding": encoding,
                    "voxel_offset": [10, 20, 30],
                },
            }
            if encoding == "compressed_segmentation":
                spec["scale_metadata"]["compressed_segmentation_block_size"] = [8, 8, 8]
            ts.open(spec, create=True).result().write(data).result()
        return tmp_path / "p"

    return write


def test_precomputed_levels_channels_and_offset_are_read(precomputed, crop):
    array = np.stack([crop, crop[::-1]])
    folder = precomputed(array)
    for location in (folder, f"precomputed://{folder}"):
        fine, coarse = levels_of(location)
        assert (fine.shape, coarse.shape) == ((37, 45, 53), (37, 23, 27))
        assert coarse.voxel_size_um == pytest.approx((0.008, 0.008, 0.008))
        source = open_source(location, level=1)
        assert (source.axes, source.channels) == ("xyzc", 2)
        assert source.translation_um == pytest.approx((0.24, 0.16, 0.08))
        box = Box((1, 2, 3), (37, 20, 27))
        np.testing.assert_array_equal(source.read(box), array[:, :, ::2, ::2][:, *box.slices])
        second = open_source(location, channel=1).read(Box((0, 0, 0), (37, 45, 53)))
        np.testing.assert_array_equal(second[0], crop[::-1])


def test_precomputed_labels_are_read(precomputed, crop):
    labels = (crop[None] // 1000).astype(np.uint64)
    folder = precomputed(labels, "compressed_segmentation", "segmentation")
    np.testing.assert_array_equal(open_source(folder).read(Box((0, 0, 0), (37, 45, 53))), labels)


def test_precomputed_meshes_are_refused(tmp_path):
    (tmp_path / "info").write_text('{"@type": "neuroglancer_legacy_mesh"}')
    with pytest.raises(VolumeError, match="give an image or a segmentation"):
        open_source(tmp_path)
