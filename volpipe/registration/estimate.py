"""What is said of a pair of windows: where the lower one lies in the upper one, and how far to trust it."""

from __future__ import annotations

from dataclasses import dataclass

from volpipe.geometry import Affine, Rigid

LIKELY = 0.5  # confidence: with less an estimate is more likely wrong than right


@dataclass(frozen=True, slots=True)
class PairEstimate:
    """Where a lower window lies in the upper one.

    Attributes:
        transform: `upper_from_lower`, about both windows' centres; in voxels, or in micrometres where a voxel size was
            given.
        confidence: 0..1, the probability that shift and angle are within the tolerances of a success (0.02 of the
            width; 0.01 rad, or what moves a small window's sides by half a voxel).
        accepted: the confidence is high enough to rely on it alone. Where others can contradict it, in a stack or a
            tree, it counts from LIKELY on.
        affine: `upper_from_lower` with the stretch that the rigid transform leaves, where it was asked for.
        as_cut: what the slabs as they were cut say, slant and all but no bend, where the transform is something else.
    """

    transform: Rigid
    confidence: float
    accepted: bool
    affine: Affine | None = None
    as_cut: Rigid | None = None


NOTHING = PairEstimate(Rigid(), 0.0, False)  # of windows that nothing can be told of
