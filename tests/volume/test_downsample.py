"""Coarser voxels from finer ones, against plain numpy over every window."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volpipe.errors import ConfigError
from volpipe.volume.downsample import downsample

FACTORS = st.tuples(*[st.integers(1, 4)] * 3)
SHAPES = st.tuples(*[st.integers(1, 9)] * 3)


def by_windows(array, factors, reduce):
    """The slow way: every output voxel from the voxels of its window that exist."""
    shape = [-(-n // f) for n, f in zip(array.shape[1:], factors, strict=True)]
    out = np.empty((array.shape[0], *shape), array.dtype)
    for c, z, y, x in np.ndindex(*out.shape):
        window = tuple(slice(i * f, (i + 1) * f) for i, f in zip((z, y, x), factors, strict=True))
        out[c, z, y, x] = reduce(array[(c, *window)].ravel())
    return out


def mean_half_up(values):
    return np.floor(values.astype(np.float64).mean() + 0.5)


def smallest_most_frequent(values):
    labels, counts = np.unique(values, return_counts=True)
    return labels[np.argmax(counts)]


@settings(max_examples=60, deadline=None)
@given(SHAPES, FACTORS, st.sampled_from(["uint8", "uint16", "int16", "uint32"]), st.integers(0, 99))
def test_mean_rounds_half_up_and_invents_no_voxel(shape, factors, dtype, seed):
    info = np.iinfo(dtype)
    array = np.random.default_rng(seed).integers(info.min, info.max, (2, *shape), dtype=dtype, endpoint=True)
    expected = by_windows(array, factors, mean_half_up)
    assert np.array_equal(downsample(array, factors, "mean"), expected)


@settings(max_examples=60, deadline=None)
@given(SHAPES, FACTORS, st.integers(0, 99))
def test_mode_is_the_most_frequent_label_and_the_smallest_of_equals(shape, factors, seed):
    array = np.random.default_rng(seed).integers(0, 3, (1, *shape)).astype(np.uint64) * (1 << 62)
    assert np.array_equal(downsample(array, factors, "mode"), by_windows(array, factors, smallest_most_frequent))


@settings(max_examples=30, deadline=None)
@given(SHAPES, FACTORS)
def test_first_is_the_first_voxel_of_each_window(shape, factors):
    array = np.random.default_rng(0).random((1, *shape), dtype=np.float32)
    fz, fy, fx = factors
    assert np.array_equal(downsample(array, factors, "first"), array[:, ::fz, ::fy, ::fx])


@settings(max_examples=30, deadline=None)
@given(SHAPES, FACTORS)
def test_mean_of_floats(shape, factors):
    array = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    assert np.allclose(downsample(array, factors, "mean"), by_windows(array, factors, np.mean), rtol=1e-6, atol=1e-7)


def test_halves_by_hand():
    up = downsample(np.array([[[[0, 1, -1, -2, 7]]]], np.int16), (1, 1, 2), "mean")
    assert up.tolist() == [[[[1, -1, 7]]]]  # 0.5 -> 1, -1.5 -> -1, alone -> itself


def test_sums_of_many_voxels_do_not_overflow():
    array = np.full((1, 1, 256, 256), 65535, np.uint16)
    assert downsample(array, (1, 256, 256), "mean") == 65535
    assert downsample(array[:, :, :128, :127], (1, 128, 127), "mean") == 65535  # just within 32 bits


def test_parts_give_the_whole_if_they_start_at_multiples():
    array = np.random.default_rng(2).integers(0, 255, (1, 12, 13, 15), dtype=np.uint8)
    whole = downsample(array, (2, 3, 2), "mean")
    assert np.array_equal(downsample(array[:, 4:8, 6:, 8:], (2, 3, 2), "mean"), whole[:, 2:4, 2:, 4:])


def test_an_unknown_method_and_a_mean_of_labels_are_refused():
    array = np.zeros((1, 2, 2, 2), np.uint64)
    with pytest.raises(ConfigError, match="mean, mode, first"):
        downsample(array, (2, 2, 2), "median")
    with pytest.raises(ConfigError, match="mode"):
        downsample(array, (2, 2, 2), "mean")
