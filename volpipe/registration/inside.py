"""What a score sees move inside slabs, where nothing was moved: across a gap it takes that for a shift.

    upper slab  | 1 2 . . 5 6 |          5, 6 seen from 1, 2: the tissue's own motion over as many layers as the gap's,
                  gap . .                                     as this score sees it
    lower slab  | 1 2 . . 5 6 |          5, 6 seen from 1, 2: the same below; the mean of both is taken off

Tissue runs at a slant, and details of each size at one of their own: those that outlast a wide gap lean otherwise than
fine ones. So the score itself is asked, with the weights that it has across the gap. The coarse scale is enough (light-
sheet tissue, 1 lost layer, n = 60: mean error of shift 0.0014 by it, 0.0013 by the fine one, which takes four times as
long; 0.0017 with the slant left in).
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
HIGHEST = 12.0
REACH = 2  # tolerances of a success, by which tissue may move

STILL = Rigid()


def slant_inside(seen: Comparison, motion: Rigid, near: tuple[float, float], temper: float) -> Rigid | None:
    """What of a motion that a score saw across a gap is the tissue's own.

    Args:
        seen: what it was seen by, at any scale.
        motion: `upper_from_lower`.
        near: the tolerances of angle and shift.
        temper: by how much less a peak says than its height, at least.

    Returns:
        None where it is not told: the score does not see inside, or no slab is as deep as the gap is wide.
    """
    if not isinstance(seen, SeesInside):
        return None
    above, below = seen.inside_slabs()
    slants = [] if above is None else [rate_of(_motion(above, near, temper), 1)]  # logarithms, which have a mean
    if below is not None:
        slants.append(seen_from(motion, rate_of(_motion(below, near, temper), 1)))
    return motion_of(np.mean(slants, axis=0), 1) if slants else None


def _motion(inside: Comparison, near: tuple[float, float], temper: float) -> Rigid:
    reach = REACH * near[0], REACH * near[1]
    found = landscape(inside, Prior(STILL, reach[0], (reach[1],) * 2), temper)
    wide = replace(found, temper=max(temper, found.peak**2 / HIGHEST))
    return modes(wide, 1, *reach)[0].motion  # the mean of all
