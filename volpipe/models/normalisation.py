"""What is done to stored values before a network sees them: constants per channel, never computed per tile.

    network input = stored value * scale + offset

A statistic of the tile would differ from its neighbour's and draw a seam; these are known before the run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from volpipe.errors import ModelError

PerChannel = float | Sequence[float]


def _channels(values: PerChannel) -> tuple[float, ...]:
    return (float(values),) if isinstance(values, int | float) else tuple(float(value) for value in values)


@dataclass(frozen=True)
class Normalisation:
    """Scale and offset, one of each per input channel."""

    scale: tuple[float, ...]
    offset: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.scale or len(self.scale) != len(self.offset):
            raise ModelError(
                f"normalisation: {len(self.scale)} scales and {len(self.offset)} offsets; give one of each per channel"
            )
        if not all(map(math.isfinite, (*self.scale, *self.offset))) or 0.0 in self.scale:
            raise ModelError(f"normalisation: {self}; scales must be finite and not 0, offsets finite")

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return len(self.scale)

    @classmethod
    def identity(cls, channels: int) -> Normalisation:
        """The network sees stored values as they are."""
        return cls((1.0,) * channels, (0.0,) * channels)

    @classmethod
    def from_range(cls, low: PerChannel, high: PerChannel) -> Normalisation:
        """Map [low, high] to [0, 1]; one number each, or one per channel.

        Raises:
            ModelError: a range is empty.
        """
        pairs = list(zip(_channels(low), _channels(high), strict=True))
        if any(not b > a for a, b in pairs):
            raise ModelError(f"normalisation: range {low} to {high}; the low end must be below the high end")
        return cls(tuple(1 / (b - a) for a, b in pairs), tuple(-a / (b - a) for a, b in pairs))

    @classmethod
    def from_mean_std(cls, mean: PerChannel, std: PerChannel) -> Normalisation:
        """Map to mean 0 and standard deviation 1; one number each, or one per channel.

        Raises:
            ModelError: a standard deviation is not above 0.
        """
        pairs = list(zip(_channels(mean), _channels(std), strict=True))
        if any(not s > 0 for _, s in pairs):
            raise ModelError(f"normalisation: standard deviation {std}; give numbers above 0")
        return cls(tuple(1 / s for _, s in pairs), tuple(-m / s for m, s in pairs))
