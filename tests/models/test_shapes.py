"""What a pass on meta tensors makes is what torch's own kernels for them make."""

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from volpipe.models.shapes import Pass


class Plain(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_batch_norm_makes_what_torch_makes(trains, dtype, layout):
    image = torch.empty((2, 3, 5, 7), dtype=dtype, device="meta").contiguous(memory_format=layout)
    mean, variance = (None if trains else torch.empty(3, dtype=dtype, device="meta") for _ in range(2))
    made = []
    for mode in (Pass, Plain):
        with mode():
            made.append(functional.batch_norm(image, mean, variance, training=trains))
    ours, theirs = made
    assert (ours.shape, ours.dtype, ours.stride()) == (theirs.shape, theirs.dtype, theirs.stride())


def test_batch_norms_of_real_tensors_are_computed():
    image = torch.rand(2, 3, 5, 7)
    with Pass():
        made = functional.batch_norm(image, torch.zeros(3), torch.ones(3))
    torch.testing.assert_close(made, image, atol=1e-4, rtol=1e-4)


def test_wrong_channels_are_refused_as_torch_refuses_them():
    image, three = torch.empty((1, 4, 5, 5), device="meta"), torch.empty(3, device="meta")
    with Pass(), pytest.raises(RuntimeError, match="running_mean should contain 4 elements"):
        functional.batch_norm(image, three, three)
