"""The footprint of any network, found by running it: per axis its need, period, size class and what it loses.

    choices    nothing that is run, or how, may be chosen by the image's values
    sizes      which lengths are taken, and how long the output is: on meta tensors, or with real tiles
    reach      poison:  NaN NaN NaN [c  random  d) NaN NaN NaN  -->  NaN NaN NaN NaN [lo  clean  hi) NaN NaN NaN NaN
    period     the smallest shift of the input that shifts the output and changes nothing else,
    lengths    and with which images of several lengths that begin (or end) alike give outputs that do
    need       the smallest margin of clean input around an aligned block that leaves the block clean
    self-test  tiles that read what was found equal the whole, with random and with its own weights; or it is refused

Convention: one axis is long, the others have the shortest admissible length; positions are input voxels, output o
stands at o / scale. All in float64: torch's own kernels run there, while the fast ones smear NaN over their blocks.
NaN passes where a gradient dies (ReLU, pooling), and a weight of 0 hides nothing; what hides NaN is found out by the
self-test. The shifts are tested on a stand-in with weights of unit gain (stand_in.py), because usual initialisation
damps the deep path of a network below its rounding, and on fewer channels where that changes nothing else. Source of
the cases: Rumberger et al., ICCV 2021; what a network's class is called is never asked.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import nn

from volpipe.errors import reason
from volpipe.geometry import AxisFootprint, Footprint, ceil_to, floor_to
from volpipe.models import culprit
from volpipe.models.self_test import (
    SHORTEST_LINE,
    OwnWeightsDiffer,
    differs,
    self_test,
    tested_length,
    tiled_equals_whole,
)
from volpipe.models.sizes import SHORTEST
from volpipe.models.smallest import smallest_along
from volpipe.models.steps import EDGES
from volpipe.models.strip import Window
from volpipe.models.trial import Refused, Trial

LARGEST_PERIOD = 256
FEWEST_LENGTHS = 32  # that are tried for the step of admissible lengths, or two steps
LEAST_COMPARED = 32  # voxels
LARGEST_PRIME = 7  # periods are products of small numbers, as strides and windows are; then all up to 64 are tried
LARGEST_ODD = 64
LONGEST_LINE = 2304
WIDEST, WIDE_VOXELS = 256, 2**15  # of the images on which what was found on strips is tried again
WIDEST_STRIP = {2: 256, 3: 64}  # by the axes of a network
MOST_VOXELS = 2**22  # of one run, so that a 3D network cannot ask for all memory


@dataclass(frozen=True)
class Probe:
    """What a probe found.

    Attributes:
        footprint: None if the network cannot be tiled.
        refusal: why it cannot be tiled, naming a module or an operation; "" if it can.
        failure: what kept the probe from an answer; "" if it has one.
        seconds: that the probe took.
        any_weights: whether it was found with random weights, so that it holds for another training too.
    """

    footprint: Footprint | None
    refusal: str
    failure: str
    seconds: float
    any_weights: bool = False


class OneLength(Refused):
    """Along an axis the network takes one length alone; `scale` is that of its output."""

    def __init__(self, text: str, scale: Fraction) -> None:
        super().__init__(text)
        self.scale = scale


class WideImagesDiffer(Refused):
    """What was found on narrow strips is not true of wide ones; windows that shrink with the image do that."""


def probe(network: nn.Module, ndim: int, in_channels: int) -> Probe:
    """Measure a network, which is left as it is.

    Args:
        network: (n, c, [z,] y, x) -> (n, c', [z,] y, x), in eval mode.
        ndim: spatial axes, 2 or 3.
        in_channels: c.
    """
    began = time.perf_counter()
    try:
        with _one_thread():
            trial, found = _measured(network, ndim, in_channels)
    except Refused as refused:
        return Probe(None, str(refused), "", time.perf_counter() - began)
    except Exception as error:  # a user's network may raise anything
        return Probe(None, "", reason(error), time.perf_counter() - began)
    return Probe(Footprint(found), "", "", time.perf_counter() - began, trial.any_weights)


def holds(network: nn.Module, ndim: int, in_channels: int, found: Probe) -> bool:
    """The self-test alone, with the network's own weights, of what was found for another training of it."""
    axes = () if found.footprint is None else found.footprint.axes
    try:
        with _one_thread():
            trial = Trial(network, ndim, in_channels)
            for axis, footprint in enumerate(axes):
                self_test(trial, axis, footprint)
    except Exception:  # then it is probed, and says what is wrong
        return False
    return True


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Strips are small: two threads took 4 times the CPU time of one (measured on a busy machine)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _measured(network: nn.Module, ndim: int, in_channels: int) -> tuple[Trial, tuple[AxisFootprint, ...]]:
    thin, least = True, SHORTEST
    wide: WideImagesDiffer | None = None
    while True:
        trial = Trial(network, ndim, in_channels, thin=thin, least=least)
        culprit.require_repeatable(trial)
        culprit.require_nan_shows(trial)
        culprit.require_no_choice(trial)
        try:
            found = tuple(_Axis(trial, axis).measured() for axis in range(ndim))
            _require_same_in_wide_images(trial, found)
            return trial, found
        except OneLength:
            return trial, _windowed(trial)
        except OwnWeightsDiffer:
            if trial.cut == 1:
                raise
            thin = False
        except WideImagesDiffer as differ:
            wide, least = wide or differ, 4 * trial.base
            if least > WIDEST_STRIP[ndim]:
                raise wide from None
        except Refused as refused:
            raise wide or refused from None


def _windowed(trial: Trial) -> tuple[AxisFootprint, ...]:
    """Of a network with a fixed input, as transformers have: the cube that it takes.

    What it gives depends on all of it, so that its windows may lie anywhere that its outputs allow.

    Raises:
        Refused: it takes several lengths along another axis, or several cubes.
    """
    if larger := trial.larger_cube():
        raise Refused(f"it takes images with equal edges alone, as {trial.base} and {larger}; tiles have others")
    found = []
    for axis in range(trial.ndim):
        try:
            _Axis(trial, axis).measured()
        except OneLength as one:
            found.append(AxisFootprint(period=one.scale.denominator, scale=one.scale, window=trial.base))
            continue
        raise Refused("it takes one length alone along some axes, and several along others")
    return tuple(found)


def _require_same_in_wide_images(trial: Trial, found: Sequence[AxisFootprint]) -> None:
    """Raises: WideImagesDiffer: the network does something else where the other axes are as long as in real tiles."""
    for axis, footprint in enumerate(found):
        length = tested_length(footprint, trial.base)
        wide = min(WIDEST, int((WIDE_VOXELS / length) ** (1 / (trial.ndim - 1))))
        across = [other.admissible(max(trial.base, wide)) for other in found]
        if wide > trial.base and not tiled_equals_whole(trial.strip(axis, across), length, footprint):
            raise WideImagesDiffer(f"{differs(footprint)} in images {wide} wide")
    base = [axis.admissible(trial.base) for axis in found]
    small = base, [axis.admissible(n + 1) for axis, n in zip(found, base, strict=True)]
    large = [[axis.admissible(max(edge, n + 1)) for axis, n in zip(found, small[1], strict=True)] for edge in EDGES]
    if other := trial.other_steps(small, large):
        name, shape = other
        raise WideImagesDiffer(f"what it does depends on the image's size ({[*shape]} voxels: operation {name})")


class _Axis:
    """The probe of one axis; each step uses what the steps before it found."""

    def __init__(self, trial: Trial, axis: int) -> None:
        self.trial, self.axis, self.strip = trial, axis, trial.strip(axis)

    def measured(self) -> AxisFootprint:
        self._sizes()
        self._size_class()
        self._reach()
        self._period()
        before, after = self._need()
        self._require_even_loss(before, after)
        before, after = max(0, before), max(0, after)  # one that looks ahead alone, say: what lies between is read
        footprint = smallest_along(
            AxisFootprint(before, after, self.period, self.size_class, self.lost, self.scale),
            self._in_class(self.trial.base, self.period),
            lambda length: self.trial.output_length(self.axis, length) > 0,
        )
        self_test(self.trial, self.axis, footprint)
        return footprint

    def _sizes(self) -> None:
        """The step and the scale of lengths: `step` more input is `step * scale` more output."""
        base = self.trial.base
        self.outputs: dict[int, int] = {}
        for length in range(base, 3 * base + FEWEST_LENGTHS):
            if output := self.trial.output_length(self.axis, length):
                self.outputs[length] = output
            tried = length + 1 - base
            if tried >= FEWEST_LENGTHS and self._has_step(tried):
                return
        if len(set(self.outputs.values())) == 1 and max(self.outputs) < 2 * base:  # some more may be cut off inside
            raise OneLength(f"along {self._name} it takes one length alone, {base}", Fraction(self.outputs[base], base))
        raise Refused(f"along {self._name} its output does not grow evenly with its input")

    def _has_step(self, tried: int) -> bool:
        """The smallest step that fits all lengths that were tried, if they are two steps or more."""
        base = self.trial.base
        for step in range(1, tried // 2 + 1):
            pairs = [(n, n + step) for n in self.outputs if n + step < base + tried]
            grown = {self.outputs.get(b, 0) - self.outputs[a] for a, b in pairs}
            if len(grown) == 1 and min(grown) > 0:
                self.step, self.scale = step, Fraction(min(grown), step)
                return True
        return False

    def _size_class(self) -> None:
        """The residue of lengths that loses least; 0 where it is among the best. What is lost repeats by `step`.

        Raises:
            Refused: no length gives whole voxels, or all give more than they have.
        """
        costs = {n: n * self.scale - output for n, output in self.outputs.items()}
        whole = [abs(cost) for cost in costs.values() if cost.denominator == 1]
        if not whole:
            raise Refused(f"along {self._name} it loses a part of a voxel of its output, whatever its input's length")
        best = min(whole)
        classes = {n % self.step: cost for n, cost in costs.items() if abs(cost) == best}
        self.size_class = min(classes)
        self.lost = int(classes[self.size_class])
        if self.lost < 0:
            raise Refused(
                f"along {self._name} it returns {-self.lost} voxels more than it sees; crop them in the network"
            )
        self.shrinks = max(0, max(int(cost / self.scale) + 1 for cost in costs.values()))

    def _reach(self) -> None:
        """A line long enough that poison outside its middle half leaves something clean."""
        limit = min(LONGEST_LINE, MOST_VOXELS // self.trial.base ** (self.trial.ndim - 1))
        length = self._in_class(max(SHORTEST_LINE, 2 * self.trial.base), self.step)
        while True:
            first, last = length // 4, 3 * length // 4
            low, high = self._clean(length, first, last)
            if low < high:
                self.margin = max(low - first, last - high, 0) + 1
                return
            if 2 * length > limit:
                raise Refused(
                    f"along {self._name} an output depends on everything, or on more than {length // 2} voxels"
                    f"{culprit.of_reach(self.trial, self.axis, length // 4)}"
                )
            length = self._in_class(2 * length, self.step)

    def _period(self) -> None:
        """The smallest shift that fits, or its smallest multiple by which images of several lengths differ."""
        steps = range(self.step, LARGEST_PERIOD + 1, self.step)
        smooth = [period for period in steps if _is_smooth(period // self.step)]
        odd = [period for period in steps if period <= LARGEST_ODD and period not in smooth]
        shift = next(filter(self._shifts, smooth + odd), None)
        if shift is not None:
            periods = range(shift, LARGEST_PERIOD + 1, shift)
            self.period = next(filter(self._same_in_every_length, periods), 0)
            if self.period:
                return
            length = self._in_class(4 * (self.margin + shift) + self.shrinks, shift)
            raise Refused(f"along {self._name} {culprit.of_lengths(self.trial, self.axis, length)}")
        raise Refused(
            f"along {self._name} no shift of its input up to {LARGEST_PERIOD} voxels only shifts its output"
            f"{culprit.of_places(self.trial)}"
        )

    def _shifts(self, by: int) -> bool:
        if (by * self.scale).denominator != 1:
            return False
        edge = self.margin + by  # reach varies by less than a period over the phases of one
        seen = 2 * by + LEAST_COMPARED
        length = self._in_class(2 * edge + by + seen + self.shrinks, by)
        here, there = Window(0, length), Window(by, length + by)
        return self.strip.agree(here, there, self._out(edge + by), self._out(edge), self._out(seen))

    def _same_in_every_length(self, period: int) -> bool:
        """Images that begin alike give outputs that do, but for a margin at the end; and the other way round."""
        edge = self.margin + period
        short = self._in_class(2 * edge + period + self.shrinks, period)
        for longer in (short + period, 2 * short + period):
            longer = self._in_class(longer, period)
            count, more = self._out(short - edge) - self.lost, self._out(longer - short)
            whole = Window(0, longer)
            if not self.strip.agree(whole, Window(0, short), 0, 0, count):
                return False
            if not self.strip.agree(
                whole, Window(longer - short, longer), more + self._out(edge), self._out(edge), count
            ):
                return False
        return True

    def _need(self) -> tuple[int, int]:
        """The smallest clean margins before and after an aligned block, each bisected within one period."""
        period = self.period
        length = self._in_class(4 * (self.margin + 3 * period) + self.shrinks, period)  # the block is 3 periods or more
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
            clean_from, dirty_from = (before, dirty_from) if low <= start < high else (clean_from, before)
            clean_to, dirty_to = (after, dirty_to) if low < stop <= high else (clean_to, after)
        return clean_from, clean_to

    def _require_even_loss(self, before: int, after: int) -> None:
        """Raises: Refused: it loses more on one side, so that a product placed in the middle would be shifted."""
        shift = Fraction(after - before) / 2 - self.lost / self.scale / 2
        if self.lost and 2 * abs(shift) >= self.period:
            side = "start" if shift > 0 else "end"
            raise Refused(f"along {self._name} it loses more voxels at the {side} than at the other end, about "
                          f"{int(2 * abs(shift))}; crop both ends alike in the network")  # fmt: skip

    def _clean(self, length: int, first: int, last: int) -> tuple[int, int]:
        """[low, high) that stays clean when all input outside [first, last) is NaN, rounded inwards to input voxels."""
        low, high = self.strip.clean(length, first, last)
        return -int(-low // self.scale), int(high // self.scale)

    def _out(self, position: int) -> int:
        return int(position * self.scale)

    def _in_class(self, length: int, period: int) -> int:
        """The next length that is taken, in the class modulo a period."""
        return ceil_to(max(length, self.trial.base) - self.size_class, period) + self.size_class

    @property
    def _name(self) -> str:
        return "zyx"[3 - self.trial.ndim + self.axis]


def _is_smooth(number: int) -> bool:
    for prime in range(2, LARGEST_PRIME + 1):
        while number % prime == 0:
            number //= prime
    return number == 1
