"""What `register` finds out before it plans: the slabs, and the windows in which whole slabs are compared.

slabs file --> readers (source, layers, frame)     None for a slab that is missing
           --> level: where a slab is about `window` voxels wide
           --> canvas: one shape for all slabs at that level, each in its middle, NaN around it
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from volpipe.errors import ConfigError, GeometryError, VolumeError
from volpipe.geometry import Box, Rigid, SlabFrame
from volpipe.jobs.fields import check_value
from volpipe.jobs.slab_reader import AGREE, Layers, SlabReader, stored_levels
from volpipe.jobs.slabs import SlabEntry, Slabs, load_slabs
from volpipe.registration.comparison import LEAST_OVERLAP
from volpipe.registration.stack import SKIPS, Stack
from volpipe.volume import Source, check_apart, check_place, open_source

if TYPE_CHECKING:
    from volpipe.jobs.register import RegisterJob

FORMAT = 4  # of the key: raised when the same key would mean other transforms
FACING = 8  # layers of a slab that a pair is shown: what the scores were measured with
SMALLEST = 16  # voxels across, of a window that can be registered

Size = tuple[float, float, float]


@dataclass(frozen=True)
class SlabStack:
    """All slabs as workers need them; picklable, small.

    Attributes:
        readers: by number; None is missing.
        layers: of each, missing or not.
        gaps: lost at each seam.
        voxel_size_um: z, y, x at the registered level.
        level: at which whole slabs are compared.
        canvas: (y, x) voxels of that level, of every slab.
    """

    readers: tuple[SlabReader | None, ...]
    layers: tuple[int, ...]
    gaps: tuple[int, ...]
    voxel_size_um: Size
    level: int
    canvas: tuple[int, int]

    @property
    def there(self) -> tuple[int, ...]:
        """Numbers of the slabs that are not missing."""
        return tuple(number for number, reader in enumerate(self.readers) if reader is not None)

    def reader(self, slab: int) -> SlabReader:
        """Of one that is there."""
        reader = self.readers[slab]
        assert reader is not None
        return reader

    @property
    def canvas_size_um(self) -> Size:
        """Of a canvas' voxel."""
        z, y, x = self.voxel_size_um
        return z, y * 2**self.level, x * 2**self.level

    @property
    def radius_um(self) -> float:
        """Root of the mean square distance of a canvas' points from its centre: what a turn is worth as a shift."""
        sides = (n * size for n, size in zip(self.canvas, self.canvas_size_um[1:], strict=True))
        return math.hypot(*sides) / math.sqrt(12)

    def stack(self, slabs: dict[int, Layers] | None = None) -> Stack:
        """The same for `registration.stack`: with the layers that are in hand, or, to see what to pair, with none."""
        nothing = np.empty((0, 0, 0), np.float32)
        held = dict.fromkeys(self.there, nothing) if slabs is None else slabs
        return Stack(held, self.layers, self.gaps, self.canvas_size_um[1:], self.radius_um)

    def box(self, slab: int) -> Box:
        """The canvas, in voxels of a slab at its level; it may reach out."""
        shape = self.reader(slab).frame.shape(self.level)
        start = tuple((n - m) // 2 for n, m in zip(shape, self.canvas, strict=True))
        return Box(start, tuple(a + n for a, n in zip(start, self.canvas, strict=True)))

    def read(self, slab: int, layers: range) -> Layers:
        """Whole layers of a slab on the canvas."""
        return self.on_canvas(slab, self.reader(slab), layers)

    def on_canvas(self, slab: int, reader: SlabReader, layers: range) -> Layers:
        """The same by a reader of one's own, as of the slab turned over."""
        box = self.box(slab)
        inside = box.intersect(Box.from_shape(reader.frame.shape(self.level)))
        out = np.full((len(layers), *self.canvas), np.nan, np.float32)
        out[:, *inside.relative_to(box.start).slices] = reader.read(self.level, inside, layers)
        return out

    def facing(self, slab: int, *, last: bool) -> range:
        """The layers that a pair is shown: those at the gap below, the last ones, or at the gap above."""
        count = self.layers[slab]
        return range(max(0, count - FACING), count) if last else range(min(FACING, count))

    def between_slabs(self, upper: int, lower: int, motion: Rigid) -> Rigid:
        """A motion between the centres of two canvases, about the centres of their slabs."""
        return self._slab_from_canvas(upper) @ motion @ self._slab_from_canvas(lower).inverse

    def between_canvases(self, upper: int, lower: int, motion: Rigid) -> Rigid:
        """The way back of `between_slabs`."""
        return self._slab_from_canvas(upper).inverse @ motion @ self._slab_from_canvas(lower)

    def _slab_from_canvas(self, slab: int) -> Rigid:
        """Points from the centre of a canvas, as they lie from that of its slab."""
        return Rigid(0.0, self.reader(slab).frame.centre_um(self.box(slab), self.level))


class Setup:
    """Everything that follows from the job alone."""

    def __init__(self, job: RegisterJob) -> None:
        """Open and check everything; see `RegisterJob.plan`."""
        check_place(job.output)
        self.job = job
        self.slabs: Slabs = load_slabs(job.slabs)
        self._sources = [self._open(number, entry) for number, entry in enumerate(self.slabs.entries)]
        self.stack = self._stack()
        self._check_gaps()
        self._check_pairs()
        self._check_starts()
        self._check_window()

    # ------------------------------------------------------------------ slabs

    def _open(self, number: int, entry: SlabEntry) -> Source | None:
        if entry.volume is None:
            return None
        try:
            source = open_source(entry.volume, level=self.slabs.level, channel=self.slabs.channel)
        except VolumeError as error:
            raise VolumeError(f"slab {number}: {error}") from None
        if source.channels > 1:
            raise VolumeError(
                f"slab {number}, {source.location}: has {source.channels} channels; give channel in the slabs file"
            )
        first, stop = self._layers_of(entry, source)
        if stop > source.shape[0]:
            raise VolumeError(
                f"slab {number}, {source.location}: layers {first} to {stop}; it has {source.shape[0]} at that level"
            )
        check_apart(self.job.output, source.location)
        if self.slabs.fill is not None:
            check_value(f"{self.job.slabs}: slab {number}: fill", self.slabs.fill, source.dtype)
        return source

    @staticmethod
    def _layers_of(entry: SlabEntry, source: Source | None) -> tuple[int, int]:
        """First and stop."""
        if entry.run is not None:
            return entry.run
        assert source is not None  # a missing slab says its layers
        return 0, source.shape[0]

    @cached_property
    def voxel_size_um(self) -> Size:
        """Of all slabs.

        Raises:
            VolumeError: they are not alike.
            ConfigError: nobody states it.
        """
        stated = [(n, each.voxel_size_um) for n, each in enumerate(self._sources) if each and each.voxel_size_um]
        given = self.slabs.voxel_size_um
        known = [("the slabs file", given)] if given else []
        known += [(f"slab {n}", size) for n, size in stated if size is not None]
        if not known:
            raise ConfigError(f"{self.job.slabs}: no slab states its voxel size; give voxel_size_um: [z, y, x] in it")
        (first, wanted), *others = known
        for name, size in others:
            if not np.allclose(size, wanted, rtol=AGREE):
                raise VolumeError(f"{name}: voxels of {size} um, {first}: {wanted}; give slabs of one voxel size")
        return wanted

    @cached_property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """First layer and stop of each slab, as stored."""
        return tuple(map(self._layers_of, self.slabs.entries, self._sources))

    def _stack(self) -> SlabStack:
        size = self.voxel_size_um
        readers = tuple(map(self._reader, self.slabs.entries, self._sources, self.runs))
        frames = [reader.frame for reader in readers if reader is not None]
        width = min(max(frame.extent[axis] for frame in frames) for axis in (0, 1))
        level = max(0, round(math.log2(width / self.job.window)))
        height, width = (max(frame.shape(level)[axis] for frame in frames) for axis in (0, 1))
        layers = tuple(stop - first for first, stop in self.runs)
        return SlabStack(readers, layers, self.slabs.gaps, size, level, (height, width))

    def _reader(self, entry: SlabEntry, source: Source | None, run: tuple[int, int]) -> SlabReader | None:
        if source is None or entry.volume is None:
            return None
        levels = stored_levels(entry.volume, source, self.slabs.level, self.slabs.channel)
        frame = SlabFrame(source.shape[1:], self.voxel_size_um[1:])
        reader = SlabReader(frame, run[0], run[1] - run[0], levels, self.slabs.fill)
        return reader.turned_over if entry.flipped else reader

    # ------------------------------------------------------------------ checks

    def _check_gaps(self) -> None:
        for seam, (gap, beside) in enumerate(zip(self.slabs.gaps, pairwise(self.stack.layers), strict=True)):
            if gap > min(beside):
                raise ConfigError(
                    f"{self.job.slabs}: gap_layers {gap} between slabs {seam} and {seam + 1}, which have {beside[0]} "
                    f"and {beside[1]} layers; across a gap longer than a slab nothing can be told"
                )

    def _check_pairs(self) -> None:
        if not any(self.stack.stack().pairs(SKIPS)):
            raise ConfigError(
                f"{self.job.slabs}: no two slabs that are there lie within {max(SKIPS)} of each other; too many are "
                "missing between"
            )

    def _check_starts(self) -> None:
        """Before any pair is tried: `register_pair` refuses windows that lie beside each other."""
        stack, starts = self.stack, [entry.start.rigid for entry in self.slabs.entries]
        sides = [n * size for n, size in zip(stack.canvas, stack.canvas_size_um[1:], strict=True)]
        reach = self.slabs.max_shift * min(sides)
        for upper, lower in stack.stack().pairs(SKIPS):
            shift = stack.between_canvases(upper, lower, starts[upper].inverse @ starts[lower]).shift
            away = [max(0.0, abs(one) - reach) / side for one, side in zip(shift, sides, strict=True)]
            if (overlap := math.prod(max(0.0, 1 - part) for part in away)) < LEAST_OVERLAP:
                raise ConfigError(
                    f"{self.job.slabs}: by their starts slabs {upper} and {lower} overlap by {overlap:.2f} at most, "
                    f"{LEAST_OVERLAP} is needed; give other starts, or slabs cut out alike"
                )

    def _check_window(self) -> None:
        if min(self.stack.canvas) < SMALLEST:
            raise GeometryError(
                f"slabs: {self.stack.canvas} voxels (y, x) at the level where they are compared, {SMALLEST} are "
                "needed; give slabs that are not so narrow, or to register a larger --window"
            )
        if self.job.score == "likelihood" and max(self.stack.layers) < 2:
            raise ConfigError("score likelihood: slabs of one layer do not tell how tissue changes; give --score ncc")

    def key(self) -> dict[str, Any]:
        """Content of everything that the transforms depend on."""
        sources = {f"slab {n}": None if each is None else each.identity() for n, each in enumerate(self._sources)}
        shared = ("max_shift", "max_angle_rad", "anchors")
        return {
            "volpipe": FORMAT,
            "input": sources,
            "layers": {f"slab {n}": list(run) for n, run in enumerate(self.runs)},
            "fill": self.slabs.fill,
            "layout": {
                f"slab {n}": entry.model_dump(mode="json", include={"flipped", "start"})
                for n, entry in enumerate(self.slabs.entries)
            },
            "geometry": {"gap_layers": list(self.slabs.gaps), "voxel_size_um": list(self.voxel_size_um)},
            "settings": self.slabs.model_dump(mode="json", include=set(shared)) | self.job.settings(),
        }
