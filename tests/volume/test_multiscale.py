"""Shapes, factors and metadata of pyramids, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volpipe.errors import ConfigError, GeometryError, VolumeError
from volpipe.geometry import BlockGrid, Box
from volpipe.volume.layout import Extents, Layout, blocks_touched
from volpipe.volume.multiscale import default_factors, document, level_shape, parse_factors, placement, with_levels

CHUNK = (64, 64, 64)


def test_isotropic_volumes_are_halved_until_one_chunk_holds_them():
    assert default_factors((300, 300, 300), (1, 1, 1), CHUNK) == ((2, 2, 2),) * 3  # 150, 75, 38


def test_anisotropic_volumes_keep_z_until_voxels_are_cubes():
    # 40 nm sections of 4 nm pixels: 4 -> 8 -> 16 -> 32, which is nearer to 40 than 64 is.
    assert default_factors((100, 2000, 2000), (0.040, 0.004, 0.004), CHUNK) == ((1, 2, 2),) * 3 + ((2, 2, 2),) * 2


def test_a_ratio_below_the_square_root_of_two_is_isotropic():
    assert default_factors((128, 128, 128), (1.4, 1, 1), CHUNK) == ((2, 2, 2),)
    assert default_factors((128, 128, 128), (1.5, 1, 1), CHUNK) == ((1, 2, 2), (2, 2, 2))


def test_an_axis_of_one_voxel_is_not_halved():
    assert default_factors((1, 128, 128), (1, 1, 1), CHUNK) == ((1, 2, 2),)


def test_a_volume_in_one_chunk_needs_no_level():
    assert default_factors((64, 10, 1), None, CHUNK) == ()


@given(
    st.tuples(*[st.integers(1, 3000)] * 3),
    st.tuples(*[st.floats(0.001, 100)] * 3),
    st.tuples(*[st.integers(1, 128)] * 3),
)
def test_every_level_is_smaller_and_the_last_fits_into_a_chunk(shape, size, chunk):
    for factors in default_factors(shape, size, chunk):
        coarser = level_shape(shape, factors)
        assert coarser != shape
        shape = coarser
    assert all(n <= c for n, c in zip(shape, chunk, strict=True))


def test_factors_are_read_from_text():
    assert parse_factors("1,2,2;2,3,4") == ((1, 2, 2), (2, 3, 4))


@pytest.mark.parametrize("text", ["", "2,2", "1,1,1", "0,2,2", "1,2,2;", "a,b,c", "1.5,2,2"])
def test_other_factors_are_refused(text):
    with pytest.raises(ConfigError, match="z,y,x for each level"):
        parse_factors(text)


def test_scales_and_translations_by_hand():
    ome = with_levels(document("v", 2, "nanometer", (8, 4, 4), (100, 0, 2)), [(1, 2, 2), (2, 4, 2)], "mean")
    datasets = ome["multiscales"][0]["datasets"]
    assert [d["path"] for d in datasets] == ["0", "1", "2"]
    assert placement(datasets[0], 4) == ((1, 8, 4, 4), (0, 100, 0, 2))
    assert placement(datasets[1], 4) == ((1, 8, 8, 8), (0, 100, 2, 4))  # (2 - 1) / 2 * 4 = 2
    assert placement(datasets[2], 4) == ((1, 16, 32, 16), (0, 104, 14, 8))  # 1/2 * 8, 3/2 * 8, 1/2 * 8
    assert ome["multiscales"][0]["type"] == "mean"
    assert with_levels(ome, ())["multiscales"][0]["datasets"] == datasets[:1]


def test_units_go_through_micrometres_without_dust():
    ome = document("v", 1, "nanometer", (0.0081 / 0.001, 0.3 / 0.001, 8), (0, 0, 0))
    assert placement(ome["multiscales"][0]["datasets"][0], 3)[0] == (8.1, 300.0, 8.0)


def test_a_level_of_a_layout_by_hand():
    layout = Layout((5, 9, 100), 1, "uint8", (8, 4, 4), (1, 1, 1), chunk=(4, 4, 4), shard=(8, 8, 16))
    coarser = layout.coarser((1, 2, 4))
    assert coarser.shape == (5, 5, 25)
    assert coarser.voxel_size_um == (8, 8, 16)
    assert coarser.translation_um == (1, 3, 7)
    assert (layout.shard, coarser.shard) == ((8, 8, 16), (8, 8, 16))


def test_chunk_and_shard_are_clipped_to_the_volume():
    extents = Extents((40, 100, 1000), (64, 64, 64), (256, 256, 256))
    assert extents.chunk == (40, 64, 64)
    assert extents.shard == (40, 128, 256)


@pytest.mark.parametrize(
    ("chunk", "shard"), [((64, 64, 64), (100, 256, 256)), ((64, 64, 64), (32, 64, 64)), ((0, 1, 1), (1, 1, 1))]
)
def test_a_shard_is_whole_chunks(chunk, shard):
    with pytest.raises(GeometryError, match="whole chunks"):
        Layout((100, 100, 100), 1, "uint8", (1, 1, 1), chunk=chunk, shard=shard)


@pytest.mark.parametrize("size", [(0, 1, 1), (1, -1, 1), (1, 1, float("nan"))])
def test_a_voxel_size_is_above_zero(size):
    with pytest.raises(VolumeError, match="above 0"):
        Layout((9, 9, 9), 1, "uint8", size)


@given(
    st.tuples(*[st.integers(-5, 5)] * 2),
    st.tuples(*[st.integers(1, 4)] * 2),
    st.tuples(*[st.integers(-8, 20)] * 2),
    st.tuples(*[st.integers(0, 9)] * 2),
)
def test_blocks_touched_are_those_that_share_a_voxel(origin, block, start, extent):
    grid = BlockGrid(Box(origin, tuple(o + 9 for o in origin)), block)
    box = Box(start, tuple(a + e for a, e in zip(start, extent, strict=True)))
    assert blocks_touched(grid, box) == [each for each in grid if not each.core.intersect(box).is_empty]
