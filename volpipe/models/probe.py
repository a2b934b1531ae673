"""The footprint of any network, found by running it: per axis its need, period, size class and what it loses.

    sizes      which lengths are taken, and how long the output is: on meta tensors, or with real tiles
    reach      poison:  NaN NaN NaN [c  random  d) NaN NaN NaN  -->  NaN NaN NaN NaN [lo  clean  hi) NaN NaN NaN NaN
    period     the smallest shift of the input that shifts the output and changes nothing else
    lengths    the same beginning in two lengths must give the same beginning
    need       the smallest margin of clean input around an aligned block that leaves the block clean
    self-test  tiles that read what was found equal the whole, or the network is refused

Convention: one axis is long, the others have the shortest admissible length; positions are input voxels, output o
stands at o / scale. All in float64: torch's own kernels run there, while the fast ones smear NaN over their blocks.
NaN passes where a gradient dies (ReLU, pooling), and a weight of 0 hides nothing. The shifts are tested on a copy with
weights of unit gain, because usual initialisation damps the deep path of a network below its rounding. Equal means:
within 100 times what a change of the input by one unit in the last place does. Source of the cases: Rumberger et al.,
ICCV 2021; what a network's class is called is never asked.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from fractions import Fraction

from torch import nn

from volpipe.errors import reason
from volpipe.geometry import AxisFootprint, Footprint, ceil_to, floor_to
from volpipe.models import culprit
from volpipe.models.trial import Refused, Trial

LARGEST_PERIOD = 256
LARGEST_STEP = 32  # of admissible lengths, unless the smallest cube is larger
LEAST_COMPARED = 32  # voxels
LARGEST_PRIME = 7  # of a period: strides and windows are products of small numbers
SHORTEST_LINE = 64  # voxels; doubled until something stays clean
LONGEST_LINE = 2048
MOST_VOXELS = 2**22  # of one run, so that a 3D network cannot ask for all memory


@dataclass(frozen=True)
class Probe:
    """What a probe found.

    Attributes:
        footprint: None if the network cannot be tiled.
        scale: output voxels per input voxel, per axis; empty without a footprint.
        refusal: why it cannot be tiled, naming a module or an operation; "" if it can.
        failure: what kept the probe from an answer; "" if it has one.
        seconds: that the probe took.
    """

    footprint: Footprint | None
    scale: tuple[Fraction, ...]
    refusal: str
    failure: str
    seconds: float


def probe(network: nn.Module, ndim: int, in_channels: int) -> Probe:
    """Measure a network, which is left as it is.

    Args:
        network: (n, c, [z,] y, x) -> (n, c', [z,] y, x), in eval mode.
        ndim: spatial axes, 2 or 3.
        in_channels: c.
    """
    began = time.perf_counter()
    try:
        trial = Trial(network, ndim, in_channels)
        culprit.require_repeatable(trial)
        culprit.require_nan_shows(trial)
        found = [_Line(trial, axis).measured() for axis in range(ndim)]
    except Refused as refused:
        return Probe(None, (), str(refused), "", time.perf_counter() - began)
    except Exception as error:  # a user's network may raise anything
        return Probe(None, (), "", reason(error), time.perf_counter() - began)
    axes, scale = zip(*found, strict=True)
    return Probe(Footprint(axes), scale, "", "", time.perf_counter() - began)


class _Line:
    """The probe of one axis; each step uses what the steps before it found."""

    def __init__(self, trial: Trial, axis: int) -> None:
        self.trial, self.axis = trial, axis

    def measured(self) -> tuple[AxisFootprint, Fraction]:
        self._sizes()
        self._reach()
        self._period()
        self._size_class()
        self._same_in_every_length()
        before, after = self._need()
        footprint = AxisFootprint(before, after, self.period, self.size_class, self.lost)
        require_tiled_equals_whole(self.trial, self.axis, footprint, self.scale)
        return footprint, self.scale

    def _sizes(self) -> None:
        """The step and the scale of lengths: `step` more input is `step * scale` more output."""
        base = self.trial.base
        outputs = self.trial.output_lengths(self.axis, range(base, 3 * base + LARGEST_STEP))
        self.outputs = {length: output for length, output in outputs.items() if output}
        for step in range(1, max(outputs) - base + 1):
            grown = {self.outputs.get(n + step, 0) - self.outputs[n] for n in self.outputs if n + step in outputs}
            if len(grown) == 1 and min(grown) > 0:
                self.step, self.scale = step, Fraction(min(grown), step)
                return
        raise Refused(f"along {self._name} its output does not grow with its input{culprit.of_lengths(self.trial)}")

    def _reach(self) -> None:
        """A line long enough that poison outside its middle half leaves something clean."""
        limit = min(LONGEST_LINE, MOST_VOXELS // self.trial.base ** (self.trial.ndim - 1))
        length = self._admissible(max(SHORTEST_LINE, 2 * self.trial.base))
        while True:
            first, last = length // 4, 3 * length // 4
            low, high = self._clean(length, first, last)
            if low < high:
                self.margin = max(low - first, last - high, 0) + 1
                return
            if 2 * length > limit:
                raise Refused(
                    f"along {self._name} an output depends on everything, or on more than {length // 2} voxels"
                    f"{culprit.of_reach(self.trial, self.axis, length)}"
                )
            length = self._admissible(2 * length)

    def _period(self) -> None:
        for period in filter(_is_smooth, range(self.step, LARGEST_PERIOD + 1, self.step)):
            if (period * self.scale).denominator == 1 and self._shifts(period):
                self.period = period
                return
        raise Refused(
            f"along {self._name} no shift of its input up to {LARGEST_PERIOD} voxels only shifts its output"
            f"{culprit.of_lengths(self.trial)}"
        )

    def _shifts(self, by: int) -> bool:
        edge = self.margin + by  # reach varies by less than a period over the phases of one
        seen = 2 * by + LEAST_COMPARED
        length = self._admissible(2 * edge + by + seen + self._shrinks)
        image = self.trial.image(self.axis, length + by)
        here, there = (image.narrow(2 + self.axis, start, length) for start in (0, by))
        return self.trial.agree(self.axis, here, there, self._out(edge + by), self._out(edge), self._out(seen))

    def _size_class(self) -> None:
        """The residue of lengths that loses least; 0 where it is among the best."""
        costs = {n: n * self.scale - output for n, output in self.outputs.items()}
        best = min(abs(cost) for cost in costs.values())
        classes = {n % self.period: cost for n, cost in costs.items() if abs(cost) == best}
        self.size_class = min(classes)
        self.lost = int(classes[self.size_class])

    def _same_in_every_length(self) -> None:
        edge = self.margin + self.period
        short = self._in_class(2 * edge + self.period + self._shrinks)
        image = self.trial.image(self.axis, short + self.period)
        here = image.narrow(2 + self.axis, 0, short)
        if not self.trial.agree(self.axis, here, image, 0, 0, self._out(short - edge - self._shrinks)):
            raise Refused(
                f"along {self._name} its output depends on the length of its input{culprit.of_lengths(self.trial)}"
            )

    def _need(self) -> tuple[int, int]:
        """The smallest clean margins before and after an aligned block, each bisected within one period."""
        period = self.period
        length = self._in_class(4 * (self.margin + period) + 2 * period + self._shrinks)
        first, last = ceil_to(length // 4, period), floor_to(3 * length // 4, period)
        low, high = self._clean(length, first, last)
        start, stop = ceil_to(low, period), floor_to(high, period)
        before = after = 0
        clean_from, dirty_from = start - first, start - first - period  # margins that leave the block clean, and not
        clean_to, dirty_to = last - stop, last - stop - period
        while clean_from - dirty_from > 1 or clean_to - dirty_to > 1:
            before, after = (clean_from + dirty_from) // 2, (clean_to + dirty_to) // 2
            if dirty_from + 1 == clean_from:
                before = clean_from
            if dirty_to + 1 == clean_to:
                after = clean_to
            low, high = self._clean(length, start - before, stop + after)
            clean_from, dirty_from = (before, dirty_from) if low <= start else (clean_from, before)
            clean_to, dirty_to = (after, dirty_to) if high >= stop else (clean_to, after)
        return clean_from, clean_to

    def _clean(self, length: int, first: int, last: int) -> tuple[int, int]:
        """[low, high) that stays clean when all input outside [first, last) is NaN, rounded inwards to input voxels."""
        low, high = self.trial.clean(self.axis, length, first, last)
        return -int(-low // self.scale), int(high // self.scale)

    @property
    def _shrinks(self) -> int:
        """Input voxels that have no output."""
        return max(0, max(int((n * self.scale - output) / self.scale) + 1 for n, output in self.outputs.items()))

    def _out(self, position: int) -> int:
        return int(position * self.scale)

    def _admissible(self, length: int) -> int:
        """The next length that is taken; lengths repeat by `step`."""
        residues = {n % self.step for n in self.outputs}
        return next(
            n for n in range(max(length, min(self.outputs)), length + 2 * LONGEST_LINE) if n % self.step in residues
        )

    def _in_class(self, length: int) -> int:
        return ceil_to(max(length, self.trial.base) - self.size_class, self.period) + self.size_class

    @property
    def _name(self) -> str:
        return "zyx"[3 - self.trial.ndim + self.axis]


def require_tiled_equals_whole(trial: Trial, axis: int, footprint: AxisFootprint, scale: Fraction) -> None:
    """Compare three tiles (both faces, the middle) with the whole of a short line.

    Raises:
        Refused: they differ; what was found is not the network's footprint.
    """
    period, halo = footprint.period, footprint.halo_before + footprint.halo_after
    length = footprint.admissible(max(trial.base, halo + 8 * period + int(footprint.lost / scale)))
    image = trial.image(axis, length)
    end = length - int(footprint.lost / scale)
    middle = footprint.halo_before + 2 * period
    for start, stop in ((0, 2 * period), (middle, middle + 2 * period), (floor_to(end, period) - 2 * period, end)):
        first, last = footprint.read(start, stop, length)
        tile = image.narrow(2 + axis, first, last - first)
        own = int(start * scale), int((start - first) * scale), int((stop - start) * scale)
        if not trial.agree(axis, image, tile, *own):
            raise Refused(
                f"tiles that read need {footprint.need_before}, {footprint.need_after} at period {period} do not give "
                "the whole (self-test of the probe)"
            )


def _is_smooth(number: int) -> bool:
    for prime in range(2, LARGEST_PRIME + 1):
        while number % prime == 0:
            number //= prime
    return number == 1
