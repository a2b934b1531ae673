"""Boxes, block grids and footprints, in voxels; motions, rasters, layers and the tree over a slab, in micrometres."""

from volpipe.geometry.box import Box
from volpipe.geometry.footprint import AxisFootprint, Footprint
from volpipe.geometry.frame import SlabFrame
from volpipe.geometry.grid import Block, BlockGrid, ceil_to, floor_to, lattice_cells
from volpipe.geometry.layers import Layers, Place
from volpipe.geometry.nodes import Node, NodeGrid
from volpipe.geometry.raster import Raster
from volpipe.geometry.transform import Affine, Rigid

__all__ = [
    "Affine",
    "AxisFootprint",
    "Block",
    "BlockGrid",
    "Box",
    "Footprint",
    "Layers",
    "Node",
    "NodeGrid",
    "Place",
    "Raster",
    "Rigid",
    "SlabFrame",
    "ceil_to",
    "floor_to",
    "lattice_cells",
]
