"""What a layer reads, against what autograd says a torch layer of ones reads."""

import itertools

import pytest
import torch
from torch import nn

from volpipe.models.spans import Span

SPANS = [(a, a + n) for a, n in itertools.product(range(8, 14), (1, 2, 5))]


def ones(layer):
    nn.init.ones_(layer.weight)
    return layer


def read_by_torch(layer, span):
    line = torch.rand(1, 1, 96, requires_grad=True)
    layer(line)[..., span[0] : span[1]].sum().backward()
    used = torch.nonzero(line.grad[0, 0])[:, 0]
    return Span(int(used.min()), int(used.max()) + 1)


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (3, 1, 0), (7, 1, 3), (3, 2, 1), (3, 3, 1), (1, 1, 0)]
)
def test_a_convolution_reads_what_its_gradient_reaches(kernel, stride, padding, span):
    layer = ones(nn.Conv1d(1, 1, kernel, stride, padding, bias=False))
    assert Span(*span).conv(kernel, stride, padding) == read_by_torch(layer, span)


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_pooling_reads_whole_windows(factor, span):
    assert Span(*span).pool(factor) == read_by_torch(nn.AvgPool1d(factor), span)


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 3, 0), (3, 2, 1), (4, 2, 1), (1, 1, 0)])
def test_a_transposed_convolution_reads_what_its_gradient_reaches(kernel, stride, padding, span):
    layer = ones(nn.ConvTranspose1d(1, 1, kernel, stride, padding, bias=False))
    assert Span(*span).transposed_conv(kernel, stride, padding).hull(read_by_torch(layer, span)) == Span(
        *span
    ).transposed_conv(kernel, stride, padding)
    even = (span[0] * stride, span[1] * stride)  # on the lattice nothing more than needed is read
    if even[1] <= 60:
        assert Span(*even).transposed_conv(kernel, stride, padding) == read_by_torch(layer, even)


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("how", ["nearest", "bilinear"])
def test_an_upsampling_reads_what_its_gradient_reaches(how, factor, span):
    def layer(line):
        mode = {"mode": "nearest"} if how == "nearest" else {"mode": "linear", "align_corners": False}
        return nn.functional.interpolate(line, scale_factor=float(factor), **mode)

    assert Span(*span).upsampled(how, factor) == read_by_torch(layer, span)
