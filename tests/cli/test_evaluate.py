"""`volpipe evaluate`: what it prints and what it leaves, by scores that are made up."""

import json
import sys

import numpy as np
import pytest
from scipy import ndimage

from volpipe.geometry import Rigid
from volpipe.jobs import inverse_problem_work, self_consistency_work
from volpipe.registration.estimate import PairEstimate

OPTIONS = ("--window", 24, "--layers", 2, "--gaps", "0,1", "--trials", 6, "--serial", "--threads", 1)


@pytest.fixture(autouse=True)
def _scores(monkeypatch):
    methods = {
        "knows": lambda trial: PairEstimate(trial.truth, 0.9, True),
        "nothing": lambda trial: PairEstimate(Rigid(), 0.1, False),
    }
    monkeypatch.setattr(inverse_problem_work, "known_scores", lambda: tuple(methods))
    monkeypatch.setattr(inverse_problem_work, "by_score", lambda score, options: methods[score])


@pytest.fixture
def tissue(write_as, tmp_path):
    noise = np.random.default_rng(0).normal(size=(8, 64, 64))
    smooth = np.stack([ndimage.gaussian_filter(layer, 1.5) for layer in noise])
    return write_as("ome-zarr-0.5", (1000 + 2000 * smooth).astype("uint16"), tmp_path / "data")


def test_evaluate_prints_a_table_and_leaves_every_trial_with_pictures(volpipe, tissue, tmp_path):
    out = tmp_path / "found"
    answer = volpipe("evaluate", "inverse-problem", tissue, "--output", out, "--scores", "knows,nothing", *OPTIONS)
    assert answer.code == 0
    assert answer.out.startswith("inverse problems of ")
    assert "slabs        2 layers of 24 x 24, gaps 0, 1" in answer.out
    lines = [line.split() for line in answer.out.splitlines()]
    assert [line[:4] for line in lines if line[1:2] == ["knows"]] == [
        [gap, "knows", n, "1.000"] for gap, n in (("0", "6"), ("1", "6"), ("all", "12"))
    ]
    assert {path.name for path in out.iterdir()} == {"results.json", "results.txt", "quantiles.png", "scatter.png"}
    found = json.loads((out / "results.json").read_text())
    assert len(found["rows"]) == 2 * 2 * 6
    assert found["settings"]["gaps"] == [0, 1]


def test_a_dry_run_writes_nothing(volpipe, tissue, tree):
    before = tree()
    answer = volpipe("evaluate", "inverse-problem", tissue, "--scores", "knows", *OPTIONS, "--dry-run")
    assert answer.code == 0
    assert "6 a gap, by knows" in answer.out
    assert tree() == before


def test_a_score_that_is_not_known_is_refused_in_one_line(volpipe, tissue):
    answer = volpipe("evaluate", "inverse-problem", tissue, "--scores", "guesses", *OPTIONS)
    assert answer.code == 2
    assert answer.refusal == "ConfigError: scores: 'guesses' is not known; give some of knows, nothing"


def test_without_what_draws_pictures_nothing_is_run(volpipe, tissue, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "volpipe.report.inverse_problem", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    answer = volpipe("evaluate", "inverse-problem", tissue, "--output", tmp_path / "out", "--scores", "knows", *OPTIONS)
    assert answer.code == 2
    assert answer.refusal.startswith("ConfigError: pictures: matplotlib")
    assert answer.refusal.endswith("is missing; pip install 'volpipe[report]'")
    assert not (tmp_path / "out").exists()
    assert volpipe("evaluate", "inverse-problem", tissue, "--scores", "knows", *OPTIONS, "--dry-run").code == 0


def test_an_address_of_a_folder_serves_as_well_as_its_path(volpipe, tissue, tmp_path):
    out = f"file://{tmp_path}/out"
    answer = volpipe("evaluate", "inverse-problem", tissue, "--output", out, "--scores", "knows,nothing", *OPTIONS)
    assert answer.code == 0
    assert f"{out}/scatter.png" in answer.out
    assert (tmp_path / "out" / "scatter.png").exists()


CONSISTENCY = (
    "--width", 32, "--tree-window", 16, "--layers", 2, "--gaps", "0,1", "--trials", 2, "--offsets", 2,
    "--score", "knows", "--max-shift", 0.05, "--serial", "--threads", 1,
)  # fmt: skip


@pytest.fixture
def _wobbling(monkeypatch):
    def pair(upper, lower, **options):
        return PairEstimate(Rigid(0.0, (float(np.nanmean(upper)), 0.0)), 0.9, True)

    monkeypatch.setattr(self_consistency_work, "pair_by", lambda score: pair)


@pytest.fixture
def wide_tissue(write_as, tmp_path):
    noise = np.random.default_rng(0).integers(1000, 9000, (6, 84, 84))
    return write_as("ome-zarr-0.5", noise.astype("uint16"), tmp_path / "wide")


@pytest.mark.usefixtures("_wobbling")
def test_self_consistency_prints_a_table_leaves_pictures_and_has_nothing_to_do_twice(volpipe, wide_tissue, tmp_path):
    out = tmp_path / "found"
    answer = volpipe("evaluate", "self-consistency", wide_tissue, out, *CONSISTENCY)
    assert answer.code == 0
    lines = [line.split() for line in answer.out.splitlines()]
    assert [line[:4] for line in lines if "unshifted" in line[1:2]] == [
        [gap, "unshifted", pairs, pairs] for gap, pairs in (("0", "2"), ("1", "2"), ("all", "4"))
    ]
    names = {"results.json", "results.txt", "scatter.png", "maps.png"}
    assert {path.name for path in out.iterdir()} == names | {"zarr.json"}
    assert all(f"{out}/{name}" in answer.out for name in names)
    again = volpipe("evaluate", "self-consistency", wide_tissue, out, *CONSISTENCY)
    assert "nothing to do: all 4 tasks were done before" in again.out


@pytest.mark.usefixtures("_wobbling")
def test_a_dry_run_of_self_consistency_writes_nothing(volpipe, wide_tissue, tmp_path, tree):
    before = tree()
    answer = volpipe("evaluate", "self-consistency", wide_tissue, tmp_path / "out", *CONSISTENCY, "--dry-run")
    assert answer.code == 0
    assert "2 of each, by knows on 32 x 32: 0,0, 8,8 voxels from the corner" in answer.out
    assert tree() == before
