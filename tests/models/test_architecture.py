"""Networks as built: sizes they take and refuse, round trip of their numbers, presets."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from volpipe.errors import ModelError
from volpipe.models import GeneratorArchitecture, UNetArchitecture, preset, preset_names
from volpipe.models.architecture import build_random, from_json, to_json

UNET = UNetArchitecture(3, levels=3, width=2, in_channels=2, out_channels=3)
GENERATOR = GeneratorArchitecture(2, blocks=2, width=2, in_channels=2)


@pytest.mark.parametrize("name", preset_names())
def test_an_architecture_is_its_json(name):
    architecture = preset(name)
    assert from_json(json.loads(json.dumps(to_json(architecture)))) == architecture


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_can_be_tiled_exactly(name):
    assert preset(name).exactness() == ""


def test_a_preset_takes_changes_by_name_or_field():
    assert preset("unet3d_l4_w8") == preset("unet3d_l4", width=8) == replace(preset("unet3d_l4"), width=8)
    assert preset("resnet9_2d", norm="instance").exactness()


@pytest.mark.parametrize(
    ("name", "changes", "say"),
    [("unet4d", {}, "unet3d_l4"), ("", {}, "unknown"), ("unet3d_l4", {"colour": 1}, "colour")],
)
def test_an_unknown_preset_or_field_is_named(name, changes, say):
    with pytest.raises(ModelError, match=say):
        preset(name, **changes)


@pytest.mark.parametrize(
    "data", [{"kind": "vit"}, {}, {"kind": "unet", "levels": 2}, {"kind": "unet", "ndim": 2, "depth": 3}]
)
def test_json_of_no_architecture_is_refused(data):
    with pytest.raises(ModelError, match="architecture"):
        from_json(data)


def test_equal_seeds_give_equal_weights_and_leave_torchs_generator_alone():
    torch.manual_seed(5)
    first = build_random(UNET, 0).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    second, other = build_random(UNET, 0).state_dict(), build_random(UNET, 1).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("upsampling", ["nearest", "transposed", "bilinear"])
@pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax", "tanh"])
def test_outputs_stay_in_the_declared_range(padding, upsampling, activation, random_network, random_image):
    architecture = replace(UNET, padding=padding, upsampling=upsampling, activation=activation)
    result = random_network(architecture)(random_image(1, 2, 44, 44, 48))
    assert result.shape[1] == 3
    low, high = architecture.output_range or (-float("inf"), float("inf"))
    assert low <= result.min()
    assert result.max() <= high
    if activation == "softmax":
        assert torch.allclose(result.sum(1), torch.ones(()).double())


@pytest.mark.parametrize(
    ("architecture", "shape", "say"),
    [
        (UNET, (8, 8, 10), "10 voxels along x; give a multiple of 4, at least 4, such as 12"),
        (replace(UNET, pooling=((1, 2, 2), (1, 3, 2))), (5, 8, 8), "8 voxels along y; give a multiple of 6"),
        (
            replace(UNET, levels=4, padding="valid"),
            (100, 93, 92),
            "93 voxels along y; give a multiple of 8 plus 4, at least 92",
        ),
        (replace(UNET, padding="valid"), (40, 44, 44), "40 voxels along z; give a multiple of 4, at least 44"),
        (GENERATOR, (8, 4), "4 voxels along x; give a multiple of 4, at least 8"),
        (GENERATOR, (9, 8), "9 voxels along y"),
    ],
)
def test_a_length_that_does_not_fit_is_refused_by_name(architecture, shape, say):
    with torch.device("meta"):
        network, image = architecture.build(), torch.empty(1, 2, *shape)
    with pytest.raises(ModelError, match=say):
        network(image)


def test_the_smallest_length_named_is_taken(random_network, random_image):
    assert random_network(GENERATOR)(random_image(1, 2, 8, 8)).shape == (1, 1, 8, 8)
    valid = replace(UNET, padding="valid")
    assert random_network(valid)(random_image(1, 2, 44, 44, 44)).shape == (1, 3, 4, 4, 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: UNetArchitecture(4, levels=2),
        lambda: UNetArchitecture(2, levels=0),
        lambda: UNetArchitecture(2, levels=3, pooling=((2, 2),)),
        lambda: UNetArchitecture(3, levels=2, pooling=((2, 2),)),
        lambda: UNetArchitecture(2, levels=2, padding="valid", downsampling="strided"),
        lambda: UNetArchitecture(2, levels=2, upsampling="cubic"),
        lambda: UNetArchitecture(2, levels=2, norm="layer"),
        lambda: UNetArchitecture(2, levels=2, padding="reflect"),
        lambda: GeneratorArchitecture(1),
        lambda: GeneratorArchitecture(2, padding="valid"),
        lambda: GeneratorArchitecture(2, activation="relu"),
    ],
)
def test_numbers_and_words_that_make_no_network_are_refused(make):
    with pytest.raises(ModelError, match=r"unet|generator"):
        make()


def test_the_package_is_imported_without_torch():
    code = (
        "import sys, volpipe.models as m; m.ModelRef, m.Normalisation, m.resolve_model; "
        "assert 'torch' not in sys.modules; m.UNetArchitecture; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("blocks", [6, 9])
def test_random_weights_do_not_saturate_the_output(blocks, random_network, random_image):
    architecture = GeneratorArchitecture(2, blocks=blocks, width=4)
    result = random_network(architecture)(random_image(1, 1, 32, 32))
    assert result.std() > 0.1
    assert (result.abs() > 0.99).double().mean() < 0.5
