"""`volpipe register`, as a user gives it."""

import re
import sys

import numpy as np
import pytest
import yaml
from scipy import ndimage

from volpipe.jobs.transforms import load_transforms


@pytest.fixture
def slabs_file(write_as, tmp_path):
    """Two slabs of one tissue, the lower one three voxels down."""
    noise = np.random.default_rng(0).standard_normal((8, 70, 64))
    tissue = ndimage.gaussian_filter(noise, (4, 1.5, 1.5))
    tissue = (128 + 300 * tissue).clip(0, 255).astype("uint8")
    slabs = [write_as("ome-zarr-0.5", tissue[first : first + 4, dy : dy + 48, :48], tmp_path / f"slab{first}")
             for first, dy in ((0, 0), (4, 3))]  # fmt: skip
    path = tmp_path / "slabs.yaml"
    path.write_text(yaml.safe_dump({"slabs": slabs, "gap_layers": 0}))
    return path


def test_register_prints_its_plan_and_finds_slabs(volpipe, slabs_file, tmp_path):
    out = tmp_path / "out"
    words = ("register", slabs_file, out, "--window", "48", "--serial", "--threads", "1", "--no-pictures")
    told = volpipe(*words, "--dry-run")
    assert told.code == 0
    assert "compared     as 48 x 48 voxels of 0.004, 0.004 um (y, x), by likelihood" in told.out
    assert "trees        none: slabs have a pose alone" in told.out
    assert not out.exists()
    assert "1 of 1 pairs trusted" in volpipe(*words).out
    shift_um = load_transforms(out / "transforms.json").slabs[1].pose.shift_um
    np.testing.assert_allclose(shift_um, (3 * 0.004, 0), atol=0.004)
    assert not (out / "pictures").exists()
    assert "nothing to do" in volpipe(*words).out
    assert "settings.score: likelihood -> ncc" in volpipe(*words, "--score", "ncc").refusal


def test_a_registration_leaves_a_page_of_pictures_and_draws_it_again_the_same(volpipe, slabs_file, tmp_path):
    out, pipeline = tmp_path / "out", tmp_path / "pipeline.yaml"
    fields = {"slabs": str(slabs_file), "output": str(out), "window": 24, "tree_window": 16}
    pipeline.write_text(yaml.safe_dump({"run": {"serial": True, "threads": 1}, "jobs": [{"register": fields}]}))
    options = ("--window", "24", "--tree-window", "16", "--serial", "--threads", "1")
    drawn = []
    for words in (("submit", pipeline), ("register", slabs_file, out, *options)):
        answer = volpipe(*words)
        assert answer.out.splitlines()[-1] == f"{out}/pictures/index.html"
        drawn.append({path.name: path.read_bytes() for path in (out / "pictures").iterdir()})
        for path in (out / "pictures").iterdir():
            path.unlink()
    assert "nothing to do" in answer.out
    assert drawn[0] == drawn[1]
    names = re.findall(r'src="([^"]+)"', drawn[0]["index.html"].decode())
    assert names == ["drift.png", "cut.png", "seams.png", "field001.png"]
    assert set(drawn[0]) == {*names, "index.html"}


def test_coarse_asks_for_what_draws_its_picture_before_it_looks(volpipe, slabs_file, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "volpipe.report.laid_out", raising=False)
    monkeypatch.delitem(sys.modules, "volpipe.report.registration_figures", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    refusal = volpipe("coarse", slabs_file, tmp_path / "laid.yaml").refusal
    assert refusal.endswith("is missing; pip install 'volpipe[report]', or give --no-pictures")
    assert not (tmp_path / "laid.yaml").exists()


def test_without_what_draws_pictures_nothing_is_run_but_for_no_pictures(volpipe, slabs_file, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "volpipe.report.registration", raising=False)
    monkeypatch.delitem(sys.modules, "volpipe.report.registration_figures", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    words = ("register", slabs_file, tmp_path / "out", "--window", "48", "--serial", "--threads", "1")
    refusal = volpipe(*words).refusal
    assert refusal.endswith("is missing; pip install 'volpipe[report]', or give --no-pictures")
    assert not (tmp_path / "out").exists()
    assert volpipe(*words, "--dry-run").code == 0
    assert volpipe(*words, "--no-pictures").code == 0
