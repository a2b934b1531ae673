"""Tissue made by formula: waves that change from layer to layer, so that it can be looked at from any motion, exactly."""

import numpy as np

from volpipe.geometry import Rigid


class Waves:
    """A sum of waves, each of which turns into another one of its kind: layers d apart correlate by cos(drift d).

    Nothing moves from layer to layer, as it would if phases drifted.

    Args:
        seed: of the waves.
        shortest, longest: wavelengths in the unit of shifts.
        drift: radians in a layer, of the longest waves; short ones change more.
    """

    def __init__(self, seed=0, count=500, shortest=2.5, longest=60.0, drift=0.25):
        random = np.random.default_rng(seed)
        length = np.exp(random.uniform(np.log(shortest), np.log(longest), count))
        direction, self.phase, self.later = random.uniform(0, 2 * np.pi, (3, count))
        self.y, self.x = 2 * np.pi / length * (np.sin(direction), np.cos(direction))
        self.drift = drift * (longest / length) ** 0.5
        self.height = length**0.5

    def layer(self, z, points):
        """Values at points (..., 2) of a layer."""
        wave = points[..., :1] * self.y + points[..., 1:] * self.x
        now, later = np.cos(wave + self.phase), np.cos(wave + self.later)
        return (self.height * (np.cos(z * self.drift) * now + np.sin(z * self.drift) * later)).sum(-1)

    def window(self, layers, size, plane_from_window=Rigid(), spacing=(1.0, 1.0)):  # noqa: B008
        """(z, y, x): the layers of a window, as it lies in the plane."""
        axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(size, spacing, strict=True)]
        points = plane_from_window(np.stack(np.meshgrid(*axes, indexing="ij"), -1))
        return np.stack([self.layer(z, points) for z in layers])


def pair_of(truth, gap=0, size=(96, 96), layers=4, spacing=(1.0, 1.0), seed=0, **waves):
    """(upper, lower) of one tissue; the lower one lies in the upper one as `truth` says."""
    tissue = Waves(seed, **waves)
    upper = tissue.window(range(layers), size, spacing=spacing)
    below = range(layers + gap, 2 * layers + gap)
    return upper, tissue.window(below, size, truth, spacing)
