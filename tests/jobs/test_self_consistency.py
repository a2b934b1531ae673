"""The benchmark of self-consistency, by pairs that are made up: what is stored, what is counted, what goes on."""

import json
import pickle

import numpy as np
import pytest
from warp_scene import SERIAL

from volpipe.errors import BlocksFailed, BudgetError, ConfigError, GeometryError, ProductError, VolumeError
from volpipe.geometry import Rigid
from volpipe.jobs import self_consistency_work
from volpipe.jobs.inverse_problem_work import motion_of
from volpipe.jobs.self_consistency import SelfConsistencyJob
from volpipe.plan import Budget
from volpipe.registration.consistency import true_displacements
from volpipe.registration.estimate import PairEstimate
from volpipe.registration.trials import TrialOptions, draw
from volpipe.runtime.run import run

SMALL = {"width": 64, "tree_window": 16, "layers": 2, "gaps": (0, 2), "trials": 3, "offsets": 2, "score": "ncc"}
SHAPE = (10, 124, 122)


def nothing(upper, lower, **options):
    return PairEstimate(Rigid(), 0.2, False)


def wobbling(upper, lower, **options):
    """Whole slabs lie anywhere; nodes follow."""
    if upper.shape[-1] != 64:
        return PairEstimate(options["around"], 0.2, False)
    y, x = np.random.default_rng(int(1e6 * abs(float(upper[0, 0, 0])))).normal(size=2)
    return PairEstimate(Rigid(0.0, (float(y), float(x))), 0.2, False)


@pytest.fixture(autouse=True)
def _pair(monkeypatch):
    monkeypatch.setattr(self_consistency_work, "pair_by", lambda score: wobbling)


@pytest.fixture(scope="module")
def tissue():
    return np.random.default_rng(0).integers(1000, 9000, SHAPE).astype(np.uint16)


@pytest.fixture
def job(volume, tissue, tmp_path):
    """`job(**fields)` on a small volume."""
    location = volume(tissue)
    return lambda **fields: SelfConsistencyJob(volume=location, **{"output": str(tmp_path / "out")} | SMALL | fields)


def results(job):
    with open(job.place) as file:
        return json.load(file)


def quietly(job, **options):
    return run(job, SERIAL, progress=None, **options)


def test_every_pair_of_slabs_is_that_of_its_number_and_stored_with_what_every_run_said(job, run_serially):
    made = job()
    plan, receipts = run_serially(made)
    assert plan.count == len(receipts) == 6
    found = results(made)
    assert found["offsets_vox"] == [[0, 0], [8, 8]]
    assert [(row["gap"], row["number"]) for row in found["rows"]] == [(gap, n) for gap in (0, 2) for n in range(3)]
    work = plan.works[self_consistency_work.NAME]
    intact = self_consistency_work.intact_of(work.source, work.box, 80)
    for row in found["rows"]:
        trial = draw(intact, TrialOptions(row["gap"], 80, 2, 0.1 * 64 / 80), row["number"])
        assert (motion_of(row["truth"]), row["block"]) == (trial.truth, trial.block)
        moved = work.reruns(row["gap"]).displacements(trial.upper, trial.lower)
        np.testing.assert_allclose(row["moved_vox"], moved, atol=1e-4)
        assert moved.shape == (2, len(found["cells_vox"]), 2) == (2, 9, 2)


def test_one_that_does_nothing_agrees_with_itself_and_errs_by_the_truth(job, run_serially, monkeypatch):
    monkeypatch.setattr(self_consistency_work, "pair_by", lambda score: nothing)
    made = job()
    run_serially(made)
    found = results(made)
    for line in found["table"]:
        mine = [row for row in found["rows"] if line["gap"] in (row["gap"], "all")]
        true = [true_displacements(motion_of(row["truth"]), np.array(found["cells_vox"])) for row in mine]
        assert line["error_mean"] == pytest.approx(np.hypot(*np.concatenate(true).T).mean(), abs=1e-3)
        assert (line["spread_median"], line["spearman"], line["n"]) == (0, None, 9 * len(mine))


def test_the_table_has_both_answers_of_every_gap_and_of_all_together(job, run_serially):
    made = job()
    run_serially(made)
    table, rows = results(made)["table"], results(made)["rows"]
    assert [(line["gap"], line["answer"]) for line in table] == [
        (gap, answer) for gap in (0, 2, "all") for answer in ("first", "mean")
    ]
    moved = np.array([row["moved_vox"] for row in rows if row["gap"] == 2])
    half = (moved[:, 0] - moved[:, 1]) / np.sqrt(2)  # of two runs the variance is half their difference squared
    assert table[2]["spread_median"] == pytest.approx(np.median(np.hypot(half[..., 0], half[..., 1])), abs=1e-3)
    cells = np.array(results(made)["cells_vox"])
    true = np.array([true_displacements(motion_of(row["truth"]), cells) for row in rows if row["gap"] == 2])
    for line, answer in ((table[2], moved[:, 0]), (table[3], moved.mean(axis=1))):
        assert line["error_mean"] == pytest.approx(np.linalg.norm(answer - true, axis=-1).mean(), abs=1e-6)


def test_the_prior_holds_every_motion_of_every_run(job):
    work = job(width=32, max_angle_rad=0.4).plan(Budget(2**34)).works[self_consistency_work.NAME]
    reruns, worst = work.reruns(0), Rigid(0.4, (3.2, -3.2))
    for centre in (-8.0, 8.0):  # of runs of the first and the last offset
        assert np.abs(worst.about((centre, -centre)).shift).max() <= 32 * reruns.max_shift
    assert reruns.max_shift == pytest.approx(0.1 + 0.4 * 16 / 32)
    work = job(width=32, max_shift=0.49).plan(Budget(2**34)).works[self_consistency_work.NAME]
    assert work.reruns(0).max_shift == 0.5  # the most that register_pair takes


def test_a_run_that_was_broken_off_does_what_is_missing_and_ends_the_same(job, tmp_path, monkeypatch):
    few = {"gaps": (0,), "trials": 3}
    whole = job(output=str(tmp_path / "whole"), **few)
    quietly(whole)
    seen = []

    def breaks(upper, lower, **options):
        if upper.shape[-1] == 64:
            seen.append(upper)
            if len(seen) == 3:  # the first run of the second pair of slabs
                raise GeometryError("on purpose")
        return wobbling(upper, lower, **options)

    made = job(**few)
    monkeypatch.setattr(self_consistency_work, "pair_by", lambda score: breaks)
    with pytest.raises(BlocksFailed, match="1 of 3 tasks are not done"):
        quietly(made)
    before = len(seen)
    assert (quietly(made).done, len(seen) - before) == (1, 2)
    assert quietly(made).text() == "nothing to do: all 3 tasks were done before"
    assert {name: part for name, part in results(made).items() if name != "settings"} == {
        name: part for name, part in results(whole).items() if name != "settings"
    }


def test_another_question_is_not_answered_at_the_same_place(job):
    few = {"gaps": (0,), "trials": 1}
    quietly(job(**few))
    with pytest.raises(ProductError, match="was begun with something else"):
        quietly(job(offsets=3, **few))
    assert len(results(job())["offsets_vox"]) == 2
    quietly(job(offsets=3, **few), restart=True)
    assert len(results(job())["offsets_vox"]) == 3


def test_the_work_travels(job):
    work = job().plan(Budget(2**34)).works[self_consistency_work.NAME]
    assert pickle.loads(pickle.dumps(work)) == work


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"score": "guesses"}, ConfigError, "score: 'guesses' is not known; give some of likelihood"),
        ({"gaps": (1, 1)}, ConfigError, "gaps: 1,1 has one twice"),
        ({"score": "likelihood", "layers": 1}, ConfigError, "layers: 1; the likelihood needs two"),
        ({"gaps": (9,)}, VolumeError, "need 13 x"),
        ({"width": 48}, GeometryError, "width of 48 voxels for windows of 16; give the window times 2, 4, 8"),
        ({"width": 128}, VolumeError, "give narrower slabs"),
        ({"bbox": "0:10,0:130,0:68"}, GeometryError, "reaches outside"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(job, tmp_path, fields, error, said):
    with pytest.raises(error, match=said):
        quietly(job(**fields))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("place", "said"), [("", "lies inside the input"), ("/out", "lies inside the input"), ("/..", "lies inside it")]
)
def test_results_touch_no_volume(job, place, said):
    output = f"{job().volume}{place}"
    with pytest.raises(ProductError, match=said):
        quietly(job(output=output), restart=True)


@pytest.mark.parametrize(("fields", "said"), [({"offsets": 1}, "offsets: .*2"), ({"tree_window": 15}, "tree_window")])
def test_what_is_no_number_of_a_tree_is_no_job(job, fields, said):
    with pytest.raises(ConfigError, match=said):
        job(**fields)


def test_a_volume_that_does_not_fit_a_worker_is_refused(job):
    with pytest.raises(BudgetError, match="self-consistency: a volume of 10 x 124 x 122"):
        job().plan(Budget(2**28))
