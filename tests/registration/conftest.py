"""Fields and nodes that the tests of registration share."""

import math

import numpy as np
import pytest

from volpipe.geometry import Raster, Rigid
from volpipe.registration.field import Field
from volpipe.registration.field_fit import Node

SPACING = (8.0, 5.0)


def grid_of_nodes(shape=(9, 11), spacing=SPACING):
    """Centres (n, 2) about the slab's centre."""
    raster = Raster.centred(shape, spacing)
    return raster.points(raster.box).reshape(-1, 2)


@pytest.fixture
def nodes_of():
    """`nodes_of(motion, shape) -> nodes`: what a tree would find of a map of points (n, 2) that turns by an angle."""

    def make(motion, shape=(9, 11), confidence=1.0, angle_rad=0.0):
        centres = grid_of_nodes(shape)
        moved = motion(centres)
        pairs = zip(centres.tolist(), (moved - centres).tolist(), strict=True)
        return [Node(tuple(centre), Rigid(angle_rad, tuple(shift)), confidence) for centre, shift in pairs]

    return make


@pytest.fixture
def bent():
    """A field with turns and stretches of some percent, on a pose that is no identity."""
    raster = Raster.centred((9, 11), SPACING)
    y, x = np.moveaxis(raster.points(raster.box), -1, 0)
    displacement = np.stack([2 * np.sin(x / 9) + 0.03 * y, 1.5 * np.cos(y / 14)]).astype(np.float32)
    pose = Rigid(math.radians(17), (3.3, -4.7))
    return Field(pose, displacement, raster.origin_um, raster.spacing_um, np.ones(raster.shape, np.float32))
