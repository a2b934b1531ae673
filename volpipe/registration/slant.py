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
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volpipe.geometry import Rigid
from volpipe.registration.estimate import PairEstimate

Rate = NDArray[np.float64]  # (angle, y, x) per layer

REACH = 6.0  # layers over which tissue keeps its slant; see the benchmark of drift


@dataclass(frozen=True, slots=True)
class Inside:
    """What was estimated between two layers of one slab.

    Attributes:
        slab: its index.
        depth: of the middle between the layers, in layers from the top of the stack.
        layers: from the one to the other.
    """

    slab: int
    depth: float
    layers: int
    estimate: PairEstimate

    @property
    def rate(self) -> Rate:
        """In the slab's own frame."""
        return rate_of(self.estimate.transform, self.layers)


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


def slant_at(depth: float, insides: Sequence[Inside], rates: Sequence[Rate]) -> Rate:
    """The rate of the tissue at a depth: of what was measured in slabs nearby, the median, weighted.

    Weights are confidences, less with the distance in depth; what was not accepted does not count.

    Args:
        depth: in layers.
        insides: measured in slabs.
        rates: theirs, in one frame.

    Returns:
        Zero where nothing was measured.
    """
    weights = np.array([weight_of(one, depth) for one in insides])
    if not weights.any():
        return np.zeros(3)
    return np.array([weighted_median(part, weights) for part in np.array(rates).T])


def weight_of(inside: Inside, depth: float) -> float:
    """How much a motion inside a slab says of the slant at a depth."""
    trusted = inside.estimate.confidence if inside.estimate.accepted else 0.0
    return trusted * math.exp(-abs(inside.depth - depth) / REACH)


def weighted_median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Where half of the weight lies on either side; between two values where it lies between them."""
    order = np.argsort(values)
    below = np.cumsum(weights[order]) - weights[order] / 2
    return float(np.interp(weights.sum() / 2, below, values[order]))


def _chord(angle: float) -> float:
    """Chord over arc of a turn."""
    return float(np.sinc(angle / math.tau))
