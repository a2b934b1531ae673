"""What `volpipe register` found, as a page of pictures in its product.

    OUT/stack.json, fields --report--> OUT/pictures/index.html     what to look at, a line for each
    slabs, at a coarse level --^                   drift.png       poses, weights of pairs, sizes of bends
                                                   cut.png         the stack from the side
                                                   seams.png       checkerboards of a few seams
                                                   field003.png    how one slab is bent

Of many slabs a few are shown: the seam that was trusted least, the one in the middle, and some that no pair joins; the
slab that is bent most, and the one in the middle. What is drawn follows from the product: drawn again it is the same.
"""

from __future__ import annotations

import html
import io
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from volpipe.errors import ProductError
from volpipe.geometry import Rigid
from volpipe.geometry.raster import two
from volpipe.geometry.transform import wrapped
from volpipe.jobs.field_store import load_field
from volpipe.jobs.register import RegisterJob
from volpipe.jobs.register_plan import fields_of
from volpipe.jobs.register_setup import Setup
from volpipe.jobs.register_stack import FOUND, FoundStack, get
from volpipe.report.registration_figures import Cut, Seam, Stack, cut_figure, drift_figure, field_figure, seams_figure
from volpipe.report.registration_planes import Planes
from volpipe.volume.folder import absolute, open_folder
from volpipe.volume.results import are_complete

PAGE = "pictures/index.html"
MOST_UNJOINED = 2  # seams that no trusted pair joins
DPI = 110

Picture = tuple[str, str, Figure]  # file, one line on it, figure


def report(job: RegisterJob) -> str:
    """Draw the page of a finished registration; one that is there is replaced.

    Returns:
        The place of the page.

    Raises:
        ProductError: the registration is not finished.
        VolumeError, ConfigError: slabs or their file cannot be read any more.
        WriteError: one may not write there.
    """
    if not are_complete(job.output):
        raise ProductError(f"{job.output}: holds no finished registration; give volpipe register's command again")
    folder, told = open_folder(absolute(job.output)), []
    found = _Found(job)
    for name, line, figure in found.pictures():
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=DPI)
        folder.put(f"pictures/{name}", data.getvalue())
        told.append((name, line))
    folder.put(PAGE, page(found.title, found.facts, told).encode())
    return f"{job.output.rstrip('/')}/{PAGE}"


class _Found:
    """What the product holds, and the pictures of it one by one: no two are in memory together."""

    def __init__(self, job: RegisterJob) -> None:
        setup, location = Setup(job), absolute(job.output)
        names = {slab: fields_of(setup)(slab) for slab in setup.stack.there}
        folder = open_folder(location)
        self.stack, self.found = setup.stack, FoundStack.read(folder)
        self.starts = [entry.start.rigid for entry in setup.slabs.entries]
        self.weights = {(pair["upper"], pair["lower"]): pair["weight"] for pair in get(folder, FOUND)["pairs"]}
        self.fields = {slab: f"{location}/{name}" for slab, name in names.items() if name is not None}
        self.planes = Planes(self.stack, self.found.poses, self.fields)
        self.title = f"Registration of {job.slabs}"

    def pictures(self) -> Iterator[Picture]:
        """In the order of the page."""
        yield self._drift()
        yield self._cut()
        yield self._seams()
        for slab, why in self._bent.items():
            line = (
                f"Slab {slab}, {why}. Left: where its tissue goes beyond what its pose says, arrows magnified. "
                "Right: how far that is believed, by what the nodes of the tree say together."
            )
            outline = self.found.poses[slab](self.planes.raster(slab).outline_um)
            yield f"field{slab:03d}.png", line, field_figure(slab, load_field(self.fields[slab]), outline)

    @cached_property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What stands above the pictures."""
        stack, found = self.stack, self.found
        missing = sorted(set(range(len(stack.layers))) - set(stack.there))
        size = ", ".join(f"{part:g}" for part in stack.voxel_size_um)
        return (
            ("slabs", f"{len(stack.layers)}, of {sum(stack.layers)} layers; {sum(stack.gaps)} layers lost between"),
            ("voxels", f"{size} µm (z, y, x)"),
            ("pairs", found.told),
            ("bridged", _numbers(found.bridged) + " (poses between those of neighbours)" * bool(found.bridged)),
            ("missing", _numbers(missing)),
            ("no tissue at gaps", _numbers(found.blank)),
            ("bent", f"{len(self.fields)} slabs have a field" if self.fields else "no slab has a field"),
        )

    # ------------------------------------------------------------------ drift

    def _drift(self) -> Picture:
        poses, given = self.found.poses, any(start != Rigid() for start in self.starts)
        pairs = list(zip(poses, self.starts, strict=True))
        stack = Stack(
            angles_rad=[wrapped(pose.angle_rad - start.angle_rad) for pose, start in pairs],
            shifts_um=[two(np.subtract(pose.shift, start.shift).tolist()) for pose, start in pairs],
            bridged=self.found.bridged,
            missing=sorted(set(range(len(poses))) - set(self.stack.there)),
            weights=self.weights,
            moved_um=self._moved_um,
            from_starts=given,
        )
        beyond = ", from where its start lays it" if given else ""
        line = (
            f"Drift: where each slab lies in the first one{beyond}. A steady lean is tissue at a slant, or an error "
            "that adds up; a jump beside low weights is a slab to look at. Weight 0: the pair was not trusted."
        )
        return "drift.png", line, drift_figure(stack)

    @cached_property
    def _moved_um(self) -> dict[int, tuple[float, float]]:
        found = {}
        for slab, location in self.fields.items():
            length = np.linalg.norm(load_field(location).displacement, axis=0)
            found[slab] = float(length.mean()), float(length.max())
        return found

    @property
    def _bent(self) -> dict[int, str]:
        """Which fields are shown, and why."""
        by_size = sorted(self._moved_um, key=lambda slab: self._moved_um[slab][0])
        named = ((-1, "which is bent most"), (len(by_size) // 2 - 1, "in the middle by how far slabs are bent"))
        return {by_size[place]: why for place, why in named[: len(by_size)]}

    # ------------------------------------------------------------------ a cut

    def _cut(self) -> Picture:
        planes, (z, _, _) = self.planes, self.stack.voxel_size_um
        cut = Cut(
            before=planes.cut(registered=False),
            after=planes.cut(registered=True),
            tops=[top / planes.step for top in planes.tops],
            pixel_um=(z * planes.step, planes.across.spacing_um[1]),
            left_um=planes.across.origin_um[1] - planes.across.spacing_um[1] / 2,
            bridged=self.found.bridged,
        )
        every = "" if planes.step == 1 else f" Every {planes.step}th layer is drawn."
        line = (
            "The stack from the side, across the middle of the first slab: outlines and layers should go on from slab "
            f"to slab; bridged slabs are numbered at the right.{every}"
        )
        return "cut.png", line, cut_figure(cut)

    # ------------------------------------------------------------------ seams

    def _seams(self) -> Picture:
        seams = [self._seam(upper, lower, why) for (upper, lower), why in self._shown.items()]
        line = (
            "Checkerboards: squares of the upper slab's last layer and of the lower one's first, seen in the upper "
            "slab's frame. After registration outlines and structures should go on from square to square, but for "
            "what changes across the layers that were lost."
        )
        return "seams.png", line, seams_figure(seams)

    @property
    def _shown(self) -> dict[tuple[int, int], str]:
        """Seams from above, and why each is shown."""
        weights = {seam: self.weights.get(seam, 0.0) for seam in pairwise(self.stack.there)}
        trusted = sorted((seam for seam, weight in weights.items() if weight > 0), key=weights.__getitem__)
        unjoined = [seam for seam, weight in weights.items() if weight == 0][:MOST_UNJOINED]
        found = dict.fromkeys(unjoined, "no trusted pair")
        if trusted:
            named = ((trusted[len(trusted) // 2], "the median"), (trusted[0], "the least"))
            found |= {seam: f"weight {weights[seam]:.2f}, {which}" for seam, which in named}
        return dict(sorted(found.items()))

    def _seam(self, upper: int, lower: int, why: str) -> Seam:
        before, after = (self.planes.faces(upper, lower, registered=registered) for registered in (False, True))
        lost = self.stack.stack().lost(upper, lower)
        title = f"slabs {upper} | {lower}, {lost} layer{'s' * (lost != 1)} lost ({why})"
        return Seam(title, before, after, self.planes.raster(upper).spacing_um)


# ---------------------------------------------------------------------- the page


def page(title: str, facts: Any, pictures: list[tuple[str, str]]) -> str:
    """HTML that stands by itself beside its pictures."""
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>\n" for name, text in facts)
    shown = "".join(
        f'<figure><figcaption>{html.escape(line)}</figcaption><img src="{name}" alt="{html.escape(line)}"></figure>\n'
        for name, line in pictures
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style></head><body>\n<h1>{html.escape(title)}</h1>\n<table>\n{rows}</table>\n{shown}"
        "</body></html>\n"
    )


STYLE = (
    "body{font:15px/1.4 sans-serif;max-width:1250px;margin:2em auto;padding:0 1em}h1{font-size:1.3em}"
    "th{text-align:left;padding-right:1em}figure{margin:2em 0}img{max-width:100%}figcaption{margin-bottom:.5em}"
)


def _numbers(slabs: Any) -> str:
    return ", ".join(map(str, slabs)) if slabs else "none"
