"""Tissue made by formula: waves that change from layer to layer; it can be looked at from any motion, exactly."""

import numpy as np

from volpipe.geometry import Rigid


class Waves:
    """A sum of waves, each of which turns into another one of its kind: layers d apart correlate by cos(drift d).

    Nothing moves from layer to layer, as it would if phases drifted.

    Args:
        seed: of the waves.
        count: of them.
        shortest, longest: wavelengths in the unit of shifts.
        drift: radians in a layer, of the longest waves; short ones change more.
    """

    def __init__(self, seed=0, count=500, shortest=2.5, longest=60.0, drift=0.25):
        random = np.random.default_rng(seed)
        length = np.exp(random.uniform(np.log(shortest), np.log(longest), count))
        direction, now, later = random.uniform(0, 2 * np.pi, (3, count))
        self.vectors = 2 * np.pi / length * np.stack([np.sin(direction), np.cos(direction)])  # (y, x)
        self.now, self.later = length**0.5 * np.exp(1j * now), length**0.5 * np.exp(1j * later)
        self.drift = drift * (longest / length) ** 0.5

    def window(self, layers, size, plane_from_window=Rigid(), spacing=(1.0, 1.0)):  # noqa: B008
        """(z, y, x): the layers of a window, as it lies in the plane."""
        y, x = ((np.arange(n) - (n - 1) / 2) * step for n, step in zip(size, spacing, strict=True))
        turned = plane_from_window.matrix.T @ self.vectors  # of waves, as the window's axes see them
        down, across = np.exp(1j * np.outer(y, turned[0])), np.exp(1j * np.outer(turned[1], x))
        here = np.exp(1j * np.asarray(plane_from_window.shift) @ self.vectors)
        heights = (np.cos(z * self.drift) * self.now + np.sin(z * self.drift) * self.later for z in layers)
        return np.stack([(down * (height * here) @ across).real for height in heights])


def pair_of(truth, gap=0, size=(96, 96), layers=4, spacing=(1.0, 1.0), seed=0, **waves):
    """(upper, lower) of one tissue; the lower one lies in the upper one as `truth` says."""
    tissue = Waves(seed, **waves)
    upper = tissue.window(range(layers), size, spacing=spacing)
    below = range(layers + gap, 2 * layers + gap)
    return upper, tissue.window(below, size, truth, spacing)
