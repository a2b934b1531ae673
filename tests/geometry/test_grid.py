"""Laws of block grids and lattices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volpipe.errors import GeometryError
from volpipe.geometry import BlockGrid, Box, ceil_to, floor_to, lattice_cells

small = st.tuples(*[st.integers(1, 14)] * 3)
starts = st.tuples(*[st.integers(0, 9)] * 3)


@st.composite
def regions(draw):
    start, shape = draw(starts), draw(small)
    return Box(start, tuple(a + n for a, n in zip(start, shape, strict=True)))


@given(regions(), small)
@settings(max_examples=60)
def test_every_voxel_is_written_exactly_once(region, block):
    count = np.zeros(region.stop, int)
    for one in BlockGrid(region, block):
        count[one.core.slices] += 1
    assert (count[region.slices] == 1).all()
    assert count.sum() == region.size


@given(regions(), small)
@settings(max_examples=60)
def test_numbers_and_indices_name_the_same_block(region, block):
    grid = BlockGrid(region, block)
    for number, one in enumerate(grid):
        assert one.number == number
        assert grid.block(one.index) == one
        assert grid[number] == one


@given(regions(), small)
@settings(max_examples=60)
def test_cells_cover_the_box_and_stand_on_the_origins_lattice(box, cell):
    cells = list(lattice_cells(box, cell))
    for one in cells:
        assert all(a % c == 0 for a, c in zip(one.start, cell, strict=True))
        assert one.shape == cell
        assert not one.intersect(box).is_empty
    assert sum(one.intersect(box).size for one in cells) == box.size


@given(st.integers(-100, 100), st.integers(1, 20))
def test_rounding_lands_on_multiples(value, multiple):
    assert floor_to(value, multiple) % multiple == ceil_to(value, multiple) % multiple == 0
    assert floor_to(value, multiple) <= value <= ceil_to(value, multiple)
    assert ceil_to(value, multiple) - floor_to(value, multiple) < 2 * multiple


def test_a_grid_of_millions_holds_no_list():
    grid = BlockGrid(Box.from_shape((10**5, 10**5, 10**5)), (256, 256, 256))
    assert len(grid) == 391**3
    assert grid[len(grid) - 1].core.stop == (10**5, 10**5, 10**5)


@pytest.mark.parametrize(
    ("region", "block"), [(Box((0, 0, 0), (0, 4, 4)), (1, 1, 1)), (Box.from_shape((4, 4, 4)), (0, 1, 1))]
)
def test_an_empty_region_or_block_is_refused(region, block):
    with pytest.raises(GeometryError, match="block grid"):
        BlockGrid(region, block)
