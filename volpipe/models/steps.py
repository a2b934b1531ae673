"""Whether a network runs the same operations on large images as on small ones, asked on meta tensors: nothing computed.

    if image.shape[-1] > 200: ...        a strip never gets there, and a real tile does

Two passes are the same if their operations have the same names in the same order, and convolutions and pools the same
windows. Arguments that are lengths (of a view, of an upsampling by size) may differ, and what moves no value may be
left out where it would do nothing (padding to a multiple, cropping after it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from volpipe.models.stand_in import quietly

WITH_WINDOWS = ("conv", "max_pool", "avg_pool")
MOVES_NOTHING = (
    "alias", "as_strided", "clone", "constant_pad_nd", "contiguous", "copy_", "detach", "expand", "pad", "permute",
    "reshape", "select", "slice", "squeeze", "t", "transpose", "unsafe_view", "unsqueeze", "view",
)  # fmt: skip
EDGES = (32, 64, 128, 256, 512, 2048)  # of the cubes that are tried

Step = tuple[str, tuple[Any, ...]]


class _Steps(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        windowed = any(word in name for word in WITH_WINDOWS) and "adaptive" not in name
        if name.removeprefix("_") not in MOVES_NOTHING:
            self.steps.append((name, tuple(map(_fixed, args[1:])) if windowed else ()))
        return func(*args, **(kwargs or {}))


def _fixed(argument: Any) -> Any:
    return tuple(argument.shape) if isinstance(argument, Tensor) else argument


def steps(network: nn.Module, in_channels: int, shape: Sequence[int]) -> list[Step]:
    """Of one pass of a network on meta tensors.

    Raises:
        Exception: whatever it raises; a network without weights may make a tensor where data are.
    """
    watch = _Steps()
    with quietly(), watch:
        network(torch.empty((1, in_channels, *shape), dtype=torch.float64, device="meta"))
    return watch.steps


def first_change(one: Sequence[Step], other: Sequence[Step]) -> str:
    """The operation at which two passes part; "" if they are the same."""
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            return theirs[0]
    longer = max(one, other, key=len)
    return "" if len(one) == len(other) else longer[min(len(one), len(other))][0]
