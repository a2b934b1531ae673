"""An intact volume made ready for inverse problems: nothing in it may tell where a voxel lies but the tissue itself.

A pattern that is fixed to the camera (illumination, focus, tile borders that are smooth enough) lies at the same place
in all layers. It turns and shifts with a slab that is cut out, so that a score would find the cut's own motion in it,
through any gap. What all layers share is therefore divided away:

    v = (volume - dark) / M            M  mean over all layers, smoothed: window / 8
    v = low + high,  high / S          S  root mean square of high over all layers, smoothed; low: window / 32

Means are over tissue alone: a voxel is tissue where its layer's local texture (the root mean square of `high`) reaches
a tenth of what the volume's most textured tenth has. Elsewhere M and S are floored, so that nothing is not blown up.

(Without S, in a volume of light-sheet, the smooth part of local texture energy had a coherence of 0.3 at any distance.)

What is finer stays: what single lines and pixels of a camera add. In that volume it is 2 counts, where noise has 8 in
the dark, which normal scores lift: their finest details have a coherence of 0.05 across 20 lost layers, and no score
succeeds there. Means or medians over so few layers do not tell it from tissue, and what they err by would itself stand
still. (Medians of each row and column, taken off, left 0.04 of it, put 0.2 along the columns of a FIB-SEM volume that
had none, and drew the border of a blank corner through tissue.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Layer = NDArray[np.float32]

TISSUE_TEXTURE = 0.1  # of the 90th percentile of local texture
DARK_PERCENT = 0.1
FLOOR = 0.2  # of the mean over tissue: a divisor is at least this
STEP = 4  # the tissue map is kept at every 4th voxel of y and x


@dataclass(frozen=True, eq=False)
class Intact:
    """What windows are sampled from.

    Attributes:
        coefficients: cubic spline coefficients of each layer by itself, (z, y, x) float32.
        tissue: where there is tissue, every STEP-th voxel of y and x.
        darkest, brightest: 0.1th and 99.9th percentile of the voxels.
    """

    coefficients: NDArray[np.float32]
    tissue: NDArray[np.bool_]
    darkest: float
    brightest: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        z, y, x = self.coefficients.shape
        return z, y, x

    @classmethod
    def of(cls, volume: NDArray[Any], window: int, *, flatten: bool = True) -> Intact:
        """Divide away what all layers share, and filter once for all windows.

        Args:
            volume: (z, y, x), finite.
            window: width of the windows to come, voxels: smoothing goes by it.
            flatten: False samples the volume as it is (for tests with hand-placed voxels).
        """
        tissue = tissue_of(volume, window / 32)
        layers = _flattened(volume, tissue, window) if flatten else map(_float, volume)
        out = np.empty(volume.shape, np.float32)
        sample: list[NDArray[Any]] = []
        for number, layer in enumerate(layers):
            sample.append(layer[::STEP, ::STEP].ravel())
            out[number] = ndimage.spline_filter(layer, order=3, output=np.float32, mode="mirror")
        darkest, brightest = np.percentile(np.concatenate(sample), (DARK_PERCENT, 100 - DARK_PERCENT))
        return cls(out, tissue, float(darkest), float(brightest))


def tissue_of(volume: NDArray[Any], sigma: float) -> NDArray[np.bool_]:
    """Where each layer has texture, at every STEP-th voxel of y and x."""
    texture = np.stack([_texture(_float(layer), sigma)[::STEP, ::STEP] for layer in volume])
    found: NDArray[np.bool_] = texture > TISSUE_TEXTURE * np.percentile(texture, 90)
    return found


def _texture(layer: Layer, sigma: float) -> Layer:
    high = _high(layer, sigma)
    found: Layer = np.sqrt(np.maximum(_smooth(high * high, sigma), 0))
    return found


def _flattened(volume: NDArray[Any], tissue: NDArray[np.bool_], window: int) -> Iterator[Layer]:
    sigma = window / 32
    dark = np.percentile(volume[:, ::STEP, ::STEP], DARK_PERCENT)
    shade = _shared(volume, tissue, window / 8, lambda layer: layer - dark)
    contrast = np.sqrt(_shared(volume, tissue, window / 8, lambda layer: _high((layer - dark) / shade, sigma) ** 2))
    for layer in volume:
        flat = (_float(layer) - dark) / shade
        high = _high(flat, sigma)
        yield (flat - high + high * (contrast.mean() / contrast)).astype(np.float32)


def _high(layer: Layer, sigma: float) -> Layer:
    return layer - _smooth(layer, sigma)


def _shared(
    volume: NDArray[Any], tissue: NDArray[np.bool_], sigma: float, of: Callable[[Layer], Layer]
) -> NDArray[np.float32]:
    """Mean of something over all layers where they are tissue, smoothed, and floored where there is hardly any."""
    total, weight = np.zeros(volume.shape[1:], np.float32), np.zeros(volume.shape[1:], np.float32)
    for layer, coarse in zip(volume, tissue, strict=True):
        inside = coarse.repeat(STEP, 0).repeat(STEP, 1)[: volume.shape[1], : volume.shape[2]]
        total += of(_float(layer)) * inside
        weight += inside
    typical = total.sum() / max(float(weight.sum()), 1.0)
    # one voxel of typical tissue for all layers of a column: where there is none, the mean tends to what is typical
    found = _smooth(total + typical, sigma) / _smooth(weight + 1, sigma)
    shared: Layer = np.maximum(found, FLOOR * typical if typical > 0 else 1.0)
    return shared


def _smooth(layer: NDArray[Any], sigma: float) -> Layer:
    return ndimage.gaussian_filter(layer, sigma, output=np.float32, mode="reflect", truncate=3.0)


def _float(layer: NDArray[Any]) -> Layer:
    return layer.astype(np.float32)
