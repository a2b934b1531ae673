"""Statistics of a tensor over the volume, in parts: a count, a mean and a sum of squared differences, per group.

    part 1 --of--> (n, mean, M2) --+
    part 2 --of--> (n, mean, M2) --+--merge--> (n, mean, M2) of both       variance = M2 / n

In a program they are a tensor (images, 3 x groups, 1, ..., 1) of float64: counts, then means, then M2. A group is some
neighbouring channels: one for instance norm and pooling. An image is a volume, or a plane of one: each has its own, or
`joined` one for all. Sums are of float64 whatever the tensor is of. Law: the parts change nothing beyond rounding.
Source: Chan, Golub, LeVeque, Stanford CS-TR-79-773, 1979.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

AT_ONCE = 2**20  # values that are held in float64: 8 MiB
STORED = np.dtype("<f8")  # whoever reads

Sums = tuple[int, Tensor, Tensor]  # n, mean, M2


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Of one tensor.

    Attributes:
        rows: float64 (images, 1 + 2 x groups), of every image its count, means and M2: 8 + 16 bytes a group.
    """

    rows: NDArray[np.float64]

    @classmethod
    def of(cls, count: int, mean: Sequence[float], m2: Sequence[float]) -> Moments:
        """Of one image."""
        if len(mean) != len(m2):
            raise ValueError(f"{len(mean)} means beside {len(m2)} M2")
        return cls(np.array([[count, *mean, *m2]], np.float64))

    @classmethod
    def unit(cls, groups: int, images: int = 1) -> Moments:
        """Mean 0 and variance 1: what stands for statistics that are not known, where nothing is computed."""
        return cls.of(1, (0.0,) * groups, (1.0,) * groups).repeated(images)

    @classmethod
    def of_tensor(cls, values: Tensor) -> Moments:
        """From a program's tensor."""
        each = values.reshape(len(values), -1)
        return cls(each[:, each.shape[1] // 3 - 1 :].numpy().copy())  # of the counts, which are equal, the last

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Moments:
        """What `as_json` wrote."""
        return cls.of(int(stored["count"]), stored["mean"], stored["m2"])

    @classmethod
    def from_bytes(cls, stored: bytes, groups: int) -> Moments:
        """What `as_bytes` wrote.

        Raises:
            ValueError: a part of it is missing.
        """
        return cls(np.frombuffer(stored, STORED).reshape(-1, 1 + 2 * groups).astype(np.float64))

    @classmethod
    def stacked(cls, parts: Sequence[Moments]) -> Moments:
        """Of the images of all parts, in their order."""
        return cls(np.concatenate([part.rows for part in parts]))

    def __len__(self) -> int:
        """Images."""
        return len(self.rows)

    @property
    def groups(self) -> int:
        """Of an image."""
        return int(self.rows.shape[1]) // 2

    @property
    def count(self) -> NDArray[np.float64]:
        """Values of a group, (images, 1)."""
        return self.rows[:, :1]

    @property
    def mean(self) -> NDArray[np.float64]:
        """(images, groups)."""
        return self.rows[:, 1 : 1 + self.groups]

    @property
    def m2(self) -> NDArray[np.float64]:
        """(images, groups)."""
        return self.rows[:, 1 + self.groups :]

    @property
    def sha256(self) -> str:
        """The same for the same numbers."""
        return hashlib.sha256(self.as_bytes()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """Of one image, plain values by field; Python writes floats so that they are read back to the bit."""
        return {"count": int(self.count[0, 0]), "mean": self.mean[0].tolist(), "m2": self.m2[0].tolist()}

    def as_bytes(self) -> bytes:
        """Row after row: those of neighbouring images can be joined and cut."""
        return self.rows.astype(STORED).tobytes()

    def tensor(self, ndim: int, device: str | torch.device) -> Tensor:
        """As a program holds them."""
        values = np.concatenate([np.repeat(self.count, self.groups, 1), self.rows[:, 1:]], 1)
        return torch.from_numpy(values).to(device).view(len(self), -1, *(1,) * ndim)

    def part(self, images: slice) -> Moments:
        """Of some of the images."""
        return Moments(self.rows[images])

    def repeated(self, images: int) -> Moments:
        """Of one image, as those of so many."""
        return Moments(np.broadcast_to(self.rows, (images, self.rows.shape[1])))

    def merge(self, other: Moments) -> Moments:
        """Of both, image by image."""
        both = _merged((self.count, self.mean, self.m2), (other.count, other.mean, other.m2))
        return Moments(np.concatenate(both, 1))

    def joined(self) -> Moments:
        """Of all images as if they were one."""
        count = self.count.sum(0)
        mean = (self.count * self.mean).sum(0) / count
        m2 = (self.m2 + self.count * (self.mean - mean) ** 2).sum(0)
        return Moments(np.concatenate([count, mean, m2])[None])


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
    """Slabs across the first axis, which is contiguous in every layout. On the meta device, where they are priced, the
    first: what one holds beside the image all of them do, and hundreds took a plan minutes."""
    length = image.shape[2]
    thick = max(1, AT_ONCE * length // max(1, image.numel()))
    last = thick if image.is_meta else length
    return (image.narrow(2, first, min(thick, length - first)) for first in range(0, last, thick))


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
    """(n, mean, M2) of both, of numbers, arrays or tensors."""
    (n, mean, m2), (more, other, other_m2) = one, two
    count, off = n + more, other - mean
    return count, mean + off * (more / count), m2 + other_m2 + off * off * (n * more / count)
