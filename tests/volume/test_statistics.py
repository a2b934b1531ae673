"""Histograms equal numpy on the whole array, however they are cut; the file beside the volume is checked."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volpipe.errors import ConfigError, VolumeError, WriteError
from volpipe.volume.histogram import Histogram, Moments, float_edges
from volpipe.volume.source import open_source
from volpipe.volume.statistics import (
    PERCENTILES,
    Statistics,
    check_writable,
    load_statistics,
    read_statistics,
    sidecar_of,
    summary,
    write_statistics,
)

RNG = np.random.default_rng(0)
WHOLE = {
    "uint8": RNG.integers(0, 256, 5000, dtype=np.uint8),
    "uint16": RNG.integers(0, 65536, 5000, dtype=np.uint16),
    "int16": RNG.integers(-32768, 32768, 5000, dtype=np.int16),
}
FLOATS = np.concatenate([RNG.normal(size=3000), RNG.lognormal(0, 8, 2000), -RNG.lognormal(0, 8, 999), [0.0, -0.0]])
FLOATS = RNG.permutation(FLOATS).astype(np.float32)


@pytest.mark.parametrize("dtype", WHOLE)
def test_counted_voxels_give_numpys_numbers(dtype):
    values = WHOLE[dtype]
    histogram = Histogram.of(values)
    wide = values.astype(np.float64)
    assert histogram.count == values.size
    assert (histogram.minimum, histogram.maximum) == (values.min(), values.max())
    assert histogram.mean == pytest.approx(wide.mean(), rel=1e-14)
    assert histogram.std == pytest.approx(wide.std(), rel=1e-12)
    for percent in (0, 100, 33.3, *PERCENTILES):
        assert histogram.percentile(percent) == pytest.approx(np.percentile(wide, percent), rel=1e-12)


def test_float_moments_are_exact_and_percentiles_within_a_bin():
    histogram = Histogram.of(FLOATS)
    wide = FLOATS.astype(np.float64)
    assert (histogram.minimum, histogram.maximum) == (FLOATS.min(), FLOATS.max())
    assert histogram.mean == pytest.approx(wide.mean(), rel=1e-12)
    assert histogram.std == pytest.approx(wide.std(), rel=1e-12)
    for percent in (0, 100, *PERCENTILES):
        expected = np.percentile(wide, percent, method="lower")
        above = np.percentile(wide, percent, method="higher")
        low, high = min(expected, above), max(expected, above)
        assert low - abs(low) / 128 <= histogram.percentile(percent) <= high + abs(high) / 128


@settings(max_examples=300, deadline=None)
@given(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)
def test_float_bins_ascend_and_hold_their_values(one, other):
    low, high = sorted((one, other))
    bins = [int(np.flatnonzero(Histogram.of(np.array([value], np.float32)).counts)[0]) for value in (low, high)]
    assert bins[0] <= bins[1] or low == high == 0
    for value, number in zip((low, high), bins, strict=True):
        below, above = float_edges(number)
        assert below <= value <= above
        assert above - below <= max(abs(value) / 128, 2.0**-126)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([*WHOLE, "float32"]), st.lists(st.integers(0, 5000), max_size=5))
def test_parts_merge_to_the_whole(dtype, cuts):
    values = FLOATS[:5000] if dtype == "float32" else WHOLE[dtype]
    total = Histogram.empty(dtype)
    for part in np.split(values, sorted(cuts)):
        total = total.merge(Histogram.of(part))
    whole = Histogram.of(values)
    assert np.array_equal(total.counts, whole.counts)
    assert (total.mean, total.std) == pytest.approx((whole.mean, whole.std), rel=1e-12)


def test_moments_do_not_cancel():
    # A small spread on a large offset: sum of squares minus square of sum would lose all of it.
    values = (1e4 + RNG.normal(size=10_000) * 0.01).astype(np.float32)
    moments = Moments()
    for part in np.array_split(values, 7):
        moments = moments.merge(Moments.of(part))
    assert math.sqrt(moments.m2 / moments.count) == pytest.approx(values.astype(np.float64).std(), rel=1e-10)


def test_nan_and_infinity_are_counted_apart():
    values = np.array([1, np.nan, 3, np.inf, -np.inf, -np.inf], np.float32)
    histogram = Histogram.of(values)
    assert (histogram.count, histogram.nan, histogram.infinite) == (2, 1, 3)
    assert (histogram.mean, histogram.minimum, histogram.maximum) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_no_voxels_have_no_numbers(dtype):
    histogram = Histogram.empty(dtype)
    numbers = (histogram.mean, histogram.std, histogram.minimum, histogram.maximum, histogram.percentile(50))
    assert all(math.isnan(number) for number in numbers)
    assert summary(histogram)["mean"] is None


def test_a_constant_volume_has_no_spread():
    histogram = Histogram.of(np.full(1000, 77, np.uint8))
    assert (histogram.std, histogram.percentile(1), histogram.percentile(99)) == (0.0, 77, 77)
    assert Histogram.of(np.full(1000, 0.3, np.float32)).percentile(50) == np.float32(0.3)


@pytest.mark.parametrize("dtype", [*WHOLE, "float32"])
def test_histograms_go_through_json(dtype):
    values = FLOATS if dtype == "float32" else WHOLE[dtype]
    histogram = Histogram.of(values)
    back = Histogram.from_json(json.loads(json.dumps(histogram.to_json())))
    assert np.array_equal(back.counts, histogram.counts)
    assert (back.mean, back.std, back.nan) == (histogram.mean, histogram.std, histogram.nan)


def test_other_dtypes_and_percentiles_are_refused():
    with pytest.raises(VolumeError, match="uint8, uint16, int16, float32"):
        Histogram.empty("uint64")
    with pytest.raises(ConfigError, match="0 to 100"):
        Histogram.of(WHOLE["uint8"]).percentile(101)


@pytest.fixture
def volume(tmp_path):
    """A bare two-channel array and its two histograms."""
    import zarr

    array = RNG.integers(0, 255, (2, 4, 5, 6), dtype=np.uint8)
    path = str(tmp_path / "vol.zarr")
    zarr.create_array(path, data=array, chunks=(2, 4, 5, 6), dimension_names=("c", "z", "y", "x"))
    return path, array, tuple(Histogram.of(channel) for channel in array)


def test_statistics_lie_beside_the_volume_and_are_found(volume):
    path, array, histograms = volume
    source = open_source(path)
    assert sidecar_of(source) == f"{path}.statistics.json"
    write_statistics(Statistics(histograms, source.identity()), sidecar_of(source))
    found = load_statistics(source)
    assert found.mean == pytest.approx([channel.mean() for channel in array])
    assert found.percentile(50) == tuple(np.percentile(channel, 50) for channel in array)
    one = load_statistics(open_source(path, channel=1))
    assert one.std == pytest.approx([array[1].std()])


def test_statistics_of_a_volume_that_changed_are_refused(volume):
    import zarr

    path, array, histograms = volume
    source = open_source(path)
    write_statistics(Statistics(histograms, source.identity()), sidecar_of(source))
    zarr.create_array(path, data=array[:, 1:], dimension_names=("c", "z", "y", "x"), overwrite=True)
    with pytest.raises(VolumeError, match="changed since"):
        load_statistics(open_source(path))


def test_no_statistics_and_no_sense_are_one_line(volume, tmp_path):
    with pytest.raises(VolumeError, match=f"first run: volpipe statistics {volume[0]} --channel 0$"):
        load_statistics(open_source(volume[0], channel=0))
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(VolumeError, match="is not a statistics file"):
        read_statistics(str(tmp_path / "x.json"))


@pytest.mark.parametrize(
    ("location", "picked", "name"),
    [
        ("/a/v.zarr", {}, "/a/v.zarr.statistics.json"),
        ("/a/v.zarr/", {"level": 2}, "/a/v.zarr.level2.statistics.json"),
        ("/a/v.h5:/g/raw", {"channel": 1, "time": 3}, "/a/v.h5.g.raw.channel1.time3.statistics.json"),
        ("/a/s_*.tif", {}, "/a/s__.tif.statistics.json"),
        ("precomputed:///a/p", {}, "/a/p.statistics.json"),
        ("s3://bucket/v.zarr", {}, "s3://bucket/v.zarr.statistics.json"),
    ],
)
def test_the_name_of_the_file_says_of_what_it_is(location, picked, name):
    class Fake:
        def identity(self):
            return {"picked": {"level": 0, "channel": None, "time": 0, **picked}}

    fake = Fake()
    fake.location = location
    assert sidecar_of(fake) == name


def test_a_place_that_refuses_is_noticed_before_the_work(tmp_path, monkeypatch):
    place = tmp_path / "x.json"
    check_writable(str(place))
    assert not list(tmp_path.iterdir())

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(WriteError, match="where you may write"):
        check_writable(str(place))
