"""A stack of slabs of made tissue, stored slab by slab: what `benchmarks/stack.py` registers. Nobody holds it whole.

    spectrum of a layer --AR(1) in depth, the shorter a wave the sooner it is another one--> spectrum of the next
    layer (at half resolution) within an outline --pose, bend--> layer of a slab, times a gain, with the camera's noise

Nothing moves with depth, so that a slab lies where `Truth` says and nowhere else. A slab's point q lies at
`pose(q + bend(q))` of the first slab's frame; a bend has no mean and no turn over a slab, so that pose and bend are two
things. Micrometres, (y, x), from the slab's centre.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import map_coordinates

from volpipe.geometry import Raster, Rigid
from volpipe.volume import Layout, create_product
from volpipe.volume.downsample import downsample

VOXEL_UM = (4.0, 1.0, 1.0)
STEP = 2  # voxels of a slab a pixel of the tissue
MARGIN = 0.12  # of the width, around: farther than poses and bends reach
MOST_SHIFT, MOST_ANGLE_RAD = 0.045, 0.045  # of a pose, so that any two are within 0.1 of the width and 0.1 rad
BENT_UM = (6.0, 3.0)  # amplitudes of the two waves of a bend
COHERENT = 8.0  # voxels: a wave of that length keeps 1/e of itself in a layer
SHORTEST = 6.0  # voxels, of a wave
HALVED = 4  # levels of each slab's pyramid beside the finest


@dataclass(frozen=True)
class Truth:
    """Where one slab lies.

    Attributes:
        pose: first-slab-from-slab.
        waves: of the bend: direction of the wave (y, x) in periods across a slab, two phases, amplitude.
        width_um: across a slab.
        kind: "tissue", "missing" or "blank".
    """

    pose: Rigid
    waves: tuple[tuple[int, int, float, float, float], ...]
    width_um: float
    kind: str

    def place(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Where points (..., 2) of the slab lie in the first one's frame."""
        return self.pose(points + self._bend(points))

    def lies(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Which points of the slab lie at points of the first one's frame; by iteration, a bend is a few percent."""
        straight = found = self.pose.inverse(points)
        for _ in range(30):
            found = straight - self._bend(found)
        return found

    def _bend(self, points: NDArray[Any]) -> NDArray[np.float64]:
        bend = np.zeros_like(points, np.float64)
        for down, across, y, x, amplitude in self.waves:
            turn = 2 * np.pi / self.width_um * (down * points[..., 0] + across * points[..., 1])
            bend += amplitude * np.stack([np.sin(turn + y), np.sin(turn + x)], axis=-1)
        return bend


class Tissue:
    """Layers (rows, columns) at half resolution, one after the other from above: they can be had once."""

    def __init__(self, width: int, random: np.random.Generator) -> None:
        side = fft.next_fast_len(round(width * (1 + 2 * MARGIN) / STEP), real=True)
        self.raster = Raster.centred((side, side), (STEP * VOXEL_UM[1], STEP * VOXEL_UM[2]))
        frequency = np.hypot(fft.fftfreq(side)[:, None], fft.rfftfreq(side)) / STEP  # per voxel
        long = np.maximum(frequency, 1 / width)
        self._power = (long**-1.3 * (frequency < 1 / SHORTEST)).astype(np.float32)
        self._kept = np.exp(-COHERENT * frequency).astype(np.float32)
        self._random, self._width, self._turns = random, width, random.uniform(0, 2 * np.pi, 3)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        spectrum, depth = self._noise(), 0
        while True:
            plane = fft.irfft2(self._power * spectrum, s=self.raster.shape)
            tissue = np.exp(0.6 * plane / plane.std())
            yield (tissue * self._outline(depth) * 4000 + 500).astype(np.float32)
            spectrum = self._kept * spectrum + np.sqrt(1 - self._kept**2) * self._noise()
            depth += 1

    def _noise(self) -> NDArray[np.complex64]:
        shape = (2, self.raster.shape[0], self.raster.shape[1] // 2 + 1)
        real, imaginary = self._random.standard_normal(shape, np.float32)
        return (real + 1j * imaginary).astype(np.complex64)

    def _outline(self, depth: int) -> NDArray[np.float64]:
        """1 within, 0 without: an oval that changes slowly."""
        y, x = np.moveaxis(self.raster.points(self.raster.box), -1, 0) / (0.44 * self._width)
        angle = np.arctan2(y, 0.9 * x)
        lobes = (np.cos((n + 2) * angle + turn + depth / 150) for n, turn in enumerate(self._turns))
        edge = 1 + sum(0.04 * lobe for lobe in lobes)
        return 1 / (1 + np.exp(np.clip((np.hypot(y, 0.9 * x) - edge) * 60, -30, 30)))


def make(
    folder: Path, *, slabs: int, layers: int, gap: int, width: int, spoilt: dict[int, str], seed: int
) -> list[Truth]:
    """Store the slabs that are not missing, and the slabs file; what is true of each."""
    random = np.random.default_rng(seed)
    truths = [_truth(number, width, spoilt.get(number, "tissue"), random) for number in range(slabs)]
    tissue = Tissue(width, random)
    planes = iter(tissue)
    for number, truth in enumerate(truths):
        held = [next(planes) for _ in range(layers)]
        if truth.kind != "missing":
            _store(folder / _name(number), _seen(held, tissue.raster, truth, width, random))
        for _ in range(gap):
            next(planes)
        print(f"slab {number} made: {truth.kind}", flush=True)
    entries = [{"layers": layers} if t.kind == "missing" else _name(n) for n, t in enumerate(truths)]
    (folder / "slabs.yaml").write_text(json.dumps({"slabs": entries, "gap_layers": gap}))  # which is YAML too
    return truths


def _name(number: int) -> str:
    return f"slab{number:02d}.ome.zarr"


def _truth(number: int, width: int, kind: str, random: np.random.Generator) -> Truth:
    """The first slab is the frame, and lies straight."""
    angle, y, x = random.uniform(-1, 1, 3) * (number > 0)
    pose = Rigid(MOST_ANGLE_RAD * angle, (MOST_SHIFT * width * VOXEL_UM[1] * y, MOST_SHIFT * width * VOXEL_UM[2] * x))
    waves = []
    for periods, amplitude in zip((1, 2), BENT_UM, strict=True):
        down, across = random.permutation((periods, random.integers(0, periods + 1))).tolist()
        phases = random.uniform(0, 2 * np.pi, 2).tolist()
        waves.append((down, across, *phases, amplitude * (number > 0)))
    return Truth(pose, tuple(waves), width * VOXEL_UM[1], kind)


def _seen(
    planes: list[NDArray[np.float32]], raster: Raster, truth: Truth, width: int, random: np.random.Generator
) -> NDArray[np.uint16]:
    """(1, z, y, x): as the slab was imaged."""
    own = Raster.centred((width, width), VOXEL_UM[1:])
    places = np.moveaxis(raster.places(truth.place(own.points(own.box))), -1, 0)
    gain, out = random.uniform(0.8, 1.25), np.empty((1, len(planes), width, width), np.uint16)
    for layer, plane in enumerate(planes):
        seen = map_coordinates(plane, places, order=1, mode="nearest") if truth.kind == "tissue" else np.float32(500)
        noise = random.standard_normal((width, width), np.float32)
        out[0, layer] = np.clip(gain * (seen + 3 * np.sqrt(seen) * noise), 0, 65535)
    return out


def _store(path: Path, voxels: NDArray[np.uint16]) -> None:
    """With its pyramid: y and x halved, layers kept."""
    layers = voxels.shape[1]
    layout = Layout(voxels.shape[1:], 1, voxels.dtype, VOXEL_UM, chunk=(layers, 128, 128), shard=(layers, 1024, 1024))
    product = create_product(str(path), layout, {})
    factors = ((1, 2, 2),) * HALVED
    for level in range(HALVED + 1):
        if level:
            product.add_level(level, factors[level - 1])
            voxels = downsample(voxels, factors[level - 1], "mean")
        for block in product.grid(level):
            product.write(block.core, np.ascontiguousarray(voxels[:, *block.core.slices]), level)
    product.publish(factors, "mean")
    product.update(state="complete")
