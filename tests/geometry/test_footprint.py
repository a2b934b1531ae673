"""Laws of read ranges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volpipe.errors import GeometryError
from volpipe.geometry import AxisFootprint, Footprint, ceil_to, floor_to

periods = st.sampled_from([1, 2, 4, 8, 9, 16])


@st.composite
def reads(draw):
    smallest = draw(st.sampled_from([1, 5, 8, 33]))
    axis = AxisFootprint(draw(st.integers(0, 60)), draw(st.integers(0, 60)), draw(periods), smallest=smallest)
    length = draw(st.integers(1, 300))
    start = draw(st.integers(0, length - 1))
    stop = draw(st.integers(start + 1, length))
    return axis, length, start, stop, axis.read(start, stop, length)


@given(reads())
def test_a_read_starts_on_the_lattice_and_has_an_admissible_length(case):
    axis, length, start, stop, (first, last) = case
    assert first % axis.period == 0
    assert last - first == axis.admissible(last - first) >= axis.smallest
    assert 0 <= first <= start < stop <= last <= axis.admissible(length)


@given(reads())
def test_a_read_covers_the_need_or_ends_at_the_volume(case):
    axis, length, start, stop, (first, last) = case
    assert first <= start - axis.need_before or first == 0
    assert last >= stop + axis.need_after or last == axis.admissible(length)


@given(reads())
def test_a_read_is_the_one_of_the_aligned_block_around_it(case):
    axis, length, start, stop, found = case
    around = floor_to(start, axis.period), ceil_to(stop, axis.period)
    assert found == axis.read(*around, length)
    first, last = max(0, around[0] - axis.halo_before), min(axis.admissible(length), around[1] + axis.halo_after)
    if last - first >= axis.smallest:
        assert found == (first, last)
    else:
        assert found[1] - found[0] == axis.admissible(1)  # not longer than it must be


def test_hand_computed_reads():
    unet = AxisFootprint(need_before=46, need_after=46, period=8)  # U-Net of 4 levels
    assert unet.halo_before == unet.halo_after == 48
    assert unet.read(128, 256, 512) == (80, 304)
    assert unet.read(0, 128, 512) == (0, 176)
    assert unet.read(384, 509, 509) == (336, 512)  # 509 is padded to 512
    resnet = AxisFootprint(need_before=58, need_after=59, period=4)  # CycleGAN, 6 blocks
    assert resnet.read(131, 132, 512) == (68, 192)  # 131 - 58 = 73 would do, were the need not that of 128


def test_a_read_that_is_too_short_sees_more_of_the_volume():
    mirrored = AxisFootprint(period=4, smallest=7)  # an export that is fixed to more than one period, or mirrored faces
    assert [mirrored.admissible(n) for n in (1, 8, 9)] == [8, 8, 12]
    assert mirrored.read(8, 12, 40) == (8, 16)
    assert mirrored.read(36, 40, 40) == (32, 40)  # the volume ends
    assert mirrored.read(0, 3, 3) == (0, 8)  # it is shorter, and padded
    odd = AxisFootprint(period=4, size_class=1, smallest=6)
    assert (odd.read(12, 16, 17), odd.read(0, 4, 17)) == ((8, 17), (0, 9))


def test_size_class_of_a_valid_network():
    valid = AxisFootprint(period=8, size_class=4, lost=88)
    assert [valid.admissible(n) for n in (4, 5, 12, 13)] == [4, 12, 12, 20]


def test_planes_have_no_context_across_their_axis():
    plane = Footprint((AxisFootprint(1, 2, 4), AxisFootprint(3, 4, 8)))
    assert plane.along(1).axes == (AxisFootprint(1, 2, 4), AxisFootprint(), AxisFootprint(3, 4, 8))
    assert plane.along(0).period == (1, 4, 8)


def test_a_common_footprint_is_as_long_as_both_need():
    one, other = AxisFootprint(1, 2, 4, smallest=8), AxisFootprint(2, 1, 6, smallest=3)
    assert one.hull(other) == AxisFootprint(2, 2, 12, smallest=8)


def test_no_length_is_refused():
    with pytest.raises(GeometryError, match="smallest 0"):
        AxisFootprint(smallest=0)


def test_a_period_of_zero_is_refused():
    with pytest.raises(GeometryError, match="period 0"):
        AxisFootprint(1, 1, 0)
