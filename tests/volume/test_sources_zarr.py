"""OME-Zarr and bare zarr: multiscales, picks, transformations, damage."""

import numpy as np
import pytest
import zarr
import zarr.codecs
from numcodecs import Blosc

from volpipe.errors import ReadError, VolumeError
from volpipe.geometry import Box
from volpipe.volume.source import levels_of, open_source

SPACE = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
TIME, CHANNEL = {"name": "t", "type": "time"}, {"name": "c", "type": "channel"}


def scale(*values):
    return {"type": "scale", "scale": list(values)}


def translation(*values):
    return {"type": "translation", "translation": list(values)}


EIGHT_FOUR_FOUR = ((scale(8, 4, 4),),)


def ome_zarr(path, arrays, axes=SPACE, steps=EIGHT_FOUR_FOUR, group_steps=None, version="0.5", **attributes):
    """Write a multiscale: one array and one list of transformations per level."""
    group = zarr.create_group(path, zarr_format=3 if version == "0.5" else 2)
    datasets = []
    for level, (array, own) in enumerate(zip(arrays, steps, strict=True)):
        group.create_array(f"s{level}", data=array)
        datasets.append({"path": f"s{level}", "coordinateTransformations": list(own)})
    multiscale = {"axes": axes, "datasets": datasets}
    if group_steps is not None:
        multiscale["coordinateTransformations"] = list(group_steps)
    listed = {"multiscales": [multiscale]}
    group.attrs.update({**({"ome": listed} if version == "0.5" else listed), **attributes})
    return path


@pytest.fixture(scope="module")
def movie(tmp_path_factory):
    """(location, array): t, c, z, y, x, with two time points and three channels."""
    array = np.random.default_rng(2).integers(0, 255, (2, 3, 9, 8, 7), dtype=np.uint8)
    path = tmp_path_factory.mktemp("movie") / "movie.ome.zarr"
    return ome_zarr(path, [array], [TIME, CHANNEL, *SPACE], [[scale(1, 1, 8, 4, 4)]]), array


@pytest.mark.parametrize("time", [0, 1])
def test_time_and_channel_pick_what_they_name(movie, time):
    path, array = movie
    box = Box((1, 2, 3), (8, 7, 6))
    everything = open_source(path, time=time)
    assert (everything.axes, everything.channels, everything.shape) == ("tczyx", 3, (9, 8, 7))
    np.testing.assert_array_equal(everything.read(box), array[time][:, *box.slices])
    for channel in range(3):
        one = open_source(path, time=time, channel=channel)
        assert one.channels == 1
        np.testing.assert_array_equal(one.read(box)[0], array[time, channel][box.slices])


def test_several_time_points_must_be_picked_from(movie):
    with pytest.raises(VolumeError, match="has 2 time points; pick one with --time"):
        open_source(movie[0])


def test_an_unpicked_channel_is_out_of_range(movie):
    with pytest.raises(VolumeError, match="--channel 3 is not there; give 0 to 2"):
        open_source(movie[0], time=0, channel=3)


@pytest.mark.parametrize("order", ["zyxc", "xyz", "cxzy"])
def test_axes_are_taken_by_name_in_any_order(order, tmp_path):
    array = np.random.default_rng(3).integers(0, 99, (2, 5, 6, 7), dtype=np.uint16)  # c, z, y, x
    has = [axis for axis in "czyx" if axis in order]
    plain = array if "c" in order else array[0]
    stored = plain.transpose([has.index(axis) for axis in order])
    axes = [CHANNEL if axis == "c" else {"name": axis, "type": "space", "unit": "nanometer"} for axis in order]
    sizes = {"z": 8, "y": 5, "x": 4, "c": 1}
    path = ome_zarr(tmp_path / "a.zarr", [stored], axes, [[scale(*(sizes[axis] for axis in order))]])
    source = open_source(path)
    assert (source.axes, source.shape) == (order, (5, 6, 7))
    assert source.voxel_size_um == pytest.approx((0.008, 0.005, 0.004))
    np.testing.assert_array_equal(source.read(Box((0, 1, 2), (5, 5, 6))), plain.reshape(-1, 5, 6, 7)[:, :, 1:5, 2:6])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_transformations_of_dataset_and_group_are_composed(version, tmp_path):
    levels = [np.zeros((8, 8, 8), np.uint8), np.ones((8, 4, 4), np.uint8)]
    steps = [[scale(4, 2, 2)], [scale(4, 4, 4), translation(0, 1, 1)]]
    axes = [{**axis, "unit": "micrometer"} for axis in SPACE]
    group_steps = [scale(2, 3, 3), translation(10, 20, 30)]
    path = ome_zarr(tmp_path / "a.zarr", levels, axes, steps, group_steps, version)
    assert [(info.shape, info.voxel_size_um) for info in levels_of(path)] == [
        ((8, 8, 8), (8, 6, 6)),
        ((8, 4, 4), (8, 12, 12)),
    ]
    coarse = open_source(path, level=1)
    assert coarse.translation_um == (10, 23, 33)
    assert coarse.read(Box((0, 0, 0), (8, 4, 4))).all()
    assert open_source(path).shape == (8, 8, 8)
    assert coarse.identity() != open_source(path).identity()


def test_an_array_named_inside_a_multiscale_has_its_voxel_size(tmp_path):
    levels = [np.zeros((8, 8, 8), np.uint8), np.zeros((8, 4, 4), np.uint8)]
    path = ome_zarr(tmp_path / "a.zarr", levels, steps=[[scale(8, 4, 4)], [scale(8, 8, 8)]])
    source = open_source(path / "s1")
    assert source.voxel_size_um == pytest.approx((0.008, 0.008, 0.008))
    assert source.location == str(path / "s1")


def test_a_group_without_multiscales_lists_its_members(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("raw/em", data=np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(VolumeError, match="is a zarr group without multiscales; give one of its members: raw"):
        open_source(tmp_path / "a.zarr")
    assert open_source(tmp_path / "a.zarr/raw/em").shape == (4, 4, 4)


def test_an_array_missing_from_its_multiscale_is_named(tmp_path):
    path = ome_zarr(tmp_path / "a.zarr", [np.zeros((4, 4, 4), np.uint8)])
    (path / "s0" / "zarr.json").unlink()
    with pytest.raises(VolumeError, match=r"a\.zarr/s0: is named by the multiscales"):
        open_source(path)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(("ndim", "axes"), [(3, "zyx"), (4, "czyx"), (5, "tczyx")])
def test_unnamed_axes_go_by_their_number(zarr_format, ndim, axes, tmp_path):
    zarr.create_array(tmp_path / "a", shape=(1, 2, 3, 4, 5)[5 - ndim :], dtype="u1", zarr_format=zarr_format)
    source = open_source(tmp_path / "a")
    assert (source.axes, source.shape, source.voxel_size_um) == (axes, (3, 4, 5), None)


@pytest.mark.parametrize("ndim", [1, 2, 6])
def test_arrays_of_other_dimensions_are_refused(ndim, tmp_path):
    zarr.create_array(tmp_path / "a", shape=(2,) * ndim, dtype="u1")
    with pytest.raises(VolumeError, match=rf"has {ndim} axes; a volume has three"):
        open_source(tmp_path / "a")


def test_dimension_names_are_believed(tmp_path):
    zarr.create_array(tmp_path / "a", shape=(5, 4, 3, 2), dtype="u1", dimension_names=("x", "y", "z", "c"))
    source = open_source(tmp_path / "a")
    assert (source.axes, source.shape, source.channels) == ("xyzc", (3, 4, 5), 2)


@pytest.mark.parametrize("dtype", ["int64", "complex64", "complex128"])
def test_other_dtypes_are_refused(dtype, tmp_path):
    zarr.create_array(tmp_path / "a", shape=(2, 2, 2), dtype=dtype)
    with pytest.raises(VolumeError, match=f"dtype {dtype} is not read; convert it to uint8, uint16, int16 or float32"):
        open_source(tmp_path / "a")


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "int16", "float32", "uint32", "uint64", "float16", "float64", "int8", ">u2", ">f4"]
)
def test_dtypes_are_kept_in_native_byte_order(dtype, tmp_path):
    array = np.arange(60).reshape(3, 4, 5).astype(dtype)
    zarr.create_array(tmp_path / "a", data=array, zarr_format=2)
    block = open_source(tmp_path / "a").read(Box((0, 1, 2), (3, 4, 5)))
    assert block.dtype == np.dtype(dtype).newbyteorder("=")
    assert block.dtype.isnative
    np.testing.assert_array_equal(block[0], array[:, 1:, 2:])


def with_unit(unit):
    return [{**axis, "unit": unit} for axis in SPACE]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"axes": with_unit("nm")}, 'unit "nm" is not an OME-NGFF unit; write "nanometer"'),
        ({"axes": with_unit("um")}, 'unit "um" is not an OME-NGFF unit; write "micrometer"'),
        ({"axes": with_unit("furlong")}, 'unit "furlong" is not an OME-NGFF unit'),
        ({"steps": [[scale(0, 4, 4)]]}, "voxel size 0 along z; it must be above zero: correct its coordinateTrans"),
        ({"steps": [[scale(8, -4, 4)]]}, "voxel size -4 along y"),
        ({"steps": [[scale(8, 4, "NaN")]]}, "voxel size nan along x"),
        ({"steps": [[scale(8, 4)]]}, "is not a scale or translation of 3 axes"),
        ({"steps": [[{"type": "scale", "path": "s"}]]}, "is not a scale or translation of 3 axes"),
        ({"steps": [[{"type": "affine", "affine": [1, 0, 0]}]]}, "is not a scale or translation of 3 axes"),
        ({"axes": SPACE[:2]}, "do not fit the shape"),
        ({"axes": [TIME, *SPACE[1:]]}, "its axes are 'tyx'; a volume needs z, y and x"),
        ({"axes": [{"name": "depth"}, *SPACE[1:]]}, "its axes are depth, y, x"),
    ],
)
def test_wrong_metadata_is_refused(given, message, tmp_path):
    path = ome_zarr(tmp_path / "a.zarr", [np.zeros((4, 4, 4), np.uint8)], **given)
    with pytest.raises(VolumeError, match=message) as refused:
        open_source(path)
    assert str(path) in str(refused.value)


def test_without_units_no_voxel_size_is_stated(tmp_path):
    axes = [{"name": axis, "type": "space"} for axis in "zyx"]
    assert open_source(ome_zarr(tmp_path / "a.zarr", [np.zeros((4, 4, 4), np.uint8)], axes)).voxel_size_um is None


@pytest.mark.parametrize("inside", ["", "s0"])
def test_an_unfinished_product_is_refused(inside, tmp_path):
    path = ome_zarr(tmp_path / "a.zarr", [np.zeros((4, 4, 4), np.uint8)], volpipe={"state": "running"})
    with pytest.raises(VolumeError, match=r"run the same command again, or .* volpipe apply ... --restart"):
        open_source(path / inside)
    zarr.open_group(path).attrs["volpipe"] = {"state": "complete"}
    assert open_source(path / inside).shape == (4, 4, 4)


def test_broken_metadata_is_refused_in_one_line(tmp_path):
    path = ome_zarr(tmp_path / "a.zarr", [np.zeros((4, 4, 4), np.uint8)])
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_type"')
    with pytest.raises(VolumeError, match="its metadata cannot be read") as refused:
        open_source(path)
    assert "\n" not in str(refused.value)


def test_the_chunk_of_a_sharded_array_is_the_inner_one(tmp_path):
    zarr.create_array(tmp_path / "a", shape=(64, 64, 64), dtype="u1", chunks=(8, 16, 16), shards=(32, 32, 64))
    assert open_source(tmp_path / "a").chunk == (8, 16, 16)


@pytest.mark.parametrize("keep", [0, 5, 100, 400])
def test_half_a_blosc_chunk_is_never_decoded(keep, tmp_path):
    # numcodecs decodes a blosc buffer that was cut short to whatever lies behind it in memory, without an error
    array = np.random.default_rng(0).integers(0, 255, (16, 16, 16), dtype=np.uint8)
    zarr.create_array(tmp_path / "a", data=array, chunks=(8, 8, 8), zarr_format=2, compressors=Blosc())
    chunk = tmp_path / "a" / "1.0.1"
    chunk.write_bytes(chunk.read_bytes()[:keep])
    source = open_source(tmp_path / "a")
    with pytest.raises(ReadError, match=r"the chunk at 8:16,0:8,8:16 cannot be read: 1.0.1 is cut short"):
        source.read(Box((0, 0, 0), (16, 16, 16)))
    np.testing.assert_array_equal(source.read(Box((0, 0, 0), (16, 16, 8)))[0], array[:, :, :8])


def test_an_empty_shard_is_not_fill_value(tmp_path):
    zarr.create_array(tmp_path / "a", data=np.ones((16, 16, 16), np.uint8), chunks=(8, 8, 8), shards=(16, 16, 16))
    (tmp_path / "a" / "c" / "0" / "0" / "0").write_bytes(b"")
    for box in (Box((0, 0, 0), (16, 16, 16)), Box((0, 0, 0), (3, 3, 3))):
        with pytest.raises(ReadError, match="c/0/0/0 is cut short"):
            open_source(tmp_path / "a").read(box)


def test_a_read_opens_only_the_chunks_that_its_box_touches(tmp_path):
    zarr.create_array(tmp_path / "a", data=np.ones((32, 32, 32), np.uint8), chunks=(8, 8, 8))
    for chunk in (tmp_path / "a" / "c").rglob("*"):
        if chunk.is_file() and chunk != tmp_path / "a" / "c" / "1" / "2" / "3":
            chunk.write_bytes(b"not to be read")
    assert open_source(tmp_path / "a").read(Box((8, 16, 24), (16, 24, 32))).all()


def test_a_change_of_the_array_changes_the_identity(tmp_path):
    def identity(voxel):
        return open_source(
            ome_zarr(tmp_path / "a.zarr", [np.zeros((4, 4, 4), "u1")], steps=[[scale(*voxel)]])
        ).identity()

    first = identity((8, 4, 4))
    (tmp_path / "a.zarr").rename(tmp_path / "old")
    second = identity((8, 4, 5))
    assert first["location"] == second["location"]
    assert first["metadata_sha256"] != second["metadata_sha256"]
    assert first["modified"] != second["modified"]


def test_crc_of_a_shard_finds_every_flipped_byte(tmp_path):
    codecs = [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]
    array = np.random.default_rng(0).integers(0, 255, (8, 8, 8), dtype=np.uint8)
    zarr.create_array(tmp_path / "a", data=array, chunks=(4, 4, 4), shards=(8, 8, 8), compressors=codecs)
    shard = tmp_path / "a" / "c" / "0" / "0" / "0"
    good = shard.read_bytes()
    source = open_source(tmp_path / "a")
    for at in range(0, len(good), 37):
        shard.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(ReadError):
            source.read(Box((0, 0, 0), (8, 8, 8)))
