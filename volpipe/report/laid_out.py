"""What `volpipe coarse` found, as one picture beside the slabs file that it wrote: laid-out.yaml, laid-out.png.

Each slab as a checkerboard with the one above that it was laid on, seen in that one's frame: where it was laid rightly,
outlines and structures go on from square to square. Guesses stand out; of what there was nothing to compare none is.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from volpipe.jobs.coarse import SURE, WINDOW, LaidOut
from volpipe.jobs.register import RegisterJob
from volpipe.jobs.register_setup import Setup
from volpipe.report.registration_figures import Seam, sheet_figure
from volpipe.report.registration_planes import Planes
from volpipe.volume.folder import absolute, open_folder

DPI = 130
PIXELS = 2**16  # of a plane: 256 across, as it is drawn; those of all slabs are in memory together


def report(slabs: str, found: Sequence[LaidOut]) -> str | None:
    """Draw the picture; one that is there is replaced.

    Args:
        slabs: the file that `lay_out` wrote.
        found: what it found.

    Returns:
        The place of the picture; None where no slab was laid on another.

    Raises:
        VolumeError, ConfigError: slabs or their file cannot be read any more.
        WriteError: one may not write there.
    """
    folder, _, name = absolute(slabs).rpartition("/")
    if not (seams := dict(_seams(slabs, found))):
        return None
    unsure = [place for place, slab in enumerate(seams) if (found[slab].confidence or 0.0) < SURE]
    data = io.BytesIO()
    sheet_figure(list(seams.values()), unsure).savefig(data, format="png", dpi=DPI)
    stem, _, ending = name.rpartition(".")
    picture = f"{stem if stem and ending != 'png' else name}.png"
    open_folder(folder).put(picture, data.getvalue())
    return f"{slabs.removesuffix(name)}{picture}"


def _seams(slabs: str, found: Sequence[LaidOut]) -> Iterator[tuple[int, Seam]]:
    """Of each slab that was laid on another, from above."""
    stack = Setup(RegisterJob(slabs=slabs, output=f"{slabs}.out", window=WINDOW, score="ncc")).stack
    planes = Planes(stack, tuple(one.start for one in found), {}, PIXELS)
    for slab, one in enumerate(found):
        if one.on is not None:
            title = f"slab {slab} on {one.on}: {one.confidence:.2f}"
            yield slab, Seam(title, *planes.faces(one.on, slab), planes.raster(one.on).spacing_um)
