"""`volpipe register`, as a user gives it."""

import numpy as np
import yaml
from scipy import ndimage

from volpipe.jobs.transforms import load_transforms


def test_register_prints_its_plan_and_finds_slabs(volpipe, write_as, tmp_path):
    noise = np.random.default_rng(0).standard_normal((8, 70, 64))
    tissue = ndimage.gaussian_filter(noise, (4, 1.5, 1.5))
    tissue = (128 + 300 * tissue).clip(0, 255).astype("uint8")
    slabs = [write_as("ome-zarr-0.5", tissue[first : first + 4, dy : dy + 48, :48], tmp_path / f"slab{first}")
             for first, dy in ((0, 0), (4, 3))]  # fmt: skip
    path, out = tmp_path / "slabs.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump({"slabs": slabs, "gap_layers": 0}))
    words = ("register", path, out, "--window", "48", "--serial", "--threads", "1")
    told = volpipe(*words, "--dry-run")
    assert told.code == 0
    assert "compared     as 48 x 48 voxels of 0.004, 0.004 um (y, x), by likelihood" in told.out
    assert "trees        none: slabs have a pose alone" in told.out
    assert not out.exists()
    assert "1 of 1 pairs were trusted" in volpipe(*words).out
    shift_um = load_transforms(out / "transforms.json").slabs[1].pose.shift_um
    np.testing.assert_allclose(shift_um, (3 * 0.004, 0), atol=0.004)
    assert "nothing to do" in volpipe(*words).out
    assert "settings.score: likelihood -> ncc" in volpipe(*words, "--score", "ncc").refusal
