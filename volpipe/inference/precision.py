"""The numbers a network computes in: `fp32`, `fp64`, or autocast to `bf16` and `fp16`.

fp32 means fp32: TF32 is off. Autocast leaves weights and normalisation in fp32 and runs convolutions in half.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from volpipe.errors import ConfigError
from volpipe.models import kernels

_COMPUTE = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Precision:
    """A precision by name."""

    name: str

    def __post_init__(self) -> None:
        if self.name not in _COMPUTE:
            raise ConfigError(f"precision {self.name!r}: give one of {', '.join(_COMPUTE)}")

    @property
    def compute(self) -> torch.dtype:
        """What convolutions run in."""
        return _COMPUTE[self.name]

    @property
    def storage(self) -> torch.dtype:
        """What weights, inputs and outputs are held in."""
        return torch.float64 if self.name == "fp64" else torch.float32

    @property
    def is_fast_on_cpu(self) -> bool:
        """False where this CPU computes it by detours: half precision without AVX-512. Always true of fp64, which is
        asked for its digits."""
        return self.name == "fp64" or kernels.has_fast(self.compute)

    def context(self, device: str) -> AbstractContextManager[Any]:
        """Around a forward pass."""
        if self.compute == self.storage:
            return nullcontext()
        return torch.autocast(device.split(":")[0], dtype=self.compute)
