"""In place of `volpipe.inference.device.free_device_bytes`, where torch has no GPU to ask."""

import pynvml


def free_device_bytes():
    return pynvml.nvmlDeviceGetMemoryInfo(0).free
