"""Is what is stored what the network gives? Small boxes across faces, computed again from the input on other tiles.

         block or tile face
    stored   ...aaaaaa|bbbbbb...        two tiles that the run computed
    again          [..|..]              one tile with the face in its middle
    other      [......|..]              a second one, elsewhere on the lattice: two right answers differ by rounding

The face is a seam if `stored` differs from `again` by more than `again` from `other`: by its largest difference, or by
the mean difference on one side, which shows a step far below the rounding of a single voxel. Differences are taken
after encoding, in the unit of what is stored: values, levels of uint8, or the share of labels that differ.

What two right tilings may differ by has bounds per precision: below, because a box may show no rounding where another
does (kernels add up in the same order in both tiles); above, so that a halo that is short for both cannot hide itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.geometry import Box

SIDE = 16  # voxels of a box along an axis: a mean over 2,048 voxels a side
DRAWS = 50  # for each box wanted: a mask may leave little to look at
LARGEST_OF_ROUNDING = 10.0  # times what two right tilings differ by in one box: another box may have a larger one
FEW_VOXELS = 4  # levels or labels that rounding may turn over on one side
EPSILON = {"fp64": 2.0**-52, "fp32": 2.0**-23, "fp16": 2.0**-10, "bf16": 2.0**-7, "float16": 2.0**-10}
# a voxel of two right tilings may differ by the first and not by the second, relative to the largest value (U-Nets and
# ResNets; fp32 measured 3e-6 to 1e-4)
ROUNDING = {"fp64": (1e-12, 1e-9), "fp32": (1e-4, 1e-3), "fp16": (5e-3, 2e-2), "bf16": (3e-2, 1e-1)}
HUGE = 1e300  # the difference to a voxel that is no number
MEAN_OF_ROUNDING = 4.0  # times epsilon, of a side
UNITS = {"uint8": "levels", "labels": "share of voxels"}  # of the encoding; else values


@dataclass(frozen=True, slots=True)
class Spot:
    """A small box across a face.

    Attributes:
        box: in voxels of the volume.
        axis: that the face is across.
        face: its coordinate on that axis, the first voxel of the far side.
    """

    box: Box
    axis: int
    face: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What one spot shows, in the unit of what is stored.

    Attributes:
        box: of the spot, as text.
        largest, median: difference of a voxel.
        step: the larger mean difference of the two sides.
        largest_allowed, step_allowed: what rounding explains.
    """

    box: str
    largest: float
    median: float
    step: float
    largest_allowed: float
    step_allowed: float

    @property
    def is_seam(self) -> bool:
        """True if rounding does not explain it; NaN is explained by nothing."""
        return not (self.largest <= self.largest_allowed and self.step <= self.step_allowed)


def spots(
    region: Box,
    faces: Sequence[Sequence[int]],
    sides: Sequence[int],
    count: int,
    seed: int,
    keeps: Callable[[Box], bool] = lambda _: True,
) -> list[Spot]:
    """Boxes across faces, spread at random and the same for the same seed; more of them begin with the same ones.

    Args:
        region: of the product, in voxels of the volume.
        faces: per axis, the coordinates of faces inside the region; axes without any are never crossed.
        sides: of a box, voxels per axis.
        count: how many; fewer where few boxes are kept, none where there are no faces.
        seed: of the choice.
        keeps: False for a box that shows nothing.
    """
    random = np.random.default_rng(seed)
    crossed = [axis for axis, there in enumerate(faces) if len(there)]
    found: list[Spot] = []
    for _ in range(DRAWS * count if crossed else 0):
        axis = crossed[int(random.integers(len(crossed)))]
        face = faces[axis][int(random.integers(len(faces[axis])))]
        centre = [int(random.integers(a, b)) for a, b in zip(region.start, region.stop, strict=True)]
        centre[axis] = face
        corner = [c - side // 2 for c, side in zip(centre, sides, strict=True)]
        around = Box(tuple(corner), tuple(c + side for c, side in zip(corner, sides, strict=True)))
        if keeps(box := around.intersect(region)):
            found.append(Spot(box, axis, face))
        if len(found) == count:
            break
    return found


def judge(
    spot: Spot, stored: NDArray[Any], again: NDArray[Any], other: NDArray[Any], encoding: str, precision: str
) -> Finding:
    """Compare what is stored with two computations of the same box.

    Args:
        stored, again, other: (c, z, y, x) of `spot.box`, encoded.
        encoding: name of the encoding.
        precision: that the network computes in.
    """
    off = _difference(stored, again, encoding)
    rounding = _difference(again, other, encoding)
    sides = [side for side in np.split(off, [spot.face - spot.box.start[spot.axis]], axis=1 + spot.axis) if side.size]
    largest, step = _allowed(again, rounding, min(side.size for side in sides), encoding, precision)
    return Finding(
        box=str(spot.box),
        largest=float(np.abs(off).max()),
        median=float(np.median(np.abs(off))),
        step=max(abs(float(side.mean())) for side in sides),
        largest_allowed=largest,
        step_allowed=step,
    )


def _difference(one: NDArray[Any], two: NDArray[Any], encoding: str) -> NDArray[np.float64]:
    if encoding == "labels":
        one, two = one != two, np.zeros(1)
    found: NDArray[np.float64] = one.astype(np.float64) - two
    return np.nan_to_num(found, nan=HUGE, posinf=HUGE, neginf=-HUGE)  # attributes are JSON, which knows no NaN


def _allowed(
    values: NDArray[Any], rounding: NDArray[np.float64], voxels: int, encoding: str, precision: str
) -> tuple[float, float]:
    """(largest, step) that rounding explains."""
    largest = LARGEST_OF_ROUNDING * float(np.abs(rounding).max())
    mean = LARGEST_OF_ROUNDING * float(np.abs(rounding).mean())
    low, high = ROUNDING[precision]
    if encoding == "labels":
        return 1.0, max(min(mean, high), FEW_VOXELS / voxels)
    if encoding == "uint8":
        return min(max(1.0, largest), 1 + 255 * high), min(max(mean, FEW_VOXELS / voxels), 1 + 255 * high)
    scale = float(np.abs(values.astype(np.float64)).max())
    stored = EPSILON.get(encoding, 0.0)
    low, high = (low + 2 * stored) * scale, (high + 2 * stored) * scale
    least = MEAN_OF_ROUNDING * max(EPSILON[precision], stored) * scale
    return min(max(largest, low), high), max(least, min(mean, high))


def rank(audit: Mapping[str, Any]) -> tuple[bool, int]:
    """Of two audits of a product the one of higher rank counts: a seam once found stays, else more boxes say more."""
    return bool(audit["seams"]), audit["boxes"]


def verdict(findings: Iterable[Finding], encoding: str) -> dict[str, Any]:
    """All findings as the product's attributes hold them.

    Returns:
        boxes, unit, largest, median (the largest of the boxes' medians), step, smallest_step_seen (steps
        below it may hide), seams: the findings that rounding does not explain.
    """
    found = list(findings)
    return {
        "boxes": len(found),
        "unit": UNITS.get(encoding, "values"),
        "largest": max((f.largest for f in found), default=0.0),
        "median": max((f.median for f in found), default=0.0),
        "step": max((f.step for f in found), default=0.0),
        "smallest_step_seen": max((f.step_allowed for f in found), default=0.0),
        "seams": [asdict(f) for f in found if f.is_seam],
    }
