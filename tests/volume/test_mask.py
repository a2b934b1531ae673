"""A mask of any resolution, asked about in the volume's voxels."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volpipe.errors import VolumeError
from volpipe.geometry import Box
from volpipe.volume.mask import Mask


@dataclass
class Array:
    """A source in memory."""

    array: np.ndarray  # (c, z, y, x)
    voxel_size_um: tuple | None = None
    location: str = "mask.zarr"

    @property
    def shape(self):
        return self.array.shape[1:]

    @property
    def channels(self):
        return len(self.array)

    def read(self, box):
        return self.array[:, *box.slices]


def mask_of(array, shape, mask_um=None, volume_um=None):
    return Mask(Array(np.asarray(array)[None], mask_um), shape, volume_um)


def boxes(shape):
    sides = [st.tuples(st.integers(0, n - 1), st.integers(1, n)).map(lambda p: (p[0], p[0] + p[1])) for n in shape]
    return st.tuples(*sides).map(
        lambda s: Box(tuple(a for a, _ in s), tuple(min(b, n) for (_, b), n in zip(s, shape, strict=True)))
    )


@settings(max_examples=80, deadline=None)
@given(st.data(), st.tuples(*[st.integers(2, 20)] * 3), st.tuples(*[st.sampled_from([1, 2, 4])] * 3))
def test_a_coarse_mask_repeats_its_voxels(data, shape, factors):
    coarse_shape = tuple(-(-n // f) for n, f in zip(shape, factors, strict=True))
    coarse = np.random.default_rng(0).integers(0, 2, coarse_shape, dtype=np.uint8)
    sizes = tuple(float(f) for f in factors)
    mask, whole = mask_of(coarse, shape, sizes, (1.0, 1.0, 1.0)), coarse
    for axis, factor in enumerate(factors):
        whole = whole.repeat(factor, axis)
    box = data.draw(boxes(shape))
    expected = whole[box.slices] != 0
    assert np.array_equal(mask.read(box), expected)
    assert mask.any(box) == expected.any()


def test_a_fine_mask_is_asked_at_the_nearest_voxel():
    fine = np.zeros((4, 4, 6))
    fine[1, 3, 3] = 0.5  # any dtype; not zero is on
    mask = mask_of(fine, (4, 4, 3))
    # Volume voxel 1 has its centre at 1.5, which is 3 in voxels of half the size: the border of 2 and 3, taken up.
    assert mask.factors == (1, 1, 0.5)
    assert np.argwhere(mask.read(Box((0, 0, 0), (4, 4, 3)))).tolist() == [[1, 3, 1]]
    assert mask.any(Box((1, 3, 1), (2, 4, 2)))
    assert not mask.any(Box((1, 3, 0), (2, 4, 1)))


@pytest.mark.parametrize(
    ("volume", "mask", "factor"),
    [(100, 100, 1), (100, 50, 2), (100, 13, 8), (100, 7, 16), (99, 33, 3), (99, 49, 2), (100, 25, 4), (50, 99, 0.5)],
)
def test_shapes_alone_tell_the_factor(volume, mask, factor):
    assert mask_of(np.ones((mask, 1, 1)), (volume, 1, 1)).factors == (factor, 1, 1)


def test_voxel_sizes_tell_any_factor():
    mask = mask_of(np.ones((40, 10, 10)), (100, 10, 10), (10.0, 1, 1), (4.0, 1, 1))
    assert mask.factors == (2.5, 1, 1)
    assert mask_of(np.ones((13, 1, 1)), (100, 1, 1), (8.05, 1, 1), (1.0, 1, 1)).factors == (8, 1, 1)  # 1 % off: 8


@pytest.mark.parametrize(
    ("volume", "mask", "sizes"),
    [
        ((100, 10, 10), (40, 10, 10), None),  # no whole factor
        ((100, 10, 10), (100, 10, 12), None),
        ((100, 10, 10), (50, 10, 10), ((8.0, 1, 1), (8.0, 1, 1))),  # half the extent at the same voxel size
        ((100, 10, 10), (100, 10, 10), ((8.0, 1, 1), (4.0, 1, 1))),
        ((100, 10, 10), (10, 10, 10), ((8.0, 1, 1), (1.0, 1, 1))),  # 80 of 100
    ],
)
def test_another_extent_is_refused_and_both_are_named(volume, mask, sizes):
    with pytest.raises(VolumeError, match=r"covers .* the volume .*100") as caught:
        mask_of(np.ones(mask), volume, *(sizes or (None, None)))
    assert str(tuple(mask)) in str(caught.value)


def test_several_channels_are_refused():
    with pytest.raises(VolumeError, match="2 channels"):
        Mask(Array(np.ones((2, 4, 4, 4))), (4, 4, 4))
