"""The footprint of a program: how far its blocks read beyond themselves, wherever in the volume they lie.

    cell      |....[  32  ]......|      every cell of the volume is planned, along one axis after the other;
    cell              |...[  32  ]....| the largest context of all of them holds for each

It belongs to one volume: of a network that no shift leaves alone (`align_corners`) the probe finds none, and no tile of
it can be run by itself; its intervals can.
"""

from __future__ import annotations

from volpipe.geometry import AxisFootprint, Box, Footprint
from volpipe.inference.intervals.program import Program
from volpipe.inference.intervals.rule import CannotCapture

CELL = 32  # voxels: blocks are made of whole chunks of so many, and a cell is planned in half a millisecond


def footprint_of(program: Program) -> Footprint:
    """On the axes of the program; every length is admissible, since it has that of its volume alone.

    Raises:
        CannotCapture: its output has another size than its input.
    """
    size = program.sizes[program.input]
    if program.shape != size:
        raise CannotCapture(f"it makes {program.shape} voxels of {size}, and its footprint is not known")
    return Footprint(tuple(_along(program, axis) for axis in range(len(size))))


def _along(program: Program, axis: int) -> AxisFootprint:
    length = program.shape[axis]
    before = after = 0
    for start in range(0, length, CELL):
        stop = min(start + CELL, length)
        sides = [(start, stop) if a == axis else (0, 1) for a in range(len(program.shape))]
        read = program.plan(Box(*zip(*sides, strict=True))).read
        before, after = max(before, start - read.start[axis]), max(after, read.stop[axis] - stop)
    return AxisFootprint(before, after, CELL, size_class=length % CELL)
