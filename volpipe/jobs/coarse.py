"""`coarse`: slabs that were laid down anyhow, at any angle or upside down, laid out for `register`.

    slabs file --> slab by slab from above: how it lies on the nearest one above (registration.coarse)
               --> the same slabs file, in which each slab says `flipped` and `start`

A slab is laid on the one above as that was found to lie, so that one that is laid wrongly turns all below it: what is
not sure is told, and the file is made for the user's eyes and hands. Whole slabs are compared, at the coarsest level.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import yaml

from volpipe.errors import ProductError
from volpipe.geometry import Rigid
from volpipe.jobs.register import RegisterJob
from volpipe.jobs.register_setup import Setup
from volpipe.jobs.slab_reader import SlabReader
from volpipe.jobs.slabs import Slabs
from volpipe.jobs.transforms import Pose
from volpipe.registration.coarse import FACING_LAYERS, CoarseEstimate, coarse_alignment
from volpipe.registration.known import has_structure
from volpipe.volume.folder import absolute, open_folder

WINDOW = 96  # voxels across, about: twice the pixels that are compared
SURE = 0.5  # confidence: with less, another angle or the other side up fits nearly as well


@dataclass(frozen=True, slots=True)
class LaidOut:
    """How a slab was found to lie.

    Attributes:
        flipped: upside down, as stored.
        start: about where it lies in slab 0's frame, about the slabs' centres, micrometres; the right way up.
        confidence: 0..1; None where there was nothing to compare: slab 0, one that is missing, one without tissue.
    """

    flipped: bool
    start: Rigid
    confidence: float | None


def lay_out(slabs: str, output: str) -> tuple[LaidOut, ...]:
    """Find how the slabs of a file lie, and write a file that says so; slab 0 is taken to lie the right way up.

    Args:
        slabs: a slabs file. What it says itself of `start` is replaced, and `flipped` corrected.
        output: the slabs file to write; it does not exist yet.

    Raises:
        ConfigError, VolumeError, GeometryError: as `RegisterJob.plan`.
        ProductError: the output exists.
    """
    folder, _, name = absolute(output).rpartition("/")
    if open_folder(folder).get(name) is not None:
        raise ProductError(f"{output}: exists already; give another name, or delete it")
    setup = Setup(RegisterJob(slabs=slabs, output=output, window=WINDOW, score="ncc"))
    found = tuple(_laid_out(setup))
    content = _as_found(setup.slabs, setup.runs, found).model_dump(mode="json", exclude_defaults=True)
    open_folder(folder).put_new(name, yaml.safe_dump(content, sort_keys=False).encode())
    return found


def _laid_out(setup: Setup) -> Iterator[LaidOut]:
    """From above."""
    above, last = LaidOut(setup.slabs.entries[0].flipped, Rigid(), None), 0
    yield above
    for slab in range(1, len(setup.stack.layers)):
        if (estimate := _on_the_one_above(setup, last, above, slab)) is None:
            yield LaidOut(setup.slabs.entries[slab].flipped, above.start, None)
            continue
        flipped = setup.slabs.entries[slab].flipped != estimate.flipped
        above, last = LaidOut(flipped, above.start @ estimate.transform, estimate.confidence), slab
        yield above


def _on_the_one_above(setup: Setup, last: int, above: LaidOut, slab: int) -> CoarseEstimate | None:
    """About the slabs' centres; None of a slab that is missing or without tissue."""
    stack, readers = setup.stack, setup.stack.readers
    reader = readers[slab]
    if reader is None:
        return None
    upper = _right_way_up(stack.reader(last), above.flipped != setup.slabs.entries[last].flipped)
    windows = [
        np.concatenate([stack.on_canvas(which, each, part) for part in _ends(each.count)])
        for which, each in ((last, upper), (slab, reader))
    ]
    if not all(any(map(has_structure, window)) for window in windows):
        return None
    estimate = coarse_alignment(*windows, voxel_size_um=stack.canvas_size_um)
    y, x = reader.frame.centre_um(stack.box(slab), stack.level)
    mirrored = Rigid(0.0, (y, -x if estimate.flipped else x))  # the canvas' centre, from the slab's, the right way up
    centre = Rigid(0.0, upper.frame.centre_um(stack.box(last), stack.level))
    return CoarseEstimate(centre @ estimate.transform @ mirrored.inverse, estimate.flipped, estimate.confidence)


def _right_way_up(reader: SlabReader, turned: bool) -> SlabReader:
    return reader.turned_over if turned else reader


def _ends(count: int) -> list[range]:
    """The layers at both faces of a slab."""
    if count <= 2 * FACING_LAYERS:
        return [range(count)]
    return [range(FACING_LAYERS), range(count - FACING_LAYERS, count)]


def _as_found(slabs: Slabs, runs: tuple[tuple[int, int], ...], found: tuple[LaidOut, ...]) -> Slabs:
    """The slabs file with what was found; cuts of one volume become slabs of their own."""
    entries = []
    for entry, run, one in zip(slabs.entries, runs, found, strict=True):
        start = Pose(angle_rad=one.start.angle_rad, shift_um=one.start.shift)
        layers = entry.layers if entry.volume is None else run
        entries.append(entry.model_copy(update={"layers": layers, "flipped": one.flipped, "start": start}))
    return slabs.model_copy(update={"slabs": tuple(entries), "volume": None, "cuts": (), "gap_layers": slabs.gaps})
