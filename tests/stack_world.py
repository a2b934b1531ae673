"""A made-up world of slabs whose tissue may move with depth, and pairs that are told the truth: for tests of stacks."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from volpipe.geometry import Rigid
from volpipe.registration import stack
from volpipe.registration.estimate import PairEstimate
from volpipe.registration.slant import motion_of
from volpipe.registration.stack import register_stack

WIDTH = 64
STILL = (0.0, 0.0, 0.0)


@dataclass
class World:
    """Slabs with known poses; `rate` is what the tissue moves per layer, in the world's frame.

    A slab's voxel holds its depth, so that of any layers it is known what lies between them. Pairs see slabs without
    the tissue's motion, as `register_pair` does in the gap's middle, unless they are told not to carry; what is aligned
    is seen with it. `lies` replaces the estimate of a pair of slabs, and `told` is what aligning says of a pair, or of
    two layers of one slab: the truth, where nothing is given.
    """

    poses: list
    layers: int = 4
    gap: int = 2
    rate: tuple = STILL
    lies: dict = field(default_factory=dict)
    told: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)

    def __post_init__(self):
        self.period = self.layers + self.gap
        depths = np.arange(self.layers)[:, None, None] + np.zeros((1, WIDTH, WIDTH)) + 1e-3 * np.arange(WIDTH)
        self.slabs = [depths + i * self.period for i in range(len(self.poses))]

    def between(self, upper, lower, rate=None):
        """Slabs, and what a faithful estimate sees of two layers: upper_from_lower through the tissue's motion."""
        top, bottom = (math.floor(float(layer[0, 0])) for layer in (upper, lower))
        i, j = top // self.period, bottom // self.period
        moved = motion_of(np.array(self.rate if rate is None else rate), bottom - top)
        return (i, j), bottom - top, self.poses[i].inverse @ moved @ self.poses[j]

    def pair(self, upper, lower, *, gap_layers, carry=True, **_):
        slabs, layers, seen = self.between(upper[-1], lower[0], STILL if carry and len(upper) > 1 else None)
        assert gap_layers == layers - 1
        self.asked.append((*slabs, gap_layers))
        return self.lies.get(slabs, PairEstimate(seen, 0.9, True))

    def aligned(self, upper, lower, around, spacing, within=None):
        slabs, _, seen = self.between(upper, lower)
        if slabs in self.lies:
            return self.lies[slabs].transform
        return self.told.get(slabs, seen)

    def solved(self, call=register_stack, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stack, "aligned", self.aligned)
            return call(self.slabs, **{"gap_layers": self.gap, "pair": self.pair, **options})

    @property
    def truth(self):
        return [self.poses[0].inverse @ pose for pose in self.poses]


def random_poses(count, seed=0):
    random = np.random.default_rng(seed)
    return [Rigid(random.uniform(-0.05, 0.05), tuple(random.uniform(-3, 3, 2))) for _ in range(count)]


def noise(seed=0, *, accepted=False, confidence=0.4):
    random = np.random.default_rng(seed)
    return PairEstimate(Rigid(random.uniform(-0.1, 0.1), tuple(random.uniform(-6, 6, 2))), confidence, accepted)


def far(one, other):
    """The largest distance between where two poses put the corners of a window."""
    corners = (WIDTH / 2) * np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)])
    return float(np.abs(one(corners) - other(corners)).max())


def furthest(found, truth):
    return max(far(one, other) for one, other in zip(found, truth, strict=True))
