"""A network on one device: stored voxels in, values out.

    stored (n, c, ...) --to device--> x * scale + offset --network--> values (n, c', ...) --to host--> float32
                                                           or --plan-->     those of one box (`intervals`)

The constants are the model's, never the tile's own. Convolutions run channels-last: twice as fast on a CPU for 3D
(211 against 96 GFLOP/s on one thread with AVX-512, torch 2.13; benchmarks/README.md), the same numbers.
"""

from __future__ import annotations

import copy
import threading
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volpipe.errors import RunError
from volpipe.inference.device import has_gpu
from volpipe.inference.intervals import Plan, Program, Trace, trace
from volpipe.inference.precision import Precision
from volpipe.models.model import Model, ModelRef, load_model
from volpipe.models.normalisation import Normalisation

_LEASES: dict[str, threading.Lock] = {}
_LEASES_LOCK = threading.Lock()
_MAKING = threading.Lock()


def device_lease(device: str) -> AbstractContextManager[Any]:
    """One thread at a time on a GPU, so that the others read and write; a CPU needs none (measured: slots without a
    lock 0.98-1.06 of a bare loop, with one 1.05-1.07)."""
    if device == "cpu":
        return nullcontext()
    with _LEASES_LOCK:
        return _LEASES.setdefault(device, threading.Lock())


class Predictor:
    """Applies a model on a device; thread-safe under `device_lease`."""

    def __init__(self, model: Model, normalisation: Normalisation, device: str, precision: Precision) -> None:
        self.device = device
        self.precision = precision
        self._model = model
        self._programs = dict[tuple[int, ...], Program]()
        self._format = _memory_format(model.ndim, precision)
        # a copy: the model is shared by whoever loaded it, and `to` would change it in place
        self._network = copy.deepcopy(model.network).to(device=device, dtype=precision.storage)
        self._network = self._network.to(memory_format=self._format)  # type: ignore[call-overload]
        shape = (1, -1) + (1,) * model.ndim
        constants = {"device": device, "dtype": precision.storage}
        self._scale = torch.tensor(normalisation.scale, **constants).view(shape)  # type: ignore[arg-type]
        self._offset = torch.tensor(normalisation.offset, **constants).view(shape)  # type: ignore[arg-type]

    def __call__(self, stored: NDArray[Any], plan: Plan | None = None) -> NDArray[Any]:
        """Apply the network.

        Args:
            stored: (n, c, ...) voxels of the input's dtype.
            plan: of `program`, whose block is made, of `plan.read`; without one the whole network is run.

        Returns:
            (n, c', ...) values, float32 (float64 under fp64).

        Raises:
            RunError: a single tile does not fit into the device's memory.
        """
        return self._run(stored, plan, self.precision.storage)

    def moments(self, stored: NDArray[Any], plan: Plan) -> NDArray[Any]:
        """What a plan of a `Survey` makes, in float64 whatever the network computes in; else as a call."""
        return self._run(stored, plan, torch.float64)

    def _run(self, stored: NDArray[Any], plan: Plan | None, dtype: torch.dtype) -> NDArray[Any]:
        try:
            return self._forward(stored, plan, dtype)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            if len(stored) == 1:
                raise RunError(
                    f"{self.device}: one tile of {stored.shape[2:]} voxels does not fit into its memory; "
                    "give a smaller --tile or --precision bf16"
                ) from None
        parts = (slice(0, len(stored) // 2), slice(len(stored) // 2, None))
        return np.concatenate([self._run(stored[part], plan and plan.of_images(part), dtype) for part in parts])

    def program(self, shape: tuple[int, ...]) -> Program:
        """The network on volumes of a shape, captured once.

        Raises:
            CannotCapture: it cannot be run by intervals.
        """
        with _MAKING:
            if shape not in self._programs:
                self._programs[shape] = _traced(self._model, shape, self.precision.storage).bind(self._network)
        return self._programs[shape]

    @torch.inference_mode()
    def _forward(self, stored: NDArray[Any], plan: Plan | None, dtype: torch.dtype) -> NDArray[Any]:
        with self.precision.context(self.device):
            values: Tensor = (plan or self._network)(self._normalised(stored))
        return values.to(device="cpu", dtype=dtype).numpy()

    def _normalised(self, stored: NDArray[Any]) -> Tensor:
        x = torch.from_numpy(np.ascontiguousarray(stored)).to(self.device)
        x = x.to(dtype=self.precision.storage, memory_format=self._format)
        # a fresh tensor even where dtypes agree: the caller's voxels are never written to
        return torch.addcmul(self._offset.expand_as(x), x, self._scale).contiguous(memory_format=self._format)


def _memory_format(ndim: int, precision: Precision) -> torch.memory_format:
    if precision.name == "fp64":  # oneDNN and cuDNN gain nothing here
        return torch.contiguous_format
    return torch.channels_last if ndim == 2 else torch.channels_last_3d


def predictor(ref: ModelRef, normalisation: Normalisation, device: str, precision: str, threads: int) -> Predictor:
    """The predictor of this process for a model: made once, whatever the number of blocks; other slots wait for it."""
    with _MAKING:
        return _predictor(ref, normalisation, device, precision, threads)


@lru_cache(maxsize=2)  # one model at a time per process, and the next one of a pipeline
def _predictor(ref: ModelRef, normalisation: Normalisation, device: str, precision: str, threads: int) -> Predictor:
    """As `predictor`.

    `threads` is torch's thread count, which belongs to the process: slots x threads = cores. So does TF32, which cuDNN
    would use for convolutions in fp32 unless told not to: 10 bits of mantissa instead of 23; and whether it may take
    algorithms that add up in another order each time.
    """
    if device != "cpu" and not has_gpu():
        raise RunError(f"device {device}: torch finds no GPU in this process; give 'cpu', or workers that have one")
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    return Predictor(load_model(ref), normalisation, device, Precision(precision))


@lru_cache(maxsize=4)  # the three planes of an orthoslice, or the volumes of a pipeline
def program_to_price(ref: ModelRef, precision: str, shape: tuple[int, ...]) -> Program:
    """A network on volumes of a shape, as a driver needs it: of the type that it computes in, on no device.

    Raises:
        CannotCapture: it cannot be run by intervals.
    """
    return _traced(load_model(ref), shape, Precision(precision).compute).bind()


@lru_cache(maxsize=4)
def _traced(model: Model, shape: tuple[int, ...], dtype: torch.dtype) -> Trace:
    """Once for the driver and a serial run."""
    return trace(model.network, shape, model.in_channels, dtype)
