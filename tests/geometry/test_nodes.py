"""Laws of the tree over a slab."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volpipe.errors import GeometryError
from volpipe.geometry import Node, NodeGrid, SlabFrame

WIDTHS = (1024, 512, 256, 128, 64, 32)


@st.composite
def grids(draw):
    finest = draw(st.integers(0, 2))
    coarsest = finest + draw(st.integers(0, 4))
    extent = (draw(st.integers(1, 150)), draw(st.integers(1, 150)))
    origin = tuple(-draw(st.integers(0, 9)) * 2**coarsest for _ in range(2))
    window = draw(st.sampled_from([4, 5, 8]))
    return NodeGrid(SlabFrame(extent, (1.5, 0.5)), window, coarsest, finest, origin)


depths = st.integers(1, 6)


def covered(grid, nodes):
    """How many of the nodes each voxel of level 0 lies in."""
    count = np.zeros(grid.frame.extent, int)
    for node in nodes:
        (y, x), (y1, x1) = ([n << node.level for n in side] for side in (grid.box(node).start, grid.box(node).stop))
        count[max(y, 0) : max(y1, 0), max(x, 0) : max(x1, 0)] += 1
    return count


@given(grids())
def test_each_voxel_lies_in_exactly_one_node_of_a_level(grid):
    for level in grid.levels:
        assert (covered(grid, grid.at(level)) == 1).all()


@given(grids())
def test_every_node_meets_the_slab(grid):
    assert all(covered(grid, [node]).any() for node in grid)


@given(grids())
def test_children_tile_their_parent(grid):
    for node in grid:
        if node.level > grid.finest:
            np.testing.assert_array_equal(covered(grid, grid.children(node)), covered(grid, [node]))
        assert all(child.parent == node for child in grid.children(node))


@given(grids())
def test_every_node_is_as_many_voxels_at_its_own_level(grid):
    assert {grid.box(node).shape for node in grid} == {(grid.window, grid.window)}


@given(grids())
def test_centres_of_children_lie_a_quarter_of_the_width_off(grid):
    for node in grid:
        for child in grid.children(node):
            off = np.subtract(grid.centre_um(child), grid.centre_um(node))
            np.testing.assert_allclose(np.abs(off), np.divide(grid.width_um(node.level), 4))


@given(grids())
def test_numbers_count_the_nodes_parents_first(grid):
    nodes = list(grid)
    assert [grid.number(node) for node in nodes] == list(range(len(grid)))
    assert [grid[number] for number in range(len(grid))] == nodes
    assert all(grid.number(n.parent) < grid.number(n) for n in nodes if n.level < grid.coarsest)


@given(grids(), depths)
def test_every_node_is_in_exactly_one_batch(grid, depth):
    batches = {root: list(grid.batch(root, depth)) for root in grid.batches(depth)}
    assert Counter(node for nodes in batches.values() for node in nodes) == Counter(grid)
    assert all(grid.batch_of(node, depth) == root for root, nodes in batches.items() for node in nodes)


@given(grids(), depths)
def test_a_batch_comes_after_the_only_one_that_it_needs(grid, depth):
    done = set()
    for root in grid.batches(depth):
        known = set(grid.batch(grid.need_of(root, depth), depth)) if root.level < grid.coarsest else set()
        assert known <= done
        for node in grid.batch(root, depth):
            assert node.level == grid.coarsest or node.parent in known
            known.add(node)
        done |= known


@given(grids(), depths)
def test_batches_have_few_levels(grid, depth):
    for root in grid.batches(depth):
        levels = {node.level for node in grid.batch(root, depth)}
        assert len(levels) <= depth
        assert len(levels) == depth or root.level == grid.coarsest


@pytest.mark.parametrize(("window", "levels"), [(32, [5, 4, 3, 2, 1, 0]), (16, [6, 5, 4, 3, 2, 1])])
def test_a_node_is_read_from_the_level_where_it_is_a_window_wide(window, levels):
    grid = NodeGrid.of_widths(SlabFrame((4096, 4096), (1.0, 1.0)), WIDTHS, window)
    assert list(grid.levels) == levels
    assert [grid.width(level) for level in grid.levels] == list(WIDTHS)
    assert [grid.count(level) for level in grid.levels] == [16 * 4**k for k in range(6)]


def test_places_computed_by_hand():
    grid = NodeGrid(SlabFrame((100, 60), (2.0, 3.0)), 8, 2, origin=(-8, 0))
    node = Node(1, 2, 1)  # 16 voxels of level 0 wide: 24 to 40 by 16 to 32
    assert grid.box(node).start == (12, 8)
    assert grid.centre_um(node) == (2.0 * (32 - 50), 3.0 * (24 - 30))


def test_a_node_outside_has_no_number():
    grid = NodeGrid(SlabFrame((100, 60), (1.0, 1.0)), 8, 2)
    with pytest.raises(GeometryError, match="does not meet"):
        grid.number(Node(0, 0, 8))
    with pytest.raises(IndexError):
        grid[len(grid)]
    with pytest.raises(IndexError):
        grid[-1]


@pytest.mark.parametrize(("widths", "window"), [((), 32), ((1024, 256), 32), ((96, 48), 32), ((32, 16), 32), ((8,), 0)])
def test_widths_that_do_not_halve_to_the_window_are_refused(widths, window):
    with pytest.raises(GeometryError, match="half the one before"):
        NodeGrid.of_widths(SlabFrame((100, 100), (1.0, 1.0)), widths, window)


@pytest.mark.parametrize("broken", [{"window": 0}, {"finest": 3}, {"origin": (8, 0)}, {"origin": (0, -3)}])
def test_what_makes_no_lattice_is_refused(broken):
    with pytest.raises(GeometryError, match="tree"):
        NodeGrid(**{"frame": SlabFrame((100, 100), (1.0, 1.0)), "window": 8, "coarsest": 2} | broken)
