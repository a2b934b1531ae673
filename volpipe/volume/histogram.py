"""Histograms that are streamed and merged: of a whole volume, without holding it.

uint8, uint16 and int16 are counted exactly, one bin a value. float32 is counted by the top 16 bits of its bit pattern,
reordered so that bins ascend: a bin spans a factor of 1 + 2^-7, so percentiles are right to 0.8 %; minimum, maximum,
count, mean and standard deviation are exact (float64). NaN and infinities are counted apart and left out of the rest.

Laws: the histogram of a whole is the merge of its parts' (moments up to rounding); `percentile` of an exact histogram
is numpy's (linear interpolation).
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.errors import ConfigError, VolumeError

DTYPES = ("uint8", "uint16", "int16", "float32")
_PIECE = 1 << 20  # voxels counted at a time: np.bincount widens to 8 bytes a voxel


@dataclass(frozen=True)
class Moments:
    """Exact moments of float voxels, merged by Chan, Golub & LeVeque (1979), which does not cancel."""

    count: int = 0
    minimum: float = math.inf
    maximum: float = -math.inf
    mean: float = 0.0
    m2: float = 0.0

    @classmethod
    def of(cls, values: NDArray[Any]) -> Moments:
        """Of finite values; none at all is fine."""
        if values.size == 0:
            return cls()
        wide = values.astype(np.float64)
        mean = float(wide.mean())
        return cls(values.size, float(values.min()), float(values.max()), mean, float(((wide - mean) ** 2).sum()))

    def merge(self, other: Moments) -> Moments:
        """Of both."""
        count = self.count + other.count
        if count == 0:
            return self
        shift = other.mean - self.mean
        return Moments(
            count,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            self.mean + shift * other.count / count,
            self.m2 + other.m2 + shift**2 * self.count * other.count / count,
        )


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of one channel.

    Attributes:
        dtype: of the voxels, one of DTYPES.
        counts: int64, 256 bins for uint8, else 65,536, in ascending order of value.
        nan, infinite: counted apart.
        moments: of float voxels; integers' follow from the counts.
    """

    dtype: str
    counts: NDArray[np.int64]
    nan: int = 0
    infinite: int = 0
    moments: Moments = Moments()

    @classmethod
    def empty(cls, dtype: str) -> Histogram:
        """Of no voxels.

        Raises:
            VolumeError: the dtype is not counted.
        """
        if dtype not in DTYPES:
            raise VolumeError(f"statistics of {dtype}: give a volume of {', '.join(DTYPES)}")
        return cls(dtype, np.zeros(256 if dtype == "uint8" else 1 << 16, np.int64))

    @classmethod
    def of(cls, voxels: NDArray[Any]) -> Histogram:
        """Count an array of any shape."""
        total = cls.empty(voxels.dtype.name)
        flat = voxels.reshape(-1)
        for first in range(0, flat.size, _PIECE):
            total = total.merge(cls._of_piece(flat[first : first + _PIECE]))
        return total

    @classmethod
    def _of_piece(cls, voxels: NDArray[Any]) -> Histogram:
        dtype, size = voxels.dtype.name, voxels.size
        nan = 0
        if dtype == "float32":
            nan = int(np.isnan(voxels).sum())
            voxels = voxels[np.isfinite(voxels)]
        bins = 256 if dtype == "uint8" else 1 << 16
        counts = np.bincount(_bins(voxels), minlength=bins).astype(np.int64)
        moments = Moments.of(voxels) if dtype == "float32" else Moments()
        return cls(dtype, counts, nan, size - nan - voxels.size, moments)

    def merge(self, other: Histogram) -> Histogram:
        """Of both; they are of one dtype."""
        return Histogram(
            self.dtype,
            self.counts + other.counts,
            self.nan + other.nan,
            self.infinite + other.infinite,
            self.moments.merge(other.moments),
        )

    @cached_property
    def count(self) -> int:
        """Finite voxels."""
        return int(self.counts.sum())

    @property
    def minimum(self) -> float:
        """Smallest finite value; NaN of no voxels."""
        return self._extreme(0, self.moments.minimum)

    @property
    def maximum(self) -> float:
        """Largest finite value; NaN of no voxels."""
        return self._extreme(-1, self.moments.maximum)

    @property
    def mean(self) -> float:
        """Mean of the finite values; NaN of no voxels."""
        if self.count == 0:
            return math.nan
        return self.moments.mean if self._is_float else self._power_sum(1) / self.count

    @property
    def std(self) -> float:
        """Standard deviation (of the population) of the finite values; NaN of no voxels."""
        if self.count == 0:
            return math.nan
        if self._is_float:
            return math.sqrt(self.moments.m2 / self.count)
        # Whole numbers of any size: n * sum(v^2) - sum(v)^2 is exact, and would overflow 64 bits.
        return math.sqrt(self.count * self._power_sum(2) - self._power_sum(1) ** 2) / self.count

    def percentile(self, percent: float) -> float:
        """The value below which `percent` % of the finite voxels lie; NaN of no voxels.

        Raises:
            ConfigError: `percent` is not between 0 and 100.
        """
        if not 0 <= percent <= 100:
            raise ConfigError(f"percentile {percent}: give a number from 0 to 100")
        if self.count == 0:
            return math.nan
        rank = percent / 100 * (self.count - 1)
        below, part = int(rank), rank - int(rank)
        low = self._at_rank(below)
        return low if part == 0 else low + part * (self._at_rank(below + 1) - low)

    def _at_rank(self, rank: int) -> float:
        """The value of the `rank`-th voxel in ascending order; within a float bin, by its place in the bin."""
        here = int(np.searchsorted(self._cumulative, rank, side="right"))
        if not self._is_float:
            return float(self._values[here])
        low, high = float_edges(here)
        before = int(self._cumulative[here]) - int(self.counts[here])
        value = low + (high - low) * (rank - before + 0.5) / int(self.counts[here])
        return min(max(value, self.moments.minimum), self.moments.maximum)

    @property
    def _is_float(self) -> bool:
        return self.dtype == "float32"

    @cached_property
    def _cumulative(self) -> NDArray[np.int64]:
        return np.cumsum(self.counts)

    @cached_property
    def _values(self) -> NDArray[np.int64]:
        """The value of every bin of an integer dtype."""
        return np.arange(self.counts.size) + int(np.iinfo(self.dtype).min)

    def _power_sum(self, power: int) -> int:
        used = np.flatnonzero(self.counts)
        values, counts = self._values[used].tolist(), self.counts[used].tolist()
        return sum(value**power * count for value, count in zip(values, counts, strict=True))

    def _extreme(self, which: int, of_floats: float) -> float:
        if self.count == 0:
            return math.nan
        return of_floats if self._is_float else float(self._values[np.flatnonzero(self.counts)[which]])

    def to_json(self) -> dict[str, Any]:
        """Numbers and text only; a 16-bit histogram takes some 10 to 100 KB."""
        packed = base64.b64encode(zlib.compress(self.counts.astype("<i8").tobytes())).decode()
        stored: dict[str, Any] = {"dtype": self.dtype, "nan": self.nan, "infinite": self.infinite, "counts": packed}
        if self.moments.count:
            stored["moments"] = vars(self.moments)
        return stored

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Histogram:
        """What `to_json` made."""
        counts = np.frombuffer(zlib.decompress(base64.b64decode(stored["counts"])), "<i8").astype(np.int64)
        moments = Moments(**stored.get("moments", {}))
        return cls(stored["dtype"], counts, stored["nan"], stored["infinite"], moments)


def _bins(voxels: NDArray[Any]) -> NDArray[Any]:
    match voxels.dtype.name:
        case "int16":
            return voxels.view(np.uint16) ^ np.uint16(1 << 15)
        case "float32":
            bits = voxels.view(np.uint32)
            sign = np.uint32(1 << 31)
            ordered = np.where(bits & sign, ~bits, bits | sign)
            return (ordered >> np.uint32(16)).astype(np.uint16)
        case _:
            return voxels


def float_edges(number: int) -> tuple[float, float]:
    """Smallest and largest float32 of a bin; only the sign of zero makes them unordered, and -0 == 0."""
    ordered = np.array([number << 16, (number << 16) | 0xFFFF], np.uint32)
    sign = np.uint32(1 << 31)
    low, high = np.where(ordered & sign, ordered ^ sign, ~ordered).view(np.float32)
    return float(low), float(high)
