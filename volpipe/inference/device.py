"""What a process can see of its GPU, and its threads; torch is imported when asked, so that other workers lack it."""

from __future__ import annotations

import sys


def has_gpu() -> bool:
    """True if torch can use a GPU in this process."""
    import torch

    return bool(torch.cuda.is_available())


def instructions() -> str:
    """The widest instructions that torch uses on this CPU, as "AVX2" or "AVX512"."""
    import torch

    return str(torch.backends.cpu.get_cpu_capability())


def use_threads(threads: int) -> None:
    """Threads that torch computes with in this process."""
    import torch

    torch.set_num_threads(threads)


def free_device_bytes() -> int:
    """Memory that this process may still take on its GPU."""
    import torch

    return int(torch.cuda.mem_get_info()[0])


def peak_device_bytes() -> int:
    """The most that torch ever took of this process's GPU, what its allocator keeps included; 0 if it never did."""
    torch = sys.modules.get("torch")
    return int(torch.cuda.max_memory_reserved()) if torch and torch.cuda.is_initialized() else 0
