"""What a user says of a network and of how it is stitched, be it applied to a stored volume or to a dask array."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from volpipe.jobs.fields import Fields, one_for_three, one_number, read_by
from volpipe.jobs.norm import parse_norm
from volpipe.jobs.normalise import parse_normalise


class NetworkOptions(Fields):
    """A network, and how it sees a volume."""

    model: str = Field(
        description="A checkpoint (.safetensors), .pt2, TorchScript .pt, package.module:factory or preset:NAME."
    )
    weights: str | None = Field(None, description="Weights (.safetensors) of a package.module:factory model.")
    trust_code: bool = Field(False, description="Run the code of a package.module:factory model.")
    halo: tuple[int, ...] | None = Field(
        None, description="Context of a user's own model, voxels per axis of the model; measured if not given."
    )
    period: tuple[int, ...] | None = Field(
        None, description="Alignment of a user's own model, voxels per axis of the model; measured if not given."
    )
    allow_inexact: bool = Field(
        False, description="Take a --halo that is too short, or a network that no halo makes exact, and declare it."
    )
    input_scale: float = Field(1.0, description="A user's own model sees stored value x scale + offset.")
    input_offset: float = Field(0.0, description="A user's own model sees stored value x scale + offset.")
    normalise: str = Field(
        "model", description="model, range:LOW,HIGH, mean-std:MEAN,STD, percentiles:P,Q or standard."
    )
    norm: str = Field(
        "refuse",
        description="What to do with instance and group norm and pooling over the whole volume: refuse, exact (a pass "
        "over the volume for each of them), pooled (one for all, inexact), frozen:FILE (NAME.norm/norm.json of another "
        "run) or per-tile (inexact).",
    )
    stitching: Literal["exact", "overlap", "tile", "valid", "windows"] | None = Field(
        None,
        description="exact and overlap equal whole-volume inference, exact for less work where a network can be "
        "traced; valid does for networks without padding, windows is for networks that take one length only, tile has "
        "seams; by the network if not given.",
    )
    blend: Literal["linear", "hann", "gaussian"] | None = Field(
        None, description="With overlap: weigh the rims of tiles instead of cropping them, declared inexact."
    )
    faces: Literal["crop", "reflect"] = Field(
        "crop", description="With valid: a product smaller than the volume, or the network on the volume in a mirror."
    )
    assembly: Literal["3d", "2d", "orthoslice"] = Field(
        "3d", description="3d; 2d: plane by plane across an axis; orthoslice: the mean of 2d across z, y and x."
    )
    axis: Literal["z", "y", "x"] = Field("z", description="The axis that 2d planes are cut across.")
    norm_planes: Literal["each", "volume"] = Field(
        "each",
        description="With --norm exact or pooled of a 2D network: the statistics of each plane, or one set for all "
        "planes of the volume across an axis, which does not flicker, serves other volumes and is inexact.",
    )
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = Field("fp32", description="What the network computes in.")
    output_dtype: Literal["float32", "float16", "uint8", "labels", "float64"] = Field(
        "float32", description="What is stored."
    )
    output_range: tuple[float, float] | None = Field(None, description="Values that 0 and 255 stand for under uint8.")
    tile: tuple[int, int, int] | None = Field(
        None, description="Own voxels of a tile z, y, x, on the volume's lattice; with windows the stride."
    )
    batch: int = Field(1, ge=1, description="Tiles of one shape given to the network together.")
    nan: float | None = Field(
        None, allow_inf_nan=False, description="Replaces NaN and infinity in the input; refused if not given."
    )

    _per_model_axis = field_validator(
        "halo", "period", mode="before", json_schema_input_type=int | tuple[int, ...] | None
    )(one_number)
    _per_volume_axis = field_validator("tile", mode="before", json_schema_input_type=int | tuple[int, int, int] | None)(
        one_for_three
    )

    @field_validator("axis")
    @classmethod
    def _axis_is_of_planes(cls, axis: str, info: ValidationInfo) -> str:
        """What has no effect would still stand in the ledger's key."""
        if axis != "z" and info.data.get("assembly", "2d") != "2d":
            raise ValueError("only --assembly 2d cuts planes across an axis; leave it out")
        return axis

    @field_validator("norm_planes")
    @classmethod
    def _planes_are_of_passes(cls, planes: str, info: ValidationInfo) -> str:
        """As of the axis; and a file of statistics says itself whose they are."""
        by_passes = info.data.get("norm", "exact") in ("exact", "pooled")
        if planes != "each" and (info.data.get("assembly", "2d") == "3d" or not by_passes):
            raise ValueError("only --norm exact and pooled under 2d and orthoslice find statistics; leave it out")
        return planes

    @field_validator("output_range")
    @classmethod
    def _range_is_of_uint8(cls, values: tuple[float, float] | None, info: ValidationInfo) -> tuple[float, float] | None:
        if values is not None and info.data.get("output_dtype", "uint8") != "uint8":
            raise ValueError("only --output-dtype uint8 stores values in a range; leave it out")
        return values

    _known_form = field_validator("normalise")(read_by(parse_normalise))
    _known_norm = field_validator("norm")(read_by(parse_norm))
