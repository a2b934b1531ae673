"""Passes on meta tensors, which have a shape and no values.

torch's kernels for them are Python; a batch norm (an instance norm is one, too) is made of twenty, which take most
of a U-Net's pass. Here it makes a tensor like its image, which is all that it does to a shape.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_BATCH_NORM = torch.ops.aten.native_batch_norm.default


class Pass(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A pass of a network, watched by whoever overrides this and calls it for what an operation makes.

    Other than modes do by default it does not import torch's compiler (2.2 s), which a plain stack of convolutions can
    do without; some operations on meta tensors, as torch.cat, import it all the same.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _BATCH_NORM and args[0].is_meta:
            image, trains = args[0], args[5]
            per_channel = image.new_empty(image.shape[1] if trains else 0)
            return torch.empty_like(image), per_channel, torch.empty_like(per_channel)
        return func(*args, **(kwargs or {}))
