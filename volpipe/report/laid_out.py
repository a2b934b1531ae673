"""What `volpipe coarse` found, as one picture beside the slabs file that it wrote: laid-out.yaml, laid-out.png.

Each slab as a checkerboard with the one above that it was laid on, seen in that one's frame: where it was laid rightly,
outlines and structures go on from square to square. Of many slabs the least sure are shown. Of each a board is kept,
and no plane.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

from volpipe.jobs.coarse import SURE, LaidOut, setup_of
from volpipe.jobs.register_setup import SlabStack
from volpipe.report.registration_figures import Board, board, sheet_figure
from volpipe.report.registration_planes import Planes
from volpipe.volume.folder import absolute, open_folder

DPI = 130
PIXELS = 2**16  # of a plane: 256 across, about as it is drawn
MOST = 60  # boards
SEEN = (
    "Squares of a slab and of the one above by turns, after they were laid out: where that is right,\n"
    "outlines and structures go on from square to square. Numbers are confidences; what is bold is not sure."
)


def report(slabs: str, picture: str, found: Sequence[LaidOut]) -> str:
    """Draw the picture.

    Args:
        slabs: the file that was laid out.
        picture: place of the picture.
        found: by `lay_out`.

    Returns:
        The place.

    Raises:
        VolumeError, ConfigError: slabs or their file cannot be read any more.
        ProductError: something is there.
        WriteError: one may not write there.
    """
    laid = {slab: one for slab, one in enumerate(found) if one.on is not None}
    shown = sorted(sorted(laid, key=lambda slab: laid[slab].confidence or 0.0)[:MOST])
    planes = Planes(_stack(slabs, picture, found), tuple(one.start for one in found), {}, PIXELS)
    text = SEEN + f"\nThe {MOST} least sure of {len(laid)} slabs." * (len(laid) > MOST) + _without(found)
    data = io.BytesIO()
    sheet_figure([_board(planes, slab, laid[slab]) for slab in shown], text).savefig(data, format="png", dpi=DPI)
    folder, _, name = absolute(picture).rpartition("/")
    open_folder(folder).put_new(name, data.getvalue())
    return picture


def _board(planes: Planes, slab: int, one: LaidOut) -> Board:
    assert one.on is not None
    sure = one.confidence or 0.0
    title = f"slab {slab} on {one.on}: {sure:.2f}" + "\n(turned over)" * one.flipped
    plane = board(planes.faces(one.on, slab, registered=True))
    return Board(title, plane, planes.raster(one.on).spacing_um, sure < SURE)


def _stack(slabs: str, picture: str, found: Sequence[LaidOut]) -> SlabStack:
    """The slabs the right way up."""
    setup = setup_of(slabs, picture)
    readers = zip(setup.stack.readers, setup.slabs.entries, found, strict=True)
    upright = (r.turned_over if r is not None and one.flipped != entry.flipped else r for r, entry, one in readers)
    return replace(setup.stack, readers=tuple(upright))


def _without(found: Sequence[LaidOut]) -> str:
    none = [str(slab) for slab, one in enumerate(found) if not one.shows]
    return f"\nMissing or without tissue, and not shown: slabs {', '.join(none)}." if none else ""
