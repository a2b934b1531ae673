"""What `bench` runs: a network in every way in which it can be stitched.

network x stitching x assembly x engine x precision --> Case     padded          tile, overlap, exact, blends
                                                                 without padding valid, valid in a mirror
                                                                 2D networks also orthoslices
                                                                 a fixed input   windows
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from volpipe.errors import ConfigError
from volpipe.geometry import Footprint
from volpipe.jobs.fields import Fields, one_for_three

PRESETS = ("unet3d_l3_w8", "unet3d_l3_valid_w8", "unet2d_l4_w8", "unet2d_l4_valid_w8", "mae3d_p4_w48")
PRESET = "preset:"
TRIED = 64  # voxels along an axis
VALID: tuple[dict[str, Any], ...] = ({"stitching": "valid"}, {"stitching": "valid", "faces": "reflect"})

if TYPE_CHECKING:
    from volpipe.models.model import Model

Engine = Literal["blocks", "map-overlap"]
Precision = Literal["fp32", "bf16", "fp16", "fp64"]
Profile = Literal["linear", "hann", "gaussian"]


class BenchOptions(Fields):
    """What is measured, and on what."""

    volume: str | None = Field(None, description="The volume; smooth noise if not given.")
    size: int = Field(256, ge=64, description="Edge of the noise, voxels of uint8.")
    model: str | None = Field(None, description="One network, as for apply; a small one of every kind if not given.")
    weights: str | None = Field(None, description="Weights (.safetensors) of a package.module:factory model.")
    trust_code: bool = Field(False, description="Run the code of a package.module:factory model.")
    ndim: int | None = Field(None, ge=2, le=3, description="Spatial axes of --model, where it does not tell.")
    normalise: str = Field("model", description="As for apply.")
    block: tuple[int, int, int] | None = Field(None, description="Core of a block z, y, x.")
    tile: tuple[int, int, int] | None = Field(None, description="Own voxels of a tile z, y, x.")
    engines: tuple[Engine, ...] = Field(("blocks", "map-overlap"), min_length=1, description="blocks, map-overlap.")
    precisions: tuple[Precision, ...] = Field(("fp32", "bf16"), min_length=1, description="fp32, bf16, fp16, fp64.")
    blends: tuple[Profile, ...] = Field(("gaussian",), description="linear, hann, gaussian: of padded networks.")
    repeats: int = Field(1, ge=1, description="Runs of each case, in turns; the medians count.")

    _extents = field_validator(
        "block", "tile", mode="before", json_schema_input_type=int | tuple[int, int, int] | None
    )(one_for_three)

    @field_validator("ndim")
    @classmethod
    def _axes_are_of_one(cls, ndim: int | None, info: ValidationInfo) -> int | None:
        if ndim is not None and not info.data.get("model"):
            raise ValueError("our own networks tell their axes; leave it out, or give --model")
        return ndim


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    model: str
    options: tuple[tuple[str, Any], ...]
    assembly: str
    engine: str
    precision: str

    @property
    def stitching(self) -> str:
        """As people say it: `valid, reflect`."""
        given = dict(self.options)
        name = given.get("stitching") or ("overlap" if "blend" in given else "windows")
        return ", ".join([name, *(value for key, value in self.options if key != "stitching")])

    @property
    def network(self) -> str:
        """As the table calls it."""
        return self.model.removeprefix(PRESET)


def cases(options: BenchOptions, channels: int) -> Iterator[Case]:
    """Every way in which the networks can be stitched."""
    models = [options.model] if options.model else [f"{PRESET}{name}" for name in PRESETS]
    for model in models:
        ndim, footprint, by_intervals = _network(options, model, channels)
        for assembly in ("3d",) if ndim == 3 else ("2d", "orthoslice"):
            for given in _stitchings(footprint, by_intervals, assembly, options.blends):
                for engine in options.engines:
                    for precision in options.precisions:
                        yield Case(model, tuple(given.items()), assembly, engine, precision)


def _network(options: BenchOptions, model: str, channels: int) -> tuple[int, Footprint, bool]:
    """Its axes, its footprint, and whether it can be run by intervals."""
    from volpipe.models import load_model, resolve_model
    from volpipe.models.settle import settle

    ref = resolve_model(model, weights=options.weights, trust_code=options.trust_code, ndim=options.ndim)
    if ref.kind not in ("preset", "checkpoint"):  # ours say what they take
        ref = replace(ref, in_channels=channels)
    loaded = load_model(ref)
    if loaded.in_channels != channels:
        raise ConfigError(f"{model}: takes {loaded.in_channels} channels, the volume has {channels}; give another one")
    settled = settle(ref, loaded, halo="ignored", allow_inexact=False)
    if settled.footprint is None:
        raise ConfigError(f"{model}: cannot be tiled exactly ({settled.unknown}); bench compares modes that can be")
    return loaded.ndim, settled.footprint, _is_captured(loaded, settled.footprint)


def _is_captured(model: Model, footprint: Footprint) -> bool:
    from volpipe.inference.intervals import capture
    from volpipe.inference.intervals.rule import CannotCapture

    try:
        capture(model.network, [axis.admissible(TRIED) for axis in footprint.axes], model.in_channels)
    except CannotCapture:
        return False
    return True


def _stitchings(
    footprint: Footprint, by_intervals: bool, assembly: str, blends: Sequence[str]
) -> Sequence[dict[str, Any]]:
    if any(axis.window for axis in footprint.axes):
        return ({"stitching": "windows"},)
    exact = ({"stitching": "exact"},) * by_intervals
    if any(axis.lost for axis in footprint.axes):
        return () if assembly == "orthoslice" else (*VALID, *exact)  # planes that lose different voxels have no mean
    return ({"stitching": "tile"}, {"stitching": "overlap"}, *exact, *({"blend": profile} for profile in blends))
