"""The benchmark of inverse problems: a score that knows errs by nothing, one that does nothing errs by the truth."""

import json
import math
import pickle
import time
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from volpipe.errors import BudgetError, ConfigError, GeometryError, ProductError, VolumeError
from volpipe.geometry import Rigid
from volpipe.jobs import cut_slabs, inverse_problem_work
from volpipe.jobs.inverse_problem import InverseProblemJob
from volpipe.jobs.inverse_problem_work import InverseProblemWork, by_score, rows_of, summaries
from volpipe.plan import Budget
from volpipe.registration.estimate import PairEstimate
from volpipe.registration.pair import register_pair
from volpipe.registration.trials import TrialOptions, draw
from volpipe.registration.window import SMALLEST

SMALL = {"window": 32, "layers": 2, "gaps": (0, 2), "trials": 7, "scores": ("knows", "nothing")}
SHAPE = (12, 72, 68)
WRONG = Rigid(0.2, (5.0, 0.0))


def knows(trial):
    return PairEstimate(trial.truth, 0.9, True)


def nothing(trial):
    return PairEstimate(Rigid(), 0.2, False)


def at_times(trial):
    """Wrong where the shift in y is negative, and says so."""
    if trial.truth.shift[0] < 0:
        return PairEstimate(trial.truth @ WRONG, 0.3, False)
    return PairEstimate(trial.truth, 0.8, True)


METHODS = {"knows": knows, "nothing": nothing, "at_times": at_times}


@pytest.fixture(autouse=True)
def _known_methods(monkeypatch):
    monkeypatch.setattr(inverse_problem_work, "known_scores", lambda: tuple(METHODS))
    monkeypatch.setattr(inverse_problem_work, "by_score", lambda score, options: METHODS[score])


@pytest.fixture(scope="module")
def tissue():
    noise = np.random.default_rng(0).normal(size=SHAPE)
    return (1000 + 2000 * np.stack([ndimage.gaussian_filter(layer, 1.5) for layer in noise])).astype(np.uint16)


@pytest.fixture
def job(volume, tissue, tmp_path):
    """`job(**fields)` on a small volume."""
    location = volume(tissue)
    return lambda **fields: InverseProblemJob(volume=location, output=str(tmp_path / "out"), **SMALL | fields)


def results(job):
    with open(job.place) as file:
        return json.load(file)


def table_of(job):
    return {(row["gap"], row["score"]): row for row in results(job)["table"]}


def test_a_score_that_knows_the_truth_errs_by_nothing_and_one_that_does_nothing_by_the_truth(job, run_serially):
    made = job()
    plan, receipts = run_serially(made)
    assert plan.count == len(receipts) == 2
    table = table_of(made)
    assert list(table) == [(gap, score) for gap in (0, 2, "all") for score in ("identity", "knows", "nothing")]
    for gap in (0, 2):
        right, idle, identity = (table[gap, name] for name in ("knows", "nothing", "identity"))
        assert (right["n"], right["success"], right["shift_p95"], right["angle_rad_p95"]) == (7, 1, 0, 0)
        errors = {
            name: value for name, value in idle.items() if name.startswith(("shift", "angle", "y_", "x_", "succ"))
        }
        assert errors == {name: identity[name] for name in errors}
        assert identity["shift_mean"] > 0.02
        assert identity["auroc"] is None


def test_every_trial_is_that_of_its_number_and_in_order(job, run_serially, tissue):
    made = job(trials=23)
    plan, _ = run_serially(made)
    assert plan.count == 2 * 3
    rows = results(made)["rows"]
    assert [(row["gap"], row["score"], row["number"]) for row in rows] == [
        (gap, score, number) for gap in (0, 2) for score in ("knows", "nothing") for number in range(23)
    ]
    work = plan.works[inverse_problem_work.NAME]
    intact = inverse_problem_work.intact_of(work.source, work.box, 32)
    for row in rows[:: len(rows) // 7]:
        trial = draw(intact, TrialOptions(row["gap"], 32, 2), row["number"])
        assert inverse_problem_work.motion_of(row["truth"]) == trial.truth
        assert row["block"] == trial.block


def test_what_was_done_in_another_order_is_the_same(job, run_serially):
    made = job(trials=23)
    plan, receipts = run_serially(made)
    before = results(made)
    value = ()
    for receipt in reversed(receipts.values()):
        value = plan.reduce(receipt.value, value)
    made.finish(plan, value)
    assert results(made) == before


def test_confidence_is_set_against_success(job, run_serially):
    made = job(scores=("at_times",), trials=20)
    run_serially(made)
    row = table_of(made)[0, "at_times"]
    shares = [part["truth"]["shift_vox"][0] >= 0 for part in results(made)["rows"][:20]]
    assert 0 < sum(shares) < 20
    assert row["success"] == sum(shares) / 20
    assert row["auroc"] == row["kept"] == 1
    assert row["success_low"] < row["success"] < row["success_high"]


def test_another_seed_is_other_trials_and_the_same_one_the_same(job, run_serially):
    found = []
    for seed in (0, 0, 1):
        made = job(seed=seed)
        run_serially(made)
        found.append([row["truth"] for row in results(made)["rows"]])
    assert found[0] == found[1] != found[2]


def test_a_method_that_computes_costs_and_one_that_waits_does_not(tissue):
    from volpipe.registration.intact import Intact

    trial = draw(Intact.of(tissue, 32), TrialOptions(0, 32, 2), 0)

    def busy(trial):
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass
        return nothing(trial)

    def waiting(trial):
        time.sleep(0.05)
        return nothing(trial)

    cost = {row["score"]: row["cpu_s"] for row in rows_of(trial, 0, {"busy": busy, "waiting": waiting})}
    assert cost["busy"] >= 0.05
    assert cost["waiting"] < 0.02


def test_the_summary_takes_every_scores_own_mean_of_seconds():
    def row(score, number, cpu_s):
        motion = {"angle_rad": 0.0, "shift_vox": [1.0, 0.0]}
        named = {"gap": 1, "score": score, "number": number, "block": number, "confidence": None}
        return named | {"truth": motion, "estimate": motion, "cpu_s": cpu_s}

    found = summaries([row("a", 0, 1.0), row("b", 0, 5.0), row("a", 1, 2.0), row("b", 1, 5.0)], 10)
    assert [(line["score"], line["cpu_s"]) for line in found] == [("identity", 0), ("a", 1.5), ("b", 5)]
    assert found[0]["y_mean"] == 0.1


def test_all_gaps_together_are_what_a_confidence_must_tell_apart():
    def row(gap, error, confidence):
        truth, estimate = ({"angle_rad": 0.0, "shift_vox": [shift, 0.0]} for shift in (0.0, error))
        named = {"gap": gap, "score": "a", "number": 0, "block": gap, "confidence": confidence, "cpu_s": 1.0}
        return named | {"truth": truth, "estimate": estimate}

    found = {
        line["gap"]: line for line in summaries([row(0, 0.0, 0.9), row(4, 50.0, 0.2)], 100) if line["score"] == "a"
    }
    assert list(found) == [0, 4, "all"]
    assert [line["auroc"] for line in found.values()] == [None, None, 1.0]
    assert (found["all"]["n"], found["all"]["success"]) == (2, 0.5)


def test_a_box_is_all_that_is_drawn_from(job, run_serially, tissue, monkeypatch):
    read = []
    monkeypatch.setattr(inverse_problem_work, "_intact", lambda source, box, window: read.append(box))
    monkeypatch.setattr("volpipe.registration.trials.draw", lambda *given: None)
    monkeypatch.setattr(inverse_problem_work, "rows_of", lambda *given: [])
    plan = job(bbox="1:9,0:72,2:68").plan(Budget(2**34))
    plan.works[inverse_problem_work.NAME](0)
    assert [str(box) for box in read] == ["1:9,0:72,2:68"]
    assert plan.price.bytes_read == 8 * 72 * 66 * 2


def test_of_the_volume_the_box_is_made_ready(job):
    work = job(bbox="1:9,0:72,2:68").plan(Budget(2**34)).works[inverse_problem_work.NAME]
    assert inverse_problem_work.intact_of(work.source, work.box, 32).shape == (8, 72, 66)


def test_the_work_travels(job):
    work = job().plan(Budget(2**34)).works[inverse_problem_work.NAME]
    assert isinstance(work, InverseProblemWork)
    assert pickle.loads(pickle.dumps(work)) == work


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"scores": ("knows", "guesses")}, ConfigError, "'guesses' is not known; give some of knows"),
        ({"gaps": (1, 1)}, ConfigError, "gaps: 1,1 has one twice"),
        ({"gaps": (9,)}, VolumeError, "need 13 x"),
        ({"window": 64}, VolumeError, "give narrower slabs"),
        ({"bbox": "0:12,0:80,0:68"}, GeometryError, "reaches outside"),
        ({"bbox": "0:12,0:40,0:68"}, VolumeError, "12 x 40 x 68 voxels; two slabs"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(job, tmp_path, fields, error, said):
    with pytest.raises(error, match=said):
        job(**fields).plan(Budget(2**34))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"gaps": (0, -1)}, "gaps: give layers, 0 or more"),
        ({"window": SMALLEST - 1}, "window: .*16"),
        ({"max_shift": 0.51}, "max_shift: .*0.5"),
        ({"max_angle_rad": 0.8}, "max_angle_rad: .*0.78"),
    ],
)
def test_what_no_score_could_register_is_no_job(job, fields, said):
    with pytest.raises(ConfigError, match=said):
        job(**fields)


def test_the_bounds_of_a_job_are_those_of_register_pair(job):
    window = np.random.default_rng(0).normal(size=(1, SMALLEST, SMALLEST))
    widest = job(window=SMALLEST, max_shift=0.5)
    register_pair(window, window, gap_layers=0, score="ncc", max_shift=widest.max_shift, max_angle_rad=0.1)
    with pytest.raises(GeometryError, match="max_shift"):
        register_pair(window, window, gap_layers=0, score="ncc", max_shift=0.51)


@pytest.mark.parametrize("place", ["", "/out"])
def test_results_touch_no_volume(job, place):
    with pytest.raises(ProductError, match="lies inside the input"):
        job().model_copy(update={"output": f"{job().volume}{place}"}).plan(Budget(2**34))


def test_an_output_that_is_a_file_is_refused(job, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ProductError, match="is a file; give an output in a folder"):
        job().plan(Budget(2**34))
    assert (tmp_path / "out").read_text() == "mine"


def test_a_volume_that_is_too_large_to_read_whole_is_refused(job, monkeypatch):
    with pytest.raises(BudgetError, match="give a part with --bbox"):
        job().plan(Budget(2**29))
    monkeypatch.setattr(cut_slabs, "MOST_VOXELS", math.prod(SHAPE) - 1)
    with pytest.raises(VolumeError, match=r"read whole.*--bbox"):
        job().plan(Budget(2**34))


def test_several_channels_need_a_pick(volume, tissue):
    location = volume(np.stack([tissue, tissue]), name="two.ome.zarr")
    with pytest.raises(VolumeError, match="2 channels; pick one"):
        InverseProblemJob(volume=location, **SMALL).plan(Budget(2**34))
    assert InverseProblemJob(volume=location, channel=1, **SMALL).plan(Budget(2**34)).count == 2


def test_voxels_that_are_not_finite_are_refused(volume, tissue):
    holes = tissue.astype(np.float32)
    holes[3, 4, 5] = np.nan
    plan = InverseProblemJob(volume=volume(holes, name="nan.ome.zarr"), **SMALL).plan(Budget(2**34))
    with pytest.raises(VolumeError, match="not finite"):
        plan.works[inverse_problem_work.NAME](0)


@pytest.mark.parametrize(("score", "carried"), [("likelihood", True), ("ncc", False), ("mutual-information", False)])
def test_the_likelihood_alone_is_shown_slabs_that_are_carried(monkeypatch, score, carried):
    told = []
    monkeypatch.setattr("volpipe.registration.pair.register_pair", lambda *_, **how: told.append(how))
    trial = SimpleNamespace(upper=None, lower=None, gap_layers=2)
    by_score(score, TrialOptions(gap_layers=2))(trial)
    assert [(how["score"], how["carry"], how["gap_layers"]) for how in told] == [(score, carried, 2)]
