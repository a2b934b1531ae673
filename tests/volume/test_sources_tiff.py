"""TIFF: pages by their place in the file, series of files, voxel sizes as microscopes state them."""

import numpy as np
import pytest
import tifffile

from volpipe.errors import ReadError, VolumeError
from volpipe.geometry import Box
from volpipe.volume.formats import tiff_pages
from volpipe.volume.source import levels_of, open_source

WHOLE = Box((0, 0, 0), (37, 45, 53))
CORNER = Box((30, 17, 33), (37, 45, 53))

LAYOUTS = {
    "one piece": {},
    "big-endian": {"byteorder": ">"},
    "big-endian, compressed": {"byteorder": ">", "compression": "zlib"},
    "strips": {"rowsperstrip": 7},
    "compressed strips": {"rowsperstrip": 7, "compression": "zlib"},
    "predicted": {"rowsperstrip": 7, "compression": "zlib", "predictor": 2},
    "tiles": {"tile": (16, 32)},
    "compressed tiles": {"tile": (16, 32), "compression": "zlib"},
    "lzma": {"compression": "lzma"},
    "bigtiff": {"bigtiff": True},
    "no description": {"metadata": None},
    "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_pages_reads_the_same(layout, crop, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", crop, **LAYOUTS[layout])
    source = open_source(tmp_path / "a.tif")
    assert (source.axes, source.shape, source.dtype) == ("zyx", (37, 45, 53), np.uint16)
    assert source.dtype.isnative
    for box in (WHOLE, CORNER, Box((5, 6, 7), (6, 7, 8)), Box((0, 16, 32), (2, 32, 53))):
        np.testing.assert_array_equal(source.read(box)[0], crop[box.slices])


def test_pages_written_one_by_one_read_the_same(crop, tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for plane in crop:
            writer.write(plane, contiguous=False, metadata=None)
    source = open_source(tmp_path / "a.tif")
    np.testing.assert_array_equal(source.read(CORNER)[0], crop[CORNER.slices])


def test_an_uncompressed_page_costs_only_the_rows_of_the_box(crop, tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", crop)
    source, asked = open_source(tmp_path / "a.tif"), []
    read = tiff_pages._bytes
    monkeypatch.setattr(tiff_pages, "_bytes", lambda file, at, count: asked.append(count) or read(file, at, count))
    source.read(Box((3, 10, 0), (7, 15, 2)))
    assert asked == [5 * 53 * 2] * 4
    assert source.chunk == (1, 1, 53)


def test_a_compressed_strip_or_tile_is_decoded_once_and_only_if_touched(crop, tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", crop, tile=(16, 32), compression="zlib")
    source, asked = open_source(tmp_path / "a.tif"), []
    read = tiff_pages._bytes
    monkeypatch.setattr(tiff_pages, "_bytes", lambda file, at, count: asked.append(at) or read(file, at, count))
    source.read(Box((3, 10, 0), (5, 20, 32)))
    assert len(asked) == len(set(asked)) == 2 * 2
    assert source.chunk == (1, 16, 32)


def test_time_and_channels_of_an_ome_tiff_are_picked(tmp_path):
    array = np.random.default_rng(4).integers(0, 255, (2, 4, 3, 8, 9), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.ome.tif", array, metadata={"axes": "TZCYX"})
    source = open_source(tmp_path / "a.ome.tif", time=1)
    assert (source.axes, source.channels, source.shape) == ("tzcyx", 3, (4, 8, 9))
    box = Box((1, 2, 3), (4, 8, 9))
    np.testing.assert_array_equal(source.read(box), array[1, 1:, :, 2:, 3:].transpose(1, 0, 2, 3))
    one = open_source(tmp_path / "a.ome.tif", time=1, channel=2)
    np.testing.assert_array_equal(one.read(box)[0], array[1, 1:, 2, 2:, 3:])


def test_samples_are_channels(tmp_path):
    array = np.random.default_rng(5).integers(0, 255, (4, 8, 9, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb")
    source = open_source(tmp_path / "a.tif")
    assert (source.axes, source.channels, source.shape) == ("zyxc", 3, (4, 8, 9))
    np.testing.assert_array_equal(source.read(Box((1, 2, 3), (4, 8, 9)))[2], array[1:, 2:, 3:, 2])
    green = open_source(tmp_path / "a.tif", channel=1)
    np.testing.assert_array_equal(green.read(Box((0, 0, 0), (4, 8, 9)))[0], array[..., 1])


@pytest.mark.parametrize(("unit", "factor"), [("nm", 1e-3), ("µm", 1), ("um", 1), ("mm", 1e3), (None, 1)])
def test_ome_tiff_states_its_voxel_size(unit, factor, crop, tmp_path):
    sizes = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", (8, 4, 5), strict=True)}
    units = {f"PhysicalSize{axis}Unit": unit for axis in "ZYX"} if unit else {}
    tifffile.imwrite(tmp_path / "a.ome.tif", crop, metadata={"axes": "ZYX", **sizes, **units})
    assert open_source(tmp_path / "a.ome.tif").voxel_size_um == pytest.approx((8 * factor, 4 * factor, 5 * factor))


@pytest.mark.parametrize(("unit", "factor"), [("nm", 1e-3), ("um", 1), ("micron", 1), ("\\u00B5m", 1)])
def test_imagej_states_its_voxel_size(unit, factor, crop, tmp_path):
    metadata = {"axes": "ZYX", "spacing": 8, "unit": unit}
    tifffile.imwrite(tmp_path / "a.tif", crop, imagej=True, resolution=(1 / 5, 1 / 4), metadata=metadata)
    source = open_source(tmp_path / "a.tif")
    assert source.voxel_size_um == pytest.approx((8 * factor, 4 * factor, 5 * factor), rel=1e-6)


@pytest.mark.parametrize("given", [{"spacing": 8}, {"unit": "um"}, {"spacing": 8, "unit": "pixel"}])
def test_half_a_voxel_size_is_none(given, crop, tmp_path):
    options = {"imagej": True, "resolution": (0.2, 0.25), "metadata": {"axes": "ZYX", **given}}
    tifffile.imwrite(tmp_path / "a.tif", crop, **options)
    assert open_source(tmp_path / "a.tif").voxel_size_um is None
    tifffile.imwrite(tmp_path / "b.tif", crop, resolution=(300, 300), resolutionunit="INCH")
    assert open_source(tmp_path / "b.tif").voxel_size_um is None


def test_a_voxel_size_of_zero_is_refused(crop, tmp_path):
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        crop,
        metadata={"axes": "ZYX", "PhysicalSizeZ": 0, "PhysicalSizeY": 4, "PhysicalSizeX": 4},
    )
    with pytest.raises(VolumeError, match="voxel size 0 along z"):
        open_source(tmp_path / "a.ome.tif")


def test_levels_of_a_pyramid_are_read(crop, tmp_path):
    sizes = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", (8, 4, 4), strict=True)}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        writer.write(crop, subifds=1, metadata={"axes": "ZYX", **sizes})
        writer.write(np.ascontiguousarray(crop[:, :44:2, :52:2]), subfiletype=1)
    fine, coarse = levels_of(tmp_path / "a.ome.tif")
    assert (fine.shape, coarse.shape) == ((37, 45, 53), (37, 22, 26))
    assert coarse.voxel_size_um == pytest.approx((8, 4 * 45 / 22, 4 * 53 / 26))
    source = open_source(tmp_path / "a.ome.tif", level=1)
    np.testing.assert_array_equal(source.read(Box((1, 2, 3), (9, 22, 26)))[0], crop[1:9, 4:44:2, 6:52:2])


def pages(folder, planes, name="p{}.tif", **options):
    folder.mkdir()
    for number, plane in enumerate(planes):
        tifffile.imwrite(folder / name.format(number), plane, **options)
    return folder


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def test_files_stand_in_natural_order(options, crop, tmp_path):
    folder = pages(tmp_path / "p", crop, **options)
    for location in (folder, f"{folder}/*.tif", f"{tmp_path}/*/p*.tif"):
        np.testing.assert_array_equal(open_source(location).read(CORNER)[0], crop[CORNER.slices])
    some = open_source(f"{folder}/p1?.tif")  # 10 to 19
    np.testing.assert_array_equal(some.read(Box((0, 0, 0), (10, 45, 53)))[0], crop[10:20])


@pytest.mark.parametrize("other", [np.zeros((45, 54), np.uint16), np.zeros((45, 53), np.uint8)])
def test_files_that_differ_are_refused(other, crop, tmp_path):
    folder = pages(tmp_path / "p", crop)
    tifffile.imwrite(folder / "p17.tif", other)
    with pytest.raises(VolumeError, match=r"p17.tif: is 45x5\d uint\d+, but p0.tif is 45x53 uint16"):
        open_source(folder)


def test_a_stack_in_a_folder_of_pages_is_refused(crop, tmp_path):
    folder = pages(tmp_path / "p", crop)
    tifffile.imwrite(folder / "p37.tif", crop[:2])
    with pytest.raises(VolumeError, match=r"p37.tif: holds 2 pages; in a folder or glob each file is one page"):
        open_source(folder)


def test_a_file_that_came_after_the_start_does_not_shift_the_others(crop, tmp_path):
    folder = pages(tmp_path / "p", crop)
    source = open_source(folder)
    tifffile.imwrite(folder / "p00.tif", crop[0])
    with pytest.raises(ReadError, match="its files are not those that were there when the run began"):
        source.read(WHOLE)


def test_a_file_that_vanished_is_named(crop, tmp_path):
    folder = pages(tmp_path / "p", crop)
    source = open_source(folder)
    source.read(Box((0, 0, 0), (1, 1, 1)))
    (folder / "p20.tif").unlink()
    with pytest.raises(ReadError, match=r"the chunk at 20:21,0:1,0:53 cannot be read: .*p20.tif"):
        source.read(WHOLE)


def test_an_identity_covers_every_file(crop, tmp_path):
    folder = pages(tmp_path / "p", crop)
    before = open_source(folder).identity()
    tifffile.imwrite(folder / "p20.tif", crop[0])
    assert open_source(folder).identity() != before


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((8, 9), {}, "its axes are YX; a volume needs Z, Y and X"),
        ((2, 3, 8, 9), {"photometric": "minisblack"}, "its axes are QQYX"),
        ((5, 8, 9), {"imagej": True, "metadata": {"axes": "TYX"}}, "its axes are TYX"),
        ((4, 3, 8, 9), {"photometric": "rgb", "planarconfig": "separate"}, "save it with one y, x plane a page"),
    ],
)
def test_what_is_no_volume_is_refused(shape, options, message, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(shape, np.uint8), **options)
    with pytest.raises(VolumeError, match=message):
        open_source(tmp_path / "a.tif")


def test_a_compression_that_needs_another_package_is_named(crop, tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", crop, compression="zlib")
    monkeypatch.setattr(tiff_pages.tifffile.TIFF, "DECOMPRESSORS", {})
    with pytest.raises(
        VolumeError, match="its compression ADOBE_DEFLATE needs one more package: pip install imagecodecs"
    ):
        open_source(tmp_path / "a.tif")


def test_other_content_is_refused(tmp_path):
    (tmp_path / "a.tif").write_text("this is no TIFF file")
    with pytest.raises(VolumeError, match="its metadata cannot be read"):
        open_source(tmp_path / "a.tif")


def test_a_file_cut_between_rows_is_not_stretched_over_the_missing_ones(crop, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", crop)
    source = open_source(tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    kept = 256 + 36 * 45 * 53 * 2 + 6 * 53 * 2  # six rows of the last plane
    assert data[256:kept] == crop.tobytes()[: kept - 256]
    (tmp_path / "a.tif").write_bytes(data[:kept])
    with pytest.raises(
        ReadError, match=r"the chunk at 36:37,6:7,0:53 cannot be read: .*a.tif: ends \d+ bytes too early"
    ):
        source.read(Box((36, 5, 0), (37, 9, 53)))


def test_a_tile_that_was_never_written_is_not_read_as_voxels(tmp_path):
    tiles = iter([np.ones((16, 16), np.uint8).tobytes(), b""] * 4)
    tifffile.imwrite(
        tmp_path / "a.tif", tiles, shape=(4, 16, 32), dtype=np.uint8, tile=(16, 16), photometric="minisblack"
    )
    source = open_source(tmp_path / "a.tif")
    assert source.read(Box((0, 0, 0), (4, 16, 16))).all()
    with pytest.raises(ReadError, match="tile 1 holds no bytes"):
        source.read(Box((0, 0, 0), (4, 16, 32)))
