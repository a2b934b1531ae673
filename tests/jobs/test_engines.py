"""Both engines of `apply` make the same product, with the same ledger, audit and pyramid.

Every mode and assembly: tests/jobs/test_law_suite.py.
"""

import numpy as np
import pytest

from volpipe.errors import ConfigError, RunError
from volpipe.jobs.apply import ApplyJob
from volpipe.jobs.statistics import StatisticsJob
from volpipe.models.unet import UNetArchitecture
from volpipe.runtime.run import run
from volpipe.runtime.settings import RunSettings
from volpipe.volume import open_product
from volpipe.volume.ledger import Ledger
from volpipe.volume.validate import validate

SERIAL = RunSettings(serial=True, threads=1, memory_per_worker="4GiB", engine="map-overlap")
CLUSTER = RunSettings(workers=2, threads=1, memory_per_worker="2GiB", engine="map-overlap")
UNET = "preset:unet3d_l3_w2"
CASES = {
    "overlap": (UNET, {}),
    "embedding": ("preset:mae3d_p4_embedding_w12", {"block": (8, 8, 8)}),
    "part": (UNET, {"bbox": "1:9,3:20,17:90"}),
    "labels": (None, {"output_dtype": "labels"}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_engines_make_the_same_product(volume, noise, applied, network, name):
    """Blocks of 16 are thinner than the overlap: a chunk is several of them."""
    model, options = CASES[name]
    model = model or network(UNetArchitecture(3, levels=3, width=2, out_channels=3))
    source, options = volume(noise((10, 20, 100))), {"block": (16, 16, 16), "audit": 2} | options
    place, made = applied(source, model, **options)
    other, lazily = applied(source, model, settings=SERIAL, **options)
    np.testing.assert_allclose(lazily, made, atol=1e-12)
    one, two = (open_product(at) for at in (place, other))
    assert one.attributes["exact"] == two.attributes["exact"]
    assert one.levels == two.levels
    assert validate(other, deep=True) == []


def test_masked_blocks_are_skipped_and_what_is_done_is_not_done_again(volume, noise, applied, tmp_path):
    mask = np.zeros((10, 20, 96), "uint8")
    mask[:, :, :30] = 1
    source, mask = volume(noise((10, 20, 96))), volume(mask, name="mask.ome.zarr")
    options = {"block": (16, 16, 16), "mask": mask, "pyramid": False}
    place, made = applied(source, UNET, settings=SERIAL, **options)
    np.testing.assert_allclose(applied(source, UNET, **options)[1], made, atol=1e-12)
    entries = [entry for entry in Ledger(place).receipts() if entry["work"] == "apply"]
    assert sorted(entry["item"] for entry in entries) == list(range(12))
    assert sum(entry["skipped"] == "mask" for entry in entries) == 2 * 4
    job = ApplyJob(input=source, output=place, model=UNET, precision="fp64", output_dtype="float64", **options)
    assert run(job, SERIAL, progress=None).done == 0
    assert run(job, SERIAL.model_copy(update={"engine": "blocks"}), progress=None).done == 0


def test_a_chunk_that_fails_ends_the_run_and_is_not_taken_for_done(volume, noise, applied, tmp_path):
    voxels = noise((10, 20, 96))
    voxels[9, 15, 80] = np.nan
    source = volume(voxels)
    for settings in (SERIAL, CLUSTER):
        with pytest.raises(RunError, match="finds 1 voxels that are NaN or infinite"):
            applied(source, UNET, settings=settings, block=(32, 32, 32), output=str(tmp_path / "bad.ome.zarr"))
        assert open_product(str(tmp_path / "bad.ome.zarr")).attributes["state"] == "running"


def test_other_jobs_have_one_engine(volume, noise):
    with pytest.raises(ConfigError, match="engine map-overlap: only apply can be run by it"):
        run(StatisticsJob(volume=volume(noise((16, 16, 16)))), SERIAL, progress=None)
