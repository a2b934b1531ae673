"""The self-test of the probe: tiles that read what was found equal the whole, in float64, whatever stands beyond.

whole   [start                 middle                   end]     three tiles, at both faces and in between
beyond  xxxxxxxxxxxxxx[need [block] need]xxxxxxxxxxxxxxxxxxx     other noise, in several lights (light.py)
"""

from __future__ import annotations

from volpipe.geometry import AxisFootprint, floor_to
from volpipe.models import culprit
from volpipe.models.light import BEYOND
from volpipe.models.strip import Strip, Window
from volpipe.models.trial import Refused, Trial

SHORTEST_LINE = 72  # voxels, a multiple of 8 and 9


class OwnWeightsDiffer(Refused):
    """The stand-in passed the self-test, and the network itself did not."""


def self_test(trial: Trial, axis: int, footprint: AxisFootprint) -> None:
    """On the stand-in, then with the network's own weights where they can be afforded.

    Raises:
        Refused: tiles differ from the whole; what was found is not the network's footprint.
    """
    length = tested_length(footprint, trial.base)
    if not tiled_equals_whole(trial.strip(axis), length, footprint):
        who = culprit.of_hidden(trial) or culprit.of_reach(trial, axis, 4 * length)
        raise Refused(f"{differs(footprint)}{who}")
    for light in BEYOND:
        if light is not trial.light and not needs_nothing_else(trial.strip(axis, light=light), length, footprint):
            raise Refused(f"what an output depends on depends on how large the values are: {differs(footprint)}")
    own = trial.network is not trial.own and trial.own_is_affordable(axis, length)
    if own and not tiled_equals_whole(trial.strip(axis, network=trial.own), length, footprint):
        raise OwnWeightsDiffer(f"with its own weights {differs(footprint)}")


def differs(footprint: AxisFootprint) -> str:
    """What is said of tiles that differ."""
    need = f"need {footprint.need_before}, {footprint.need_after} at period {footprint.period}"
    return f"tiles that read {need} do not give the whole (self-test of the probe)"


def tested_length(footprint: AxisFootprint, base: int) -> int:
    """Of the self-test: three tiles with some voxels between, and room for a need larger than what was found."""
    halo = footprint.halo_before + footprint.halo_after
    return footprint.admissible(max(base, SHORTEST_LINE, halo + 8 * footprint.period + footprint.lost_inputs))


def tiled_equals_whole(strip: Strip, length: int, footprint: AxisFootprint) -> bool:
    """True if three tiles (both faces, the middle) are those of the whole, and nothing beyond its need changes one."""
    period, scale, end = footprint.period, footprint.scale, length - footprint.lost_inputs
    middle = footprint.halo_before + 2 * period
    for start, stop in ((0, period), (middle, middle + 2 * period), (floor_to(end, period) - period, end)):
        own, count = (int(start * scale), int(stop * scale)), int((stop - start) * scale)
        read = Window(*footprint.read(*own, length))
        at = own[0], int((start - read.start) * scale)
        if not strip.agree(Window(0, length), read, *at, count):
            return False
    return needs_nothing_else(strip, length, footprint)


def needs_nothing_else(strip: Strip, length: int, footprint: AxisFootprint) -> bool:
    """True if nothing beyond its need changes a block in the middle of an image."""
    start = footprint.halo_before + 2 * footprint.period
    stop = start + 2 * footprint.period
    first, last = start - footprint.need_before, stop + footprint.need_after
    return strip.needs_only(length, first, last, int(start * footprint.scale), 2 * footprint.output_period)
