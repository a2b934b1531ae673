"""Boxes, block grids and footprints, in whole voxels; rigid motions, rasters and layers, in micrometres."""

from volpipe.geometry.box import Box
from volpipe.geometry.footprint import AxisFootprint, Footprint
from volpipe.geometry.grid import Block, BlockGrid, ceil_to, floor_to, lattice_cells
from volpipe.geometry.layers import Layers, Place
from volpipe.geometry.raster import Raster
from volpipe.geometry.transform import Rigid

__all__ = [
    "AxisFootprint",
    "Block",
    "BlockGrid",
    "Box",
    "Footprint",
    "Layers",
    "Place",
    "Raster",
    "Rigid",
    "ceil_to",
    "floor_to",
    "lattice_cells",
]
