"""How a block is cut into tiles and how their outputs join: one file per mode, numpy only."""

from volpipe.stitching.assembly import Assembly
from volpipe.stitching.encoding import Encoding
from volpipe.stitching.mode import Mode, mode_of
from volpipe.stitching.stitch import read_box, stitch
from volpipe.stitching.tile import Tile, TileNetwork, cropped

__all__ = ["Assembly", "Encoding", "Mode", "Tile", "TileNetwork", "cropped", "mode_of", "read_box", "stitch"]
