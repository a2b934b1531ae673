"""Two windows that face each other across a gap, as the scores see them.

    upper   ... layer 2, 1, 0 |  gap  | 0, 1, 2 ... lower        layers are numbered from the gap outward

Arrays are (z, y, x) in the order of the volume: the upper one's last layer and the lower one's first face the gap. NaN
and infinity mean "not known": such a voxel has no weight in any score. Each layer is brought to mean 0 and deviation 1
over what is known of it, so that gain and offset of a slab, or of a layer, change nothing. A layer without structure,
or not known, is none: it is left out, and the others keep their depth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from torch import Tensor

from volpipe.errors import GeometryError
from volpipe.registration.known import LEAST_KNOWN

SMALLEST = 16  # voxels across: below, a window has no two independent structures
# Voxels that are faded at each side: a window's edge is no structure of tissue. As a share of the width 0.05 was best
# for windows of 256 of light-sheet tissue and 0.2 for windows of 96 of a whole brain: 13 and 19 voxels.
TAPER = 16
MOST_FADED = 1 / 6  # of the width, at each side
NARROW = 4  # voxels: what is not known and narrower than twice that is a spot or a crack
LEAST_JOINED = 0.25  # known of the voxels that are joined to one
FLAT = 64  # roundings: a deviation that small, of values up to 1, is that of a constant


@dataclass(frozen=True)
class Window:
    """A slab's part of a pair.

    Attributes:
        layers: (k, h, w) float32, from the gap outward; mean 0 and deviation 1 over what is known, 0 where it is not.
        known: (k, h, w) float32, 1 where a voxel is known, 0 where it is not.
        depth: (k,) whole layers from the gap's edge, 0 for one that faces it; rising.
        spacing: (y, x), of one voxel in the unit of shifts.
        given: layers, with those that were left out.
        factor: voxels that were joined to one, in y and in x.
    """

    layers: Tensor
    known: Tensor
    depth: Tensor
    spacing: tuple[float, float]
    given: int
    factor: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) in voxels."""
        return int(self.layers.shape[-2]), int(self.layers.shape[-1])

    @property
    def slab(self) -> NDArray[np.float64]:
        """(z, h, w) from the gap outward, from the first layer that is one; NaN is not known, as of layers left out."""
        depth = (self.depth - self.depth[0]).numpy()
        slab = np.full((depth[-1] + 1, *self.size), np.nan)
        slab[depth] = np.where(self.known.numpy() > 0, self.layers.numpy(), np.nan)
        return slab

    def pooled(self, factor: int) -> Window:
        """Means of `factor` x `factor` voxels, about the same centre."""
        if factor == 1:
            return self
        known = pooled(self.known, factor)
        layers = pooled(self.layers * self.known, factor) / known.clamp_min(1e-6)
        known = (known > LEAST_JOINED).float()
        spacing = (self.spacing[0] * factor, self.spacing[1] * factor)
        return Window(_standardised(layers, known), known, self.depth, spacing, self.given, self.factor * factor)


def facing(upper: ArrayLike, lower: ArrayLike, spacing: tuple[float, float]) -> tuple[Window, Window]:
    """Check two windows and turn them to face each other.

    Args:
        upper, lower: (z, y, x), any real type, of one height and width; as many layers as there are.
        spacing: (y, x), of one voxel.

    Raises:
        GeometryError: another shape or type, too small, or a window without any structure.
    """
    stacks = {"upper": _stack(upper, "upper"), "lower": _stack(lower, "lower")}
    if stacks["upper"].shape[1:] != stacks["lower"].shape[1:]:
        raise GeometryError(f"register_pair: upper is {_by(stacks['upper'])} and lower {_by(stacks['lower'])}; give "
                            "windows of one height and width")  # fmt: skip
    return _window(stacks["upper"][::-1], "upper", spacing), _window(stacks["lower"], "lower", spacing)


def taper(size: tuple[int, int], factor: int = 1) -> Tensor:
    """(h, w): 1 inside, a cosine down to 0 over TAPER voxels at each side, of which `factor` are joined to one."""
    down, across = (_fade(n, min(TAPER / factor, MOST_FADED * n)) for n in size)
    return down[:, None] * across[None, :]


def faded(known: Tensor) -> Tensor:
    """(k, h, w) of 1 and 0, with a cosine down to 0 over TAPER voxels towards what is not known, as at the sides.

    An edge that both windows have, of a mask or a field of view, is no structure of tissue, and lies on itself. (Of 14
    pairs of light-sheet tissue at 2 lost layers, windows of 256 that are known in a disc, 10 were laid wrongly without,
    and 3 so.) Spots and cracks stay as they are: beside many of them nothing would be left.
    """
    return known if bool(known.all()) else torch.stack([_faded(layer) for layer in known])


def _faded(known: Tensor) -> Tensor:
    large = ndimage.binary_opening(known.numpy() == 0, iterations=NARROW)
    if not large.any():
        return known
    over = min(TAPER, MOST_FADED * min(known.shape))
    far = torch.from_numpy(np.minimum(ndimage.distance_transform_edt(~large) / over, 1)).float()
    return known * (0.5 - 0.5 * torch.cos(math.pi * far))


def pooled(images: Tensor, factor: int) -> Tensor:
    """Means of `factor` x `factor` voxels of (k, h, w). What the factor leaves over is cut off at both sides, so that
    the centre stays; where that is an odd number, by the mean of the two ways to cut it."""
    if factor == 1:
        return images
    for dim in (-2, -1):
        over = images.shape[dim] % factor
        if over % 2:
            over, n = over - 1, images.shape[dim] - 1
            images = 0.5 * (images.narrow(dim, 0, n) + images.narrow(dim, 1, n))
        images = images.narrow(dim, over // 2, images.shape[dim] - over)
    return F.avg_pool2d(images, factor)


def _fade(n: int, over: float) -> Tensor:
    from_edge = torch.minimum(torch.arange(n), torch.arange(n).flip(0)) + 0.5
    return 0.5 - 0.5 * torch.cos(math.pi * (from_edge / over).clamp(max=1.0))


def _stack(given: ArrayLike, name: str) -> NDArray[Any]:
    array = np.asarray(given)
    if array.ndim != 3 or array.dtype.kind not in "buif" or array.shape[0] == 0:
        raise GeometryError(
            f"register_pair: {name} is {_by(array)} {array.dtype}; give layers of real numbers (z, y, x)"
        )
    if min(array.shape[1:]) < SMALLEST:
        raise GeometryError(f"register_pair: {name} is {_by(array)}; give at least {SMALLEST} voxels in y and x")
    return array


def _window(stack: NDArray[Any], name: str, spacing: tuple[float, float]) -> Window:
    """Of layers from the gap outward. In float64: of a 16-bit volume far from zero, float32 would keep little."""
    values = stack.astype(np.float64)
    known = np.isfinite(values)
    known &= known.mean((1, 2), keepdims=True) > LEAST_KNOWN
    values[~known] = 0
    values /= np.maximum(np.abs(values).max((1, 2), keepdims=True), np.finfo(np.float64).tiny)  # squares stay finite
    weight = torch.from_numpy(known)
    layers = _standardised(torch.from_numpy(values), weight.double()).float()
    depth = layers.flatten(1).any(1).nonzero()[:, 0]
    if not len(depth):
        raise GeometryError(f"register_pair: {name} holds no structure: it is constant, or not known anywhere; give a "
                            "window with tissue")  # fmt: skip
    return Window(layers[depth], weight[depth].float(), depth, spacing, len(stack))


def _standardised(layers: Tensor, known: Tensor) -> Tensor:
    count = known.sum((1, 2), keepdim=True).clamp_min(1)
    centred = (layers - (layers * known).sum((1, 2), keepdim=True) / count) * known
    deviation = ((centred**2).sum((1, 2), keepdim=True) / count).sqrt()
    flat = FLAT * torch.finfo(layers.dtype).eps
    return torch.where(deviation > flat, centred / deviation.clamp_min(flat), 0)


def _by(array: NDArray[Any]) -> str:
    return " x ".join(map(str, array.shape)) or "a number"
