"""How network outputs become stored voxels: float32, float16, uint8 with a declared scaling, or labels.

    uint8    stored = round((value - low) / (high - low) * 255), clipped; value = stored * scale + offset is written
             with the product as `scale` and `offset`
    labels   the channel with the largest value, the first of equals

Encoding is pointwise, so tiles may be encoded one by one; blending must come before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volpipe.errors import ConfigError, RunError

HALF_MAX = float(np.finfo(np.float16).max)
OUTPUT_DTYPES = ("float32", "float16", "uint8", "labels", "float64")


@dataclass(frozen=True, slots=True)
class Encoding:
    """The output dtype as asked for, and the values that 0 and 255 stand for under uint8."""

    name: str
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.name not in OUTPUT_DTYPES:
            raise ConfigError(f"output dtype {self.name!r}: give one of {', '.join(OUTPUT_DTYPES)}")
        if self.name != "uint8":
            return
        if self.value_range is None:
            raise ConfigError(
                "output dtype uint8: the model does not state the range of its outputs; give --output-range LOW,HIGH"
            )
        if not (self.value_range[0] < self.value_range[1] and np.isfinite(self.value_range).all()):
            raise ConfigError(f"output range {self.value_range}: give LOW below HIGH, both finite")

    def dtype(self, channels: int) -> np.dtype[Any]:
        """Stored dtype of a network with this many output channels."""
        if self.name == "labels":
            return np.dtype("uint8" if channels <= 256 else "uint16")
        return np.dtype(self.name)

    def channels(self, channels: int) -> int:
        """Stored channels of a network with this many output channels."""
        return 1 if self.name == "labels" else channels

    def attributes(self) -> dict[str, Any]:
        """What a reader needs to get values back: value = stored * scale + offset."""
        if self.name != "uint8" or self.value_range is None:
            return {"encoding": self.name}
        low, high = self.value_range
        return {"encoding": self.name, "scale": (high - low) / 255, "offset": low}

    def encode(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values (c', z, y, x) to stored voxels (c'', z, y, x)."""
        channels = len(values)
        if self.name == "labels":
            labels: NDArray[Any] = np.argmax(values, axis=0, keepdims=True).astype(self.dtype(channels))
            return labels
        if self.name == "uint8" and self.value_range is not None:
            low, high = self.value_range
            levels = (values - np.asarray(low, values.dtype)) * np.asarray(255 / (high - low), values.dtype)
            stored: NDArray[Any] = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
            return stored
        if self.name == "float16" and not -HALF_MAX <= values.min() <= values.max() <= HALF_MAX:
            raise RunError(f"values of {values.min():.3g} to {values.max():.3g} do not fit into float16 (at most "
                           f"{HALF_MAX:g}); give --output-dtype float32")  # fmt: skip
        return values.astype(self.dtype(channels), copy=False)


def is_finite(values: NDArray[Any]) -> bool:
    """True without NaN or infinity; looks at the extremes, so that no array of answers is made."""
    return bool(np.isfinite(values.min()) and np.isfinite(values.max()))
