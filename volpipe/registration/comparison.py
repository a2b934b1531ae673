"""What a score is: two windows made comparable, for all shifts at once and for one motion with a gradient.

    Score            (upper, lower, gap) -> prepared        what is common to all scales, once
    prepared         (factor) -> Comparison                 at a scale: voxels of `factor` x `factor` joined
    Comparison       .moving   images of the lower window, to be turned (search) or turned and shifted (refinement)
                     .surface  for turned images: the score at every whole shift, by FFT
                     .value    for moved images: the score there, differentiable

    .inside_slabs             of a score that offers it (`SeesInside`): the same inside each slab, where nothing moved

The law that ties both: `surface` at a shift is `value` of images moved by that shift. A score may have any unit, but
where nothing fits it scatters about one level by one deviation, whatever the overlap: the search takes that deviation
from the surface itself, and knows from it how much a peak says (`search.py`). Scores that are learned fit in as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from volpipe.registration.window import Window

LEAST_OVERLAP = 0.3  # of the windows: below it a shift is not looked at


@dataclass(frozen=True)
class Surface:
    """The score at every whole shift of a canvas.

    Attributes:
        score: (rows, columns); element (i, j) is the shift by (i, j) voxels, from the end: by (i - rows, j - columns).
        overlap: (rows, columns), share of what is known of the windows that lies on each other there.
    """

    score: Tensor
    overlap: Tensor


class Comparison(Protocol):
    """Two windows at one scale, under one score."""

    @property
    def moving(self) -> Tensor:
        """(c, h, w) of the lower window, faded at its sides; outside it is 0."""
        ...

    @property
    def spacing(self) -> tuple[float, float]:
        """(y, x) of one voxel at this scale, in the unit of shifts."""
        ...

    def surface(self, turned: Tensor, canvas: tuple[int, int]) -> Surface:
        """At all shifts, circularly on a canvas of this height and width, at least the window's."""
        ...

    def value(self, moved: Tensor) -> Tensor:
        """A number, for images resampled onto any canvas of `surface` (`resample.moved`)."""
        ...


@runtime_checkable
class SeesInside(Protocol):
    """A comparison that can be asked about each slab itself: what it sees move there, it takes for a shift across the
    gap as well (`inside.py`)."""

    def inside_slabs(self) -> tuple[Comparison | None, Comparison | None]:
        """Layers of the upper slab, and of the lower one, against others of the same slab, which lie as they were cut:
        the same score by the same details, as far apart as both slabs are; None of one that is not as deep."""
        ...


Prepared = Callable[[int], Comparison]
Score = Callable[[Window, Window, int], Prepared]


def most_in_common(fixed: Tensor, moving: Tensor) -> Tensor:
    """The largest sum of products that two weights of 0 to 1 can have, of which an overlap is a share."""
    return torch.minimum(fixed.sum(), moving.sum()).clamp_min(1e-6)


def centred(images: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Images in the middle of a canvas, as `resample.moved` lays them: 0 around.

    The canvas is larger by an even number of voxels, or as large: the centres agree.
    """
    down, across = ((n - m) // 2 for n, m in zip(canvas, images.shape[-2:], strict=True))
    return torch.nn.functional.pad(images, (across, across, down, down))
