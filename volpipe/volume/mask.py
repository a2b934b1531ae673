"""Masks: a coarse (or fine) volume that says where there is something, asked about in the voxels of another volume.

    volume  |0 1 2 3|4 5 6 7|8 9|     factor 4: volume voxel i looks at mask voxel floor((i + 1/2) / 4),
    mask    |   0   |   1   |  2  |   which is the nearest one: both cover the same extent, up to one mask voxel

Convention: z, y, x; a mask voxel is on if it is not zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volpipe.errors import VolumeError
from volpipe.geometry import Box
from volpipe.volume.source import Source

_AGREE = 0.01  # voxel sizes are written with two or three digits


@dataclass(frozen=True)
class Mask:
    """A mask over a volume of another resolution; picklable.

    Attributes:
        source: one channel, any dtype.
        shape: z, y, x voxels of the volume that is masked.
        voxel_size_um: of that volume, or None if it states none.

    Raises:
        VolumeError: it has several channels, or covers another extent than the volume.
    """

    source: Source
    shape: tuple[int, int, int]
    voxel_size_um: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.source.channels != 1:
            raise VolumeError(
                f"mask {self.source.location}: has {self.source.channels} channels; pick one with --channel"
            )
        pairs = zip(self.shape, self.source.shape, self.factors, strict=True)
        # Extents in volume voxels; a mask may end up to one of its voxels earlier or later than the volume.
        if any(abs(n - m * f) >= max(1.0, f) for n, m, f in pairs):
            raise VolumeError(self._other_extent())

    @property
    def factors(self) -> tuple[float, ...]:
        """Volume voxels per mask voxel and axis: from the voxel sizes if both are stated, else from the shapes."""
        sizes = self.source.voxel_size_um
        if sizes is not None and self.voxel_size_um is not None:
            return tuple(_whole(m / v) for m, v in zip(sizes, self.voxel_size_um, strict=True))
        return tuple(_guess(n, m) for n, m in zip(self.shape, self.source.shape, strict=True))

    def any(self, box: Box) -> bool:
        """True if a voxel of `box` (in the volume's voxels) is on; the mask is read, not blown up."""
        hull, indices = self._lookup(box)
        return bool(np.any(self._values(hull)[np.ix_(*(np.unique(index) for index in indices))]))

    def read(self, box: Box) -> NDArray[np.bool_]:
        """The mask (z, y, x) at every voxel of `box` (in the volume's voxels), by nearest neighbour."""
        hull, indices = self._lookup(box)
        return self._values(hull)[np.ix_(*indices)]

    def _values(self, hull: Box) -> NDArray[np.bool_]:
        return np.asarray(self.source.read(hull)[0] != 0)

    def _lookup(self, box: Box) -> tuple[Box, list[NDArray[np.intp]]]:
        """The mask voxels needed, and per axis which of them each voxel of `box` looks at."""
        axes = zip(box.start, box.stop, self.factors, self.source.shape, strict=True)
        picked = [_nearest(a, b, factor, m) for a, b, factor, m in axes]
        start = tuple(int(index[0]) for index in picked)
        hull = Box(start, tuple(int(index[-1]) + 1 for index in picked))
        return hull, [index - first for index, first in zip(picked, start, strict=True)]

    def _other_extent(self) -> str:
        mask = _extent(self.source.shape, self.source.voxel_size_um)
        volume = _extent(self.shape, self.voxel_size_um)
        return (
            f"mask {self.source.location}: covers {mask}, the volume {volume}; give a mask of the same extent, "
            "its shape a whole fraction or multiple of the volume's, or voxel sizes that say how they lie"
        )


def _nearest(start: int, stop: int, factor: float, length: int) -> NDArray[np.intp]:
    index: NDArray[np.intp] = np.floor((np.arange(start, stop) + 0.5) / factor).astype(np.intp)
    index[index >= length] = length - 1
    return index


def _whole(ratio: float) -> float:
    """The whole number, or its reciprocal, that a ratio is within 1 % of; else the ratio itself."""
    whole = round(ratio) if ratio >= 1 else 1 / round(1 / ratio)
    return float(whole) if abs(ratio / whole - 1) <= _AGREE else ratio


def _guess(volume: int, mask: int) -> float:
    """The whole factor, or its reciprocal, that two shapes suggest.

    An exact one if there is one; else a power of two that gives this mask when rounding up, as pyramids do
    (100 over 13 is 8); else the nearest whole number, which the caller checks.
    """
    if mask > volume:
        return 1 / round(mask / volume)
    power = 2 ** math.ceil(math.log2(volume / mask))
    rounded_up = volume % mask and -(-volume // power) == mask
    return float(power if rounded_up else round(volume / mask))


def _extent(shape: Sequence[int], voxel_size_um: Sequence[float] | None) -> str:
    if voxel_size_um is None:
        return f"{tuple(shape)} voxels"
    sizes = (f"{n * size:g}" for n, size in zip(shape, voxel_size_um, strict=True))
    return f"{tuple(shape)} voxels = {' x '.join(sizes)} um"
