"""A run that was killed goes on where it stopped; what is lost or damaged afterwards is found."""

import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from volpipe.jobs.apply import ApplyJob
from volpipe.jobs.pyramid import PyramidJob
from volpipe.runtime.run import run
from volpipe.runtime.settings import RunSettings
from volpipe.volume import levels_of, open_product
from volpipe.volume.ledger import Ledger
from volpipe.volume.validate import validate
from volpipe.volume.verify import receipts_of, verify

UNET = "preset:unet3d_l3_w3"
SERIAL = RunSettings(serial=True, threads=1, memory_per_worker="4GiB")


def voxels(place):
    return {path: array[:] for path, array in zarr.open_group(place, mode="r").arrays()}


@pytest.fixture
def product(volume, noise, tmp_path):
    """Location of a finished product, and the job that made it."""
    place = str(tmp_path / "out.ome.zarr")
    job = {"input": volume(noise((16, 30, 40))), "output": place, "model": "preset:unet3d_l3_w2", "block": (16, 16, 16)}
    run(ApplyJob(**job), SERIAL, progress=None)
    return place, job


def shard(place, level):
    return Path(place, level, "c", "0", "0", "1")


@pytest.mark.parametrize("level", ["0", "1"])
def test_a_shard_that_is_deleted_is_found(product, level):
    place, _ = product
    assert validate(place, deep=True) == []
    shard(place, level).unlink()
    assert validate(place) == []
    (problem,) = validate(place, deep=True)
    assert f"level {level}, box 0:16,0:1" in problem
    assert "other voxels than were written" in problem


@pytest.mark.parametrize("left", [0, 100])
def test_a_shard_that_is_cut_short_is_found(product, left):
    place, _ = product
    os.truncate(shard(place, "0"), left)
    (problem,) = validate(place, deep=True)
    assert "level 0, box 0:16,0:16,16:32" in problem


def test_a_shard_of_another_block_is_found(product):
    place, _ = product
    shard(place, "0").write_bytes(Path(place, "0", "c", "0", "0", "0").read_bytes())
    (problem,) = validate(place, deep=True)
    assert "level 0, box 0:16,0:16,16:32" in problem


def test_receipts_that_are_lost_are_missed(product):
    place, _ = product
    kept = [receipt for receipt in receipts_of(place) if (receipt["work"], receipt["item"]) != ("apply", 1)]
    (problem,) = verify(place, kept)
    assert "tell of 15104 of 19200 voxels" in problem


def test_any_receipt_of_a_block_may_be_the_one_that_lasted(product):
    place, _ = product
    first, *rest = receipts_of(place)
    assert verify(place, [{**first, "checksum": 1}, first, *rest]) == []
    assert verify(place, [first, {**first, "checksum": 1}, *rest]) == []
    assert len(verify(place, [{**first, "checksum": 1}, *rest])) == 1


def test_what_a_mask_skipped_is_no_problem(volume, noise, tmp_path):
    mask = np.zeros((16, 30, 40), "uint8")
    mask[0, 0, 0] = 1
    job = ApplyJob(
        input=volume(noise(mask.shape)),
        mask=volume(mask, name="mask.ome.zarr"),
        output=str(tmp_path / "out.ome.zarr"),
        model="preset:unet3d_l3_w2",
        block=(16, 16, 16),
    )
    run(job, SERIAL, progress=None)
    assert validate(job.output, deep=True) == []


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_restart_that_was_killed_takes_nothing_for_done(product, monkeypatch, moment):
    place, options = product
    expected = voxels(place)
    from volpipe import volume

    create = volume.create_product

    def killed(*arguments, **given):
        if moment == "after":
            create(*arguments, **given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("volpipe.volume.create_product", killed, raising=False)
        with pytest.raises(KeyboardInterrupt):
            run(ApplyJob(**options), SERIAL, restart=True, progress=None)
    assert list(Ledger(place).receipts()) == []
    summary = run(ApplyJob(**options), SERIAL, restart=True, progress=None)
    assert summary.before == 0
    for level, array in voxels(place).items():
        np.testing.assert_array_equal(array, expected[level])


def test_a_finished_product_keeps_levels_that_were_made_anew(volume, noise, applied, tmp_path):
    """The same command again lists neither levels that are gone, nor hides those that were added."""
    source = volume(noise((18, 26, 40)))
    options = {"block": (16, 16, 16), "output_dtype": "float32", "precision": "fp32"}
    for pyramid, factors, shapes in (
        (True, "1,2,2", [(18, 26, 40), (18, 13, 20)]),
        (False, "1,2,2;2,2,2", [(18, 26, 40), (18, 13, 20), (9, 7, 10)]),
    ):
        place, _ = applied(source, UNET, pyramid=pyramid, **options)
        run(PyramidJob(volume=place, factors=factors), SERIAL, restart=True, progress=None)
        applied(source, UNET, pyramid=pyramid, output=place, **options)
        assert [level.shape for level in levels_of(place)] == shapes
        assert validate(place, deep=True) == []


def test_a_listed_level_that_no_receipt_tells_of_is_a_problem(volume, noise, applied):
    place, _ = applied(volume(noise((18, 26, 40))), UNET, block=(16, 16, 16), pyramid=False)
    product = open_product(place)
    product.add_level(1, (2, 2, 2))
    product.publish(((2, 2, 2),))
    assert any("level 1 is listed, and no receipt tells of it" in line for line in validate(place, deep=True))


def test_a_product_of_unknown_voxel_size_is_looked_at_in_depth(volume, noise, applied):
    place, _ = applied(volume(noise((18, 26, 40)), voxel_size_um=None), UNET, block=(16, 16, 16), pyramid=False)
    assert validate(place, deep=True) == []
    (Path(place) / "0" / "c" / "0" / "0" / "0").unlink()
    assert any("holds other voxels than were written" in line for line in validate(place, deep=True))
