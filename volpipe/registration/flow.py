r"""How the tissue of a slab moves with depth, place by place, and what it comes to beyond the slab's face.

    slab  | \  / |      each structure runs at a slant of its own: v(y, x), voxels per layer
          |  \/  |      (least squares over a window, from all layers: Lucas and Kanade 1981)
    - - - | /\   |      carried: the face as it is some layers further, if its structures keep their course
    gap   |/  \  |

A rigid motion cannot follow structures that part: over a gap what is seen of two faces is the motion of whichever
structures last. Both faces carried to the gap's middle are alike again, if the structures are longer than the gap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from volpipe.registration.known import has_structure

WINDOW, BLUR = 6.0, 0.7  # voxels, deviations: over how much a course is taken, and of what it is taken
STIFFNESS = 0.02  # of the mean squared slope: where there is no structure, the course of the whole slab
COURSE = 4  # layers a side that tell how tissue moves: it keeps its course over no more
CARRIED = 2  # layers a side: what is carried over a gap is alike in all layers, and the likelihood wants two
REACH = 8  # layers that a face is carried: from a course that is seen over three, what lies further is not told
ROUNDS = 2  # each on layers that are carried by what is known, so that no motion is too long

Flow = NDArray[np.float64]  # (2, y, x), voxels in y and x per layer


def in_the_middle(
    upper: NDArray[Any], lower: NDArray[Any], layers: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The layers of two slabs at a gap as they are in its middle, in the order of the volume.

    Args:
        upper, lower: (z, y, x); the upper one's last layer and the lower one's first face the gap. NaN is not known.
        layers: from the one to the other, 1 where nothing was lost.

    Returns:
        None where one of them does not tell the course of its tissue, as a slab of one layer, or the middle is too far.
    """
    if layers > 2 * REACH:
        return None
    above, below = flow(upper[-COURSE:]), flow(lower[:COURSE])
    if above is None or below is None:
        return None
    top = [carried(layer, above, layers / 2 + i) for i, layer in enumerate(upper[::-1][:CARRIED])]
    bottom = [carried(layer, below, -layers / 2 - i) for i, layer in enumerate(lower[:CARRIED])]
    return np.stack(top[::-1]), np.stack(bottom)


def flow(slab: NDArray[Any]) -> Flow | None:
    """The course of each place of a slab (z, y, x), from its layers with structure; what is not finite is not known.

    Returns:
        None of fewer than two such layers.
    """
    there = np.flatnonzero(list(map(has_structure, slab)))
    if len(there) < 2:
        return None
    layers = np.stack([_standardised(slab[at]) for at in there])
    known = ndimage.binary_erosion(np.isfinite(slab[there]).all(0), iterations=2, border_value=1)
    place = there - there.mean()
    course, still = np.zeros((2, *known.shape)), layers
    for turn in range(ROUNDS):
        if turn:
            still = np.stack([_drawn(layer, course * far) for layer, far in zip(layers, place, strict=True)])
        still = ndimage.gaussian_filter(still, (0, BLUR, BLUR))
        change = np.tensordot(place, still, 1) / (place**2).sum()
        course = _course(np.stack(np.gradient(still.mean(0))) * known, course, change)
    return course


def _course(slopes: NDArray[np.float64], course: Flow, change: NDArray[np.float64]) -> Flow:
    """Least squares over a window of what is left to change; its stiffness draws to the course of the whole slab."""
    down, across = slopes
    aim = (slopes * course).sum(0) - change
    products = [down * down, down * across, across * across, down * aim, across * aim]
    means = [float(image.mean()) for image in products]
    stiff = STIFFNESS * (means[0] + means[2]) / 2 + 1e-12
    whole = _solved(means[0] + stiff, means[1], means[2] + stiff, means[3], means[4])
    yy, yx, xx, y, x = (ndimage.gaussian_filter(image, WINDOW) for image in products)
    return np.stack(_solved(yy + stiff, yx, xx + stiff, y + stiff * whole[0], x + stiff * whole[1]))


def carried(layer: NDArray[Any], course: Flow, layers: float) -> NDArray[np.float64]:
    """A layer (y, x) as it is so many layers deeper, or higher where that is below 0; NaN stays unknown."""
    here = np.indices(layer.shape, np.float64)
    way = layers * course
    for _ in range(2):  # the course of what arrives here, not of what is here
        way = layers * np.stack([ndimage.map_coordinates(one, here - way, order=1, mode="nearest") for one in course])
    known = np.isfinite(layer)
    values = np.where(known, layer, layer[known].mean() if known.any() else 0).astype(np.float64)
    moved = _drawn(values, -way)
    if not known.all():
        moved[ndimage.map_coordinates(known.astype(np.float64), here - way, order=1, mode="nearest") < 1] = np.nan
    return moved


def _drawn(image: NDArray[np.float64], way: Flow) -> NDArray[np.float64]:
    """An image as it is some voxels further at each place."""
    drawn: NDArray[np.float64] = ndimage.map_coordinates(
        image, np.indices(image.shape, np.float64) + way, order=3, mode="nearest"
    )
    return drawn


def _standardised(layer: NDArray[Any]) -> NDArray[np.float64]:
    known = np.isfinite(layer)
    values = np.where(known, layer, layer[known].mean() if known.any() else 0).astype(np.float64)
    scaled: NDArray[np.float64] = (values - values.mean()) / max(float(values.std()), 1e-12)
    return scaled


def _solved(yy: Any, yx: Any, xx: Any, y: Any, x: Any) -> tuple[Any, Any]:
    """[yy yx; yx xx] v = (y, x)."""
    determinant = yy * xx - yx**2
    return (xx * y - yx * x) / determinant, (yy * x - yx * y) / determinant
