"""Other people's rigid registration, one call each: the upper slab's last layer against the lower one's first.

Every peer returns `upper_from_lower` about the windows' centres, in voxels: the lower layer is its fixed image (or
template, or reference), the upper one its moving image, since all of them map fixed points to moving ones. An answer
beyond the prior (a quarter more than what trials are drawn from) is taken for doing nothing. Its confidence is the
correlation of both layers where they overlap once moved. All with one thread. Settings were chosen on 30 trials of the
light-sheet volume, at 0 and 2 lost layers; layers are clipped to their 1st and 99th percentile, which helped all.

    SimpleITK    Mattes mutual information, 32 bins, all pixels; Euler2D about the centre; shrink 4, 2, 1, 1 and
                 smoothing 8, 4, 2, 1 pixels (shrink 8 first, or less smoothing: fewer right); regular step gradient
                 descent, step 2 to 1e-4, 200 iterations a level; scales from physical shift; linear interpolation
    pystackreg   RIGID_BODY of StackReg (least squares, its own pyramid; Thevenaz et al. 1998)
    OpenCV ECC   findTransformECC, MOTION_EUCLIDEAN, from the identity; three levels of pyrDown, 100 iterations or 1e-6
                 a level, Gaussian filter of 5 pixels (Evangelidis and Psarakis 2008)
    phase        scikit-image: angle from the log-polar spectra, then the shift of the turned layer, both by
                 phase_cross_correlation without its normalisation (the default one fails on all of our volumes), to
                 1/20 of a pixel (Reddy and Chatterji 1996)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pystackreg import StackReg
from skimage.filters import window as taper
from skimage.registration import phase_cross_correlation
from skimage.transform import warp_polar

from volpipe.geometry import Rigid
from volpipe.registration.estimate import PairEstimate
from volpipe.registration.trials import Trial, TrialOptions

Layer = NDArray[np.float32]
Find = Callable[[Layer, Layer], Rigid]

BEYOND = 1.25  # of the prior

cv2.setNumThreads(1)
sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def peers(options: TrialOptions) -> dict[str, Callable[[Trial], PairEstimate]]:
    """By name, each bound to the prior."""
    found = {"SimpleITK MI": mutual_information, "pystackreg": stackreg, "OpenCV ECC": ecc, "phase correlation": phase}
    return {name: _method(find, options) for name, find in found.items()}


def _method(find: Find, options: TrialOptions) -> Callable[[Trial], PairEstimate]:
    reach = BEYOND * options.max_shift * options.window

    def method(trial: Trial) -> PairEstimate:
        upper, lower = _unit(trial.upper[-1]), _unit(trial.lower[0])
        motion = find(upper, lower)
        if abs(motion.angle_rad) > BEYOND * options.max_angle_rad or max(map(abs, motion.shift)) > reach:
            return PairEstimate(Rigid(), 0.0, False)
        return PairEstimate(motion, _agreement(upper, lower, motion), True)

    return method


def _unit(layer: Layer) -> Layer:
    """Without its few brightest and darkest pixels, of mean 0 and deviation 1: slabs differ in contrast."""
    clipped = np.clip(layer, *np.percentile(layer, (1, 99)))
    return ((clipped - clipped.mean()) / max(float(clipped.std()), 1e-9)).astype(np.float32)


def _agreement(upper: Layer, lower: Layer, motion: Rigid) -> float:
    both = cv2.warpAffine(np.ones_like(upper), _affine(motion, upper), upper.shape, flags=SEEN) > 0.99
    return float(
        np.corrcoef(cv2.warpAffine(upper, _affine(motion, upper), upper.shape, flags=SEEN)[both], lower[both])[0, 1]
    )


SEEN = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP  # upper, as seen from the lower window


def _affine(motion: Rigid, layer: Layer) -> NDArray[Any]:
    """Of pixels (x, y) from the corner, 2 x 3, as OpenCV takes it."""
    centre = (len(layer) - 1) / 2
    cornered = motion.about((-centre, -centre))  # points from the corner are centre + p
    cos, sin = math.cos(motion.angle_rad), math.sin(motion.angle_rad)
    return np.array([[cos, -sin, cornered.shift[1]], [sin, cos, cornered.shift[0]]])


def _rigid(matrix: NDArray[Any], layer: Layer) -> Rigid:
    """The inverse of `_affine`."""
    centre = (len(layer) - 1) / 2
    angle = math.atan2(matrix[1, 0], matrix[0, 0])
    return Rigid(angle, (float(matrix[1, 2]), float(matrix[0, 2]))).about((centre, centre))


# ---------------------------------------------------------------------- each peer


def mutual_information(upper: Layer, lower: Layer) -> Rigid:
    """SimpleITK."""
    centre = (len(lower) - 1) / 2
    motion = sitk.Euler2DTransform()
    motion.SetCenter((centre, centre))
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetShrinkFactorsPerLevel([4, 2, 1, 1])
    method.SetSmoothingSigmasPerLevel([8, 4, 2, 1])
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-4, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(motion, inPlace=True)
    try:
        method.Execute(sitk.GetImageFromArray(lower), sitk.GetImageFromArray(upper))
    except RuntimeError:  # every sample fell outside: it ran away
        return Rigid()
    x, y = motion.GetTranslation()
    return Rigid(motion.GetAngle(), (y, x))


def stackreg(upper: Layer, lower: Layer) -> Rigid:
    """pystackreg."""
    return _rigid(StackReg(StackReg.RIGID_BODY).register(lower, upper), lower)


def ecc(upper: Layer, lower: Layer) -> Rigid:
    """OpenCV, coarse to fine."""
    uppers, lowers = [upper], [lower]
    for _ in range(2):
        uppers.append(cv2.pyrDown(uppers[-1]))
        lowers.append(cv2.pyrDown(lowers[-1]))
    motion, rule = Rigid(), (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-6)
    for one, other in zip(reversed(uppers), reversed(lowers), strict=True):
        scale = len(other) / len(lower)
        begin = _affine(motion.times(scale), other).astype(np.float32)
        try:
            _, matrix = cv2.findTransformECC(other, one, begin, cv2.MOTION_EUCLIDEAN, rule, None, 5)
        except cv2.error:  # it did not converge: what was found so far stands
            break
        motion = _rigid(matrix, other).times(1 / scale)
    return motion


def phase(upper: Layer, lower: Layer) -> Rigid:
    """Log-polar phase correlation."""
    hann = taper("hann", lower.shape)
    spectra = [_log_polar(layer * hann) for layer in (upper, lower)]
    turn, _, _ = phase_cross_correlation(*spectra, upsample_factor=20, normalization=None)
    angle = math.remainder(float(turn[0]) * math.pi / len(spectra[0]), math.pi)
    seen = cv2.warpAffine(upper, _affine(Rigid(angle), upper), upper.shape, flags=SEEN)
    shift, _, _ = phase_cross_correlation(seen * hann, lower * hann, upsample_factor=20, normalization=None)
    return Rigid(angle) @ Rigid(0.0, (float(shift[0]), float(shift[1])))


def _log_polar(layer: NDArray[Any]) -> NDArray[Any]:
    """Half a turn of the magnitudes of a spectrum, the lowest frequencies left out: angle x logarithm of frequency."""
    size = len(layer)
    spectrum = np.log1p(np.abs(np.fft.fftshift(np.fft.fft2(layer))))
    polar = warp_polar(spectrum, radius=size // 4, output_shape=(4 * size, size), scaling="log")
    return polar[: 2 * size, size // 4 :]
