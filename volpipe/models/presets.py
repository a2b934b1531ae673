"""Architectures by name; the only place where their numbers stand.

Every preset can be tiled exactly, but for those with a fixed window (`mae3d`, `siamese3d`), whose manuscript states no
width or depth: those here are ours. The papers' instance normalisation is `preset("resnet9_2d", norm="instance")`.
"preset:NAME" or "preset:NAME_w8" (another width) as a model's location gives random weights, the same everywhere: for
benchmarks and tests.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from volpipe.errors import ModelError
from volpipe.models.architecture import Architecture, Ours, build_random
from volpipe.models.checkpoint import Checkpoint
from volpipe.models.generator import GeneratorArchitecture
from volpipe.models.mae import MAEArchitecture
from volpipe.models.normalisation import Normalisation
from volpipe.models.siamese import SiameseArchitecture
from volpipe.models.unet import UNetArchitecture

RANDOM_SEED = 0
KEEP_Z = (
    1,
    2,
    2,
)  # for sections thicker than wide: the first poolings leave z alone until voxels are near cubes
HALVE = (2, 2, 2)

PRESETS: dict[str, Ours] = {
    "unet2d_l4": UNetArchitecture(2, levels=4, width=32),
    "unet2d_l5": UNetArchitecture(2, levels=5, width=32),
    "unet2d_l4_valid": UNetArchitecture(2, levels=4, width=32, padding="valid"),
    "unet3d_l3": UNetArchitecture(3, levels=3, width=16),
    "unet3d_l4": UNetArchitecture(3, levels=4, width=16),
    "unet3d_l4_aniso": UNetArchitecture(3, levels=4, width=16, pooling=(KEEP_Z, KEEP_Z, HALVE)),
    "unet3d_l3_valid": UNetArchitecture(3, levels=3, width=16, padding="valid"),
    "unet3d_l4_valid": UNetArchitecture(3, levels=4, width=16, padding="valid"),
    "resnet6_2d": GeneratorArchitecture(2, blocks=6, width=64),
    "resnet9_2d": GeneratorArchitecture(2, blocks=9, width=64),
    "resnet6_3d": GeneratorArchitecture(3, blocks=6, width=32),
    "resnet9_3d": GeneratorArchitecture(3, blocks=9, width=32),
    "mae3d_p4": MAEArchitecture(3, patch=4),
    "mae3d_p8": MAEArchitecture(3, patch=8),
    "mae3d_p4_embedding": MAEArchitecture(3, patch=4, output="embedding"),
    "mae3d_p8_embedding": MAEArchitecture(3, patch=8, output="embedding"),
    "siamese3d_similarity": SiameseArchitecture(output="similarity"),
    "siamese3d_upper": SiameseArchitecture(output="upper"),
    "siamese3d_lower": SiameseArchitecture(output="lower"),
}


def preset_names() -> tuple[str, ...]:
    """Names that `preset` knows."""
    return tuple(PRESETS)


def preset(name: str, **changes: Any) -> Architecture:
    """The architecture of a preset, with some of its fields changed.

    Raises:
        ModelError: the name or a field is unknown.
    """
    base, width = re.fullmatch(r"(.+?)(?:_w(\d+))?", name or " ").groups()  # type: ignore[union-attr]
    if base not in PRESETS:
        raise ModelError(f"preset {name!r} is unknown; there are {', '.join(PRESETS)}, each also with _w8 for width 8")
    if width is not None:
        changes = {"width": int(width), **changes}
    try:
        return replace(PRESETS[base], **changes)
    except TypeError as error:
        raise ModelError(f"preset {name!r}: {error}") from None


def random_checkpoint(name: str) -> Checkpoint:
    """A preset with random weights, the same everywhere."""
    architecture = preset(name)
    return Checkpoint(
        network=build_random(architecture, RANDOM_SEED),
        architecture=architecture,
        normalisation=Normalisation.identity(architecture.in_channels),
        voxel_size_um=None,
        output_channels=tuple(f"channel {i}" for i in range(architecture.out_channels)),
        provenance={"weights": f"random, seed {RANDOM_SEED}"},
    )
