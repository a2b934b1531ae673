"""A network on images that are long along one axis: a window of one endless strip of noise, some of it poisoned.

                 start                              stop
    noise  .......[..................................]...........     the same voxel, the same value, in every window
    output         [...............................]                  of the window [start, stop)

Convention: positions along the strip are input voxels; outputs are counted from the window's first. Two outputs are
equal if they differ by at most 100 times what a change of the input by one unit in the last place does.
A strip has a light (light.py): how large its values are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from volpipe.models.light import BEYOND, Light, usual

TOLERANCE = 100  # times the effect of a change of the input by one unit in the last place
EPSILON = 2.0**-52
OF_ONE_SHAPE = 1e-13  # times the largest value: two images of one shape
REMEMBERED = 8  # outputs; a whole is compared with several of its parts


class Window(NamedTuple):
    """Voxels [start, stop) of a strip."""

    start: int
    stop: int


class Strip:
    """One network along one axis.

    Args:
        run: one pass; an image in, its output out.
        axis: that is long, 0 the first spatial one.
        shape: (1, c, ...) of an image; the length along `axis` is ignored.
        light: of its noise.
    """

    def __init__(
        self, run: Callable[[Tensor], Tensor], axis: int, shape: tuple[int, ...], light: Light = usual
    ) -> None:
        self._run, self.axis, self._shape, self.light = run, axis, shape, light
        self._outputs: dict[tuple[Window, bool], Tensor] = {}

    def image(self, window: Window, seed: int = 0, light: Light | None = None) -> Tensor:
        """The noise of a window, in the strip's light or another one."""
        across = [n for axis, n in enumerate(self._shape) if axis != 2 + self.axis]
        noise = np.random.default_rng((self.axis, seed)).standard_normal((window.stop, *across))
        values = (light or self.light)(torch.from_numpy(noise[window.start :]))
        return values.movedim(0, 2 + self.axis).contiguous()

    def poisoned(self, length: int, first: int, last: int, image: Tensor | None = None) -> Tensor:
        """The window [0, length) with NaN, or another image, outside [first, last)."""
        image = torch.full_like(self.image(Window(0, length)), math.nan) if image is None else image
        inside = self.image(Window(0, length)).narrow(2 + self.axis, first, last - first)
        image.narrow(2 + self.axis, first, last - first).copy_(inside)
        return image

    def clean(self, length: int, first: int, last: int) -> Window:
        """The outputs between those that the poison before `first` and that from `last` on reaches.

        Empty (start >= stop) where the two meet.
        """
        bad = torch.isnan(self._run(self.poisoned(length, first, last)))
        reached = bad.movedim(2 + self.axis, 0).flatten(1).any(1).nonzero().flatten().tolist()
        free = [(a + 1, b) for a, b in zip([-1, *reached], [*reached, bad.shape[2 + self.axis]], strict=True)]
        return Window(*max(free, key=lambda gap: gap[1] - gap[0]))

    def agree(self, one: Window, other: Window, at_one: int, at_other: int, count: int) -> bool:
        """True if `count` outputs of one window from `at_one` are those of the other from `at_other`."""
        whole, part = self._output(one), self._output(other)
        return self._equal(one, self._cut(whole, at_one, count), self._cut(part, at_other, count))

    def needs_only(self, length: int, first: int, last: int, at: int, count: int) -> bool:
        """True if `count` outputs from `at` are the same whatever stands outside [first, last).

        Images of one shape go through the same kernels, so that rounding explains next to nothing. It is not asked
        what a small change of the input does: to a network that compares values it may do anything.
        """
        window = Window(0, length)
        output = self._output(window)
        mine, allowed = self._cut(output, at, count), OF_ONE_SHAPE * _largest_finite(output)
        others = (self.image(window, seed=1, light=light) for light in BEYOND[self.light])
        changed = (self._run(self.poisoned(length, first, last, other)) for other in others)
        return all(_differ(mine, self._cut(other, at, count)) <= allowed for other in changed)

    def length(self, window: Window) -> int:
        """Of the output."""
        return int(self._output(window).shape[2 + self.axis])

    def _cut(self, output: Tensor, at: int, count: int) -> Tensor | None:
        length = output.shape[2 + self.axis]
        return output.narrow(2 + self.axis, at, count) if at >= 0 and 0 < count <= length - at else None

    def _equal(self, window: Window, one: Tensor | None, other: Tensor | None) -> bool:
        return _differ(one, other) <= self._tolerance(window)

    def _tolerance(self, window: Window) -> float:
        output = self._output(window)
        effect = self._output(window, nudged=True) - output
        return TOLERANCE * (_largest_finite(effect) + EPSILON * _largest_finite(output))

    def _output(self, window: Window, nudged: bool = False) -> Tensor:
        if (window, nudged) not in self._outputs:
            image = self.image(window)
            if nudged:
                image *= 1 + EPSILON * self.image(window, seed=2).sign()
            self._outputs[window, nudged] = self._run(image)
        if len(self._outputs) > REMEMBERED:
            self._outputs.pop(next(iter(self._outputs)))
        return self._outputs[window, nudged]


def _differ(one: Tensor | None, other: Tensor | None) -> float:
    """Their largest difference; infinite if there is nothing to compare. What overflows does so twice."""
    if one is None or other is None or one.shape != other.shape:
        return math.inf
    differs = (one != other) & ~(one.isnan() & other.isnan())
    return float((one - other)[differs].abs().nan_to_num(math.inf).max()) if differs.any() else 0.0


def _largest_finite(values: Tensor) -> float:
    known = values[values.isfinite()]
    return float(known.abs().max()) if known.numel() else 0.0
