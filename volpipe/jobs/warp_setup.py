"""What `warp` finds out before it plans: the slabs at the level asked for, and how the reconstruction lies.

    transforms --> slabs (source, raster about the slab's centre, pose or field)
               --> layers (which slab owns which)        both counted at the registered level
               --> raster of the reconstruction: the lattice of the first slab that is there, over all slabs as they lie
               --> layout of the product

A slab's centre belongs to the level that it was registered at; at another level its voxels lie where the metadata
places them, so that the same motion, in micrometres, serves any level.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from volpipe import __version__
from volpipe.errors import ConfigError, GeometryError, ProductError, VolumeError
from volpipe.geometry import BlockGrid, Box, Layers, Place, Raster, Rigid
from volpipe.geometry.layers import runs
from volpipe.geometry.raster import ROUNDING
from volpipe.jobs.field_store import content_of, load_field
from volpipe.jobs.fields import check_value
from volpipe.jobs.transforms import Slab, Transforms, load_transforms
from volpipe.registration.field import Field, Points
from volpipe.registration.warp import default_order
from volpipe.volume import Layout, Source, TurnedOver, check_apart, check_place, open_source, turned_layers
from volpipe.volume.multiscale import Factors, default_factors
from volpipe.volume.product import own_attributes

if TYPE_CHECKING:
    from volpipe.jobs.warp import WarpJob
    from volpipe.plan import Plan

FORMAT = 1  # of the key: raised when the same key would mean other voxels
AGREE = 0.01  # voxel sizes are written with two or three digits


@dataclass(frozen=True)
class SlabView:
    """One slab at the level to render; picklable, small.

    Attributes:
        source: at that level.
        raster: where its voxels lie, from the slab's centre.
        first: its first layer, at the registered level.
        step: registered layers per layer of this level.
        pose: reconstruction_from_slab.
        field: where its field is stored, or None.
        content: hash of the field.
        stretch, farthest_um: of the field: how much it pulls apart, and how far it moves any point.
    """

    source: Source
    raster: Raster
    first: int
    step: float
    pose: Rigid
    field: str | None = None
    content: str = ""
    stretch: float = 1.0
    farthest_um: float = 0.0

    @property
    def pull(self) -> Callable[[Points], Points]:
        """From points of the reconstruction to points of the slab."""
        return self.pose.inverse if self.field is None else _kept_field(self.field, self.content).pull

    @property
    def outline_um(self) -> Points:
        """Corners of a box of the reconstruction that it lies in, as (n, 2)."""
        corners = self.pose(self.raster.outline_um)
        return np.concatenate([corners - self.farthest_um, corners + self.farthest_um])

    def layers_at(self, layers: NDArray[np.floating[Any]]) -> NDArray[np.intp]:
        """Layers of the source that hold layers of the slab, counted at the registered level with fractions."""
        found = np.floor((self.first + layers + 0.5) / self.step + ROUNDING).astype(np.intp)
        return np.asarray(np.clip(found, 0, self.source.shape[0] - 1))


@lru_cache(maxsize=64)
def _kept_field(location: str, content: str) -> Field:
    """By content: what the plan was made of, and no other."""
    field = load_field(location)
    if content_of(field) != content:
        raise ProductError(f"{location}: is another field than when the run began; give the same command again")
    return field


class Setup:
    """Everything that follows from the job alone."""

    def __init__(self, job: WarpJob) -> None:
        """Open and check everything; see `WarpJob.plan`."""
        check_place(job.output)
        self.job = job
        self.transforms: Transforms = load_transforms(job.transforms)
        self._registered = [_open(slab, slab.level, number) for number, slab in enumerate(self.transforms.slabs)]
        self.views = [self._view(number) for number in range(len(self.transforms.slabs))]
        self._check_alike()
        for place in self._inputs():
            check_apart(job.output, place)
        self.layers = self._layers()
        self.raster = self.there[0].raster.over(np.concatenate([view.outline_um for view in self.there]))
        self.grid = BlockGrid(self._region(), self.layout.shard)
        check_value("fill", self.job.fill, self.layout.dtype)

    @property
    def there(self) -> list[SlabView]:
        """The slabs that are not missing."""
        return [view for view in self.views if view is not None]

    @property
    def step(self) -> float:
        """Registered layers per layer of the reconstruction."""
        return self.there[0].step

    @property
    def depth(self) -> int:
        """Layers of the whole reconstruction at the level to render."""
        return math.ceil(self.layers.depth / self.step - ROUNDING)

    # ------------------------------------------------------------------ slabs

    def _inputs(self) -> Iterator[str]:
        """All that is read, which --restart must never take for an earlier product."""
        yield self.job.transforms
        for view in self.there:
            yield view.source.location
            if view.field is not None:
                yield view.field

    def _view(self, number: int) -> SlabView | None:
        slab, registered = self.transforms.slabs[number], self._registered[number]
        if slab.volume is None or registered is None:
            return None
        level = slab.level if self.job.level is None else self.job.level
        source = registered if level == slab.level else _open(slab, level, number)
        assert source is not None
        factors, moved = self._factors_between(number, registered, source)
        if slab.flipped and registered.shape[0] % factors[0]:
            raise VolumeError(
                f"slab {number}, {source.location}: lies upside down, and its {registered.shape[0]} layers are no "
                f"multiple of the {factors[0]:g} that level {level} joins; render a level that keeps its layers"
            )
        size = self.transforms.voxel_size_um
        centre = [(n - 1) / 2 * s for n, s in zip(registered.shape, size, strict=True)]
        _, sy, sx = (s * f for s, f in zip(size, factors, strict=True))
        raster = Raster((source.shape[1], source.shape[2]), (sy, sx), (moved[1] - centre[1], moved[2] - centre[2]))
        first = self._run(number)[0]
        view = SlabView(source, raster, first, factors[0], slab.pose.rigid)
        return view if slab.field is None else _with_field(view, slab.field, number)

    def _factors_between(self, number: int, registered: Source, source: Source) -> tuple[list[float], list[float]]:
        """(voxel sizes of the level to render over those of the registered one, where its first voxel lies from that
        one's in micrometres)."""
        stated, wanted = registered.voxel_size_um, self.transforms.voxel_size_um
        if stated is not None and not np.allclose(stated, wanted, rtol=AGREE):
            raise VolumeError(
                f"slab {number}, {registered.location}: voxels of {stated} um, the transforms file says {wanted}; "
                "give slabs of one voxel size, or the level that was registered"
            )
        if source is registered:
            return [1.0] * 3, [0.0] * 3
        if stated is None or source.voxel_size_um is None:
            raise VolumeError(f"slab {number}, {source.location}: states no voxel size; leave --level out")
        factors = [b / a for a, b in zip(stated, source.voxel_size_um, strict=True)]
        places = zip(registered.translation_um, source.translation_um, wanted, stated, strict=True)
        return factors, [(b - a) * w / s for a, b, w, s in places]

    def _check_alike(self) -> None:
        first, *others = self.there
        wanted = _kind(first)
        for view in others:
            if _kind(view) != wanted or not np.allclose(_size(view), _size(first), rtol=AGREE):
                raise VolumeError(
                    f"{view.source.location}: {_said(view)}; the first slab: {_said(first)}; give slabs that are alike"
                )

    def _layers(self) -> Layers:
        runs = map(self._run, range(len(self.transforms.slabs)))
        counts = tuple(stop - first for first, stop in runs)
        return Layers(counts, tuple(slab.gap_layers for slab in self.transforms.slabs[:-1]))

    def _run(self, number: int) -> tuple[int, int]:
        """First layer and stop of a slab, the right way up, at the registered level."""
        slab, registered = self.transforms.slabs[number], self._registered[number]
        depth = None if registered is None else registered.shape[0]
        first, stop = slab.layers or (0, depth or 0)
        if depth is not None and stop > depth:
            raise VolumeError(f"slab {number}, {slab.volume}: layers {first} to {stop}; it has {depth} at that level")
        return turned_layers(first, stop, depth) if slab.flipped and depth is not None else (first, stop)

    def runs(self, layers: range) -> Iterator[tuple[Place, range, NDArray[np.intp]]]:
        """(owner, layers of the reconstruction, those of its slab's source) for layers at the level to render."""
        centres = (np.arange(layers.start, layers.stop) + 0.5) * self.step - 0.5
        # the registered layer that holds a layer's centre; the last layer of a coarser level may reach over the end
        held = np.clip(np.floor(centres + 0.5 + ROUNDING).astype(int), 0, self.layers.depth - 1)
        owners = [self.layers.owner(int(layer)) for layer in held]
        for place, run in runs(owners):
            inside = centres[run.start : run.stop] - place.first_layer
            view = None if place.slab is None else self.views[place.slab]
            found = np.zeros(len(run), np.intp) if view is None else view.layers_at(inside)
            yield place, range(layers.start + run.start, layers.start + run.stop), found

    # ------------------------------------------------------------------ the product

    def _region(self) -> Box:
        whole = Box.from_shape((self.depth, *self.raster.shape))
        if self.job.bbox is None:
            return whole
        box = Box.parse(self.job.bbox)
        if not whole.contains(box):
            raise GeometryError(
                f"bbox {box}: reaches outside the reconstruction, which has {whole.shape} voxels z, y, x"
            )
        return box

    @cached_property
    def layout(self) -> Layout:
        """Of the product."""
        first, region = self.there[0], self._region()
        size_z = self.transforms.voxel_size_um[0] * self.step
        z = (self.step - 1) / 2 * self.transforms.voxel_size_um[0] + region.start[0] * size_z
        y, x = self.raster.cut(region.without(0)).origin_um
        depth, rows, columns = region.shape
        return Layout(
            shape=(depth, rows, columns),
            channels=first.source.channels,
            dtype=first.source.dtype,
            voxel_size_um=(size_z, *self.raster.spacing_um),
            translation_um=(z, y, x),
            chunk=self.job.chunk,
            shard=self.job.shard,
        )

    @property
    def factors(self) -> tuple[Factors, ...]:
        """Of the product's pyramid."""
        layout = self.layout
        return default_factors(layout.shape, layout.voxel_size_um, layout.chunk) if self.job.pyramid else ()

    @cached_property
    def order(self) -> int:
        """Of the interpolation."""
        if self.job.order is not None:
            return int(self.job.order)
        return 0 if self._labels else default_order(self.layout.dtype)

    @property
    def method(self) -> str:
        """How the coarser levels are made."""
        return "mode" if self.order == 0 else "mean"

    @cached_property
    def _labels(self) -> bool:
        """True if the slabs are classes that volpipe found, which it may store as uint8."""
        volumes = (slab.volume for slab in self.transforms.slabs if slab.volume is not None)
        return any((own_attributes(volume) or {}).get("encoding") == "labels" for volume in volumes)

    # ------------------------------------------------------------------ what is written with the product

    def gaps(self) -> list[dict[str, Any]]:
        """Runs of layers of the product that nothing is known of: lost tissue, or the number of a missing slab."""
        return self._runs_of(lambda slab: slab is None or self.views[slab] is None)

    def bridged(self) -> list[dict[str, Any]]:
        """Runs of layers of slabs whose pose no pair tells."""
        given = self.transforms.slabs
        return self._runs_of(lambda slab: slab is not None and self.views[slab] is not None and given[slab].bridged)

    def _runs_of(self, wanted: Callable[[int | None], bool]) -> list[dict[str, Any]]:
        region = self.grid.region
        return [
            {"first_layer": layers.start - region.start[0], "layers": len(layers), "slab": place.slab}
            for place, layers, _ in self.runs(range(region.start[0], region.stop[0]))
            if wanted(place.slab)
        ]

    def key(self) -> dict[str, Any]:
        """Content of everything that the product depends on."""
        content = self.transforms.model_dump_json(exclude={"slabs": {"__all__": {"volume", "field"}}})
        layout = self.layout
        return {
            "volpipe": FORMAT,
            "transforms": {"sha256": hashlib.sha256(content.encode()).hexdigest()},
            "fields": [None if view is None else view.content for view in self.views],
            "input": [None if view is None else view.source.identity() for view in self.views],
            "settings": {"order": self.order, "fill": str(self.job.fill)},
            "geometry": {"region": str(self.grid.region), "chunk": list(layout.chunk), "shard": list(layout.shard)},
        }

    def attributes(self, plan: Plan) -> dict[str, Any]:
        """volpipe's own, beside the state."""
        provenance = {"software": f"volpipe {__version__}", "job": self.job.model_dump(mode="json"), **plan.key}
        encoding = {"encoding": "labels"} if self._labels else {}
        return {"gaps": self.gaps(), "bridged": self.bridged(), **encoding, "provenance": provenance}


def _open(slab: Slab, level: int, number: int) -> Source | None:
    if slab.volume is None:
        return None
    try:
        source = open_source(slab.volume, level=level)
    except VolumeError as error:
        raise VolumeError(f"slab {number}: {error}") from None
    return TurnedOver.of(source) if slab.flipped else source


def _with_field(view: SlabView, location: str, number: int) -> SlabView:
    field = load_field(location)
    if field.pose != view.pose:
        raise ConfigError(
            f"slab {number}: its pose is {view.pose}, its field {location} was fitted to {field.pose}; fit it "
            "again, or give the pose of the field"
        )
    farthest = float(np.abs(field.displacement).max())
    return replace(view, field=location, content=content_of(field), stretch=field.stretch, farthest_um=farthest)


def _kind(view: SlabView) -> tuple[Any, ...]:
    return view.source.dtype, view.source.channels


def _size(view: SlabView) -> tuple[float, ...]:
    return view.step, *view.raster.spacing_um


def _said(view: SlabView) -> str:
    dtype, channels = _kind(view)
    return f"{dtype.name}, {channels} channel(s), {view.step:g} registered layers a layer, {view.raster.spacing_um} um"
