"""Inverse problems: two slabs cut out of an intact volume, of which one is moved, and the motion is asked for.

    z ->   | upper: layers | gap: lost | lower: layers |         of one intact volume
           upright at an angle         moved by the truth

A trial draws the truth (`upper_from_lower`, about the windows' centres, in voxels) and a place; both windows are
sampled from the intact layers, by cubic splines, in the plane alone: layers never mix, those of the gap are not read.

    plane_from_upper = a turn by base - angle / 2, to a centre off the voxel grid
    plane_from_lower = plane_from_upper @ truth           turned by base + angle / 2

So that nothing but tissue tells the truth:
* no corner of a window comes nearer than MARGIN to the border: nothing is filled in;
* both are off the grid and both are turned, by angles of one distribution: the blur of sampling is the same;
* what is fixed to the camera and smooth was divided away (`Intact`; it says what is left);
* each slab has a gain, an offset and a gamma of its own.

Trial n of a seed is the same whichever others are drawn; trials of one number share the motion for all gaps. Windows
are drawn anew until half of each face is tissue. (Source: the manuscript's section 3.1, which leaves all of this open.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from volpipe.errors import ConfigError, VolumeError
from volpipe.geometry import Rigid
from volpipe.registration.intact import STEP, Intact

Window = NDArray[np.float32]

MARGIN = 8  # voxels to the border: beyond it the ends of a cubic spline filter are below 1e-4
BASE_ANGLE_RAD = 0.1  # both windows are turned by up to this
LEAST_TISSUE = 0.5  # share of each face
DRAWS = 1000  # of a place, before the volume is said to have too little tissue


@dataclass(frozen=True, slots=True)
class TrialOptions:
    """What is drawn.

    Attributes:
        gap_layers: lost between the slabs.
        window: width of the square windows, voxels.
        layers: of each slab.
        max_shift: of the truth in y and in x, fraction of the window's width; uniform.
        max_angle_rad: of the truth; uniform.
        seed: of all trials.

    Raises:
        ConfigError: a size that cannot be.
    """

    gap_layers: int
    window: int = 256
    layers: int = 8
    max_shift: float = 0.1
    max_angle_rad: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.gap_layers < 0 or self.window < 8 or self.layers < 1 or self.seed < 0:
            raise ConfigError(f"{self}: give gap >= 0, window >= 8, layers >= 1, seed >= 0")
        if not (0 <= self.max_shift < 1 and 0 <= self.max_angle_rad < math.pi / 4):
            raise ConfigError(f"{self}: give max_shift within 0..1, max_angle_rad within 0..0.78")

    @property
    def span(self) -> int:
        """Layers from the upper slab's first to the lower one's last."""
        return 2 * self.layers + self.gap_layers


@dataclass(frozen=True, eq=False)
class Trial:
    """One inverse problem.

    Attributes:
        upper, lower: (z, y, x) float32; the upper one's last layer and the lower one's first face the gap.
        truth: `upper_from_lower` about the windows' centres, voxels.
        gap_layers: lost between them.
        corner: where voxel (0, 0, 0) of the upper window lies in the volume: z, y, x.
        block: trials of one block may overlap in space; resample blocks, not trials.
    """

    upper: Window
    lower: Window
    truth: Rigid
    gap_layers: int
    corner: tuple[float, float, float]
    block: int


def check_fits(shape: tuple[int, int, int], options: TrialOptions) -> None:
    """Any motion that may be drawn leaves both windows inside.

    Raises:
        VolumeError: the volume is too small.
    """
    turn = BASE_ANGLE_RAD + options.max_angle_rad / 2
    reach = (options.window - 1) / 2 * (math.cos(turn) + math.sin(turn))
    needed = math.ceil(2 * (reach + MARGIN) + 2 * options.max_shift * options.window) + 1
    if shape[0] < options.span or min(shape[1:]) < needed:
        raise VolumeError(
            f"slabs to cut: a volume of {' x '.join(map(str, shape))} voxels; two slabs of {options.layers} layers "
            f"and a gap of {options.gap_layers} need {options.span} x {needed} x {needed}; give narrower slabs "
            "or smaller gaps"
        )


def draw(intact: Intact, options: TrialOptions, number: int) -> Trial:
    """Trial `number` of the options' seed.

    Raises:
        VolumeError: the volume is too small, or has too little tissue.
    """
    check_fits(intact.shape, options)
    random = np.random.default_rng((options.seed, number))
    truth, base = _motion(random, options)
    first, upper_pose, lower_pose = _place(random, intact, options, truth, base)
    lower_first = first + options.layers + options.gap_layers
    corner = upper_pose(_corners(options.window)[0])
    return Trial(
        _contrast(random, _sample(intact, first, upper_pose, options), intact),
        _contrast(random, _sample(intact, lower_first, lower_pose, options), intact),
        truth,
        options.gap_layers,
        (float(first), float(corner[0]), float(corner[1])),
        _block(intact.shape, options, first, upper_pose),
    )


def _motion(random: np.random.Generator, options: TrialOptions) -> tuple[Rigid, float]:
    shift_y, shift_x, angle, base = map(float, random.uniform(-1, 1, 4))
    reach = options.max_shift * options.window
    truth = Rigid(angle * options.max_angle_rad, (shift_y * reach, shift_x * reach))
    return truth, base * BASE_ANGLE_RAD


def _place(
    random: np.random.Generator, intact: Intact, options: TrialOptions, truth: Rigid, base: float
) -> tuple[int, Rigid, Rigid]:
    """First layer, `plane_from_upper` and `plane_from_lower` of the first place drawn that holds enough tissue."""
    layers, *extent = intact.shape
    turned = Rigid(base - truth.angle_rad / 2)
    corners = np.concatenate([(turned @ moved)(_corners(options.window)) for moved in (Rigid(), truth)])
    lowest = MARGIN - corners.min(axis=0)
    highest = np.array(extent) - 1 - MARGIN - corners.max(axis=0)
    for _ in range(DRAWS):
        part_z, *part = random.uniform(0, 1, 3)
        first = int(part_z * (layers - options.span + 1))
        centre = lowest + np.array(part) * (highest - lowest)
        upper = Rigid(turned.angle_rad, (float(centre[0]), float(centre[1])))
        lower = upper @ truth
        faces = ((first + options.layers - 1, upper), (first + options.layers + options.gap_layers, lower))
        if all(_tissue(intact, layer, pose, options.window) >= LEAST_TISSUE for layer, pose in faces):
            return first, upper, lower
    raise VolumeError(
        f"slabs to cut: none of {DRAWS} windows of {options.window} voxels was half tissue; give narrower slabs or "
        "a part of the volume that has tissue"
    )


def _corners(window: int) -> NDArray[np.float64]:
    """(4, 2), from the centre."""
    half = (window - 1) / 2
    return np.array([(-half, -half), (-half, half), (half, -half), (half, half)])


def _tissue(intact: Intact, layer: int, pose: Rigid, window: int) -> float:
    """Share of a face, on a grid of STEP voxels."""
    axis = np.arange(STEP / 2, window, STEP) - (window - 1) / 2
    points = pose(np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1))
    at = np.rint(points / STEP).astype(int)
    return float(intact.tissue[layer, at[..., 0], at[..., 1]].mean())


def _sample(intact: Intact, first: int, pose: Rigid, options: TrialOptions) -> Window:
    """Layers `first` and on, seen from a window: voxel p of it, from its centre, is at pose(p)."""
    matrix, corner = pose.matrix, pose(_corners(options.window)[0])
    size = (options.window, options.window)
    return np.stack(
        [
            ndimage.affine_transform(layer, matrix, corner, size, output=np.float32, order=3, prefilter=False)
            for layer in intact.coefficients[first : first + options.layers]
        ]
    )


def _contrast(random: np.random.Generator, window: Window, intact: Intact) -> Window:
    """Another gamma, gain and offset, as of another day."""
    gamma, gain, offset = np.exp(random.uniform(-0.3, 0.3)), np.exp(random.uniform(-0.5, 0.5)), random.uniform(-1, 1)
    unit = np.maximum((window - intact.darkest) / max(intact.brightest - intact.darkest, 1e-6), 0)
    changed: Window = (gain * unit**gamma + offset).astype(np.float32)
    return changed


def _block(shape: tuple[int, int, int], options: TrialOptions, first: int, pose: Rigid) -> int:
    """Slab of z by quadrant of the plane."""
    quadrant = 2 * (pose.shift[0] > shape[1] / 2) + (pose.shift[1] > shape[2] / 2)
    return 4 * (first // options.span) + quadrant
