r"""A bend: a slab that comes back bent fits best where most of it fits, and that is not its mean motion.

    lower, sampled at A^-1 (q - t) + d(q)        d = sum of c_k phi_k: waves of the window, and a little shift and turn

        |   /  |      what a stiff look sees of a bent slab: the part that fits, at that part's turn
        |  |   |      freed to bend, all of it fits; its motion is the shift and the turn that come nearest
        |   \  |      to A^-1 (q - t) + d(q) over the whole window

The waves are cosines of i and j half waves down and across, i + j <= WAVES, each with a prior of deviation ~ 1 / (i^2 +
j^2). log p is climbed from the stiff answer by steps of

    (k <phi phi> + prior)^-1 slope        k: how log p curves along shifts; <phi phi>: means over the window

which tells beforehand what the first step will gain: where that says that tissue is not bent, none is made, and the
stiff answer itself is not climbed to for that (`looks_bent`). Where a bend is larger than what the details show, steps
end at a part again; so it is also climbed at a wide scale first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from volpipe.geometry import Rigid
from volpipe.geometry.transform import Vector
from volpipe.registration.comparison import Comparison
from volpipe.registration.freedom import log_likely
from volpipe.registration.resample import as_motion, moved
from volpipe.registration.slant import put_on

WAVES = 3
LIKELY = 0.02  # of the window's width: root of the mean square of d
# By how much log p rises, at least, where tissue is bent. (Light-sheet tissue, windows of 256: of 95 in 100 pairs it
# rises by less than 2.3, 2.0 and 2.2 at 0, 1 and 2 lost layers; bent by 1 % of its width by more than 36 and 3.7 at 0
# and 1; n = 40 and 16. A whole brain and neuropil give a little everywhere: it rises by more than 3 in half of their
# pairs, and their answers get no worse.)
LEAST = 3.0
# And by what share of all that the stiff answer has, at least: some heights are no logarithms, and some tissue gives a
# little everywhere. (Of it light-sheet tissue bent by 0.5 % gives 0.14 at no lost layer, bent by 1 % at one 0.15;
# mutual information of tissue that is not bent 0.02 and 0.12, a whole brain and neuropil 0.04: medians of 16 to 60.)
LEAST_SHARE = 0.05
RIGID = 3  # of what a window is free along: shifts and a turn
STEPS = 12
ENOUGH = 0.5  # of log p: less is not climbed for
LONGEST = 1.0  # voxels of a step
PROBED = 0.5  # voxels of the shifts that tell how log p curves
LEAST_CURVED = 1e-9  # of log p, over PROBED: a value that curves upwards is climbed by its slope


def looks_bent(comparison: Comparison, seen: Rigid) -> bool:
    """Whether the first step from there says that tissue is bent: asked before it is known where exactly it is seen."""
    ascent = _Ascent.of(comparison, seen)
    return ascent is not None and ascent.promises


def rigid_part(comparison: Comparison, wide: Callable[[], Comparison], seen: Rigid) -> Rigid | None:
    """The motion of tissue that is free to bend.

    Args:
        comparison: the windows, at a scale.
        wide: gives them at a coarser one, which sees further: a large bend is climbed from what it finds.
        seen: what is seen of them by rigid motions, `upper_from_lower`.

    Returns:
        None where nothing says that tissue is bent.
    """
    ascent = _Ascent.of(comparison, seen)
    if ascent is None or not ascent.promises:
        return None
    numbers, gain = ascent.climbed(ascent.start)
    if (coarser := wide()) is not comparison and (first := _Ascent.of(coarser, seen)):
        further, higher = ascent.climbed(first.climbed(first.start)[0])
        numbers, gain = (further, higher) if higher > gain + LEAST else (numbers, gain)
    return _nearest(seen, ascent.free.field(numbers), comparison.spacing) if gain > ascent.least else None


@dataclass(frozen=True)
class _Freedom:
    """Along what a window is free.

    Attributes:
        along: (m, 2, h, w) fields in y and x: shifts in y and x, a turn, and waves.
        precision: (m,) of the prior of each, 0 of shifts and the turn.
        alike: (m, m) mean products over the window.
    """

    along: Tensor
    precision: Tensor
    alike: Tensor

    def field(self, numbers: Tensor) -> Tensor:
        """(2, h, w)."""
        field: Tensor = torch.tensordot(numbers.float(), self.along, 1)
        return field


@lru_cache(maxsize=2)  # of both scales
def _freedom(size: tuple[int, int], spacing: Vector) -> _Freedom:
    (down, across), (y, x) = (_over_window(axes) for axes in zip(*map(_axes, size, spacing), strict=True))
    extents = [n * voxel for n, voxel in zip(size, spacing, strict=True)]
    orders = [(i, j) for i in range(WAVES + 1) for j in range(WAVES + 1 - i) if i + j]
    waves = [torch.cos(i * down) * torch.cos(j * across) for i, j in orders]
    one_axis = torch.eye(2)[:, :, None, None]
    shifts, turn = one_axis * torch.ones(size), torch.stack([x, -y])[None] / (max(extents) / 2)
    along = torch.cat([shifts, turn, *(one_axis * wave for wave in waves)])
    alike = torch.einsum("ichw,jchw->ij", along, along).double() / math.prod(size)
    prior = torch.tensor([1 / (i**2 + j**2) for i, j in orders], dtype=torch.float64).repeat_interleave(2)
    prior = prior * LIKELY * min(extents) / (prior**2 * alike.diagonal()[RIGID:]).sum().sqrt()
    return _Freedom(along, torch.cat([torch.zeros(RIGID), prior**-2]), alike)


def _axes(count: int, voxel: float) -> tuple[Tensor, Tensor]:
    """Of each voxel along an axis: the phase of a half wave, and its place from the centre."""
    place = torch.arange(count) + 0.5
    return place * (math.pi / count), (place - count / 2) * voxel


def _over_window(axes: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.meshgrid(*axes, indexing="ij")


@dataclass(frozen=True)
class _Ascent:
    """log p about what was seen of two windows.

    Attributes:
        value: log p, and that of the prior, of numbers along which they are free; differentiable.
        free: along what.
        voxel: the shorter side of one.
        first, slope: where nothing is bent.
        curved: (m, m) about how much log p curves.
    """

    value: Callable[[Tensor], Tensor]
    free: _Freedom
    voxel: float
    first: float
    slope: Tensor
    curved: Tensor

    @classmethod
    def of(cls, comparison: Comparison, seen: Rigid) -> _Ascent | None:
        """None where the windows hardly overlap."""
        likely = log_likely(comparison, seen)
        if likely is None:
            return None
        images, spacing = comparison.moving, comparison.spacing
        free = _freedom((int(images.shape[-2]), int(images.shape[-1])), spacing)
        motion = as_motion(seen)

        def value(numbers: Tensor) -> Tensor:
            bent = moved(images, motion, spacing, by=free.field(numbers))
            return likely(bent) - (free.precision * numbers**2).sum() / 2

        return cls.about(value, free, min(spacing))

    @classmethod
    def about(cls, value: Callable[[Tensor], Tensor], free: _Freedom, voxel: float) -> _Ascent:
        first, slope = _with_slope(value, torch.zeros_like(free.precision))
        curved = _curved(value, first, slope, PROBED * voxel) * free.alike + torch.diag(free.precision)
        return cls(value, free, voxel, first, slope, curved)

    @property
    def start(self) -> Tensor:
        """Nothing is bent."""
        return torch.zeros_like(self.free.precision)

    @property
    def least(self) -> float:
        """By how much log p rises, at least, where tissue is bent."""
        return max(LEAST, LEAST_SHARE * self.first)

    @property
    def promises(self) -> bool:
        """Whether the first step says that tissue is bent; what is no number says nothing."""
        return self.expected > self.least

    @property
    def expected(self) -> float:
        """By how much the first step's waves raise log p: more than a shift and a turn alone."""
        return self._by_step(self.slope) - self._by_step(self.slope[:RIGID])

    def climbed(self, here: Tensor) -> tuple[Tensor, float]:
        """The best numbers met, and by how much log p is higher there than where nothing is bent."""
        best, slope = _with_slope(self.value, here)
        pace = 1.0
        for _ in range(STEPS):
            if self._by_step(slope) < ENOUGH:
                break
            step = torch.linalg.solve(self.curved, slope)
            pace = min(pace, LONGEST * self.voxel / float(self.free.field(step).abs().max()))
            found, up = _with_slope(self.value, here + pace * step)
            if found > best:
                here, best, slope, pace = here + pace * step, found, up, min(1.0, 2 * pace)
            else:
                pace /= 3
        return here, best - self.first

    def _by_step(self, slope: Tensor) -> float:
        """What a step along the first of the numbers raises log p by."""
        curved = self.curved[: len(slope), : len(slope)]
        return float(slope @ torch.linalg.solve(curved, slope)) / 2


def _with_slope(value: Callable[[Tensor], Tensor], numbers: Tensor) -> tuple[float, Tensor]:
    free = numbers.detach().requires_grad_()
    found = value(free)
    return float(found.detach()), torch.autograd.grad(found, free)[0]


@torch.no_grad()
def _curved(value: Callable[[Tensor], Tensor], middle: float, slope: Tensor, reach: float) -> float:
    """How log p curves along shifts, in y and in x alike: minus its second derivative."""
    shifts = torch.eye(len(slope), dtype=torch.float64)[:2] * reach
    falls = [middle + float(slope @ shift) - float(value(shift)) for shift in shifts]
    return max(sum(falls), LEAST_CURVED) / reach**2


def _nearest(seen: Rigid, field: Tensor, spacing: Vector) -> Rigid:
    """The motion that comes nearest to q -> where `seen` and the field say that q comes from, over the window."""
    places = _over_window([_axes(n, voxel)[1].double() for n, voxel in zip(field.shape[1:], spacing, strict=True)])
    upper = torch.stack(places, -1).reshape(-1, 2).numpy()
    there = seen(seen.inverse(upper) + field.flatten(1).T.numpy())
    (yy, yx), (xy, xx) = upper.T @ there  # of upper the mean is 0
    turn = Rigid(math.atan2(yx - xy, yy + xx))
    y, x = -turn(there.mean(0))
    return put_on(Rigid(turn.angle_rad, (float(y), float(x))), seen)
