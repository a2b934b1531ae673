"""Boxes, block grids and footprints: arithmetic on whole voxels, no arrays."""

from volpipe.geometry.box import Box
from volpipe.geometry.footprint import AxisFootprint, Footprint
from volpipe.geometry.grid import Block, BlockGrid, ceil_to, floor_to, lattice_cells

__all__ = ["AxisFootprint", "Block", "BlockGrid", "Box", "Footprint", "ceil_to", "floor_to", "lattice_cells"]
