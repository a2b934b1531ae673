"""A network whose statistics over the image are held: what is left of it sees a bounded neighbourhood.

    instance norm, group norm     weight * image + bias       mean 0, variance 1
    the mean of everything        1

So the footprint of a network that norms by the whole volume is probed: with statistics that passes over the volume
found, its blocks read what those of the held network do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

ATEN = torch.ops.aten
_NAMES = {"input": "image", "self": "image", "axis": "dim", "keepdims": "keepdim"}  # torch's of the image, and synonyms


class Held(nn.Module):
    """Runs a network so."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """As the network's."""
        with _Holding():
            return self.network(image)  # type: ignore[no-any-return]


class _Holding(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_NAMES.get(name, name): value for name, value in (kwargs or {}).items()}
        made = _HELD[func](*args, **given) if func in _HELD else NotImplemented
        return func(*args, **(kwargs or {})) if made is NotImplemented else made


def _scaled(image: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (-1,) + (1,) * (image.ndim - 2)
    image = image if weight is None else image * weight.view(shape)
    return image.clone() if bias is None else image + bias.view(shape)


def _instance_norm(
    image: Tensor, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None,
    use_input_stats: bool = True, *_: Any, **__: Any,
) -> Any:  # fmt: skip
    return _scaled(image, weight, bias) if use_input_stats else NotImplemented


def _operator_instance_norm(
    image: Tensor,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    use_input_stats: bool,
    *_: Any,
    **__: Any,
) -> Any:
    return _instance_norm(image, running_mean, running_var, weight, bias, use_input_stats)


def _batch_norm(
    image: Tensor, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None,
    training: bool = False, *_: Any, **__: Any,
) -> Any:  # fmt: skip
    return _scaled(image, weight, bias) if training and running_mean is None else NotImplemented


def _operator_batch_norm(
    image: Tensor, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool, *_: Any, **__: Any
) -> Any:
    return _batch_norm(image, running_mean, running_var, weight, bias, training)


def _group_norm(image: Tensor, num_groups: int, weight: Any = None, bias: Any = None, *_: Any, **__: Any) -> Tensor:
    return _scaled(image, weight, bias)


def _pooling(image: Tensor, output_size: Any) -> Any:
    sizes = {output_size} if isinstance(output_size, int) else set(output_size)
    return _ones(image) if sizes == {1} else NotImplemented


def _mean(image: Tensor, dim: int | Sequence[int] = (), keepdim: bool = False, **_: Any) -> Any:
    dims = {d % image.ndim for d in ((dim,) if isinstance(dim, int) else dim or range(image.ndim))}
    if image.ndim == 2 or dims != set(range(2, image.ndim)):
        return NotImplemented
    return _ones(image) if keepdim else _ones(image).flatten(1)


def _ones(image: Tensor) -> Tensor:
    return image.new_ones((*image.shape[:2], *(1,) * (image.ndim - 2)))


_POOLINGS = (
    functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d, functional.adaptive_avg_pool3d,
    ATEN.adaptive_avg_pool1d.default, ATEN.adaptive_avg_pool2d.default, ATEN.adaptive_avg_pool3d.default,
)  # fmt: skip
_HELD: dict[Any, Callable[..., Any]] = {
    functional.instance_norm: _instance_norm,
    torch.instance_norm: _operator_instance_norm,
    ATEN.instance_norm.default: _operator_instance_norm,
    functional.batch_norm: _batch_norm,
    torch.batch_norm: _operator_batch_norm,
    ATEN.batch_norm.default: _operator_batch_norm,
    functional.group_norm: _group_norm,
    torch.group_norm: _group_norm,
    ATEN.group_norm.default: _group_norm,
    **dict.fromkeys(_POOLINGS, _pooling),
    **dict.fromkeys((torch.mean, Tensor.mean, ATEN.mean.dim), _mean),
}
