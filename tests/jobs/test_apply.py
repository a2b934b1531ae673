"""`apply` by `overlap`: the product is the whole-volume result, whatever the blocks, the box and the workers.

Every other mode, assembly and engine: tests/jobs/test_law_suite.py.
"""

import json

import numpy as np
import pytest
import torch
import zarr

from volpipe.errors import GeometryError
from volpipe.models import load_model, resolve_model
from volpipe.models.unet import UNetArchitecture
from volpipe.volume.ledger import Ledger

UNET_3D, RESNET_3D = "preset:unet3d_l3_w3", "preset:resnet6_3d_w2"
EXACT = 1e-12  # of the result's standard deviation, in float64


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (UNET_3D, (13, 20, 83)),  # more than 2 x 24 voxels of halo along x: some reads touch no face
        (UNET_3D, (3, 5, 7)),  # smaller than a tile and than the period
        (UNET_3D, (1, 17, 40)),
        (RESNET_3D, (9, 14, 35)),
    ],
    ids=["ragged", "tiny", "one plane", "resnet"],
)
def test_the_product_is_the_whole_volume_result(volume, noise, applied, whole, error, model, shape):
    voxels = noise(shape)
    _, made = applied(volume(voxels), model, block=(16, 16, 16))
    assert error(made, whole(model, voxels)) < EXACT


@pytest.mark.parametrize("block", [(16, 16, 16), (5, 12, 24)])
def test_valid_makes_what_the_network_gives_on_the_volume(volume, noise, applied, block):
    """Smaller than the volume, with its place written."""
    model = "preset:unet3d_l3_valid_w2"
    voxels = noise((44, 52, 100))
    source = volume(voxels, translation_um=(0.1, 0.2, 0.3))
    network = load_model(resolve_model(model)).network.double()
    expected = network(torch.from_numpy(voxels.astype("float64"))[None, None])[0].numpy()
    place, made = applied(source, model, stitching="valid", block=block, audit=4)
    assert np.abs(made - expected).max() < EXACT * expected.std()
    attributes = zarr.open(place).attrs
    assert attributes["volpipe"]["exact"] is True
    _, translation = attributes["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert translation["translation"] == pytest.approx([0.1 + 20 * 0.008, 0.2 + 20 * 0.004, 0.3 + 20 * 0.004])
    _, part = applied(source, model, stitching="valid", block=block, bbox="21:23,25:32,30:70")
    assert np.abs(part - expected[:, 1:3, 5:12, 10:50]).max() < EXACT * expected.std()
    with pytest.raises(GeometryError, match="stitching valid gives 20:24,20:32,20:80"):
        applied(source, model, stitching="valid", bbox="0:23,25:32,30:70")


def test_labels_of_an_orthoslice_are_those_of_the_mean(volume, noise, applied, whole, network):
    model = network(UNetArchitecture(2, levels=2, width=2, out_channels=3))
    voxels = noise((12, 20, 40))
    place, made = applied(volume(voxels), model, assembly="orthoslice", block=(16, 16, 16), output_dtype="labels")
    expected = sum(whole(model, voxels, axis) for axis in range(3)) / 3
    np.testing.assert_array_equal(made[0], np.argmax(expected, axis=0))
    assert zarr.open(place).attrs["volpipe"]["exact"] is True


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"block": (8, 64, 20)},
        {"block": (32, 16, 48), "tile": (8, 16, 12), "batch": 3},
        {"block": (13, 11, 37)},  # off the period: tiles are rounded out to it
    ],
    ids=["default", "flat", "tiles in batches", "off the period"],
)
def test_the_product_does_not_depend_on_blocks_and_tiles(volume, noise, applied, whole, error, options):
    voxels = noise((10, 22, 75))
    _, made = applied(volume(voxels), UNET_3D, **options)
    assert error(made, whole(UNET_3D, voxels)) < EXACT


def test_the_same_tiles_give_the_same_bits_again(volume, noise, applied):
    """On two workers too: tests/jobs/test_law_suite.py."""
    source = volume(noise((10, 20, 60)))
    options = {"precision": "fp32", "output_dtype": "float32", "block": (16, 16, 32), "tile": 16}
    one, two = (zarr.open(applied(source, UNET_3D, **options)[0]) for _ in range(2))
    for level in ("0", "1"):
        np.testing.assert_array_equal(one[level][:], two[level][:])


def test_a_box_is_that_part_of_the_whole(volume, noise, applied, whole, error):
    voxels = noise((12, 20, 90))
    source = volume(voxels, translation_um=(0.1, 0.2, 0.3))
    place, made = applied(source, UNET_3D, bbox="3:12,5:20,31:77", block=(16, 16, 16))
    assert made.shape == (1, 9, 15, 46)
    assert error(made, whole(UNET_3D, voxels)[:, 3:12, 5:20, 31:77]) < EXACT
    scale, translation = zarr.open(place).attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert scale["scale"] == pytest.approx([0.008, 0.004, 0.004])
    assert translation["translation"] == pytest.approx([0.1 + 3 * 0.008, 0.2 + 5 * 0.004, 0.3 + 31 * 0.004])


def test_the_box_does_not_move_the_tiles(volume, noise, applied):
    source = volume(noise((16, 32, 64)))
    options = {"stitching": "tile", "tile": (8, 16, 16), "block": (16, 16, 16)}
    _, everything = applied(source, UNET_3D, **options)
    _, part = applied(source, UNET_3D, bbox="2:15,3:32,21:60", **options)
    np.testing.assert_array_equal(part, everything[:, 2:15, 3:32, 21:60])


def test_blocks_outside_the_mask_are_skipped_and_recorded(volume, noise, applied):
    voxels, mask = noise((16, 32, 64)), np.zeros((4, 8, 16), "uint8")
    mask[1, 6, 13] = 1  # voxels 4:8, 24:28, 52:56, in the last block of eight
    source = volume(voxels)
    coarser = volume(mask, name="mask.ome.zarr", voxel_size_um=(0.032, 0.016, 0.016))
    options = {"block": (16, 16, 16), "pyramid": False}
    _, everything = applied(source, UNET_3D, **options)
    place, made = applied(source, UNET_3D, mask=coarser, **options)
    np.testing.assert_array_equal(made[:, :, 16:, 48:], everything[:, :, 16:, 48:])
    assert not made[:, :, :16].any()
    assert not made[..., :48].any()
    receipts = {receipt["item"]: receipt for receipt in Ledger(place).receipts() if receipt["work"] == "apply"}
    assert {item for item, receipt in receipts.items() if receipt["skipped"] != "mask"} == {7}
    assert receipts[0]["checksum"] is None


def test_the_product_of_tiles_is_declared_inexact(volume, noise, applied, whole, error):
    voxels = noise((16, 32, 64))
    place, made = applied(volume(voxels), UNET_3D, stitching="tile", tile=(16, 16, 16))
    assert error(made, whole(UNET_3D, voxels)) > 0.1
    assert "see nothing of each other" in zarr.open(place).attrs["volpipe"]["stitching"]["inexact"]
    place, _ = applied(volume(voxels, "again.ome.zarr"), UNET_3D)
    assert zarr.open(place).attrs["volpipe"]["stitching"]["inexact"] == ""


def test_the_ledger_holds_one_receipt_per_block(volume, noise, applied):
    place, _ = applied(volume(noise((10, 20, 60))), UNET_3D, block=(16, 16, 16), pyramid=False)
    receipts = [receipt for receipt in Ledger(place).receipts() if receipt["work"] == "apply"]
    assert sorted(receipt["item"] for receipt in receipts) == list(range(1 * 2 * 4))
    assert all(receipt["bytes_read"] > 0 for receipt in receipts)
    assert json.dumps(receipts)  # nothing but JSON
