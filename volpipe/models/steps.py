"""Whether a network runs the same operations on large images as on small ones.

    if image.shape[-1] > 200: ...        a strip never gets there, and a real tile does

On meta tensors nothing is computed, and images have any size; a network that cannot be run there is run for real while
that takes seconds. Two passes are the same if their operations have the same names in the same order, and the same
arguments: of those that two small images agree on, as others are lengths. What moves no value may be left out where it
would do nothing (padding to a multiple, cropping after it).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from volpipe.models.shapes import Pass
from volpipe.models.stand_in import quietly

MOVES_NOTHING = (
    "alias", "as_strided", "clone", "constant_pad_nd", "contiguous", "copy_", "detach", "expand", "pad", "permute",
    "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d",
    "replication_pad3d", "reshape", "select", "slice", "squeeze", "t", "transpose", "unsafe_view", "unsqueeze", "view",
)  # fmt: skip
EDGES = (32, 64, 96, 128, 256, 512, 1024, 2048)  # of the cubes that are tried
LONGEST_S = 5.0  # of a pass for real, as the one before it tells

MOST_VOXELS = 2**20  # of a pass for real

Step = tuple[str, tuple[Any, ...]]
Shape = Sequence[int]


class _Steps(Pass):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name.removeprefix("_") not in MOVES_NOTHING:
            self.steps.append((name, tuple(_flat((args, sorted((kwargs or {}).items()))))))
        return super().__torch_dispatch__(func, types, args, kwargs)


def _flat(argument: Any) -> Iterator[Any]:
    """Numbers and words, and the shapes of tensors."""
    if isinstance(argument, Tensor):
        yield tuple(argument.shape)
    elif isinstance(argument, list | tuple):
        for each in argument:
            yield from _flat(each)
    else:
        yield argument


def first_change(
    network: nn.Module, device: str, in_channels: int, small: tuple[Shape, Shape], large: Iterable[Shape]
) -> tuple[str, Shape] | None:
    """The first operation that a large image changes, and the image's shape; None if there is none.

    Args:
        network: in float64.
        device: "meta", where any size costs nothing, or that of its weights.
        in_channels: of its input.
        small: spatial shapes of two images, of different lengths along every axis.
        large: of others, the smallest first; for real as many as take a few seconds each.

    Raises:
        Exception: whatever the network raises.
    """

    def of(shape: Shape) -> list[Step]:
        watch = _Steps()
        with quietly(), watch:
            network(torch.zeros((1, in_channels, *shape), dtype=torch.float64, device=device))
        return watch.steps

    one, two = map(of, small)
    per_voxel_s = 0.0
    for shape in (small[1], *large):
        voxels = math.prod(shape)
        if device != "meta" and (voxels > MOST_VOXELS or per_voxel_s * voxels > LONGEST_S):
            break
        began = time.perf_counter()
        if name := _parts(one, two, of(shape)):
            return name, shape
        per_voxel_s = (time.perf_counter() - began) / voxels
    return None


def _parts(one: Sequence[Step], two: Sequence[Step], other: Sequence[Step]) -> str:
    """The operation at which a pass parts from what two have in common; "" if it does not."""
    for (name, first), (_, second), (theirs, third) in zip(one, two, other, strict=False):
        if name != theirs or not _agree(first, second, third):
            return f"{theirs} in place of {name}" if name != theirs else name
    longer, count = max((one, other), key=len), min(len(one), len(other))
    return "" if len(one) == len(other) else longer[count][0]


def _agree(first: tuple[Any, ...], second: tuple[Any, ...], third: tuple[Any, ...]) -> bool:
    """What is the same for two small images is so for the other; lists of several lengths are lengths."""
    if not len(first) == len(second) == len(third):
        return len(first) != len(second)
    return all(a != b or a == c for a, b, c in zip(first, second, third, strict=True))
