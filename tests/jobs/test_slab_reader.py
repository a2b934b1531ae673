"""A slab is read alike at every level, from a pyramid or pooled; canvases know where their slabs' centres lie."""

import tracemalloc
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np
import pytest
import yaml

from volpipe import RegisterJob, RunSettings, run
from volpipe.geometry import Box, Rigid, SlabFrame
from volpipe.jobs.pyramid import PyramidJob
from volpipe.jobs.register_setup import Setup, SlabStack
from volpipe.jobs.slab_reader import SlabReader, _is_halved, stored_levels
from volpipe.volume import open_source
from volpipe.volume.downsample import downsample

SIZE_UM = (0.5, 0.2, 0.25)
SERIAL = RunSettings(serial=True, threads=1, memory_per_worker="4GiB")
SHAPE = (6, 53, 46)


def reader_of(location, first=0, count=6):
    source = open_source(location)
    frame = SlabFrame(source.shape[1:], SIZE_UM[1:])
    return SlabReader(frame, first, count, stored_levels(location, source, 0, None))


@pytest.mark.parametrize("level", [0, 1, 3])
def test_what_is_not_stored_is_the_mean_of_what_is(volume, noise, level):
    voxels = noise(SHAPE)
    reader = reader_of(volume(voxels, voxel_size_um=SIZE_UM), first=1, count=5)
    whole = downsample(voxels[None], (1, 2**level, 2**level), "mean")[0]
    assert reader.frame.shape(level) == whole.shape[1:]
    for box in (Box.from_shape(whole.shape[1:]), Box((1, 2), whole.shape[1:]), Box((2, 0), (5, 3))):
        found = reader.read(level, box, range(2, 4))
        np.testing.assert_allclose(found, whole[3:5, *box.slices], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("width", [45, 46, 48])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_turned_over_it_is_the_mean_of_what_is_turned_over(volume, noise, width, level):
    """At stored levels too: where one hangs over the slab's end, its voxels lie across those of the other way up."""
    voxels = noise((6, 53, width))
    location = volume(voxels, voxel_size_um=SIZE_UM)
    run(PyramidJob(volume=location, factors="1,2,2;1,2,2"), SERIAL, progress=None)
    reader = reader_of(location, first=1, count=3)
    assert len(reader.sources) == 3
    whole = downsample(voxels[None, ::-1, :, ::-1], (1, 2**level, 2**level), "mean")[0]
    found = reader.turned_over.read(level, Box.from_shape(whole.shape[1:]), range(3))
    np.testing.assert_allclose(found, whole[2:5], rtol=1e-5, atol=1e-5)
    again = reader.turned_over.turned_over.read(0, Box.from_shape((53, width)), range(3))
    np.testing.assert_allclose(again, voxels[1:4])


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("level", [0, 2])
def test_reading_takes_no_more_than_it_promises(volume, dtype, level):
    """Also where much is fill: masks and means of what is known are memory too."""
    voxels = np.random.default_rng(0).integers(0, 2, (6, 256, 512)).astype(dtype)
    reader = replace(reader_of(volume(voxels, voxel_size_um=SIZE_UM)), fill=0.0)
    box = Box((0, 0), reader.frame.shape(level))
    reader.read(level, box, range(6))
    tracemalloc.start()
    found = reader.read(level, box, range(6))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.isnan(found).any()
    assert most - found.nbytes < reader.strip_bytes(level, 6) + 2**19  # what opening a store takes


@dataclass(frozen=True)
class Asked:
    """A level of chunks of 16 rows that keeps the rows it was asked for."""

    rows: list = field(default_factory=list)
    shape: tuple = (6, 200, 46)
    chunk: tuple = (6, 16, 16)

    def read(self, box):
        self.rows.append((box.start[1], box.stop[1]))
        return np.zeros((1, *box.shape), np.float32)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_row_of_chunks_is_read_once_and_no_more_than_one_at_once(level):
    asked = Asked()
    reader = SlabReader(SlabFrame((200, 46), SIZE_UM[1:]), 0, 6, ((0, asked),))
    reader.read(level, Box((20 >> level, 0), (100 >> level, 8)), range(2))
    assert asked.rows == [(20, 32), (32, 48), (48, 64), (64, 80), (80, 96), (96, 100)]


@dataclass(frozen=True)
class Untouched:
    """A level that must not be read."""

    shape: tuple = SHAPE
    chunk: tuple = SHAPE


def test_a_stored_level_is_read_in_place_of_the_finer_ones_and_one_that_halves_layers_is_not(volume, noise):
    location = volume(noise(SHAPE), voxel_size_um=SIZE_UM)
    run(PyramidJob(volume=location, factors="1,2,2;2,2,2"), SERIAL, progress=None)
    reader = reader_of(location)
    assert [level for level, _ in reader.sources] == [0, 1]
    coarse = replace(reader, sources=((0, Untouched()), reader.sources[1]))
    stored = open_source(location, level=1)
    voxels = stored.read(Box.from_shape(stored.shape))
    for level in (1, 2):
        box = Box.from_shape(reader.frame.shape(level))
        wanted = downsample(voxels, (1, level, level), "mean")[0]
        np.testing.assert_allclose(coarse.read(level, box, range(6)), wanted, rtol=1e-6, atol=1e-6)


def places(shape):
    """Two layers: how far each voxel lies from the slab's centre in y, and in x."""
    rows, columns = ((np.arange(n) - (n - 1) / 2) * size for n, size in zip(shape, SIZE_UM[1:], strict=True))
    return np.stack(np.meshgrid(rows, columns, indexing="ij")).astype(np.float32)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_canvases_of_slabs_of_any_extent_show_them_where_they_lie(volume, level):
    """The same voxel of two canvases: a motion of nothing between these is one of the slabs' own centres."""
    shapes = [(53, 46), (48, 47), (44, 41)]  # whose last voxels hang over, or not
    readers = tuple(
        reader_of(volume(places(shape), name=f"slab{n}.ome.zarr", voxel_size_um=SIZE_UM), count=2)
        for n, shape in enumerate(shapes)
    )
    canvas = tuple(max(reader.frame.shape(level)[axis] for reader in readers) for axis in (0, 1))
    stack = SlabStack(readers, (2, 2, 2), (0, 0), SIZE_UM, level, canvas)
    seen = [np.moveaxis(stack.read(slab, range(2)), 0, -1) for slab in range(3)]
    middle = (slice(canvas[0] // 2 - 3, canvas[0] // 2 + 2), slice(canvas[1] // 2 - 3, canvas[1] // 2 + 2))
    for upper, lower in ((0, 1), (1, 2), (2, 0)):
        motion = stack.between_slabs(upper, lower, Rigid())
        np.testing.assert_allclose(motion(seen[lower][middle]), seen[upper][middle], atol=1e-5)
    turn = Rigid(0.3, (1.0, -2.0))
    assert stack.between_slabs(1, 1, turn).angle_rad == turn.angle_rad


def test_slabs_are_compared_where_they_are_about_the_window_wide(volume, noise, tmp_path):
    location = volume(noise((3, 200, 150), "uint8"), voxel_size_um=SIZE_UM)
    path = tmp_path / "slabs.yaml"
    path.write_text(yaml.safe_dump({"slabs": [location, location], "gap_layers": 1}))
    for window, canvas in ((256, (200, 150)), (80, (100, 75)), (64, (100, 75)), (20, (25, 19))):
        stack = Setup(RegisterJob(slabs=str(path), output=str(tmp_path / "out"), window=window)).stack
        assert stack.canvas == canvas
        assert stack.radius_um == pytest.approx(np.hypot(200 * 0.2, 150 * 0.25) / np.sqrt(12), rel=0.02)


def test_the_scores_that_may_be_asked_for_are_those_that_are_known():
    from volpipe.registration.scores import SCORES

    assert get_args(RegisterJob.model_fields["score"].annotation) == tuple(SCORES)


@pytest.mark.parametrize(("shape", "taken"), [((6, 27, 23), True), ((6, 26, 23), False), ((3, 27, 23), False)])
def test_a_level_that_lost_its_last_voxels_or_layers_is_not_read(volume, noise, shape, taken):
    registered = open_source(volume(noise(SHAPE), voxel_size_um=SIZE_UM))
    assert _is_halved((0.5, 0.4, 0.5), shape, registered, 1) == taken
