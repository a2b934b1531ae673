"""The walk over the tree with `register_pair` itself, on tissue that is bent: what its errors come to, node by node."""

import numpy as np
from made_tissue import Waves
from scipy import ndimage

from volpipe import register_pair
from volpipe.geometry import NodeGrid, Raster, Rigid, SlabFrame
from volpipe.registration.tree import LevelReader, TreeSearch, register_tree
from volpipe.volume.downsample import downsample

VOXEL_UM = (1.0, 1.25)
WIDTH, LOWER, LAYERS, GAP = 512, 680, 4, 1  # voxels across the slabs
COARSEST = 3
POSE = Rigid(0.2, (20.0, -30.0))  # of the lower slab, upper_from_lower
TISSUE = {"shortest": 4.0, "longest": 400.0, "drift": 0.05}


def belongs(points):
    """Where tissue at these points (..., 2) of the lower slab lies in the upper one: pushed by up to 4 um, smoothly."""
    y, x = np.moveaxis(points, -1, 0)
    bend = np.stack([3 * np.sin(x / 100 + 1), 2 * np.sin(y / 75) + 1.5 * np.cos(x / 125)], axis=-1)
    return POSE(points + bend)


def slabs():
    """(upper, lower), each a pyramid of (z, y, x)."""
    tissue, size = Waves(**TISSUE), (int(1.4 * LOWER),) * 2
    raster = Raster.centred((LOWER, LOWER), VOXEL_UM)
    places = belongs(raster.points(raster.box)) / VOXEL_UM + (size[0] - 1) / 2
    upper = tissue.window(range(LAYERS), (WIDTH, WIDTH), spacing=VOXEL_UM)
    planes = tissue.window(range(LAYERS + GAP, 2 * LAYERS + GAP), size, spacing=VOXEL_UM)
    lower = np.stack([ndimage.map_coordinates(plane, np.moveaxis(places, -1, 0)) for plane in planes])
    return pyramid(upper), pyramid(lower)


def pyramid(layers):
    fine = layers[None].astype(np.float32)
    return LevelReader([downsample(fine, (1, 2**level, 2**level), "mean")[0] for level in range(COARSEST + 1)])


def off(grid, node, motion):
    """How far a motion is from the truth at the tissue that belongs to a node's centre, in voxels of level 0."""
    centre = np.array(grid.centre_um(node))
    return np.hypot(*((centre - belongs(motion.inverse(centre))) / VOXEL_UM))


def test_a_tenth_of_error_at_the_root_stays_a_tenth_of_each_width_and_ends_under_a_voxel():
    frame, below = (SlabFrame((width, width), VOXEL_UM) for width in (WIDTH, LOWER))
    grid = NodeGrid(frame, WIDTH >> COARSEST, COARSEST)
    kick = Rigid(-0.05, tuple(0.1 * WIDTH * np.array((np.sin(1.3), np.cos(1.3)))))
    walk = TreeSearch(grid, below, *slabs(), register_pair, voxel_z_um=4.0, gap_layers=GAP, start=kick @ POSE)
    found = register_tree(walk)
    assert off(grid, grid[0], walk.start) > 0.09 * WIDTH
    children = [node for node in found if node.level < COARSEST]
    errors = [off(grid, node, found[node.parent].transform) / grid.width(node.level) for node in children]
    leaves = [off(grid, node, found[node].transform) for node in grid.at(0)]
    assert (len(errors), len(leaves)) == (4 + 16 + 64, 64)
    assert np.mean(np.array(errors) <= 0.1) >= 0.99
    assert max(leaves) < 1
