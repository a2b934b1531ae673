"""Networks over dask arrays, by `dask.array.map_overlap`: a dask array in, a dask array out.

    array    |--chunk 0--|--chunk 1--|--chunk 2--|      chunks no thinner than the overlap
    block 1          [...|--chunk 1--|...]              what the tiles of its core read of the neighbours; no boundary:
    product  |--core 0 --|--core 1 --|--core 2 --|      the network's own padding acts at the faces of the volume

`apply` is for users who hold dask arrays. `receipts` is the second engine of `volpipe apply`. Both run the tiles of the
block engine, so the product is the same. What dask makes of it costs more: some 26 tasks a block, and chunks with their
overlaps in memory (benchmarks/README.md), so nothing is promised of memory here.
"""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
from dask.array import PerformanceWarning
from numpy.typing import NDArray

from volpipe.errors import ConfigError, VolumeError
from volpipe.geometry import Box, Footprint, ceil_to
from volpipe.inference.block import BlockInference
from volpipe.jobs import tiling
from volpipe.jobs.apply_work import NAME, ApplyWork
from volpipe.jobs.fit import Fit
from volpipe.jobs.network_options import NetworkOptions
from volpipe.jobs.norm import parse_norm
from volpipe.plan import Budget, Receipt
from volpipe.runtime.crew import Crew
from volpipe.runtime.schedule import Done
from volpipe.runtime.worker import signed
from volpipe.stitching import read_box
from volpipe.volume import Source
from volpipe.volume.layout import blocks_touched
from volpipe.volume.statistics import Statistics

DEVICE = re.compile(r"cpu|cuda(:\d+)?")
LARGEST_ITEM = 8  # bytes: torch takes no long double
UNBOUNDED = 2**62  # bytes: nothing is promised of memory


@dataclass(frozen=True)
class Cut:
    """How an array is cut into chunks.

    Attributes:
        inputs: per axis, the voxels of the volume where chunks begin, and where the last one ends.
        outputs: per axis, the voxels of the product where their cores do.
        depth: per axis, voxels (before, after) that a chunk reads of its neighbours.
    """

    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    depth: tuple[tuple[int, int], ...]

    def chunk(self, index: Sequence[int]) -> Box:
        """What a chunk holds of the volume."""
        return _between(self.inputs, index)

    def core(self, index: Sequence[int]) -> Box:
        """What it makes of the product."""
        return _between(self.outputs, index)

    def overlapped(self, index: Sequence[int]) -> Box:
        """What a chunk holds once its neighbours have shared with it."""
        chunk, whole = self.chunk(index), Box(_firsts(self.inputs), _lasts(self.inputs))
        start = tuple(a - before for a, (before, _) in zip(chunk.start, self.depth, strict=True))
        stop = tuple(b + after for b, (_, after) in zip(chunk.stop, self.depth, strict=True))
        return Box(start, stop).intersect(whole)

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Lengths of chunks per axis, as dask has them."""
        return _lengths(self.inputs)

    @property
    def cores(self) -> tuple[tuple[int, ...], ...]:
        """Lengths of cores per axis."""
        return _lengths(self.outputs)


def apply(volume: da.Array, model: str, *, device: str = "cpu", threads: int = 1, **options: Any) -> da.Array:
    """A network over a dask array; nothing is computed before the result is asked for.

    A plain array comes back, which carries no word of exactness and is not audited. A network that cannot be tiled
    exactly is refused, as by `volpipe apply`; but what is declared inexact there (`tile`, `windows`, `blend`,
    `norm="per-tile"` and `frozen:` of another volume, `allow_inexact`), or rests on a halo by hand, looks here as what
    equals whole-volume inference does. `volpipe probe MODEL` tells what a network can promise. A product that says of
    itself what it is, audited, is what `volpipe apply` makes of the array, once that is stored (`--engine map-overlap`:
    by the code of this module).

    Args:
        volume: (z, y, x) or (c, z, y, x); stored values, as `volpipe apply` reads them: real numbers of up to 64 bits.
        model: as for `volpipe apply`.
        device: "cpu", "cuda" or "cuda:N", of the workers; whether they have it shows when they compute.
        threads: that torch may use for one chunk; chunks at once times threads should be the cores.
        options: the fields of `volpipe.jobs.network_options.NetworkOptions`, as `stitching="valid"`.

    Returns:
        (z', y', x'), or (c', z', y', x') where volume or product have several channels. Smaller than the volume where
        `valid` crops, and of another resolution where the network changes it.

    Raises:
        UsageError: one line of what does not fit; options are named as on the command line where they are its too.

    Warns:
        PerformanceWarning: the array had to be cut into other chunks, to what, and why.
    """
    options_ = NetworkOptions(model=model, **options)
    _check_array(volume)
    _check_where(device, threads)
    array = volume[np.newaxis] if volume.ndim == 3 else volume
    channels, shape = int(array.shape[0]), tuple(int(n) for n in array.shape[1:])
    if parse_norm(options_.norm).by_passes:
        raise ConfigError(f"norm {options_.norm}: a dask array is not passed over; give frozen:FILE or per-tile")
    fit = Fit(options_, shape, channels, "the dask array", _no_statistics)
    inference = fit.inference(_tile(fit), Budget(UNBOUNDED, threads=int(threads), device=device), UNBOUNDED)
    # a tile of an inexact mode is computed whole by each chunk that has a part of it: the same voxels, for more work
    unit = inference.tile if fit.mode.inexact else fit.footprint.output_period
    cores = [_wished(max(c), u, s) for c, u, s in zip(array.chunks[1:], unit, fit.footprint.scale, strict=True)]
    cut = cut_into(inference, fit.region(), Box.from_shape(shape), cores, unit)
    product = _stitched(_rechunked(array, cut), inference, cut, "the dask array")
    return product[0] if volume.ndim == 3 and inference.channels == 1 else product


def _check_array(volume: Any) -> None:
    """Refuse what no network can see; from what dask knows, no chunk is computed."""
    if not isinstance(volume, da.Array):
        raise VolumeError(f"volume of type {type(volume).__name__}: give a dask array; dask.array.from_array makes one")
    if volume.ndim not in (3, 4) or any(math.isnan(n) for n in volume.shape):
        raise VolumeError(f"a dask array of shape {volume.shape}: give (z, y, x) or (c, z, y, x) of known lengths")
    if 0 in volume.shape:
        raise VolumeError(f"a dask array of shape {volume.shape}: holds no voxel; give one that has some")
    if volume.dtype.kind not in "biuf" or volume.dtype.itemsize > LARGEST_ITEM:
        raise VolumeError(
            f"a dask array of dtype {volume.dtype}: give real numbers of up to 64 bits, as by astype('float32')"
        )


def _check_where(device: Any, threads: Any) -> None:
    if not (isinstance(device, str) and DEVICE.fullmatch(device)):
        raise ConfigError(f"device {device!r}: networks run on 'cpu', 'cuda' or 'cuda:N'; give one of them")
    if not isinstance(threads, int | np.integer) or threads < 1:
        raise ConfigError(f"threads {threads!r}: torch needs at least one for a chunk; give a whole number above 0")


def _no_statistics() -> Statistics:
    raise ConfigError("normalise: a dask array has no statistics; give range:LOW,HIGH or mean-std:MEAN,STD")


def _tile(fit: Fit) -> tuple[int, ...]:
    tile = fit.options.tile or tiling.standard_tile(fit.region().shape, fit.footprint)
    tiling.check_tile(tile, fit.footprint)
    return tile


def _wished(chunk: int, unit: int, scale: Any) -> int:
    """Outputs of a core for chunks as the user has them, on the lattice."""
    return ceil_to(math.ceil(chunk * scale), unit)


def _rechunked(array: da.Array, cut: Cut) -> da.Array:
    wanted = ((int(array.shape[0]),), *cut.chunks)
    if array.chunks == wanted:
        return array
    before, after = (tuple(max(axis) for axis in chunks) for chunks in (array.chunks, wanted))
    warnings.warn(
        f"chunks of {before} were cut into {after}: multiples of the network's period, no thinner than the overlap of "
        f"{cut.depth} voxels, all channels together",
        PerformanceWarning,
        stacklevel=3,
    )
    return array.rechunk(wanted)


# ---------------------------------------------------------------------- cutting


def cut_into(inference: BlockInference, region: Box, volume: Box, cores: Sequence[int], unit: Sequence[int]) -> Cut:
    """Chunks whose cores are as long as wished, or longer where the overlap asks for it.

    Args:
        inference: says what tiles read.
        region: of the product.
        volume: that is read for it.
        cores: wished outputs of a core along each axis.
        unit: what cores are multiples of.
    """
    axes = [
        _cut_axis(inference, axis, (region.start[axis], region.stop[axis]), (volume.start[axis], volume.stop[axis]),
                  cores[axis], unit[axis])
        for axis in range(3)
    ]  # fmt: skip
    inputs, outputs, depth = zip(*axes, strict=True)
    return Cut(inputs, outputs, depth)


Bounds = tuple[int, ...]
Ends = tuple[int, int]


def _cut_axis(
    inference: BlockInference, axis: int, region: Ends, volume: Ends, core: int, unit: int
) -> tuple[Bounds, Bounds, Ends]:
    scale = inference.footprint.scale[axis]
    while True:
        outputs = _bounds(region, core)
        inputs = (volume[0], *(math.floor(o / scale) for o in outputs[1:-1]), volume[1])
        reads = [_read_of(inference, axis, ends) for ends in pairwise(outputs)]
        before = max(max(0, i - a) for i, (a, _) in zip(inputs, reads, strict=False))
        after = max(max(0, b - i) for i, (_, b) in zip(inputs[1:], reads, strict=True))
        if len(reads) == 1 or max(before, after) <= min(b - a for a, b in pairwise(inputs)):
            return inputs, outputs, (before, after)
        core += unit


def _bounds(region: Ends, core: int) -> Bounds:
    """Where cores begin, and where the last one ends: a last one of less than half is joined to the one before."""
    bounds = list(range(region[0], region[1], core))
    if len(bounds) > 1 and region[1] - bounds[-1] < core / 2:
        bounds.pop()
    return (*bounds, region[1])


def _read_of(inference: BlockInference, axis: int, core: Ends) -> Ends:
    footprint, length = Footprint((inference.footprint.axes[axis],)), (inference.volume[axis],)
    tiles = inference.mode.tiles(Box((core[0],), (core[1],)), length, (inference.tile[axis],), footprint)
    read = read_box(tiles, length, inference.mode.outside)
    return read.start[0], read.stop[0]


def _between(bounds: Sequence[Bounds], index: Sequence[int]) -> Box:
    axes = list(zip(bounds, index, strict=True))
    return Box(tuple(along[i] for along, i in axes), tuple(along[i + 1] for along, i in axes))


def _firsts(bounds: Sequence[Bounds]) -> Bounds:
    return tuple(along[0] for along in bounds)


def _lasts(bounds: Sequence[Bounds]) -> Bounds:
    return tuple(along[-1] for along in bounds)


def _lengths(bounds: Sequence[Bounds]) -> tuple[Bounds, ...]:
    return tuple(tuple(b - a for a, b in pairwise(along)) for along in bounds)


# ---------------------------------------------------------------------- computing


def _stitched(array: da.Array, inference: BlockInference, cut: Cut, where: str) -> da.Array:
    depth = dict(enumerate([(0, 0), *cut.depth]))
    return da.map_overlap(
        _infer, array, depth=depth, boundary="none", trim=False, align_arrays=False, allow_rechunk=False,
        chunks=((inference.channels,), *cut.cores), meta=np.empty((0,) * 4, inference.dtype),
        inference=inference, cut=cut, where=where,
    )  # fmt: skip


def _infer(
    voxels: NDArray[Any], inference: BlockInference, cut: Cut, where: str, block_id: tuple[int, ...]
) -> NDArray[Any]:
    """One chunk with what its neighbours shared (c, z, y, x) -> its core (c', z, y, x)."""
    core, box = cut.core(block_id[1:]), cut.overlapped(block_id[1:])
    tiles = inference.tiles(core)
    return inference(inference.finite(voxels, f"{where}: chunk {block_id[1:]} holds {box}"), box, tiles, core)


# ---------------------------------------------------------------------- the engine of `volpipe apply`


def receipts(work: ApplyWork, done: Done, crew: Crew) -> Iterator[Receipt]:
    """Every block that is not done, through one dask graph; a chunk is one block, or several where blocks are thinner
    than the overlap.

    Raises:
        RunError: a chunk failed; what is done is kept.
    """
    cut = _cut_of(work)
    source = work.source
    array = da.map_blocks(
        _read, chunks=((source.channels,), *cut.chunks), dtype=source.dtype, meta=np.empty((0,) * 4, source.dtype),
        source=source, cut=cut,
    )  # fmt: skip
    stored = da.map_blocks(
        _store, _stitched(array, work.inference, cut, source.location), dtype=object, meta=np.empty((0,) * 4, object),
        chunks=((1,), *((1,) * len(along) for along in cut.chunks)), work=work, cut=cut,
    )  # fmt: skip
    delayed = stored.to_delayed(optimize_graph=False)
    wanted = []
    for index in np.ndindex(delayed.shape[1:]):
        blocks = [b.number for b in blocks_touched(work.grid, cut.core(index)) if (NAME, b.number) not in done]
        skipped = [number for number in blocks if work.skips(number)]
        yield from (work.skipped(number) for number in skipped)
        if len(skipped) < len(blocks):
            wanted.append(delayed[(0, *index)])
    for chunk in crew.compute(wanted):
        yield from (receipt for receipt in chunk.item() if (NAME, receipt.item) not in done)


def _cut_of(work: ApplyWork) -> Cut:
    """Chunks of whole blocks, over what the region reads."""
    inference, region = work.inference, work.grid.region
    read = Box(*zip(*(_read_of(inference, i, (region.start[i], region.stop[i])) for i in range(3)), strict=True))
    volume = read.hull(inference.footprint.inputs(region)).intersect(Box.from_shape(inference.volume))
    return cut_into(inference, region, volume, work.grid.shape, work.grid.shape)


def _read(source: Source, cut: Cut, block_id: tuple[int, ...]) -> NDArray[Any]:
    return source.read(cut.chunk(block_id[1:]))


def _store(voxels: NDArray[Any], work: ApplyWork, cut: Cut, block_id: tuple[int, ...]) -> NDArray[Any]:
    """Write the blocks of a core; an array that holds the list of their receipts."""
    core = cut.core(block_id[1:])
    done = np.empty((1,) * 4, object)
    done[0, 0, 0, 0] = [_stored(voxels, core, work, number.number) for number in blocks_touched(work.grid, core)]
    return done


def _stored(voxels: NDArray[Any], core: Box, work: ApplyWork, number: int) -> Receipt:
    if work.skips(number):
        return work.skipped(number)
    block, began = work.grid[number].core, time.perf_counter()
    part = np.ascontiguousarray(voxels[(slice(None), *block.relative_to(core.start).slices)])
    place = work.place(block)
    checksum = work.product.write(place, part)
    seconds = {"write": time.perf_counter() - began}
    return signed(Receipt(NAME, number, checksum, seconds, bytes_written=part.nbytes, box=str(place)))
