"""How large the values of an image are: what a network asks of them, noise of unit variance alone would never answer.

    usual, dark, loud, bright    noise times 1, 1e-3, 1e6, and 1e6 around 1e7: a threshold between any two of them
    levels                       a few values that recordings have, each again and again: equality, bands
    spread                       all magnitudes from 1e-3 to 1e6, either sign
    positive                     noise around 1, for networks that take a root or a logarithm

A light is a function of standard noise, voxel by voxel, so that a voxel has the same value in every window of a strip.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LEVELS = torch.tensor((0, 0.1, 0.5, 1, 2, 127, 128, 254, 255, 256, 1023, 4095, 65535), dtype=torch.float64)
FINE = 1e6  # by which noise is multiplied: the fraction of what results is even over [0, 1)

Light = Callable[[Tensor], Tensor]


def usual(noise: Tensor) -> Tensor:
    """Standard noise."""
    return noise


def dark(noise: Tensor) -> Tensor:
    """Below what thresholds of raw values are."""
    return noise * 1e-3


def loud(noise: Tensor) -> Tensor:
    """Beyond them, on both sides."""
    return noise * 1e6


def bright(noise: Tensor) -> Tensor:
    """Beyond them on one side."""
    return 1e6 * (noise + 10)


def positive(noise: Tensor) -> Tensor:
    """Around 1."""
    return 1 + 0.1 * noise.clamp(-5, 5)


def levels(noise: Tensor) -> Tensor:
    """One of the levels, each as likely."""
    return LEVELS[(_even(noise) * len(LEVELS)).long()]


def spread(noise: Tensor) -> Tensor:
    """Either sign, magnitudes even on a logarithmic scale."""
    return noise.sign() * 10 ** (9 * _even(noise) - 3)


def _even(noise: Tensor) -> Tensor:
    return (noise.abs() * FINE) % 1


# in each light, what may stand beyond a need
BEYOND: dict[Light, tuple[Light, ...]] = {
    usual: (usual, loud, levels),
    positive: (positive, bright, levels),
    dark: (loud, levels),
    loud: (loud,),
    bright: (dark, levels),
    levels: (levels,),
    spread: (spread,),
}
