"""Stored voxels in, values out: dtypes, constants, batches that do not fit, and nothing changed that is not its own."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from volpipe.errors import ConfigError, RunError
from volpipe.inference.precision import Precision
from volpipe.inference.predictor import Predictor, _predictor, predictor
from volpipe.models import resolve_model
from volpipe.models.normalisation import Normalisation

PLAIN = Normalisation.identity(2)


def apply(model, stored, precision="fp32", normalisation=PLAIN):
    return Predictor(model, normalisation, "cpu", Precision(precision))(stored)


@pytest.fixture
def stored():
    return np.random.default_rng(0).integers(0, 255, (3, 2, 10, 12)).astype("uint8")


@pytest.mark.parametrize(
    ("precision", "dtype", "tolerance"),
    [("fp64", "float64", 1e-14), ("fp32", "float32", 1e-5), ("fp16", "float32", 5e-3), ("bf16", "float32", 5e-2)],
)
@pytest.mark.parametrize("ndim", [2, 3])
def test_each_precision_gives_the_networks_values(model, two_layers, stored, ndim, precision, dtype, tolerance):
    stored = stored if ndim == 2 else stored.reshape(3, 2, 5, 4, 6)
    network = two_layers(ndim)
    normalisation = Normalisation((0.01, 0.02), (-1.0, 0.5))
    made = apply(model(network, ndim), stored, precision, normalisation)
    shape = (1, 2) + (1,) * ndim
    seen = stored * np.reshape([0.01, 0.02], shape) + np.reshape([-1.0, 0.5], shape)
    expected = copy.deepcopy(network).double()(torch.from_numpy(seen)).numpy()
    assert (made.shape, made.dtype) == ((3, 3, *stored.shape[2:]), dtype)
    assert np.abs(made - expected).max() < tolerance * np.abs(expected).max()
    if precision in ("fp16", "bf16"):
        assert np.abs(made - expected).max() > 1e-6  # it did compute in half


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float16", "float32", "float64", "uint32"])
@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_the_callers_voxels_are_never_written_to(model, stored, dtype, precision):
    stored = stored.astype(dtype)
    before = stored.copy()
    made = apply(model(nn.Sequential(nn.Threshold(300.0, 7.0, inplace=True)), 2, 2, 2), stored, precision)
    assert (made == 7).all()
    np.testing.assert_array_equal(stored, before)


def test_voxels_may_be_a_view_that_is_not_contiguous(model, two_layers, stored):
    network = two_layers()
    flipped = stored[:, :, ::-1, ::2]
    np.testing.assert_array_equal(apply(model(network), flipped), apply(model(network), flipped.copy()))


def test_the_model_stays_as_it_was(model, two_layers, stored):
    given = model(two_layers())
    apply(given, stored, "fp64")
    assert {parameter.dtype for parameter in given.network.parameters()} == {torch.float32}


SEEN = []


class Tight(nn.Module):
    """Has memory for so many tiles."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def forward(self, image):
        SEEN.append(len(image))
        if len(image) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return image * 2


@pytest.mark.parametrize(("most", "sizes"), [(1, [5, 2, 1, 1, 3, 1, 2, 1, 1]), (3, [5, 2, 3]), (5, [5])])
def test_a_batch_that_does_not_fit_is_halved(model, most, sizes):
    SEEN.clear()
    stored = np.random.default_rng(0).random((5, 2, 4, 4)).astype("float32")
    np.testing.assert_array_equal(apply(model(Tight(most), 2, 2, 2), stored), stored * 2)
    assert sizes == SEEN


def test_a_tile_that_does_not_fit_is_one_line(model, stored):
    with pytest.raises(RunError, match=r"cpu: one tile of \(10, 12\) voxels does not fit .* --tile or --precision"):
        apply(model(Tight(0), 2, 2, 2), stored)


def test_other_errors_of_a_network_pass(model, stored):
    with pytest.raises(RuntimeError, match="expected input"):
        apply(model(nn.Conv2d(7, 1, 3)), stored)


def test_a_process_has_one_predictor_per_model():
    ref = resolve_model("preset:unet2d_l4_w2")
    settings = (Normalisation.identity(1), "cpu", "fp32", 1)
    assert predictor(ref, *settings) is predictor(ref, *settings)
    assert predictor(ref, Normalisation((2.0,), (0.0,)), *settings[1:]) is not predictor(ref, *settings)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match="give one of fp32, fp64, bf16, fp16"):
        Precision("tf32")


def test_single_precision_is_not_tf32():
    torch.backends.cudnn.allow_tf32 = True  # as torch starts
    torch.backends.cuda.matmul.allow_tf32 = True
    _predictor.cache_clear()
    predictor(resolve_model("preset:unet3d_l3_w2"), Normalisation.identity(1), "cpu", "fp32", torch.get_num_threads())
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line():
    with pytest.raises(RunError, match="device cuda: torch finds no GPU in this process; give 'cpu'"):
        predictor(resolve_model("preset:unet3d_l3_w2"), Normalisation.identity(1), "cuda", "fp32", 1)
