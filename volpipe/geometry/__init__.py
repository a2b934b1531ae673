"""Boxes, block grids and footprints, in whole voxels; rigid motions; frames of slabs and the tree over them."""

from volpipe.geometry.box import Box
from volpipe.geometry.footprint import AxisFootprint, Footprint
from volpipe.geometry.frame import SlabFrame
from volpipe.geometry.grid import Block, BlockGrid, ceil_to, floor_to, lattice_cells
from volpipe.geometry.nodes import Node, NodeGrid
from volpipe.geometry.transform import Rigid

__all__ = [
    "AxisFootprint",
    "Block",
    "BlockGrid",
    "Box",
    "Footprint",
    "Node",
    "NodeGrid",
    "Rigid",
    "SlabFrame",
    "ceil_to",
    "floor_to",
    "lattice_cells",
]
