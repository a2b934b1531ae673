"""What `apply` reads: every format alike, intensities by constants that are known before, voxel sizes that fit."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaozarrs
import zarr

from volpipe.errors import BlocksFailed, ConfigError, ModelError, RunError, VolumeError
from volpipe.jobs.pyramid import PyramidJob
from volpipe.jobs.statistics import StatisticsJob
from volpipe.models.normalisation import Normalisation
from volpipe.models.unet import UNetArchitecture
from volpipe.runtime.run import run
from volpipe.runtime.settings import RunSettings
from volpipe.volume.formats.zarr_arrays import levels
from volpipe.volume.ledger import Ledger

UNET = "preset:unet3d_l3_w3"
SHAPE = (18, 26, 40)
SERIAL = RunSettings(serial=True, threads=1)
FORMATS = ["tiff", "tiff-folder", "hdf5", "n5", "precomputed", "zarr2", "zarr3", "ome-zarr-0.4", "ome-zarr-0.5"]


@pytest.fixture
def small(network):
    """A network that was trained on voxels of 8 x 4 x 4 nm."""
    architecture = UNetArchitecture(3, levels=2, width=2)
    return network(architecture, Normalisation((0.01,), (-1.0,)), (0.008, 0.004, 0.004))


@pytest.fixture
def reference(volume, noise, applied, small):
    return applied(volume(noise(SHAPE, "uint8")), small, block=(16, 16, 16), output_dtype="float32")[1]


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_product(write_as, noise, applied, small, reference, tmp_path, form):
    source = write_as(form, noise(SHAPE, "uint8"), tmp_path / form, (8.0, 4.0, 4.0))
    stated = {} if form not in ("tiff-folder", "zarr2", "zarr3") else {"voxel_size_um": (0.008, 0.004, 0.004)}
    place, made = applied(source, small, block=(16, 16, 16), output_dtype="float32", **stated)
    np.testing.assert_array_equal(made, reference)
    yaozarrs.validate_zarr_store(place)
    steps = [level.voxel_size_um for level in levels(place)]
    np.testing.assert_allclose(steps, [(0.008, 0.004, 0.004), (0.008,) * 3, (0.016,) * 3])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_stored_values_are_taken_as_they_are(volume, noise, applied, whole, error, small, dtype):
    voxels = noise(SHAPE, dtype)
    if dtype == "int16":
        voxels -= 128
    _, made = applied(volume(voxels), small)
    assert error(made, whole(small, voxels)) < 1e-12


# ---------------------------------------------------------------------- normalisation


def test_a_range_goes_to_0_and_1(volume, noise, applied, whole, error):
    voxels = noise(SHAPE, "uint8")
    _, made = applied(volume(voxels), UNET, normalise="range:10,60")
    assert error(made, whole(UNET, (voxels - 10.0) / 50)) < 1e-12


def test_mean_and_std_are_given(volume, noise, applied, whole, error, small):
    voxels = noise(SHAPE, "uint8")
    _, made = applied(volume(voxels), UNET, normalise="mean-std:100,40")
    assert error(made, whole(UNET, (voxels - 100.0) / 40)) < 1e-12


def test_statistics_are_those_stored_beside_the_volume(volume, noise, applied, whole, error):
    voxels = noise(SHAPE, "uint8")
    source = volume(voxels)
    run(StatisticsJob(volume=source), SERIAL, progress=None)
    _, made = applied(source, UNET, normalise="standard")
    assert error(made, whole(UNET, (voxels - voxels.mean()) / voxels.std())) < 1e-9
    stored = json.loads(Path(source + ".statistics.json").read_text())["channels"][0]["percentiles"]
    low, high = stored["1"], stored["99"]
    assert low < np.percentile(voxels, 2)
    assert high > np.percentile(voxels, 98)
    _, made = applied(source, UNET, normalise="percentiles:1,99")
    assert error(made, whole(UNET, (voxels - low) / (high - low))) < 1e-12


def test_statistics_of_each_channel_serve_that_channel(volume, noise, applied, whole, error, network):
    architecture = UNetArchitecture(3, levels=2, width=2, in_channels=2)
    voxels = np.stack([noise(SHAPE), 100 + 20 * noise(SHAPE, seed=1)])
    source, model = volume(voxels), network(architecture, name="two.safetensors")
    run(StatisticsJob(volume=source), SERIAL, progress=None)
    _, made = applied(source, model, normalise="standard")
    mean, std = (getattr(voxels.astype(float), name)(axis=(1, 2, 3), keepdims=True) for name in ("mean", "std"))
    assert error(made, whole(model, (voxels - mean) / std)) < 1e-6


@pytest.mark.parametrize("normalise", ["standard", "percentiles:1,99"])
def test_without_statistics_one_line_says_what_to_run(volume, noise, applied, normalise):
    source = volume(noise(SHAPE))
    with pytest.raises(VolumeError, match=f"no statistics are there; first run: volpipe statistics {source}$"):
        applied(source, UNET, normalise=normalise)


@pytest.mark.parametrize("normalise", ["range:0,1", "mean-std:0,1", "standard", "percentiles:1,99"])
@pytest.mark.parametrize("given", [{"input_scale": 0.5}, {"input_offset": -1.0}])
def test_scale_and_offset_are_refused_where_other_constants_would_replace_them(
    volume, noise, applied, normalise, given
):
    with pytest.raises(ConfigError, match=r"--input-scale .* and --input-offset .* go with model only"):
        applied(volume(noise(SHAPE)), UNET, normalise=normalise, **given)


def test_statistics_of_an_earlier_volume_are_refused(volume, noise, applied, tmp_path):
    source = volume(noise(SHAPE))
    run(StatisticsJob(volume=source), SERIAL, progress=None)
    zarr.open(source)["0"].attrs["note"] = "written again"
    with pytest.raises(VolumeError, match=f"the volume has changed since; run again: volpipe statistics {source}$"):
        applied(source, UNET, normalise="percentiles:1,99")


# ---------------------------------------------------------------------- NaN


def test_nan_is_refused_and_names_the_block(volume, noise, applied):
    voxels = noise(SHAPE)
    voxels[3, 4, 5] = np.nan
    with pytest.raises(BlocksFailed, match=r"finds 1 voxels that are NaN .* give --nan VALUE"):
        applied(volume(voxels), UNET, block=(8, 8, 8))


def test_where_every_block_sees_nan_the_run_stops(volume, noise, applied):
    with pytest.raises(RunError, match="NaN"):
        applied(volume(np.full(SHAPE, np.nan, "float32")), UNET, block=(8, 8, 8))


def test_nan_is_replaced_where_asked(volume, noise, applied, whole, error):
    voxels = noise(SHAPE)
    voxels[3, 4, 5], voxels[-1, -1, -1] = np.nan, np.inf
    _, made = applied(volume(voxels), UNET, nan=0.5)
    voxels[3, 4, 5] = voxels[-1, -1, -1] = 0.5
    assert error(made, whole(UNET, voxels)) < 1e-12


# ---------------------------------------------------------------------- voxel size


def test_another_voxel_size_is_refused(volume, noise, applied, small):
    source = volume(noise(SHAPE), voxel_size_um=(0.008, 0.0045, 0.0045))
    with pytest.raises(ModelError, match=r"trained at voxels of 0.008 x 0.004 x 0.004 um, the volume has 0.008 x 0.00"):
        applied(source, small)


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        ({"axis": "z"}, True),
        ({"axis": "y"}, False),
        ({"axis": "x"}, False),
        ({"assembly": "orthoslice"}, False),
    ],
)
def test_planes_are_measured_along_their_own_axes(volume, noise, applied, network, options, fits):
    flat = network(UNetArchitecture(2, levels=2, width=2), voxel_size_um=(0.008, 0.008), name="flat.safetensors")
    source = volume(noise(SHAPE), voxel_size_um=(0.016, 0.008, 0.008))
    if fits:
        applied(source, flat, **{"assembly": "2d", **options})
    else:
        with pytest.raises(ModelError, match=r"trained at voxels of 0\.008 x 0\.008 um"):
            applied(source, flat, **{"assembly": "2d", **options})


def test_a_mask_beside_a_box_is_asked_where_the_blocks_lie_in_the_volume(volume, noise, applied, tmp_path):
    mask = np.zeros((48, 16, 16), "uint8")
    mask[32:] = 1
    source, mask = volume(noise((48, 16, 16))), volume(mask, name="mask.ome.zarr")
    place, _ = applied(source, UNET, mask=mask, bbox="16:48,0:16,0:16", block=(16, 16, 16), pyramid=False, audit=0)
    entries = {entry["item"]: entry["skipped"] for entry in Ledger(place).receipts()}
    assert entries == {0: "mask", 1: ""}


def test_a_voxel_size_within_a_tenth_is_taken(volume, noise, applied, small):
    applied(volume(noise(SHAPE), voxel_size_um=(0.0085, 0.0043, 0.0037)), small)


def test_the_level_that_fits_is_named(volume, noise, applied, whole, error, small):
    source = volume(noise(SHAPE), voxel_size_um=(0.004, 0.002, 0.002))
    run(PyramidJob(volume=source, factors="2,2,2;2,2,2"), SERIAL, progress=None)
    with pytest.raises(ModelError, match="give --level 1"):
        applied(source, small)
    _, made = applied(source, small, level=1)
    assert error(made, whole(small, zarr.open(source)["1"][:])) < 1e-12


def test_a_voxel_size_that_is_not_stated_can_be_given(write_as, noise, applied, small, tmp_path):
    source = write_as("zarr3", noise(SHAPE, "uint8"), tmp_path / "bare")
    with pytest.raises(ModelError, match="trained at voxels"):
        applied(source, small, voxel_size_um=(0.1, 0.1, 0.1))
    place, _ = applied(source, small, voxel_size_um=(0.008, 0.004, 0.004))
    assert levels(place)[0].voxel_size_um == pytest.approx((0.008, 0.004, 0.004))


def test_a_voxel_size_other_than_the_stated_one_is_refused(volume, noise, applied, small):
    source = volume(noise(SHAPE))
    with pytest.raises(ConfigError, match=r"--voxel-size-um 1 x 1 x 1 um: .* states 0.008 x 0.004 x 0.004 um; leave"):
        applied(source, small, voxel_size_um=(1.0, 1.0, 1.0))
    applied(source, small, voxel_size_um=(0.008, 0.004, 0.0040001))


def test_no_level_is_advised_that_is_in_use_or_fits_less(volume, noise, applied, small):
    source = volume(noise(SHAPE), voxel_size_um=(0.1, 0.1, 0.1))
    run(PyramidJob(volume=source, factors="2,2,2"), SERIAL, progress=None)
    with pytest.raises(ModelError, match=r"has 0.2 x .* the nearest is level 0 with 0.1 x") as stop:
        applied(source, small, level=1)
    assert "level 1" not in str(stop.value)
    with pytest.raises(ModelError, match=r"has 0.1 x 0.1 x 0.1 um; resample the volume"):
        applied(source, small)
