"""Operations that make each voxel of their output of the same voxel of their inputs, over all channels if they like.

An input of one voxel along an axis serves all of it; a constant as large as the volume is cut like one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from volpipe.geometry import Box
from volpipe.inference.intervals.recipe import Recipe, part_of
from volpipe.inference.intervals.rule import Call, Needs, Rule, Volume, rule

ATEN = torch.ops.aten
# what a tensor that nothing else uses is changed by; the others make a new one
IN_PLACE: dict[Any, Callable[..., Tensor]] = {
    ATEN.relu.default: torch.relu_,
    ATEN.tanh.default: torch.tanh_,
    ATEN.sigmoid.default: torch.sigmoid_,
    ATEN.leaky_relu.default: functional.leaky_relu_,
    ATEN.elu.default: functional.elu_,
}


@dataclass(frozen=True)
class Pointwise:
    """`operation` of the inputs on the box; `in_place` changes the first of them, if it has one."""

    sizes: tuple[tuple[int, ...], ...]
    size: tuple[int, ...]
    operation: Callable[[Box, Sequence[Tensor]], Tensor]
    in_place: Callable[[Sequence[Tensor]], Tensor] | None = None

    def need(self, out: Box) -> Needs:
        """See `Rule`."""
        return tuple(_broadcast(out, size, self.size) for size in self.sizes)

    def run(self, out: Box, inputs: Sequence[Tensor]) -> Tensor:
        """See `Rule`."""
        return self.operation(out, inputs)


def _broadcast(out: Box, size: Sequence[int], whole: Sequence[int]) -> Box:
    """The part of a tensor of spatial size `size` that stands for `out` of one of size `whole`."""
    single = [n == 1 and m != 1 for n, m in zip(size, whole, strict=True)]
    start = tuple(0 if one else a for one, a in zip(single, out.start, strict=True))
    return Box(start, tuple(1 if one else b for one, b in zip(single, out.stop, strict=True)))


@dataclass(frozen=True)
class _Spread:
    """A constant with spatial extent, and its spatial size."""

    value: Tensor | Recipe
    size: tuple[int, ...]

    def on(self, box: Box) -> Tensor:
        """The part of it on a box."""
        made = part_of(self.value, box)
        return made.reshape((*[1] * (box.ndim - made.ndim), *made.shape))


def per_voxel(call: Call, operation: Callable[..., Any] | None = None) -> Pointwise:
    """The call as it stands, with its volumetric arguments cut to the box.

    Args:
        operation: in place of the call's own.
    """
    args, kwargs = _spread(call, tuple(call.args)), {name: _spread(call, v) for name, v in call.kwargs.items()}
    function = operation or call.target

    def run(out: Box, inputs: Sequence[Tensor]) -> Tensor:
        given = {name: _given(value, out, call.size, inputs) for name, value in kwargs.items()}
        result: Tensor = function(*_given(args, out, call.size, inputs), **given)
        return result if call.pick is None else result[call.pick]

    return Pointwise(call.sizes, call.size, run, _in_place(call))


def _given(value: Any, out: Box, size: Sequence[int], inputs: Sequence[Tensor]) -> Any:
    """An argument on the box. Not inside `run`: a function that calls itself there would hold the inputs until
    Python's garbage collector comes by, which was two fifths of the peak of a 2D U-Net."""
    if isinstance(value, Volume):
        return inputs[value.number]
    if isinstance(value, _Spread):
        return value.on(_broadcast(out, value.size, size))
    if isinstance(value, list | tuple):
        return type(value)(_given(each, out, size, inputs) for each in value)
    return value


def _in_place(call: Call) -> Callable[[Sequence[Tensor]], Tensor] | None:
    change = IN_PLACE.get(call.target)
    if change is None or not isinstance(call.args[0], Volume):
        return None
    return lambda inputs: change(inputs[0], *call.args[1:], **call.kwargs)


def _spread(call: Call, value: Any) -> Any:
    """Constants as large as the volume along some axis, marked."""
    if isinstance(value, list | tuple):
        return type(value)(_spread(call, each) for each in value)
    if not isinstance(value, Tensor | Recipe) or not value.shape or set(value.shape[-call.ndim :]) == {1}:
        return value
    return _Spread(value, (*[1] * (call.ndim - len(value.shape)), *value.shape[-call.ndim :]))


@rule(
    *IN_PLACE, ATEN.add.Tensor, ATEN.sub.Tensor, ATEN.mul.Tensor, ATEN.div.Tensor, ATEN.add.Scalar, ATEN.mul.Scalar,
    ATEN.rsub.Scalar, ATEN.pow.Tensor_Scalar, ATEN.maximum.default, ATEN.minimum.default, ATEN.clamp.default,
    ATEN.gt.Scalar, ATEN.lt.Scalar, ATEN.where.self, ATEN.where.ScalarOther, ATEN.neg.default, ATEN.abs.default,
    ATEN.square.default, ATEN.sqrt.default, ATEN.rsqrt.default, ATEN.reciprocal.default, ATEN.exp.default,
    ATEN.log.default, ATEN.sin.default, ATEN.cos.default, ATEN.erf.default, ATEN.gelu.default, ATEN.silu.default,
    ATEN.mish.default, ATEN.selu.default, ATEN.relu6.default, ATEN.hardtanh.default, ATEN.hardsigmoid.default,
    ATEN.hardswish.default, ATEN.softplus.default, ATEN.log_sigmoid.default, ATEN.alias.default, ATEN.clone.default,
    ATEN.detach.default, ATEN.contiguous.default, ATEN.to.dtype, ATEN._to_copy.default,
    ATEN.full_like.default, ATEN.zeros_like.default, ATEN.ones_like.default,
)  # fmt: skip
def _(call: Call) -> Rule:
    return per_voxel(call)


@rule(ATEN.expand.default)
def _expand(call: Call) -> Rule:
    channels = call.args[1][-1 - call.ndim]

    def run(out: Box, inputs: Sequence[Tensor]) -> Tensor:
        return inputs[0].expand(-1, channels, *out.shape)

    return Pointwise(call.sizes, call.size, run)


@rule(ATEN.prelu.default)
def _prelu(call: Call) -> Rule:
    weight = call.args[1]
    return per_voxel(call, lambda image, _: functional.prelu(image, weight))


@rule(ATEN.dropout.default, ATEN.feature_dropout.default)
def _dropout(call: Call) -> Rule:
    if call.arg(2, "train", False):
        raise call.refused("is random in training mode; call eval() before exporting")
    return per_voxel(call, lambda image, *_: image)


def _over_channels(place: int, name: str, default: int | None = None, *, keeps: bool = False) -> Callable[[Call], Rule]:
    """Operations along an axis that is that of the channels, or of the batch."""

    def build(call: Call) -> Rule:
        dims = call.arg(place, name, default)
        dims = [dims] if isinstance(dims, int) else list(dims or range(2 + call.ndim))
        if any(dim % (2 + call.ndim) > 1 for dim in dims):
            raise call.refused("works along a spatial axis, which has no interval rule")
        if keeps and not call.arg(place + 1, "keepdim", False):
            raise call.refused("removes the axis of channels; give keepdim=True")
        return per_voxel(call)

    return build


rule(ATEN.cat.default)(_over_channels(1, "dim", 0))
rule(ATEN.softmax.int, ATEN._softmax.default, ATEN.log_softmax.int, ATEN._log_softmax.default)(_over_channels(1, "dim"))
rule(ATEN.mean.dim, ATEN.sum.dim_IntList, ATEN.amax.default, ATEN.amin.default, ATEN.argmax.default)(
    _over_channels(1, "dim", keeps=True)
)
rule(ATEN.split_with_sizes.default, ATEN.split.Tensor, ATEN.chunk.default)(_over_channels(2, "dim", 0))


@rule(ATEN._native_batch_norm_legit_no_training.default)
def _batch_norm(call: Call) -> Pointwise:
    weight, bias, mean, variance, _, epsilon = call.args[1:7]
    return with_running_statistics(call, weight, bias, mean, variance, epsilon)


@rule(ATEN.batch_norm.default)
def _batch_norm_as_written(call: Call) -> Pointwise:
    weight, bias, mean, variance, training, _, epsilon = call.args[1:8]
    if training:
        raise call.refused("takes the statistics of the image in training mode; call eval() before exporting")
    return with_running_statistics(call, weight, bias, mean, variance, epsilon)


def with_running_statistics(
    call: Call, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, epsilon: float
) -> Pointwise:
    """A norm by constants, which changes its input where it may."""

    def operation(out: Box, inputs: Sequence[Tensor]) -> Tensor:
        return functional.batch_norm(inputs[0], mean, variance, weight, bias, False, 0.0, epsilon)

    def in_place(inputs: Sequence[Tensor]) -> Tensor:
        image = inputs[0]
        scale = (variance + epsilon).rsqrt() * (1 if weight is None else weight)
        shift = (0 if bias is None else bias) - mean * scale
        shape = (-1,) + (1,) * call.ndim
        return torch.addcmul(shift.view(shape), image, scale.view(shape), out=image)

    return Pointwise(call.sizes, call.size, operation, in_place)
