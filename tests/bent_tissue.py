"""Tissue made by formula that comes back bent, and windows as a score compares them."""

import numpy as np
from made_tissue import Waves
from scipy import ndimage

from volpipe.geometry import Rigid
from volpipe.registration.scores import SCORES
from volpipe.registration.window import facing

TURN = Rigid(0.04, (3.3, -2.8))
SQUARES = (1.0, 1.0)


def without_motion(field, spacing=SQUARES):
    """A field (2, y, x) less the shift and the turn that fit it best."""
    lines = [(np.arange(n) - (n - 1) / 2) * voxel for n, voxel in zip(field.shape[1:], spacing, strict=True)]
    y, x = np.meshgrid(*lines, indexing="ij")
    turn = np.stack([x, -y])
    still = field - field.mean((1, 2), keepdims=True)
    return still - turn * (still * turn).sum() / (turn**2).sum()


def bent_by(share, size, spacing=SQUARES):
    """Of the width: a field (2, y, x) in the unit, waves as long as the window, that moves nothing as a whole."""
    y, x = np.indices(size) / np.reshape(size, (2, 1, 1))
    waves = np.stack([np.sin(6 * x + 1) + np.cos(4 * y), np.cos(5 * (x + y)) - np.sin(6 * y + 2)])
    field = without_motion(waves, spacing)
    width = min(n * voxel for n, voxel in zip(size, spacing, strict=True))
    return share * width * field / np.sqrt((field**2).sum(0).mean())


def bent_pair(share, *, gap=0, size=(128, 128), spacing=SQUARES, truth=TURN, layers=6):
    """(upper, lower) of one tissue; the lower one is bent."""
    tissue, edge = Waves(shortest=5.0 * min(spacing), longest=60.0, drift=0.02), 12

    def slab(depths, pose, around):
        across = tuple(n + 2 * around for n in size)
        return tissue.window(depths, across, pose, spacing)

    lower = slab(range(gap + 1, gap + 1 + layers), truth, edge)
    at = np.indices(size) + edge + bent_by(share, size, spacing) / np.reshape(spacing, (2, 1, 1))
    bent = np.stack([ndimage.map_coordinates(layer, at, order=5) for layer in lower])
    return slab(range(-layers + 1, 1), Rigid(), 0), bent


def compared(upper, lower, gap=0, score="likelihood", spacing=SQUARES):
    return SCORES[score](*facing(upper, lower, spacing), gap)(1)
