"""What a score takes for a shift where nothing was moved: its own error, measured inside both slabs and taken off.

    slab   | 1 2 . . 5 6 |              seen of 5, 6 in 1, 2: the tissue's own motion, as this score sees it,
    gap              . .                over as many layers as the gap has
    slab             | 1 2 . . 5 6 |    and of 1, 2 below in 5, 6 above: the same, and what is asked for

Tissue runs at a slant, and details of each size at one of their own: those that outlast a wide gap lean otherwise than
fine ones. So the score itself is asked, with the weights that it has across the gap, and what it says of both slabs is
averaged: halfway between them lies the gap.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from volpipe.geometry import Rigid
from volpipe.registration.comparison import Comparison, SeesInside
from volpipe.registration.search import Prior, landscape, modes
from volpipe.registration.slant import motion_of, rate_of, seen_from

# By how much a peak's log p exceeds that of nothing, at most. Layers of one slab are alike, and their peak is narrower
# than the grid; the mean over what is wider is not drawn to it. (Mean error of shift at 1 lost layer of light-sheet
# tissue, and 2 and 4 of neuropil: 0.0014, 0.0020, 0.0033 with 8, 0.0014, 0.0020, 0.0032 with 12, 0.0013, 0.0023, 0.0032
# with 20; without all this 0.0017, 0.0027, 0.0042; n = 60.)
SUREST = 12.0

STILL = Rigid()


def slant_inside(seen: Comparison, motion: Rigid, near: tuple[float, float], temper: float) -> Rigid:
    """What of a motion that a score saw across a gap is the tissue's own.

    Of slabs that are not as deep as the gap is wide it is what moves over as many layers as they have: continued
    further, its noise grows as well (no gain in three tissues, of slabs of 4 layers at 1 to 8 lost).

    Args:
        seen: what it was seen by; of one that does not see inside nothing is told, and `Rigid()` is returned.
        motion: `upper_from_lower`.
        near: the tolerances of angle and shift; tissue moves by twice them at most.
        temper: by how much less a peak says than its height, at least.
    """
    if not isinstance(seen, SeesInside):
        return STILL
    above, below = seen.inside()
    slants = [rate_of(_motion(above, near, temper), 1)] if above else []
    if below:
        slants.append(seen_from(motion, rate_of(_motion(below, near, temper), 1)))
    return motion_of(np.mean(slants, axis=0), 1) if slants else STILL


def _motion(inside: Comparison, near: tuple[float, float], temper: float) -> Rigid:
    reach = 2 * near[0], 2 * near[1]
    found = landscape(inside, Prior(STILL, reach[0], (reach[1],) * 2), temper)
    wide = replace(found, temper=max(temper, found.peak**2 / SUREST))
    return modes(wide, 1, *reach)[0].motion  # the mean of all
