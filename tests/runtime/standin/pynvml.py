"""A stand-in for NVIDIA's NVML bindings: two GPUs of 8 GiB that only say that they are there.

First on the path, with DASK_CUDA_TEST_SINGLE_GPU=1 (dask-cuda then makes do without a CUDA context), it lets the real
LocalCUDACluster and `dask cuda worker` start on a machine without a GPU. Nothing is computed on these GPUs.
"""

import os
from types import SimpleNamespace

GPUS = 2
MEMORY_BYTES = 8 * 2**30
NVML_DEVICE_MIG_DISABLE, NVML_DEVICE_MIG_ENABLE = 0, 1


class NVMLError(Exception):
    pass


class NVMLError_LibraryNotFound(NVMLError):
    pass


class NVMLError_DriverNotLoaded(NVMLError):
    pass


class NVMLError_Unknown(NVMLError):
    pass


class NVMLError_NotSupported(NVMLError):
    pass


class NVMLError_NotFound(NVMLError):
    pass


def nvmlInit():
    pass


def nvmlSystemGetDriverVersion():
    return "580.0"


def nvmlDeviceGetCount():
    return GPUS


def nvmlDeviceGetHandleByIndex(index):
    if not 0 <= int(index) < GPUS:
        raise NVMLError_NotFound(f"no GPU {index}")
    return int(index)


def nvmlDeviceGetHandleByUUID(uuid):
    return nvmlDeviceGetHandleByIndex(int(uuid.decode().rpartition("-")[2]))


def nvmlDeviceGetIndex(handle):
    return handle


def nvmlDeviceGetUUID(handle):
    return f"GPU-00000000-0000-0000-0000-{handle:012d}"


def nvmlDeviceGetName(handle):
    return "stand-in"


def nvmlDeviceGetMemoryInfo(handle):
    return SimpleNamespace(total=MEMORY_BYTES, used=0, free=MEMORY_BYTES)


def nvmlDeviceGetUtilizationRates(handle):
    return SimpleNamespace(gpu=0, memory=0)


def nvmlDeviceGetMigMode(handle):
    raise NVMLError_NotSupported


def nvmlDeviceGetComputeRunningProcesses(handle):
    return []


def nvmlDeviceGetCpuAffinity(handle, words):
    masks = [0] * words
    for core in os.sched_getaffinity(0):
        masks[core // 64] |= 1 << core % 64
    return masks
