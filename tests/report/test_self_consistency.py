"""The table and the pictures of self-consistency: points lie where spread and error are, maps show them in place."""

import json

import numpy as np
import pytest

from volpipe.errors import VolumeError
from volpipe.jobs.self_consistency_work import summaries
from volpipe.report.self_consistency import LEAST, maps_figure, median_trial, report, scatter_figure
from volpipe.report.self_consistency_text import self_consistency_text

CELLS = [[y, x] for y in (-8.0, 8.0) for x in (-8.0, 8.0)]
OFF = {
    0: (0.0, 1.0, 2.0, 3.0),
    1: (5.0, 6.0, 7.0, 8.0),
    2: (3.0, 2.0, 4.0, 4.0),
}  # error of each cell, by pair of slabs


def row(gap, number):
    """The first run is off by OFF in y, the second is right: the spread is OFF / sqrt(2)."""
    wrong = [[error - 2.0, 1.0] for error in OFF[number]]
    truth = {"angle_rad": 0.0, "shift_vox": [2.0, -1.0]}  # lower less upper: (-2, 1)
    return {"gap": gap, "number": number, "block": number, "truth": truth, "moved_vox": [wrong, [[-2.0, 1.0]] * 4]}


@pytest.fixture
def found():
    rows = [row(gap, number) for gap in (1, 4) for number in OFF]
    return {"settings": {"volume": "some.tif"}, "cells_vox": CELLS, "rows": rows, "table": summaries(rows, CELLS)}


def test_points_of_a_scatter_are_spread_and_error_of_every_cell(found):
    figure = scatter_figure(found)
    assert len(figure.axes) == 3
    errors = np.concatenate([OFF[number] for number in OFF])
    named = {"1 layer lost": 1, "4 layers lost": 1, "all gaps together": 2}  # each with as many sets of points
    for panel, (gap, sets) in zip(figure.axes, named.items(), strict=True):
        assert panel.get_title() == f"{gap}\nSpearman 1.00, 95 %: 1.00..1.00"
        assert len(panel.collections) == sets
        for points in (dots.get_offsets() for dots in panel.collections):
            np.testing.assert_allclose(points[:, 1], np.maximum(errors, LEAST))
            np.testing.assert_allclose(points[:, 0], np.maximum(errors / np.sqrt(2), LEAST))
    assert [text.get_text() for text in figure.axes[2].get_legend().get_texts()] == ["1 layer lost", "4 layers lost"]


def test_maps_show_the_pair_of_median_error_with_every_cell_in_its_place(found):
    figure = maps_figure(found)
    shown = {panel.get_title() or panel.get_ylabel(): panel.images[0] for panel in figure.axes if panel.images}
    np.testing.assert_allclose(shown["1 layer lost, pair 2"].get_array(), np.reshape(OFF[2], (2, 2)) / np.sqrt(2))
    np.testing.assert_allclose(shown["error of the unshifted run"].get_array(), np.reshape(OFF[2], (2, 2)))
    assert {image.get_clim() for image in shown.values()} == {(0, 4)}


@pytest.mark.parametrize(("means", "middle"), [([5, 1, 3], 2), ([4, 1, 3, 2], 3), ([7], 0)])
def test_the_median_pair_is_the_lower_of_two(means, middle):
    assert median_trial([{"first": np.full(4, float(mean))} for mean in means]) == middle


def test_the_table_has_two_lines_for_every_gap(found):
    lines = self_consistency_text(found["table"]).splitlines()
    told = [line.split() for line in lines if line.split()[:1] in (["1"], ["4"], ["all"])]
    assert [line[:2] for line in told] == [
        [gap, answer] for gap in ("1", "4", "all") for answer in ("unshifted", "mean")
    ]
    assert told[0][:6] == ["1", "unshifted", "3", "12", "3.5", "7.45"]
    assert max(map(len, lines)) <= 140


def test_what_tells_nothing_is_a_dash():
    rows = [{**row(0, 0), "moved_vox": [[[-2.0, 1.0]] * 4] * 2}]
    line = self_consistency_text(summaries(rows, CELLS)).splitlines()[2].split()
    assert line[-4:] == ["-", "-", "-", "-"]


def test_a_report_writes_beside_the_results(found, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(found))
    text, files = report(f"{tmp_path}/results.json")
    assert (tmp_path / "results.txt").read_text() == f"{text}\n"
    assert files == [f"{tmp_path}/{name}" for name in ("results.json", "results.txt", "scatter.png", "maps.png")]
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")


def test_without_results_one_is_told_what_to_run(tmp_path):
    with pytest.raises(VolumeError, match="first run volpipe evaluate self-consistency"):
        report(f"{tmp_path}/results.json")
