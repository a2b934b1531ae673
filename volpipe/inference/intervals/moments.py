"""Statistics of a tensor over the volume, in parts: a count, a mean and a sum of squared differences, per group.

    part 1 --of--> (n, mean, M2) --+
    part 2 --of--> (n, mean, M2) --+--merge--> (n, mean, M2) of both       variance = M2 / n

In a program they are a tensor (images, 3 x groups, 1, ..., 1) of float64: counts, then means, then M2. A group is some
neighbouring channels: one for instance norm and pooling. Sums are of float64 whatever the tensor is of. Law: the parts
change nothing beyond rounding. Source: Chan, Golub, LeVeque, Stanford CS-TR-79-773, 1979.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

AT_ONCE = 2**20  # values that are held in float64: 8 MiB

Sums = tuple[int, Tensor, Tensor]  # n, mean, M2


@dataclass(frozen=True, slots=True)
class Moments:
    """Of one tensor.

    Attributes:
        count: values of a group.
        mean, m2: per group.
    """

    count: int
    mean: tuple[float, ...]
    m2: tuple[float, ...]

    @classmethod
    def unit(cls, groups: int) -> Moments:
        """Mean 0 and variance 1: what stands for statistics that are not known, where nothing is computed."""
        return cls(1, (0.0,) * groups, (1.0,) * groups)

    @classmethod
    def of_tensor(cls, values: Tensor) -> Moments:
        """From a program's tensor of one image."""
        counts, mean, m2 = values.reshape(3, -1).tolist()
        return cls(int(counts[0]), tuple(mean), tuple(m2))

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Moments:
        """What `as_json` wrote."""
        return cls(int(stored["count"]), tuple(stored["mean"]), tuple(stored["m2"]))

    def as_json(self) -> dict[str, Any]:
        """Plain values by field; Python writes floats so that they are read back to the bit."""
        return {"count": self.count, "mean": list(self.mean), "m2": list(self.m2)}

    def tensor(self, ndim: int, device: str | torch.device) -> Tensor:
        """As a program holds them."""
        values = [*(float(self.count) for _ in self.mean), *self.mean, *self.m2]
        return torch.tensor(values, dtype=torch.float64, device=device).view(1, -1, *(1,) * ndim)

    def merge(self, other: Moments) -> Moments:
        """Of both."""
        groups = zip(self.mean, self.m2, other.mean, other.m2, strict=True)
        both = [_merged((self.count, a, b), (other.count, c, d)) for a, b, c, d in groups]
        return Moments(self.count + other.count, tuple(mean for _, mean, _ in both), tuple(m2 for *_, m2 in both))


def moments(image: Tensor, groups: int) -> Tensor:
    """Of every image on its own.

    Args:
        image: (n, c, ...).
        groups: c or a divisor of it.

    Returns:
        (n, 3 x groups, 1, ..., 1), float64.
    """
    axes = tuple(range(2, image.ndim))
    count, mean, m2 = _joined(_sums(part.to(torch.float64, copy=True), axes) for part in _parts(image))
    mean, m2 = (each.reshape(len(image), groups, -1, *each.shape[2:]) for each in (mean, m2))
    channels, middle = mean.shape[2], mean.mean(2)
    m2 = m2.sum(2) + count * (mean - middle.unsqueeze(2)).square_().sum(2)
    return torch.cat([torch.full_like(middle, count * channels), middle, m2], 1)


def _parts(image: Tensor) -> Iterator[Tensor]:
    """Slabs across the first axis, which is contiguous in every layout."""
    length = image.shape[2]
    thick = max(1, AT_ONCE * length // max(1, image.numel()))
    return (image.narrow(2, first, min(thick, length - first)) for first in range(0, length, thick))


def _sums(values: Tensor, axes: tuple[int, ...]) -> Sums:
    """Per channel; the values are ours to change."""
    mean = values.mean(axes, keepdim=True)
    m2 = values.sub_(mean).square_().sum(axes, keepdim=True)
    return math.prod(values.shape[2:]), mean, m2


def _joined(parts: Iterator[Sums]) -> Sums:
    total = next(parts)
    for part in parts:
        total = _merged(total, part)
    return total


def _merged(one: Any, two: Any) -> Any:
    """(n, mean, M2) of both, of numbers or of tensors."""
    (n, mean, m2), (more, other, other_m2) = one, two
    count, off = n + more, other - mean
    return count, mean + off * (more / count), m2 + other_m2 + off * off * (n * more / count)
