"""Operations that see the whole volume: instance and group norm, pooling of everything to one voxel.

    image ----------------------------+
      |                               +--> normalised         on any box: of the same voxel, and of one voxel of moments
      +--> moments (one voxel) -------+
                                 +-------> average            pooling to one voxel

Capture reads such an operation as two: its moments, a tensor of one voxel, and what is made of them voxel by voxel.
Only the first needs the whole volume, and that is what its rule says, so a program is right as it stands. Once they are
given the second takes them as a constant: then a block of a norm costs what one of any other layer does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from volpipe.errors import GeometryError
from volpipe.geometry import Box
from volpipe.inference.intervals.moments import Moments, moments
from volpipe.inference.intervals.pointwise import Pointwise, with_running_statistics
from volpipe.inference.intervals.rule import Call, Needs, Rule, Volume, rule

ATEN = torch.ops.aten


@dataclass(frozen=True)
class Reduction:
    """The moments of a tensor.

    Attributes:
        size: of the input.
        groups: of its channels.
        part: of the input that is measured; None for all of it.
    """

    size: tuple[int, ...]
    groups: int
    part: Box | None = None

    def need(self, out: Box) -> Needs:
        """See `Rule`."""
        return (self.part or Box.from_shape(self.size),)

    def run(self, out: Box, inputs: Sequence[Tensor]) -> Tensor:
        """See `Rule`."""
        return moments(inputs[0], self.groups)


@rule(moments)
def _moments(call: Call) -> Reduction:
    return Reduction(call.sizes[0], call.args[1], call.kwargs.get("part"))


def of_part(call: Call, part: Box) -> Call:
    """The call of a reduction on a part of the volume alone."""
    return replace(call, kwargs={**call.kwargs, "part": part})


def with_moments(call: Call, given: Moments, device: str | torch.device) -> Call:
    """What is made of moments, with a constant in their place: the last of its inputs."""
    last, constant = Volume(len(call.sizes) - 1), given.tensor(call.ndim, device)
    args = tuple(constant if isinstance(argument, Volume) and argument == last else argument for argument in call.args)
    return replace(call, args=args, sizes=call.sizes[:-1])


def of_images(call: Call, images: slice) -> Call:
    """What is made of given moments, for some of the images that they are of; any other call as it is."""
    place = {normalised: 1, average: 0}.get(call.target)
    if place is None or not isinstance(call.args[place], Tensor):
        return call
    return replace(call, args=(*call.args[:place], call.args[place][images], *call.args[place + 1 :]))


def normalised(image: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> Tensor:
    """image * scale + shift, which are of each image, or of one that stands for all.

    Args:
        image: (n, c, ...).
        scale, shift: (n or 1, c, 1, ..., 1) of float64.
        out: written to and returned; it may be the image.

    Raises:
        GeometryError: they are of another number of images; torch would make `out` larger without a word.
    """
    if len(scale) not in (1, len(image)):
        raise GeometryError(f"statistics of {len(scale)} images for {len(image)}")
    numbers = torch.promote_types(image.dtype, torch.float32)
    return torch.addcmul(shift.to(numbers), image, scale.to(numbers), out=out)


def _scale_and_shift(
    statistics: Tensor, channels: int, weight: Tensor | None, bias: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Of (image - mean) / sqrt(variance + epsilon) * weight + bias, by the moments of groups of `channels` in all."""
    count, mean, m2 = statistics.chunk(3, 1)
    each, shape = channels // mean.shape[1], (-1,) + (1,) * (mean.ndim - 2)
    mean, variance = (of.repeat_interleave(each, 1) for of in (mean, m2 / count))
    scale = (variance + epsilon).rsqrt() * (1.0 if weight is None else weight.double().view(shape))
    return scale, (0.0 if bias is None else bias.double().view(shape)) - mean * scale


@rule(normalised)
def _normalised(call: Call) -> Pointwise:
    _, given, *affine = call.args
    known = cache(lambda: _scale_and_shift(given, call.channels, *affine))  # once, and not for every slab

    def onto(inputs: Sequence[Tensor], out: Tensor) -> Tensor:
        scale, shift = known() if isinstance(given, Tensor) else _scale_and_shift(inputs[1], call.channels, *affine)
        return normalised(inputs[0], scale, shift, out)

    return Pointwise(
        call.sizes, call.size, lambda _, inputs: onto(inputs, torch.empty_like(inputs[0])),
        in_place=lambda inputs: onto(inputs, inputs[0]),
    )  # fmt: skip


def average(statistics: Tensor, dtype: torch.dtype, keeps_axes: bool = True) -> Tensor:
    """The mean of moments: (n, c, 1, ..., 1), or (n, c)."""
    mean = statistics.chunk(3, 1)[1].to(dtype, copy=True)
    return mean if keeps_axes else mean.flatten(1)


@rule(average)
def _average(call: Call) -> Pointwise:
    given, dtype, _ = call.args  # one that drops the axes is `flat`, and run as it stands
    return Pointwise(call.sizes, call.size, lambda _, inputs: average(inputs[0] if inputs else given, dtype))


Split = Callable[[Call], tuple[Call, Call] | None]
_SPLITS: dict[object, Split] = {}


def split(call: Call) -> tuple[Call, Call] | None:
    """(its moments, what is made of them and of the image if that has a part in it) of an operation that sees the whole
    volume; None of any other."""
    find = _SPLITS.get(call.target)
    return None if find is None else find(call)


def _splits(*targets: object) -> Callable[[Split], Split]:
    def register(function: Split) -> Split:
        _SPLITS.update(dict.fromkeys(targets, function))
        return function

    return register


def _moments_of(call: Call, groups: int) -> Call:
    of = {"of": call.name.removeprefix("aten::").split(".")[0]}
    return replace(
        call, target=moments, args=(Volume(0), groups), kwargs=of, size=_one(call), dtype=torch.float64, flat=False
    )


def _one(call: Call) -> tuple[int, ...]:
    return (1,) * call.ndim


def _norm(call: Call, groups: int, weight: Tensor | None, bias: Tensor | None, epsilon: float) -> tuple[Call, Call]:
    args, sizes = (Volume(0), Volume(1), weight, bias, epsilon), (call.size, _one(call))
    return _moments_of(call, groups), replace(call, target=normalised, args=args, kwargs={}, sizes=sizes)


@_splits(ATEN.instance_norm.default)
def _instance_norm(call: Call) -> tuple[Call, Call] | None:
    weight, bias, _, _, of_the_image, _, epsilon = call.args[1:8]
    return _norm(call, call.channels, weight, bias, epsilon) if of_the_image else None


@_splits(ATEN.batch_norm.default)
def _batch_norm_without_statistics(call: Call) -> tuple[Call, Call] | None:
    """With `track_running_stats=False`: of one image the same as instance norm."""
    weight, bias, mean, _, of_the_image, _, epsilon = call.args[1:8]
    return _norm(call, call.channels, weight, bias, epsilon) if of_the_image and mean is None else None


@rule(ATEN.instance_norm.default)
def _instance_norm_as_trained(call: Call) -> Rule:
    weight, bias, mean, variance, _, _, epsilon = call.args[1:8]
    return with_running_statistics(call, weight, bias, mean, variance, epsilon)


@_splits(ATEN.group_norm.default)
def _group_norm(call: Call) -> tuple[Call, Call]:
    weight, bias, epsilon = call.arg(2, "weight"), call.arg(3, "bias"), call.arg(4, "eps", 1e-5)
    return _norm(call, call.args[1], weight, bias, epsilon)


@_splits(ATEN.adaptive_avg_pool1d.default, ATEN.adaptive_avg_pool2d.default, ATEN.adaptive_avg_pool3d.default)
def _pooling(call: Call) -> tuple[Call, Call] | None:
    return _pooled(call) if call.size == _one(call) else None


@_splits(ATEN.mean.dim)
def _mean(call: Call) -> tuple[Call, Call] | None:
    dims = call.arg(1, "dim") or range(2 + call.ndim)
    over = {dim % (2 + call.ndim) for dim in dims}
    return _pooled(call) if over == set(range(2, 2 + call.ndim)) else None


def _pooled(call: Call) -> tuple[Call, Call]:
    args = (Volume(0), call.dtype, not call.flat)
    made = replace(call, target=average, args=args, kwargs={}, sizes=(_one(call),))
    return _moments_of(call, call.channels), made
