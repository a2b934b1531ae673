"""Networks that only benchmarks use."""

from __future__ import annotations

from torch import nn


def four_convolutions(width: int = 12) -> nn.Module:
    """Four 3D convolutions of kernel 3: 16.8 kFLOP a voxel at width 12, context 4."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, width), (width, width), (width, width)):
        layers += [nn.Conv3d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv3d(width, 1, 3, padding=1), nn.Sigmoid())


def two_convolutions() -> nn.Module:
    """Two 3D convolutions of kernel 3 and two channels, context 2: what is left is reading, writing and the engine."""
    return nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv3d(2, 1, 3, padding=1))
