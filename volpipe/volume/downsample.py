"""Make a coarser level from a finer one, on arrays in memory.

    | a  b | c  d | e |      factor 2, 5 voxels: windows (a b), (c d), (e)
    |  ab  |  cd  | e |      the last window holds the voxels that exist, none is invented

Convention: arrays are (c, z, y, x), factors z, y, x; windows start at the array's first voxel, so a part of a volume
that is downsampled by itself must start at a multiple of the factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.errors import ConfigError
from volpipe.volume.multiscale import Factors, level_shape

Windows = NDArray[Any]  # (c, z, fz, y, fy, x, fx), a view


def downsample(array: NDArray[Any], factors: Factors, method: str) -> NDArray[Any]:
    """Downsample by whole factors.

    Args:
        array: (c, z, y, x).
        factors: z, y, x.
        method: "mean" (integers rounded half up: (2 * sum + n) // (2 * n)), "mode" (for labels: the most frequent
            one, of equally frequent ones the smallest) or "first" (the first voxel of each window).

    Returns:
        (c, ceil(z / fz), ceil(y / fy), ceil(x / fx)) of the same dtype.

    Raises:
        ConfigError: the method is none of these.
    """
    if method not in METHODS:
        raise ConfigError(f"downsampling method {method!r}: give one of {', '.join(METHODS)}")
    out = np.empty((array.shape[0], *level_shape(array.shape[1:], factors)), array.dtype)
    for where, windows in _pieces(array, factors):
        out[where] = METHODS[method](windows)
    return out


def _pieces(array: NDArray[Any], factors: Factors) -> Iterator[tuple[tuple[slice, ...], Windows]]:
    """(place in the output, windows): at most eight pieces, each with windows of one size."""
    axes = [_axis_pieces(n, f) for n, f in zip(array.shape[1:], factors, strict=True)]
    for pieces in product(*axes):
        taken = array[:, *(slice(start, start + count * size) for _, start, count, size in pieces)]
        shape = [n for _, _, count, size in pieces for n in (count, size)]
        # Splitting axes never copies, whatever the strides.
        windows = taken.reshape(array.shape[0], *shape)
        yield (slice(None), *(slice(first, first + count) for first, _, count, _ in pieces)), windows


def _axis_pieces(length: int, factor: int) -> list[tuple[int, int, int, int]]:
    """(first output voxel, first input voxel, number of windows, their length): the whole windows, then the rest."""
    whole, rest = divmod(length, factor)
    pieces = [(0, 0, whole, factor)] if whole else []
    return pieces + ([(whole, whole * factor, 1, rest)] if rest else [])


def _members(windows: Windows) -> list[NDArray[Any]]:
    """The k-th voxel of every window, for each k: views (c, z, y, x)."""
    _, _, fz, _, fy, _, fx = windows.shape
    offsets = product(range(fz), range(fy), range(fx))
    return [windows[:, :, z, :, y, :, x] for z, y, x in offsets]


def _mean(windows: Windows) -> NDArray[Any]:
    members = _members(windows)
    if windows.dtype.kind == "f":
        return np.asarray(_sum(members, np.float64) / len(members)).astype(windows.dtype)
    total = _sum(members, _sum_dtype(windows.dtype, len(members)))
    total *= 2
    total += len(members)
    total //= 2 * len(members)  # floor division: half goes up for negative values too
    return total.astype(windows.dtype)


def _sum(members: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    total = members[0].astype(dtype)
    for member in members[1:]:
        total += member
    return total


def _sum_dtype(dtype: np.dtype[Any], members: int) -> Any:
    """32 bits where twice the sum fits: half the memory of the largest temporary."""
    if dtype.itemsize == 8:
        raise ConfigError(f"downsampling {dtype.name} by mean overflows; labels want method mode")
    return np.int32 if dtype.itemsize <= 2 and members < 2**14 else np.int64


def _mode(windows: Windows) -> NDArray[Any]:
    """Sort each window and keep the longest run; runs come in ascending order, so a tie keeps the smaller label."""
    members = np.sort(np.stack(_members(windows)), axis=0)
    best: NDArray[Any] = members[0].copy()
    longest = np.ones(members[0].shape, np.int32)
    run = longest.copy()
    for before, here in pairwise(members):
        run = np.where(here == before, run + 1, 1)
        longer = run > longest
        best[longer], longest[longer] = here[longer], run[longer]
    return best


def _first(windows: Windows) -> NDArray[Any]:
    return windows[:, :, 0, :, 0, :, 0]


METHODS: dict[str, Callable[[Windows], NDArray[Any]]] = {"mean": _mean, "mode": _mode, "first": _first}
