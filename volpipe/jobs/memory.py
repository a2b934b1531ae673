"""What a worker process is promised to hold, everything counted (benchmarks/memory.py sets it beside the peak).

process                       python, torch, zarr and dask, imported
weights                       once per process, with the constants that its programs hold beside them
per slot   read               the block's voxels with halo, and its copy while chunks are decoded
           product            the block's encoded core, and its shards while they are compressed
           summed             its values before they are encoded, where tiles are weighted and added up
           forward            tensors alive at once in one forward pass, its input and output
"""

from __future__ import annotations

from dataclasses import dataclass

PROCESS_BYTES = 544 * 2**20  # measured after the first block of small networks: 0.41-0.5 GiB, torch 2.13, CPU
CAPTURE_BYTES = 128 * 2**20  # of torch.export, imported and run once: 112 MiB
CUDA_CONTEXT_BYTES = 3 * 2**30  # host memory of a CUDA context with its libraries
FORWARD_SLACK = 2.4  # kernels' scratch (1.1 to 1.3), and holes of the heap that the next tensor does not fit into
FORWARD_SCRATCH_BYTES = (
    64 * 2**20
)  # oneDNN's reordered weights and code; both measured on U-Nets and ResNets, 2D and 3D


@dataclass(frozen=True, slots=True)
class BlockMemory:
    """Bytes that one block needs while it is in hand, by what for."""

    read: int
    product: int
    forward: int
    summed: int = 0

    @property
    def host(self) -> int:
        """Without the forward pass: on a GPU that happens elsewhere."""
        return 2 * self.read + 3 * self.product + 2 * self.summed  # a tile's weighted part beside the sum

    @property
    def compute(self) -> int:
        """The forward pass as a process pays for it."""
        return FORWARD_SCRATCH_BYTES + int(FORWARD_SLACK * self.forward)


def worker_bytes(block: BlockMemory, weights: int, slots: int, device: str, *, captured: bool = False) -> int:
    """Resident bytes of a worker with `slots` blocks in hand; `captured`: it runs a network by intervals."""
    process = PROCESS_BYTES + CAPTURE_BYTES * captured
    if device != "cpu":
        return process + CUDA_CONTEXT_BYTES + weights + slots * block.host
    return process + 2 * weights + slots * (block.host + block.compute)


def device_bytes(block: BlockMemory, weights: int) -> int:
    """Bytes on a GPU: its lease lets one block in at a time."""
    return weights + block.compute
