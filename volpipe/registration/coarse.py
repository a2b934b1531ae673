"""The coarse stage: slabs that were laid down anyhow, turned by any angle and perhaps upside down.

    lower window      mirrored         turned       shifted
      .-----.          .-----.         .---.           .---.
      |o    |          |    o|         |  o|           |  o|
      '--.  |   -->    |  .--'   -->   |   |    -->    |   |     p' = R F p + shift
         '--'          '--'            '.  |           '.  |
                                        '--'            '--'

Convention: `transform` is `upper_from_lower` about both windows' centres, in voxels, or micrometres where a voxel size
is given. Where `flipped`, the lower slab lies upside down: it is mirrored before the turn, x becomes -x, from its
centre (F), and its last layers face the gap instead of its first ones. `lower[::-1, :, ::-1]` is that slab the right
way up. A mirror in y is the same, turned by pi.

Two things are compared, on a grid of 48 pixels along the window: silhouettes (how much of their union is in both) and
the content within them (correlation of what is left of an image without its broad shading). The silhouettes' centroids
are laid on each other, then every angle and mirror is tried, and every shift by FFT. Their principal axes are not
needed: trying all angles takes 0.2 CPU-seconds. The best answers are refined in angle and compared again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage

from volpipe.errors import GeometryError, VolumeError
from volpipe.geometry import Rigid
from volpipe.geometry.raster import plane_size
from volpipe.geometry.transform import wrapped

FACING_LAYERS = 4  # averaged: noise goes, what moves with depth does not come in
PIXELS = 48  # along the longer side of the larger window: the shape and the large structures of a brain
CANVAS = 96  # holds a turned window (48 * sqrt(2) = 68), and shifts of a quarter of the window without wrapping round
STEPS_RAD = tuple(map(math.radians, (4.0, 2.0, 1.0, 0.5)))  # the first is 1.7 pixels at the rim
BAND = (1.0, 5.0)  # pixels: finer is noise and lost across a gap, broader is illumination and silhouette
PERCENTILES = (1, 95)  # brighter specks would draw the threshold between tissue and background to themselves
LEAST_OVERLAP = 0.5  # of the smaller silhouette
ELSEWHERE_RAD = math.radians(20.0)  # an answer of the same mirror whose angle differs by less is the same one
ANSWERS = 3  # of each mirror, refined
# Confidence is 1 - exp(-(score - next best) / APART), where nothing else fits as well, times a logistic of the score in
# LIKE give or take AROUND, where it fits at all. (`benchmarks/coarse.py`: of whole planes of a brain at 0 to 8 lost
# layers, of parts of it, of light-sheet tissue and neuropil.)
APART, LIKE, AROUND = 0.03, 0.4, 0.1

Image = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CoarseEstimate:
    """How a slab lies on another.

    Attributes:
        transform: `upper_from_lower` about both windows' centres, after the mirror.
        flipped: the lower slab lies upside down: its x is mirrored about its centre first, and its layers follow each
            other the other way round.
        confidence: 0..1; low where another angle or the other mirror fits nearly as well, or none fits.
    """

    transform: Rigid
    flipped: bool
    confidence: float

    def __call__(self, points: ArrayLike) -> NDArray[np.float64]:
        """Where points of the lower window, (..., 2) as (y, x) from its centre, lie in the upper one."""
        return self.transform(np.asarray(points, np.float64) * ((1, -1) if self.flipped else (1, 1)))


def coarse_alignment(
    upper: ArrayLike,
    lower: ArrayLike,
    *,
    flips: bool = True,
    voxel_size_um: Sequence[float] | None = None,
) -> CoarseEstimate:
    """Lay a slab on another, whatever its angle, and either side up.

    Args:
        upper, lower: (z, y, x) of any real dtype, of the coarsest level, whole slabs with what is around them; NaN
            means not known. Upper's last layer and lower's first face the gap (lower's last, if it lies upside down).
            They may differ in shape.
        flips: the lower slab may lie upside down.
        voxel_size_um: (z, y, x) or (y, x).

    Returns:
        An estimate within some pixels of a 48th of the window, for a tree to start from. A slab that is its own mirror
        image cannot be told from it: then the confidence is low, and the mirror a guess.

    Raises:
        VolumeError: a slab that has not three axes of real numbers, or no tissue.
        GeometryError: a voxel size that is not above zero, or `flips` that is neither True nor False.
    """
    if not isinstance(flips, (bool, np.bool_)):
        raise GeometryError(f"coarse alignment: flips is {flips!r}; give True or False")
    um = np.array(plane_size(voxel_size_um, "coarse alignment"))
    above_gap, below_gap = _layers("upper", upper), _layers("lower", lower)
    pixel = max(float(np.multiply(slab.shape[1:], um).max()) for slab in (above_gap, below_gap)) / PIXELS
    above = _sheet("upper", above_gap[-FACING_LAYERS:], um, pixel)
    sides = {False: _sheet("lower", below_gap[:FACING_LAYERS], um, pixel)}
    if flips:
        sides[True] = _sheet("lower", below_gap[-FACING_LAYERS:], um, pixel).mirrored
    match = _Match(fft.rfft2(above.canvas(pixel)), pixel)
    answers = [answer for flipped, side in sides.items() for answer in match.answers(side, flipped)]
    best, second, *_ = sorted(answers, key=lambda answer: -answer.score)
    turn = Rigid(wrapped(best.angle_rad))
    shift = best.shift + above.centroid - turn(sides[best.flipped].centroid)
    sure = _confidence(best.score, second.score)
    return CoarseEstimate(Rigid(turn.angle_rad, (float(shift[0]), float(shift[1]))), best.flipped, sure)


def _confidence(best: float, second: float) -> float:
    return (1 - math.exp((second - best) / APART)) / (1 + math.exp((LIKE - best) / AROUND))


def _layers(name: str, given: ArrayLike) -> NDArray[Any]:
    slab = np.asarray(given)
    if slab.ndim != 3 or 0 in slab.shape or slab.dtype.kind not in "buif":
        raise VolumeError(
            f"coarse alignment: the {name} slab has shape {slab.shape}, {slab.dtype}; give layers of real numbers, "
            "(z, y, x)"
        )
    return slab


@dataclass(frozen=True)
class _Sheet:
    """One slab at its gap.

    Attributes:
        fields: (3, y, x): known, silhouette, content; zero where not known or no tissue.
        um: (y, x) of a voxel, or ones.
        centroid: (y, x) of the silhouette, from the window's centre, in the unit of `um`.
    """

    fields: NDArray[np.float32]
    um: NDArray[np.float64]
    centroid: NDArray[np.float64]

    @property
    def mirrored(self) -> _Sheet:
        return _Sheet(self.fields[..., ::-1], self.um, self.centroid * (1, -1))

    def canvas(self, pixel: float, angle_rad: float = 0.0) -> NDArray[np.float32]:
        """(4, CANVAS, CANVAS): turned about the centroid, which lies in the middle; the last is content squared."""
        voxels_from_canvas = Rigid(-angle_rad).matrix * pixel / self.um[:, None]
        middle = (np.array(self.fields.shape[1:]) - 1) / 2 + self.centroid / self.um
        offset = middle - voxels_from_canvas @ np.full(2, (CANVAS - 1) / 2)
        shape = (CANVAS, CANVAS)
        known, tissue, content = (
            ndimage.affine_transform(f, voxels_from_canvas, offset, shape, order=1) for f in self.fields
        )
        return np.stack([known, tissue, content, content**2])


@dataclass(frozen=True)
class _Answer:
    """One way to lay the lower slab; `shift` (y, x) between the centroids, in the unit of voxels."""

    score: float
    flipped: bool
    angle_rad: float
    shift: NDArray[np.float64]


@dataclass(frozen=True)
class _Match:
    """Scores ways to lay a slab on the upper one, whose canvas is given as spectra (4, CANVAS, CANVAS // 2 + 1)."""

    upper: NDArray[np.complex64]
    pixel: float

    def answers(self, lower: _Sheet, flipped: bool) -> list[_Answer]:
        """The best few of all angles, refined."""
        angles = np.arange(0, 2 * np.pi, STEPS_RAD[0])
        tried = sorted((self.at(lower, flipped, float(a)) for a in angles), key=lambda a: -a.score)
        apart: list[_Answer] = []
        for answer in tried:
            if all(_turn(answer, other) > ELSEWHERE_RAD for other in apart) and len(apart) < ANSWERS:
                apart.append(answer)
        return [self._refined(lower, answer) for answer in apart]

    def _refined(self, lower: _Sheet, answer: _Answer) -> _Answer:
        for step in STEPS_RAD[1:]:
            near = (self.at(lower, answer.flipped, answer.angle_rad + way * step) for way in (-1, 1))
            answer = max((answer, *near), key=lambda a: a.score)
        return answer

    def at(self, lower: _Sheet, flipped: bool, angle_rad: float) -> _Answer:
        """The best shift at one angle."""
        turned = lower.canvas(self.pixel, angle_rad)
        surface = self._surface(fft.rfft2(turned))
        peak = np.unravel_index(int(surface.argmax()), surface.shape)
        shift = [_between(surface, peak, axis) for axis in (0, 1)]
        return _Answer(float(surface[peak]), flipped, angle_rad, np.array(shift) * self.pixel)

    def _surface(self, lower: NDArray[np.complex64]) -> NDArray[np.float32]:
        """Score of every shift: the mean of the silhouettes' intersection over union and the content's correlation."""

        def correlated(above: int, below: int) -> NDArray[np.float32]:
            product: NDArray[np.float32] = fft.irfft2(self.upper[above] * np.conj(lower[below]), (CANVAS, CANVAS))
            return product

        both, only_upper, only_lower = correlated(1, 1), correlated(1, 0), correlated(0, 1)
        union = only_upper + only_lower - both  # of what lies where both windows are known
        energy = np.maximum(correlated(3, 1) * correlated(1, 3), 0.0)
        least = LEAST_OVERLAP * min(self.upper[1, 0, 0].real, lower[1, 0, 0].real)
        content = correlated(2, 2) / np.sqrt(energy + 1e-6)
        return np.where(both >= least, (both / np.maximum(union, 1e-6) + content) / 2, -1.0)


def _turn(one: _Answer, other: _Answer) -> float:
    return abs(wrapped(one.angle_rad - other.angle_rad))


def _between(surface: NDArray[np.float32], peak: Sequence[Any], axis: int) -> float:
    """The shift in pixels of a peak along an axis, by the parabola through it and its neighbours."""
    line = np.take(surface, int(peak[1 - axis]), 1 - axis)
    at = int(peak[axis])
    before, top, after = (float(line[(at + k) % CANVAS]) for k in (-1, 0, 1))
    bend = before - 2 * top + after
    part = (before - after) / (2 * bend) if bend < 0 and min(before, after) > -1 else 0.0
    return (at + CANVAS // 2) % CANVAS - CANVAS // 2 + part


def _sheet(name: str, layers: NDArray[Any], um: NDArray[np.float64], pixel: float) -> _Sheet:
    image = _mean_of_known(layers.astype(np.float64))
    known, sigma = np.isfinite(image), pixel / um
    if not known.any() or np.ptp(image[known]) == 0:
        raise VolumeError(f"coarse alignment: the {name} slab has no tissue at its gap; leave it out, or give its pose")
    tissue = _silhouette(_blurred(image, known, sigma * BAND[0]), known)
    detail = _blurred(image, tissue, sigma * BAND[0]) - _blurred(image, tissue, sigma * BAND[1])
    spread = np.sqrt(_blurred(detail**2, tissue, sigma * BAND[1]))
    content = np.where(tissue, detail / np.maximum(spread, 1e-12), 0.0)
    y, x = (np.arange(n) - (n - 1) / 2 for n in image.shape)
    centroid = np.array([(tissue.sum(1) * y).sum(), (tissue.sum(0) * x).sum()]) / tissue.sum() * um
    return _Sheet(np.stack([known, tissue, content]).astype(np.float32), um, centroid)


def _mean_of_known(layers: Image) -> Image:
    known = np.isfinite(layers)
    count = known.sum(0)
    total = np.where(known, layers, 0.0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _silhouette(image: Image, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where there is tissue; in tissue that fills its window, where it is not dark."""
    values = image[known]
    low, high = np.percentile(values, PERCENTILES)
    tissue: NDArray[np.bool_] = known & (image > _otsu(np.clip(values, low, high if high > low else None)))
    return tissue


def _blurred(values: Image, known: NDArray[np.bool_], sigma: NDArray[np.float64]) -> Image:
    """Gaussian mean of what is known."""
    weight = ndimage.gaussian_filter(known.astype(np.float64), sigma)
    mean: Image = ndimage.gaussian_filter(np.where(known, values, 0.0), sigma) / np.maximum(weight, 1e-6)
    return mean


def _otsu(values: Image) -> float:
    """The lower of the two thresholds that part the values into three groups whose means differ most (Otsu 1979).

    Background, dim and bright: of two groups the dim tissue went to the background's.
    """
    counts, edges = np.histogram(values, 128)
    count, total = np.cumsum(counts), np.cumsum(counts * (edges[:-1] + edges[1:]) / 2)
    low, high = np.triu_indices(len(counts) - 1, 1)
    groups = (
        (count[low], total[low]),
        (count[high] - count[low], total[high] - total[low]),
        (count[-1] - count[high], total[-1] - total[high]),
    )
    between = sum(t**2 / np.maximum(n, 1) for n, t in groups)
    return float(edges[1 + low[np.argmax(between)]])
