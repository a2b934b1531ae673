"""What `apply` stores: channels, dtypes with their declared meaning, labels, the pyramid, and who made it."""

import math

import numpy as np
import pytest
import yaozarrs
import zarr

from volpipe.errors import ConfigError, ModelError, RunError
from volpipe.jobs.apply import ApplyJob
from volpipe.models.unet import UNetArchitecture
from volpipe.runtime.run import run
from volpipe.runtime.settings import RunSettings
from volpipe.volume.downsample import downsample

UNET = "preset:unet3d_l3_w3"
SHAPE = (18, 26, 40)
BLOCK = {"block": (16, 16, 16)}


def attributes(place):
    return zarr.open(place).attrs["volpipe"]


@pytest.fixture
def several(network):
    """Two channels in, three out, between 0 and 1."""
    return network(UNetArchitecture(3, levels=2, width=2, in_channels=2, out_channels=3, activation="sigmoid"))


def test_several_channels_go_in_and_out(volume, noise, applied, whole, error, several):
    voxels = noise((2, *SHAPE))
    place, made = applied(volume(voxels), several, **BLOCK)
    assert made.shape == (3, *SHAPE)
    assert error(made, whole(several, voxels)) < 1e-12
    assert attributes(place)["channels"] == ["class 0", "class 1", "class 2"]
    assert zarr.open(place)["0"].metadata.dimension_names == ("c", "z", "y", "x")


def test_one_channel_of_several_can_be_picked(volume, noise, applied, whole, error):
    voxels = noise((2, *SHAPE))
    _, made = applied(volume(voxels), UNET, channel=1)
    assert error(made, whole(UNET, voxels[1])) < 1e-12


def test_uint8_says_which_values_it_stands_for(volume, noise, applied, whole):
    voxels = noise(SHAPE)
    place, made = applied(volume(voxels), UNET, output_dtype="uint8", output_range=(-2.0, 2.0), **BLOCK)
    said = attributes(place)
    values = made * said["scale"] + said["offset"]
    expected = np.clip(whole(UNET, voxels), -2, 2)
    assert made.dtype == "uint8"
    assert np.abs(values - expected).max() <= 2 / 255 * (1 + 1e-9)  # half a level


def test_the_range_of_uint8_comes_from_a_model_that_has_one(volume, noise, applied, several):
    place, _ = applied(volume(noise((2, *SHAPE))), several, output_dtype="uint8")
    assert (attributes(place)["scale"], attributes(place)["offset"]) == (1 / 255, 0.0)


def test_labels_are_the_largest_channel(volume, noise, applied, whole, several):
    voxels = noise((2, *SHAPE))
    place, made = applied(volume(voxels), several, output_dtype="labels", **BLOCK)
    np.testing.assert_array_equal(made[0], whole(several, voxels).argmax(0))
    assert attributes(place)["classes"] == ["class 0", "class 1", "class 2"]
    np.testing.assert_array_equal(zarr.open(place)["1"][:], downsample(made, (1, 2, 2), "mode")[0])


def test_labels_of_one_channel_are_refused(volume, noise, applied):
    with pytest.raises(ModelError, match="one output channel, and labels are the largest of several"):
        applied(volume(noise(SHAPE)), UNET, output_dtype="labels")


@pytest.mark.parametrize(
    ("options", "say"),
    [
        ({"precision": "fp16"}, "fp16 overflows here, give --precision bf16 or fp32"),
        ({"precision": "fp32", "output_dtype": "float16"}, "do not fit into float16"),
        ({"precision": "fp32", "normalise": "range:0,1e-38"}, "NaN or infinity on a tile .* check its weights"),
    ],
)
def test_values_that_are_no_numbers_are_never_stored(volume, noise, applied, options, say):
    large = (noise(SHAPE) * 1e6).astype("float32")
    with pytest.raises(RunError, match=say):
        applied(volume(large), UNET, **BLOCK, **{"output_dtype": "float32", **options})


@pytest.mark.parametrize(
    ("options", "say"),
    [({"nan": math.nan}, "finite number"), ({"output_dtype": "uint8", "output_range": (0, math.inf)}, "both finite")],
)
def test_options_that_are_no_numbers_are_refused(volume, noise, applied, options, say):
    with pytest.raises(ConfigError, match=say):
        applied(volume(noise(SHAPE)), UNET, **options)


def test_float16_is_the_nearest_one(volume, noise, applied, whole):
    voxels = noise(SHAPE)
    _, made = applied(volume(voxels), UNET, output_dtype="float16")
    np.testing.assert_array_equal(made, whole(UNET, voxels).astype("float16"))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.2), ("fp16", 0.02)])
def test_a_lower_precision_stays_near(volume, noise, applied, whole, error, precision, tolerance):
    voxels = noise(SHAPE)
    _, made = applied(volume(voxels), UNET, precision=precision, output_dtype="float32", **BLOCK)
    assert 0 < error(made, whole(UNET, voxels)) < tolerance


def test_the_pyramid_is_made_of_the_finished_level_before(volume, noise, applied):
    place, _ = applied(volume(noise(SHAPE)), UNET, output_dtype="float32", **BLOCK)
    group = zarr.open(place, mode="r")
    datasets = group.attrs["ome"]["multiscales"][0]["datasets"]
    scales = [dataset["coordinateTransformations"][0]["scale"] for dataset in datasets]
    assert [dataset["path"] for dataset in datasets] == ["0", "1", "2"]
    np.testing.assert_allclose(scales, [[0.008, 0.004, 0.004], [0.008] * 3, [0.016] * 3])
    levels = [group[dataset["path"]] for dataset in datasets]
    assert [level.shape for level in levels] == [(18, 26, 40), (18, 13, 20), (9, 7, 10)]
    for finer, coarser, step in zip(levels, levels[1:], [(1, 2, 2), (2, 2, 2)], strict=False):
        np.testing.assert_array_equal(coarser[:], downsample(finer[:][None], step, "mean")[0])


def test_the_pyramid_can_be_left_out(volume, noise, applied):
    place, _ = applied(volume(noise(SHAPE)), UNET, pyramid=False, **BLOCK)
    assert [path for path, _ in zarr.open(place).arrays()] == ["0"]


def test_every_product_is_valid_for_others(volume, noise, applied, several):
    source = volume(noise((2, *SHAPE)))
    for options in ({}, {"output_dtype": "labels"}, {"output_dtype": "uint8"}, {"bbox": "1:9,2:20,3:33"}):
        place, _ = applied(source, several, **options)
        yaozarrs.validate_zarr_store(place)


def test_an_unfinished_product_lists_no_level_and_is_running(volume, noise, tmp_path):
    voxels = noise(SHAPE)
    voxels[-1, -1, -1] = math.nan  # seen by the blocks at that corner alone
    place = str(tmp_path / "out.ome.zarr")
    job = ApplyJob(input=volume(voxels), output=place, model=UNET, block=(8, 8, 8))
    with pytest.raises(RunError, match="NaN"):
        run(job, RunSettings(serial=True, threads=1), progress=None)
    assert attributes(place)["state"] == "running"
    assert [level["path"] for level in zarr.open(place).attrs["ome"]["multiscales"][0]["datasets"]] == ["0"]


def test_a_product_tells_how_it_was_made(volume, noise, applied):
    source = volume(noise(SHAPE))
    place, _ = applied(source, UNET, **BLOCK)
    said = attributes(place)
    assert said["state"] == "complete"
    assert said["provenance"]["input"]["location"] == source
    assert said["provenance"]["job"]["model"] == UNET
    assert len(said["provenance"]["weights"]) == 64
    assert said["provenance"]["geometry"]["block"] == [16, 16, 16]


def test_uint8_without_a_range_is_refused(volume, noise, applied, tmp_path):
    with pytest.raises(ConfigError, match="--output-range LOW,HIGH"):
        applied(volume(noise(SHAPE)), UNET, output_dtype="uint8", output=str(tmp_path / "out.zarr"))
    assert not (tmp_path / "out.zarr").exists()
