"""The table and the pictures of inverse problems: points lie where the errors are, curves count trials."""

import json
import math

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from volpipe.errors import VolumeError
from volpipe.jobs.inverse_problem_work import summaries
from volpipe.report.inverse_problem import IDENTITY_COLOUR, LEAST_SHIFT, quantiles_figure, report, scatter_figure
from volpipe.report.inverse_problem_text import inverse_problem_text

WIDTH = 100
ERRORS = {"one": (0.5, 0.0, 30.0), "other": (1.0, 4.0, 0.2)}  # of the shift in y, voxels, by trial


def row(gap, score, number):
    def motion(angle, y, x):
        return {"angle_rad": angle, "shift_vox": [y, x]}

    said = {"confidence": 0.5, "accepted": True, "cpu_s": 0.1}
    named = {"gap": gap, "score": score, "number": number, "block": number}
    return named | {"truth": motion(0.05, 3, 4), "estimate": motion(0.05, 3 + ERRORS[score][number], 4)} | said


@pytest.fixture
def rows():
    return [row(gap, score, number) for gap in (1, 4) for number in range(3) for score in ERRORS]


def test_points_of_a_scatter_are_the_errors_of_both_scores_on_one_trial(rows):
    mixed = [row for row in rows[::-1] if row["score"] == "other"] + [row for row in rows if row["score"] == "one"]
    figure = scatter_figure(mixed, WIDTH)  # whatever the order of the rows
    assert len(figure.axes) == 2
    for panel in figure.axes:
        points = {tuple(point) for dots in panel.collections for point in dots.get_offsets().tolist()}
        x, y = ((max(error / WIDTH, LEAST_SHIFT) for error in ERRORS[name]) for name in ("other", "one"))
        assert {(round(a, 9), round(b, 9)) for a, b in points} == {
            (round(a, 9), round(b, 9)) for a, b in zip(x, y, strict=True)
        }
        assert (panel.get_xlabel(), panel.get_xscale(), panel.get_yscale()) == ("other", "log", "log")
        told = [text.get_text() for text in panel.get_legend().get_texts()]
        assert told == ["both right 1", "one right 2", "none right 0"]


def test_a_curve_is_the_share_of_trials_that_err_by_less(rows):
    figure = quantiles_figure(rows, WIDTH)
    shift = figure.axes[0]
    curves = {line.get_label(): line for line in shift.lines if not line.get_label().startswith("_")}
    assert list(curves) == ["identity", "one", "other"]
    np.testing.assert_allclose(curves["one"].get_xdata(), [LEAST_SHIFT, 0.005, 0.3])
    np.testing.assert_allclose(curves["one"].get_ydata(), [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(curves["identity"].get_xdata(), [0.05] * 3)
    assert to_rgba(curves["identity"].get_color()) == to_rgba(IDENTITY_COLOUR)
    assert [panel.get_title() for panel in figure.axes[:2]] == ["1 layer lost", "4 layers lost"]


def test_the_table_has_a_line_for_every_gap_and_score(rows):
    lines = inverse_problem_text(summaries(rows, WIDTH)).splitlines()
    cells = [line.split() for line in lines[2:8]]
    assert [(line[0], line[1]) for line in cells] == [(g, s) for g in "14" for s in ("identity", "one", "other")]
    one = cells[1]
    assert one[2:4] == ["3", "0.667"]
    assert float(one[7]) == pytest.approx(30.5 / 3 / WIDTH, rel=0.01)
    assert max(map(len, lines)) <= 140
    assert math.isclose(float(one[-1]), 0.1)


@pytest.mark.parametrize("scores", [("one",), ("one", "other")])
def test_a_report_stands_beside_the_results(tmp_path, rows, scores):
    mine = [row for row in rows if row["score"] in scores]
    found = {"settings": {"window": WIDTH, "volume": "v"}, "table": summaries(mine, WIDTH), "rows": mine}
    (tmp_path / "results.json").write_text(json.dumps(found))
    text, files = report(str(tmp_path / "results.json"))
    assert (tmp_path / "results.txt").read_text() == text + "\n"
    assert sorted(str(path) for path in tmp_path.iterdir()) == sorted(files)
    assert len(files) == 2 + len(scores)


def test_what_an_axis_shows_stands_at_that_axis(rows):
    quantiles = quantiles_figure(rows, WIDTH).axes
    assert [panel.get_xlabel() for panel in quantiles] == ["error in shift, of the width"] * 2 + [
        "error in angle, rad"
    ] * 2
    assert {quantiles[0].get_ylabel(), quantiles[2].get_ylabel()} == {"share of trials that err by less"}


def test_a_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(VolumeError, match="no results are there"):
        report(str(tmp_path / "results.json"))
