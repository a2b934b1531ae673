"""How a block is cut into tiles and how their outputs join: one file per mode, numpy only."""

from volpipe.stitching.assembly import Assembly
from volpipe.stitching.encoding import Encoding
from volpipe.stitching.mode import MODES, Mode, Tile, mode_named
from volpipe.stitching.stitch import stitch, window_box

__all__ = ["MODES", "Assembly", "Encoding", "Mode", "Tile", "mode_named", "stitch", "window_box"]
