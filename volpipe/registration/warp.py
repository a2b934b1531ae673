"""Render a box of the reconstruction's plane from exactly the box of a slab that it needs.

    output box                       slab
    +--+--+       pull (um)          .-------.         read: the hull of all places, and the kernel's taps around it,
    |o |o |  ------------------->   / o   o /|         clipped to the slab
    +--+--+                        '-------' |         taps outside are those of the slab's nearest voxel

order 0   the nearest voxel: labels are copied, never mixed
order 1   bilinear, 2 x 2 taps
order 3   cubic convolution with a = -1/2 (Keys 1981; Catmull-Rom), 4 x 4 taps. Not a B-spline: its prefilter sees the
          whole plane, and what sees a block alone would leave seams.

Law: NO SEAMS. A voxel's value is made of its own place and taps alone, element by element and in one order, so that it
is the same to the last bit whatever box it is rendered in.

Integers are rounded to even at halves and clipped to their range (cubic convolution overshoots); floats are not
clipped. Where a voxel's centre lies outside the slab, or a tap of it is not finite, there is `fill` and a mask of 0:
nothing known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.errors import GeometryError
from volpipe.geometry import Box, Raster
from volpipe.registration.field import Points

Pull = Callable[[Points], Points]
Read = Callable[[Box], NDArray[Any]]

ORDERS = (0, 1, 3)
STRIP = 2**16  # voxels whose taps are in memory at a time
STRIP_BYTES = 512  # of one of them: places, taps and weights in float64


@dataclass(frozen=True, eq=False)
class Warped:
    """One rendered box.

    Attributes:
        voxels: (..., rows, columns), of the slab's dtype.
        known: of the layers, ([layers,] rows, columns): 1 where the slab is, and every channel finite, else 0.
        source: the box that was read; empty where the slab is nowhere near.
    """

    voxels: NDArray[Any]
    known: NDArray[np.uint8]
    source: Box

    @property
    def voxels_read(self) -> int:
        """In a plane of the slab."""
        return self.source.size


def warp_block(
    read: Read,
    slab: Raster,
    pull: Pull,
    out: Raster,
    box: Box,
    *,
    dtype: np.dtype[Any],
    lead: tuple[int, ...] = (),
    order: int,
    fill: float = 0,
    most: int | None = None,
) -> Warped:
    """Render a box of the reconstruction.

    Args:
        read: gives a box (y, x) of the slab as an array (*lead, rows, columns); called once, or not at all.
        slab: where the slab's voxels lie, from its centre. Of any level: the map is in micrometres.
        pull: from points of the reconstruction (..., 2) to points of the slab, as `Field.pull` or `pose.inverse`.
        out: where the reconstruction's voxels lie, from its origin.
        box: which of them to render.
        dtype: of the slab.
        lead: how many channels, and layers of each.
        order: 0, 1 or 3.
        fill: where nothing is known.
        most: voxels of a plane that may be read.

    Raises:
        GeometryError: another order; a map that is not finite, or needs more than `most` voxels; or 64-bit integers by
            another order than 0.
    """
    _check_kind(dtype, order)
    places = slab.places(pull(out.points(box)))
    source = source_box(places, slab, order, box)
    if most is not None and source.size > most:
        raise GeometryError(
            f"warp: box {box} needs {source.shape} voxels of the slab, more than the {most} that a block may read; the "
            "field stretches it too far, fit it again with more stiffness"
        )
    made = Warped(np.full((*lead, *box.shape), fill, dtype), np.zeros((*lead[1:], *box.shape), np.uint8), source)
    if not source.is_empty:
        made.known[...] = _inside(places, slab)
        _sample(read(source), places, made, order)
    return made


def source_box(places: Points, slab: Raster, order: int, box: Box) -> Box:
    """The voxels of the slab that places inside it need; empty if none is inside.

    Raises:
        GeometryError: places that are not finite.
    """
    if not np.isfinite(places).all():
        raise GeometryError(f"warp: box {box} is mapped to places that are not finite; check its transform and field")
    inside = places[_inside(places, slab)]
    if not len(inside):
        return Box((0, 0), (0, 0))
    first, count = _taps(inside, order)
    start, stop = first.min(0), first.max(0) + count
    return Box(tuple(start.tolist()), tuple(stop.tolist())).intersect(slab.box)


def taps_around(order: int) -> int:
    """Voxels that a source box is wider than the places in it, along an axis."""
    return {0: 1, 1: 2, 3: 4}[order]


def default_order(dtype: np.dtype[Any]) -> int:
    """0 for what holds labels (bool, integers of 32 bits and more), 3 for images (8 and 16 bits, floats)."""
    return 3 if dtype.kind == "f" or (dtype.kind in "iu" and dtype.itemsize <= 2) else 0


def _inside(places: Points, slab: Raster) -> NDArray[np.bool_]:
    return np.asarray(((places >= -0.5) & (places < np.asarray(slab.shape) - 0.5)).all(-1))


def _taps(places: Points, order: int) -> tuple[NDArray[np.int64], int]:
    """(the first voxel along each axis that a place needs, how many from there on)."""
    if order == 0:
        return np.floor(places + 0.5).astype(np.int64), 1
    first = np.floor(places).astype(np.int64)
    return (first, 2) if order == 1 else (first - 1, 4)


def _check_kind(dtype: np.dtype[Any], order: int) -> None:
    if order not in ORDERS:
        raise GeometryError(f"warp: order {order}; give 0 for labels, 1 or 3 for images")
    if order and (dtype.kind == "b" or (dtype.kind in "iu" and dtype.itemsize == 8)):
        raise GeometryError(f"warp: {dtype.name} by order {order} would not keep its values; give order 0")


def _sample(voxels: NDArray[Any], places: Points, made: Warped, order: int) -> None:
    """Fill in what is known at the places inside the slab, a strip of rows at a time."""
    rows, columns = plane = made.known.shape[-2:]
    known, into = made.known.reshape(-1, *plane), made.voxels.reshape(-1, *plane)
    layers, dtype = voxels.reshape(-1, made.source.size), made.voxels.dtype
    strip = max(1, STRIP // columns)
    for top in range(0, rows, strip):
        part = slice(top, top + strip)
        taps, weights = _kernel(places[part], made.source, order, dtype)
        inside = known[0, part].astype(bool)
        for number, layer in enumerate(layers):
            values = _stored(_mixed(layer, taps, weights), dtype)
            there = inside & np.isfinite(values)
            np.copyto(into[number, part], values, where=there)
            known[number % len(known), part] &= there  # channel by channel, each with all layers


def _kernel(
    places: Points, source: Box, order: int, dtype: np.dtype[Any]
) -> tuple[list[NDArray[np.intp]], list[NDArray[Any]]]:
    """The taps of all places, as numbers of voxels of the source box, and their weights, in the order of adding."""
    first, count = _taps(places, order)
    # the box holds every tap inside the slab, so that its edge is the slab's where a tap of a place inside leaves it
    local = [np.clip(first + tap - source.start, 0, np.asarray(source.shape) - 1) for tap in range(count)]
    weights = _weights(places - np.floor(places), order)
    precise = np.result_type(dtype, np.float32) if dtype.kind in "iuf" else np.dtype(np.float64)
    pairs = [(y, x) for y in range(count) for x in range(count)]
    taps = [local[y][..., 0] * source.shape[1] + local[x][..., 1] for y, x in pairs]
    return taps, [(weights[y][..., 0] * weights[x][..., 1]).astype(precise) for y, x in pairs]


def _weights(t: Points, order: int) -> list[Points]:
    """Of the taps along each axis, for the fraction by which a place lies behind a voxel."""
    if order == 0:
        return [np.ones_like(t)]
    if order == 1:
        return [1 - t, t]
    return [  # Keys 1981, equation 8, for the distances 1 + t, t, 1 - t, 2 - t
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    ]


@np.errstate(invalid="ignore")  # infinities that cancel are NaN, and not known
def _mixed(layer: NDArray[Any], taps: list[NDArray[np.intp]], weights: list[NDArray[Any]]) -> NDArray[Any]:
    if len(taps) == 1:
        return np.asarray(layer[taps[0]])
    total = weights[0] * layer[taps[0]]
    for tap, weight in zip(taps[1:], weights[1:], strict=True):
        total += weight * layer[tap]
    return np.asarray(total)


def _stored(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if values.dtype == dtype or dtype.kind not in "iu":
        return values.astype(dtype, copy=False)
    ends = np.iinfo(dtype)
    return np.asarray(np.clip(np.rint(values), ends.min, ends.max), dtype)
