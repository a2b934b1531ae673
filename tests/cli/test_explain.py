"""`volpipe explain`: the table of layers, the totals, the picture, and what it refuses."""

import json

import pytest
import torch
from matplotlib.image import imread

from volpipe.models.architecture import build_random
from volpipe.models.checkpoint import save_checkpoint
from volpipe.models.normalisation import Normalisation
from volpipe.models.unet import UNetArchitecture

UNET = ("explain", "preset:unet2d_l4_w2", "--shape", 256)


def save(network, path):
    dims = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(network.eval(), (torch.rand(2, 1, 32, 32),), dynamic_shapes=(dims,))
    torch.export.save(program, path)


def row(answer, start):
    (line,) = [line for line in answer.out.splitlines() if line.startswith(start)]
    return line.split()


def test_explain_tells_the_interval_of_every_layer(volpipe):
    answer = volpipe(*UNET, "--block", 64)
    assert answer.code == 0
    assert row(answer, "down.0.first")[1:7] == ["conv2d,", "relu", "51:205", "(each", "axis)", "256"]
    assert row(answer, "bottom.first")[3] == "9:23"
    assert row(answer, "head")[2] == "96:160"
    assert row(answer, "head")[-1] == "0%"
    assert row(answer, "overlap and crop")[-3:] == ["48:208", "(each", "axis)"]
    assert float(row(answer, "ratio")[1]) < 1
    assert answer.err == ""


def test_explain_of_a_block_at_a_face_says_where_it_is_padded(volpipe):
    answer = volpipe(*UNET, "--block", "0:32,200:256")
    assert row(answer, "down.0.second")[3:8] == ["0:76,", "156:256", "256", "(each", "axis)"]
    assert row(answer, "down.0.second")[8:10] == ["y0", "x1"]


def test_explain_tells_programs_too(volpipe):
    told = json.loads(volpipe(*UNET, "--block", 64, "--json").out)
    assert told["block"] == told["layers"][-1]["interval"] == "96:160,96:160"
    assert told["intervals"]["read"] == "50:206,50:206"
    assert told["overlap"]["read"] == "48:208,48:208"
    assert told["intervals"]["flops"] == pytest.approx(sum(layer["flops"] for layer in told["layers"]), rel=0.01)
    assert told["intervals"]["flops"] < told["overlap"]["flops"]


def test_explain_measures_the_footprint_of_a_users_network(volpipe, tmp_path):
    save(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 5, padding=2), torch.nn.ReLU()), tmp_path / "net.pt2")
    told = json.loads(volpipe("explain", tmp_path / "net.pt2", "--shape", 64, "--block", 8, "--json").out)
    assert told["overlap"]["read"] == told["intervals"]["read"] == "26:38,26:38"


def test_explain_draws_the_intervals(volpipe, tmp_path):
    answer = volpipe(*UNET, "--block", 64, "--picture", tmp_path / "drawn.png")
    assert answer.out.splitlines()[-1] == str(tmp_path / "drawn.png")
    assert imread(tmp_path / "drawn.png").shape[0] > 500


def test_explain_takes_the_statistics_of_norms_as_given(volpipe, tmp_path):
    path, architecture = tmp_path / "net.safetensors", UNetArchitecture(2, levels=2, width=2, norm="instance")
    normalisation = Normalisation.identity(1)
    save_checkpoint(path, build_random(architecture, seed=1), architecture, normalisation, None, ["a"], {})
    answer = volpipe("explain", path, "--shape", 256, "--block", 64)
    assert row(answer, "down.0.first")[1:5] == ["conv2d,", "norm,", "relu", "89:167"]
    assert (
        "6 layers see the whole volume: their statistics are taken as given, as passes before find them" in answer.out
    )
    assert "layers see the whole volume" not in volpipe(*UNET, "--block", 64).out


def test_explain_names_the_operation_that_has_no_interval(volpipe, tmp_path):
    save(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.AdaptiveAvgPool2d(2)), tmp_path / "net.pt2")
    answer = volpipe("explain", tmp_path / "net.pt2", "--shape", 32, "--block", 8)
    assert answer.code == 2
    assert "cannot run by intervals: operation aten::adaptive_avg_pool2d of module 1 has" in answer.refusal
    assert answer.refusal.endswith("volpipe probe says how it is tiled")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--shape", "250", "--block", "8"), "give a multiple of 8"),
        (("--shape", "64,64,64", "--block", "8"), "--shape 64,64,64: give 2 numbers above 0, or one for all axes"),
        (("--shape", "64", "--block", "8,8,8"), "--block 8,8,8: give 2 numbers above 0"),
        (("--shape", "64", "--block", "0:8"), "--block 0:8: give 2 ranges"),
        (("--shape", "64", "--block", "eight"), "--block eight: give 2 ranges"),
        (("--shape", "64", "--block", "0:8,60:72"), "give one inside the output of (64, 64)"),
        (("--shape", "64", "--block", "128"), "give one inside the output of (64, 64)"),
    ],
)
def test_explain_refuses_in_one_line(volpipe, words, said):
    answer = volpipe("explain", "preset:unet2d_l4_w2", *words)
    assert answer.code == 2
    assert said in answer.refusal
