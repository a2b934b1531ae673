"""`volpipe warp`, as a user gives it."""

import json

import numpy as np

from volpipe.volume import open_product


def test_warp_prints_its_plan_and_renders(volpipe, source, voxels, output, tmp_path):
    slabs = [{"volume": source, "layers": [0, 8], "gap_layers": 2}, {"volume": source, "layers": [8, 16]}]
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps({"version": 1, "voxel_size_um": [0.008, 0.004, 0.004], "slabs": slabs}))
    words = ("warp", path, output, "--order", "1", "--shard", "64", "--workers", "1", "--cluster", "local")
    told = volpipe(*words, "--dry-run")
    assert told.code == 0
    assert "slabs        2, 0 of them missing, 0 bridged, 0 with a field" in told.out
    assert "layers       2 of 18 are empty: lost between slabs, or of a missing one" in told.out
    assert not output.exists()
    assert volpipe(*words).code == 0
    made = open_product(str(output)).read(open_product(str(output)).layout.grid.region)[0]
    np.testing.assert_array_equal(np.delete(made, (8, 9), axis=0), voxels)
    assert "nothing to do" in volpipe(*words).out
    assert "settings.order: 1 -> 0" in volpipe(*words[:4], "0", *words[5:]).refusal
