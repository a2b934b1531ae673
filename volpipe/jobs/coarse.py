"""`coarse`: slabs that were laid down anyhow, at any angle or upside down, laid out for `register`.

    slabs file --> slab by slab from above: how it lies on each of the nearest ones above (registration.coarse)
               --> what most of these agree on: a slab of noise between turns none below it
               --> the same slabs file, in which each slab says `flipped` and `start`

A slab is laid on those above as these were found to lie, so that two in a row that are laid wrongly may turn all below
them: what is not sure is told, and the file is made for the user's eyes and hands. Whole slabs are compared, at the
coarsest level.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import yaml

from volpipe.errors import ConfigError, ProductError, VolumeError
from volpipe.geometry import Rigid
from volpipe.geometry.transform import Vector, wrapped
from volpipe.jobs.register import RegisterJob
from volpipe.jobs.register_setup import Setup
from volpipe.jobs.slab_reader import Layers
from volpipe.jobs.slabs import Slabs
from volpipe.jobs.transforms import Pose
from volpipe.registration.coarse import ELSEWHERE_RAD, FACING_LAYERS, CoarseEstimate, coarse_alignment
from volpipe.registration.known import has_structure
from volpipe.volume.folder import absolute, is_remote, local_path, open_folder

WINDOW = 96  # voxels across, about: twice the pixels that are compared
FURTHER = 0.7  # what a slab above counts for each that lies between: tissue changes
REACH = 3  # slabs above that a slab is laid on, those without tissue not counted: a bad one is outvoted
SURE = 0.5  # confidence: with less, another angle or the other side up fits nearly as well, or none fits
ENDINGS = (".yaml", ".yml")  # of the file that is written


@dataclass(frozen=True, slots=True)
class LaidOut:
    """How a slab was found to lie.

    Attributes:
        flipped: upside down, as stored.
        start: about where it lies in slab 0's frame, about the slabs' centres, micrometres; the right way up.
        confidence: 0..1, of the least sure step on the way from the first slab, less where the slabs above do not
            agree; None of the first with tissue, one that is missing, one without tissue.
        on: the slab above that it was laid on.
        shows: tissue, so that it can be laid.
    """

    flipped: bool
    start: Rigid
    confidence: float | None
    on: int | None = None
    shows: bool = True


@dataclass(frozen=True, slots=True)
class Ends:
    """The layers at both faces of a slab, on the canvas.

    Attributes:
        layers: (z, y, x).
        centre_um: (y, x) of the canvas, from the slab's.
    """

    layers: Layers
    centre_um: Vector


EndsOf = Callable[[int, bool], Ends | None]


def lay_out(slabs: str, output: str) -> tuple[LaidOut, ...]:
    """Find how the slabs of a file lie, and write a file that says so; the first one with tissue is taken to lie the
    right way up.

    Args:
        slabs: a slabs file. What it says itself of `start` is replaced, and `flipped` corrected.
        output: the slabs file to write; it does not exist yet.

    Raises:
        ConfigError: as `RegisterJob.plan`, or the output does not end as a slabs file does.
        VolumeError: as `RegisterJob.plan`, or fewer than two slabs hold tissue.
        GeometryError: as `RegisterJob.plan`.
        ProductError: the output exists.
    """
    folder, _, name = absolute(output).rpartition("/")
    _check_name(output)
    check_free(output)
    setup = setup_of(slabs, output)
    found = tuple(_laid_out(setup))
    if sum(one.shows for one in found) < 2:
        raise VolumeError(f"{slabs}: fewer than two slabs hold tissue; there is nothing to lay out")
    content = _as_found(setup.slabs, setup.runs, found).model_dump(mode="json", exclude_defaults=True)
    text = _to_look_at(found) + yaml.safe_dump(content, sort_keys=False)
    open_folder(folder).put_new(name, text.encode())
    return found


def setup_of(slabs: str, output: str) -> Setup:
    """Slabs as they are laid out: at a coarse level.

    Raises:
        ConfigError, VolumeError, GeometryError: as `RegisterJob.plan`.
    """
    return Setup(RegisterJob(slabs=slabs, output=output, window=WINDOW, score="ncc"))


def picture_of(output: str) -> str:
    """The place of the picture beside a slabs file.

    Raises:
        ConfigError: the file is not named as slabs files are.
    """
    _check_name(output)
    return f"{output.rpartition('.')[0]}.png"


def _check_name(output: str) -> None:
    stem, dot, ending = output.rpartition("/")[-1].rpartition(".")
    if not stem or f"{dot}{ending}" not in ENDINGS:
        raise ConfigError(f"{output}: is to be a slabs file; give a name that ends in {ENDINGS[0]}")


def check_free(place: str) -> None:
    """Nothing is written over.

    Raises:
        ProductError: a file, a folder or an object is there.
    """
    if _exists(place):
        raise ProductError(f"{place}: exists already; give another name, or delete it")


def _to_look_at(found: Sequence[LaidOut]) -> str:
    """A comment at the head of the file: which slabs are guesses."""
    guesses = [
        f"# slab {number}: "
        + (f"{one.confidence or 0:.2f} sure" if one.shows else "missing or without tissue, not compared")
        for number, one in enumerate(found)
        if not one.shows or (one.confidence is not None and one.confidence < SURE)
    ]
    if not guesses:
        return ""
    return "\n".join(["# Guesses of volpipe coarse, to be looked at and set right by hand:", *guesses, ""])


def _exists(place: str) -> bool:
    """A file, a folder or an object."""
    if not is_remote(place):
        return os.path.lexists(local_path(place))
    folder, _, name = place.rpartition("/")
    return open_folder(folder).get(name) is not None


def _laid_out(setup: Setup) -> Iterator[LaidOut]:
    """From above."""
    ends = lru_cache(maxsize=2 * REACH)(partial(_ends, setup))  # each is read once
    above: dict[int, LaidOut] = {}
    for slab, entry in enumerate(setup.slabs.entries):
        last = above[max(above)].start if above else Rigid()
        if ends(slab, False) is None:
            yield LaidOut(entry.flipped, last, None, shows=False)
        else:
            ways = list(_ways(setup, ends, above, slab))
            above[slab] = _agreed(ways) if ways else LaidOut(entry.flipped, last, None)
            yield above[slab]


def _ways(setup: Setup, ends: EndsOf, above: Mapping[int, LaidOut], slab: int) -> Iterator[LaidOut]:
    """How it lies by each of the nearest slabs above, as sure as the least sure step on the way from the first."""
    for upper in sorted(above)[: -REACH - 1 : -1]:
        on = above[upper]
        estimate = _on_one_above(setup, ends, upper, on, slab)
        flipped = setup.slabs.entries[slab].flipped != estimate.flipped
        sure = min(estimate.confidence, 1.0 if on.confidence is None else on.confidence)
        yield LaidOut(flipped, on.start @ estimate.transform, sure, upper)


def _agreed(ways: Sequence[LaidOut]) -> LaidOut:
    """The surest of those that agree most, nearest first; less sure by what speaks for others."""
    trust = [(one.confidence or 0.0) * FURTHER**between for between, one in enumerate(ways)]
    agreed = [sum(t for t, other in zip(trust, ways, strict=True) if _alike(one, other)) for one in ways]
    best = max(range(len(ways)), key=lambda n: (agreed[n], trust[n]))
    sure = (ways[best].confidence or 0.0) * agreed[best] / max(sum(trust), 1e-12)
    return replace(ways[best], confidence=sure)


def _alike(one: LaidOut, other: LaidOut) -> bool:
    turn = abs(wrapped(one.start.angle_rad - other.start.angle_rad))
    return one.flipped == other.flipped and turn <= ELSEWHERE_RAD


def _on_one_above(setup: Setup, ends: EndsOf, upper: int, on: LaidOut, slab: int) -> CoarseEstimate:
    """About the slabs' centres."""
    above, below = ends(upper, on.flipped != setup.slabs.entries[upper].flipped), ends(slab, False)
    assert above is not None
    assert below is not None  # only what shows tissue is laid
    estimate = coarse_alignment(above.layers, below.layers, voxel_size_um=setup.stack.canvas_size_um)
    y, x = below.centre_um
    mirrored = Rigid(0.0, (y, -x if estimate.flipped else x))  # the canvas' centre, from the slab's, the right way up
    moved = Rigid(0.0, above.centre_um) @ estimate.transform @ mirrored.inverse
    return CoarseEstimate(moved, estimate.flipped, estimate.confidence)


def _ends(setup: Setup, slab: int, turned: bool) -> Ends | None:
    """Of a slab as the file has it, or turned over; None of one that is missing or without tissue."""
    stack, reader = setup.stack, setup.stack.readers[slab]
    if reader is None:
        return None
    reader, count = reader.turned_over if turned else reader, reader.count
    parts = [range(FACING_LAYERS), range(count - FACING_LAYERS, count)] if count > 2 * FACING_LAYERS else [range(count)]
    layers = np.concatenate([stack.on_canvas(slab, reader, part) for part in parts])
    layers = layers[list(map(has_structure, layers))]  # of a slab that is blank at one end those at the other
    if not len(layers):
        return None
    return Ends(layers, reader.frame.centre_um(stack.box(slab), stack.level))


def _as_found(slabs: Slabs, runs: tuple[tuple[int, int], ...], found: tuple[LaidOut, ...]) -> Slabs:
    """The slabs file with what was found; cuts of one volume become slabs of their own."""
    entries = []
    for entry, run, one in zip(slabs.entries, runs, found, strict=True):
        start = Pose(angle_rad=one.start.angle_rad, shift_um=one.start.shift)
        layers = entry.layers if entry.volume is None else run
        entries.append(entry.model_copy(update={"layers": layers, "flipped": one.flipped, "start": start}))
    return slabs.model_copy(update={"slabs": tuple(entries), "volume": None, "cuts": (), "gap_layers": slabs.gaps})
