"""`exact`: of every layer only what the tile needs; equals whole-volume inference, for a fraction of the work.

    read    |.....................|      what overlap-and-crop reads
    layers   |...................|       each layer is run on the interval of its output that the next ones need,
               |...............|         and padded where that interval ends at a face of the volume alone
    own            [  own  ]

Law: as that of `overlap`, or of `valid` for networks without padding, which cut the same tiles; how a tile is run is
`volpipe.inference.intervals`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from volpipe.stitching.overlap import Overlap
from volpipe.stitching.valid import Valid


@dataclass(frozen=True, slots=True)
class Exact(Overlap):
    """A `Mode`, of padded networks."""

    name: ClassVar[str] = "exact"
    by_intervals: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class ExactValid(Valid):
    """A `Mode`, of networks without padding; its faces are cropped."""

    name: ClassVar[str] = "exact"
    by_intervals: ClassVar[bool] = True
