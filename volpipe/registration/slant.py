r"""Tissue that runs at a slant seems to move with depth: how fast, and what of it a pair of slabs takes for a shift.

    slab    | \  \ |        layers of one slab lie as they were cut: what moves between them is the tissue. Over d
            |  \  \|        layers, as upper_from_lower:    slant = exp(d rate)
    gap        ?   ?
    slab    |    \  \      across a gap an estimate holds both:  seen = slant @ upper_from_lower

A rate is (angle, y, x) per layer, the logarithm of the motion over one layer. It belongs to the frame that it was
measured in, and each slab has its own. Without it every pair of a stack can be right and the chain still leans, as the
errors all point the same way; skip pairs have the same error over their longer way.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from volpipe.geometry import Rigid
from volpipe.geometry.transform import Vector
from volpipe.registration.estimate import PairEstimate
from volpipe.registration.faces import is_near

Rate = NDArray[np.float64]  # (angle, y, x) per layer


def rate_of(motion: Rigid, layers: float) -> Rate:
    """The steady motion per layer that makes `motion` over so many layers."""
    angle, turned = motion.angle_rad, Rigid(-motion.angle_rad / 2)(motion.shift) / _chord(motion.angle_rad)
    return np.array([angle, *turned]) / layers


def motion_of(rate: Rate, layers: float) -> Rigid:
    """What a steady motion comes to over so many layers; the inverse of `rate_of`."""
    angle, y, x = (float(part) * layers for part in rate)
    shift = Rigid(angle / 2)((y, x)) * _chord(angle)
    return Rigid(angle, (float(shift[0]), float(shift[1])))


def seen_from(pose: Rigid, rate: Rate) -> Rate:
    """A rate of a slab's frame, in the frame that `pose` leads to."""
    return rate_of(pose @ motion_of(rate, 1) @ pose.inverse, 1)


def put_on(slant: Rigid, motion: Rigid) -> Rigid:
    """`slant @ motion`, its angle counted on from the motion's: a prior about half a turn has both sides of it."""
    return Rigid(motion.angle_rad + slant.angle_rad, (slant @ motion).shift)


def taken_off(slant: Rigid, motion: Rigid) -> Rigid:
    """The inverse of `put_on`."""
    return put_on(slant.inverse, motion)


def seen_and_slant(found: PairEstimate, shape: tuple[int, ...], spacing: Vector) -> tuple[Rigid, Rigid]:
    """What is seen of two slabs as they were cut, which is what a tree's nodes see, and what of it is their slant.

    Args:
        found: of both slabs whole.
        shape, spacing: (y, x) of them.

    Returns:
        Its transform, and no slant, where they tell nothing as they were cut: then the slant is not known.
    """
    seen = found.as_cut
    if seen is None or not is_near(seen, found.transform, shape, spacing):
        return found.transform, Rigid()
    return seen, seen @ found.transform.inverse


def _chord(angle: float) -> float:
    """Chord over arc of a turn."""
    return float(np.sinc(angle / math.tau))
