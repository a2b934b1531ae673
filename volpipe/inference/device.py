"""What a process can see of its GPU."""

from __future__ import annotations

import torch


def has_gpu() -> bool:
    """True if torch can use a GPU in this process."""
    return bool(torch.cuda.is_available())


def free_device_bytes() -> int:
    """Memory that this process may still take on its GPU."""
    return int(torch.cuda.mem_get_info()[0])
