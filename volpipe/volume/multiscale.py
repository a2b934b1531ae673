"""Pyramids: shapes, factors and the OME-NGFF 0.5 document that lists them. Pure functions, no storage.

    finer   | 0 | 1 | 2 | 3 | 4 |      factor 2: a voxel of the coarser level covers two of the finer one, the last
    coarser |   0   |   1   | 2 |      one what is left; the first centre moves by (factor - 1) / 2 finer voxels

Convention: axis order z, y, x; a level's factors are relative to the level before it; level 0 is the finest,
and `factors[i]` makes level i + 1. OME-NGFF places a voxel by its centre, hence the shift of the translation.
Source: OME-NGFF 0.5, sections "multiscales" and "coordinateTransformations".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from volpipe.errors import ConfigError, VolumeError

Factors = tuple[int, int, int]
SPATIAL = ("z", "y", "x")
VERSION = "0.5"


def level_shape(shape: Sequence[int], factors: Sequence[int]) -> tuple[int, ...]:
    """Extent of the next level, rounded up: every voxel of the finer level is under one of the coarser."""
    return tuple(-(-n // f) for n, f in zip(shape, factors, strict=True))


def default_factors(
    shape: Sequence[int], voxel_size_um: Sequence[float] | None, chunk: Sequence[int]
) -> tuple[Factors, ...]:
    """Factors that make voxels isotropic first and then halve all axes, until a level fits into one chunk.

    While voxels are anisotropic, the axes are halved that this brings closer to the coarsest one (a ratio of
    sqrt 2 or more); a 40 x 4 x 4 nm volume keeps z for three levels.
    """
    found: list[Factors] = []
    shape, size = tuple(shape), tuple(voxel_size_um or (1.0, 1.0, 1.0))
    while any(n > c for n, c in zip(shape, chunk, strict=True)):
        factors = _next_factors(shape, size)
        found.append(factors)
        shape = level_shape(shape, factors)
        size = tuple(s * f for s, f in zip(size, factors, strict=True))
    return tuple(found)


def _next_factors(shape: Sequence[int], voxel_size_um: Sequence[float]) -> Factors:
    coarsest = max(voxel_size_um)
    behind = [coarsest / size >= math.sqrt(2) for size in voxel_size_um]
    for wanted in (behind, [True] * 3):
        z, y, x = (2 if want and n > 1 else 1 for want, n in zip(wanted, shape, strict=True))
        if max(z, y, x) > 1:
            return z, y, x
    raise VolumeError(f"pyramid: a volume of {tuple(shape)} voxels has nothing to halve")


def parse_factors(text: str) -> tuple[Factors, ...]:
    """Read `1,2,2;1,2,2`: one z,y,x triple a level, each relative to the level before it.

    Raises:
        ConfigError: the text is not that, or a level would be as large as the one before.
    """
    try:
        levels = [tuple(int(n) for n in part.split(",")) for part in text.split(";")]
    except ValueError:
        levels = [()]
    return check_factors(levels)


def check_factors(factors: Sequence[Sequence[int]]) -> tuple[Factors, ...]:
    """The factors as tuples.

    Raises:
        ConfigError: a level has not three whole numbers above 0, or only ones.
    """
    for level in factors:
        if len(level) != 3 or min(level) < 1 or max(level) == 1:
            raise ConfigError(f"factors {list(factors)}: give z,y,x for each level, as 1,2,2;2,2,2, not all of them 1")
    return tuple((z, y, x) for z, y, x in factors)


def document(
    name: str, channels: int, unit: str | None, scale: Sequence[float], translation: Sequence[float]
) -> dict[str, Any]:
    """The `ome` attribute of a volume with level 0 only.

    Args:
        name: what viewers show.
        channels: one makes z, y, x axes, several c, z, y, x.
        unit: full UDUNITS-2 name, as "nanometer"; None if the voxel size is not known (scale is 1 then).
        scale, translation: voxel size and centre of the first voxel in that unit, z, y, x.
    """
    stated = {} if unit is None else {"unit": unit}
    axes: list[dict[str, str]] = [{"name": axis, "type": "space", **stated} for axis in SPATIAL]
    if channels > 1:
        axes.insert(0, {"name": "c", "type": "channel"})
    lead = len(axes) - 3
    dataset = _dataset("0", (1.0,) * lead + tuple(scale), (0.0,) * lead + tuple(translation))
    return {"version": VERSION, "multiscales": [{"name": name, "axes": axes, "datasets": [dataset]}]}


def with_levels(ome: Mapping[str, Any], factors: Sequence[Factors], method: str = "") -> dict[str, Any]:
    """The same document, listing level 0 and a level for each of `factors` and no other."""
    multiscale = dict(ome["multiscales"][0])
    finest = multiscale["datasets"][0]
    scale, translation = placement(finest, len(multiscale["axes"]))
    datasets = [finest]
    for level, step in enumerate(factors, start=1):
        full = (1,) * (len(scale) - 3) + tuple(step)
        scale, translation = coarser_placement(scale, translation, full)
        datasets.append(_dataset(str(level), scale, translation))
    if method:
        multiscale["type"] = method
    return {**ome, "multiscales": [{**multiscale, "datasets": datasets}, *ome["multiscales"][1:]]}


def coarser_placement(
    scale: tuple[float, ...], translation: tuple[float, ...], factors: Sequence[int]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(scale, translation) of the next level."""
    moved = tuple(t + (f - 1) / 2 * s for s, t, f in zip(scale, translation, factors, strict=True))
    return tuple(s * f for s, f in zip(scale, factors, strict=True)), moved


def placement(dataset: Mapping[str, Any], axes: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(scale, translation) per axis of one entry of `datasets` or `multiscales`; 1 and 0 where it has none."""
    scale, translation = (1.0,) * axes, (0.0,) * axes
    for transform in dataset.get("coordinateTransformations", ()):
        if transform["type"] == "scale":
            scale = tuple(float(value) for value in transform["scale"])
        elif transform["type"] == "translation":
            translation = tuple(float(value) for value in transform["translation"])
    return scale, translation


def _dataset(path: str, scale: Sequence[float], translation: Sequence[float]) -> dict[str, Any]:
    transforms: list[dict[str, Any]] = [{"type": "scale", "scale": [_plain(value) for value in scale]}]
    transforms.append({"type": "translation", "translation": [_plain(value) for value in translation]})
    return {"path": path, "coordinateTransformations": transforms}


def _plain(value: float) -> float:
    """12 significant digits: 8 nm went through micrometres and shall not come back as 8.000000000000002."""
    return float(f"{value:.12g}")
