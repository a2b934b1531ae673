"""Laws that every format obeys: the same voxels, whatever holds them."""

import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from volpipe.errors import ReadError, VolumeError
from volpipe.geometry import Box
from volpipe.volume.source import levels_of, open_source

FORMATS = ["tiff", "tiff-folder", "hdf5", "n5", "precomputed", "zarr2", "zarr3", "ome-zarr-0.4", "ome-zarr-0.5"]
STATE_NO_VOXEL_SIZE = {"tiff-folder", "zarr2", "zarr3"}
WHOLE = Box((0, 0, 0), (37, 45, 53))


@pytest.fixture(scope="module")
def stored(request, write_as, crop, tmp_path_factory):
    """(format name, location) of the crop, written once per format."""
    return request.param, write_as(request.param, crop, tmp_path_factory.mktemp("stored"), (8, 4, 4.5))


every_format = pytest.mark.parametrize("stored", FORMATS, indirect=True)


def random_boxes(count: int, shape: tuple[int, ...] = WHOLE.stop) -> list[Box]:
    rng = np.random.default_rng(1)
    corners = [np.sort(rng.integers(0, np.array(shape) + 1, (2, 3)), axis=0) for _ in range(3 * count)]
    boxes = [Box(tuple(map(int, low)), tuple(map(int, high))) for low, high in corners]
    return [box for box in boxes if not box.is_empty][:count]


@every_format
def test_a_read_is_the_whole_volume_cut_to_the_box(stored, crop):
    source = open_source(stored[1])
    assert (source.shape, source.channels, source.dtype) == (crop.shape, 1, crop.dtype)
    for box in [WHOLE, *random_boxes(20)]:
        block = source.read(box)
        assert block.shape == (1, *box.shape)
        assert block.dtype == crop.dtype
        assert block.flags.c_contiguous
        np.testing.assert_array_equal(block[0], crop[box.slices])


@every_format
def test_a_source_reads_the_same_after_pickling(stored, crop):
    source = open_source(stored[1])
    source.read(WHOLE)
    data = pickle.dumps(source)
    assert len(data) < 2000
    box = Box((3, 4, 5), (21, 32, 43))
    np.testing.assert_array_equal(pickle.loads(data).read(box)[0], crop[box.slices])


@every_format
def test_threads_read_the_same_as_one(stored, crop):
    source, barrier = open_source(stored[1]), threading.Barrier(4)

    def read(box: Box) -> bool:
        return bool((source.read(box)[0] == crop[box.slices]).all())

    def start(box: Box) -> bool:
        barrier.wait()  # all threads open the volume at the same moment
        return read(box)

    boxes = random_boxes(24)
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(start, boxes[:4]))
        assert all(threads.map(read, boxes[4:]))


@every_format
def test_voxel_sizes_are_micrometres_along_z_y_x(stored):
    name, location = stored
    source = open_source(location)
    if name in STATE_NO_VOXEL_SIZE:
        assert source.voxel_size_um is None
    else:
        assert source.voxel_size_um == pytest.approx((0.008, 0.004, 0.0045), rel=1e-12)
    assert source.translation_um == (0, 0, 0)
    assert [level.shape for level in levels_of(location)] == [source.shape]


@every_format
@pytest.mark.parametrize(
    ("box", "message"),
    [
        (Box((0, 0, 0), (38, 1, 1)), "reaches out of the volume"),
        (Box((-1, 0, 0), (1, 1, 1)), "reaches out of the volume"),
        (Box((5, 0, 0), (5, 1, 1)), "holds no voxel"),
        (Box((0, 0), (1, 1)), "holds no voxel"),
    ],
)
def test_a_box_outside_is_refused(stored, box, message):
    with pytest.raises(VolumeError, match=message):
        open_source(stored[1]).read(box)


@every_format
def test_the_identity_is_json_and_stays_while_nothing_changes(stored):
    first, again = open_source(stored[1]).identity(), open_source(stored[1]).identity()
    assert first == again == json.loads(json.dumps(first))
    assert first["location"] == open_source(stored[1]).location
    assert first != open_source(stored[1], time=0, channel=0).identity()


@every_format
def test_a_relative_location_becomes_absolute(stored, monkeypatch):
    _, location = stored
    scheme, _, path = location.rpartition("://")
    folder = Path(path.split(":")[0]).parent
    monkeypatch.chdir(folder)
    relative = (f"{scheme}://" if scheme else "") + path.removeprefix(f"{folder}/")
    assert open_source(relative).location == location


@every_format
def test_reads_after_a_source_was_opened_anew_see_the_new_file(stored, write_as, crop, tmp_path):
    name, _ = stored
    location = write_as(name, crop, tmp_path / "a")
    open_source(location).read(WHOLE)
    (tmp_path / "a").rename(tmp_path / "old")
    assert write_as(name, crop[::-1], tmp_path / "a") == location
    np.testing.assert_array_equal(open_source(location).read(WHOLE)[0], crop[::-1])


@every_format
def test_a_volume_that_vanished_is_not_read_as_fill_value(stored, write_as, crop, tmp_path):
    location = write_as(stored[0], crop, tmp_path / "a")
    source = open_source(location)
    source.read(Box((0, 0, 0), (1, 1, 1)))
    (tmp_path / "a").rename(tmp_path / "elsewhere")
    with pytest.raises(ReadError, match=r"box 1:2,0:9,0:9: the chunk at .* cannot be read"):
        source.read(Box((1, 0, 0), (2, 9, 9)))


def largest_chunk(root: Path) -> Path:
    metadata = {"zarr.json", ".zarray", ".zattrs", ".zgroup", "attributes.json", "info"}
    files = [path for path in root.rglob("*") if path.is_file() and path.name not in metadata]
    return max(files, key=lambda path: (path.stat().st_size, str(path)))


@every_format
def test_a_chunk_cut_short_is_never_read_as_voxels(stored, write_as, crop, tmp_path):
    source = open_source(write_as(stored[0], crop, tmp_path))
    chunk = largest_chunk(tmp_path)
    chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])
    with pytest.raises(ReadError, match=r"the chunk at \d+:\d+,\d+:\d+,\d+:\d+ cannot be read: ."):
        source.read(WHOLE)


@every_format
def test_an_empty_chunk_is_never_read_as_voxels(stored, write_as, crop, tmp_path):
    source = open_source(write_as(stored[0], crop, tmp_path))
    largest_chunk(tmp_path).write_bytes(b"")
    with pytest.raises(ReadError, match="cannot be read"):
        source.read(WHOLE)


@pytest.mark.parametrize("name", ["tiff", "hdf5", "n5", "zarr3"])  # those with a checksum in the stream
def test_a_flipped_byte_is_found_where_the_format_has_checksums(name, write_as, crop, tmp_path):
    source = open_source(write_as(name, crop, tmp_path))
    chunk = largest_chunk(tmp_path)
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 0xFF
    chunk.write_bytes(data)
    with pytest.raises(ReadError, match=r"the chunk at \d+:\d+"):
        source.read(WHOLE)


@pytest.mark.parametrize("name", ["zarr2", "zarr3", "n5", "precomputed", "ome-zarr-0.5"])
def test_a_chunk_that_was_never_written_is_fill_value(name, write_as, crop, tmp_path):
    source = open_source(write_as(name, crop, tmp_path))
    largest_chunk(tmp_path).unlink()
    block = source.read(WHOLE)[0]
    assert set(np.unique(block[block != crop])) == {0}
    assert (block == crop).any()


def test_what_may_heal_stays_the_error_that_it_is(write_as, crop, tmp_path, monkeypatch):
    import errno

    from volpipe.volume.formats import picked

    def busy(array):
        def read(index):
            raise OSError(errno.ESTALE, "stale file handle")

        return read

    source = open_source(write_as("zarr3", crop, tmp_path))
    monkeypatch.setattr(picked, "open_reader", busy)
    with pytest.raises(OSError, match="stale"):
        source.read(WHOLE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d / "absent.zarr", "no such file or folder"),
        (lambda d: d / "absent.tif", "no such TIFF file"),
        (lambda d: d / "*.tif", "no such TIFF file"),
        (lambda d: f"{d}/absent.h5:/raw", "absent.h5: no such file"),
        (lambda d: f"precomputed://{d}/absent", "holds no info file"),
        (lambda d: d, "this folder holds no volume; give OME-Zarr"),
        (lambda d: "", "an empty location"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(make, message, tmp_path):
    with pytest.raises(VolumeError, match=message) as refused:
        open_source(make(tmp_path))
    assert "\n" not in str(refused.value)


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(VolumeError, match=r"not a format that is read; give OME-Zarr"):
        open_source(tmp_path / "notes.txt")


@pytest.mark.parametrize("module", ["h5py", "tensorstore"])
def test_a_missing_library_is_named_with_its_extra(module, write_as, crop, tmp_path, monkeypatch):
    location = write_as({"h5py": "hdf5", "tensorstore": "n5"}[module], crop, tmp_path)
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(VolumeError, match=rf"{module}, which is not installed: pip install 'volpipe\[formats\]'"):
        open_source(location)


@pytest.mark.parametrize("pick", [{"channel": 1}, {"channel": -1}, {"time": 1}, {"level": 1}, {"level": -1}])
@every_format
def test_a_pick_that_is_not_there_is_refused(stored, pick):
    (option,) = pick
    with pytest.raises(VolumeError, match=rf"--{option} {pick[option]} is not there; give 0 to 0"):
        open_source(stored[1], **pick)
