"""References travel, content is checked, and what was given by hand is checked against what is known."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from volpipe.errors import ModelError
from volpipe.models import (
    Normalisation,
    UNetArchitecture,
    load_model,
    resolve_model,
    save_checkpoint,
)

UNET = UNetArchitecture(2, levels=3, width=2)


@pytest.fixture
def checkpoint(tmp_path, random_network):
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, random_network(UNET), UNET, Normalisation.from_range(0, 255), (1, 1), ("x",), {})
    return path


def test_a_reference_is_small_and_travels(checkpoint):
    ref = resolve_model(str(checkpoint), halo=[24], period=[4])
    copy = pickle.loads(pickle.dumps(ref))
    assert copy == ref
    assert hash(copy) == hash(ref)
    assert len(pickle.dumps(ref)) < 1000


def test_a_relative_location_becomes_absolute(checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    assert resolve_model("net.safetensors") == resolve_model(str(checkpoint))


def test_a_model_is_loaded_once_even_by_many_threads(checkpoint, monkeypatch):
    import volpipe.models.checkpoint as home

    ref, calls, load = resolve_model(str(checkpoint)), [], home.load_checkpoint
    monkeypatch.setattr(home, "load_checkpoint", lambda path: (calls.append(path), load(path))[1])
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: load_model(ref), range(8)))
    assert len(calls) == 1
    assert all(model is models[0] for model in models)


def test_a_file_that_changed_since_planning_is_refused(checkpoint, random_network):
    ref = resolve_model(str(checkpoint))
    save_checkpoint(checkpoint, random_network(UNET, seed=7), UNET, Normalisation.identity(1), None, ("x",), {})
    with pytest.raises(ModelError, match="changed since the run was planned"):
        load_model(ref)
    assert resolve_model(str(checkpoint)).sha256 != ref.sha256


def test_a_preset_is_the_same_everywhere_and_told_apart():
    ref = resolve_model("preset:unet2d_l4_w2")
    assert ref.sha256 == resolve_model("preset:unet2d_l4_w2").sha256
    assert ref.sha256 != resolve_model("preset:unet2d_l4_w4").sha256
    model = load_model(ref)
    assert (model.ndim, model.in_channels, model.exactness) == (2, 1, "")
    assert model.network(torch.zeros(1, 1, 8, 16)).shape == (1, 1, 8, 16)


def test_given_scale_and_offset_replace_the_checkpoints(checkpoint):
    kept = load_model(resolve_model(str(checkpoint)))
    assert kept.normalisation == Normalisation.from_range(0, 255)
    given = load_model(resolve_model(str(checkpoint), input_scale=0.5, input_offset=-1))
    assert given.normalisation == Normalisation((0.5,), (-1.0,))


@pytest.mark.parametrize(
    "options", [{"halo": (24,), "period": (4,)}, {"halo": (30, 22), "period": (8, 4)}, {"ndim": 2}]
)
def test_options_that_agree_with_what_is_known_are_accepted(checkpoint, options):
    assert load_model(resolve_model(str(checkpoint), **options)).footprint == UNET.footprint()


@pytest.mark.parametrize(
    ("options", "say"),
    [
        ({"ndim": 3}, "--ndim 3, but it takes 2; leave that out"),
        ({"in_channels": 2}, "--in-channels 2, but it takes 1; leave that out"),
    ],
)
def test_options_that_contradict_what_is_known_are_refused(checkpoint, options, say):
    ref = resolve_model(str(checkpoint), **options)
    with pytest.raises(ModelError, match=say):
        load_model(ref)


@pytest.mark.parametrize(
    ("location", "options", "say"),
    [
        ("net.onnx", {}, "give a .safetensors checkpoint"),
        ("missing.safetensors", {}, "no such file"),
        ("missing.pt2", {}, "no such file"),
        ("preset:resnet", {}, "unknown"),
        ("pkg.mod:make", {}, "--trust-code"),
        ("no_such_module_here:make", {"trust_code": True}, "there is no module"),
        ("preset:unet2d_l4", {"weights": "w.safetensors"}, "--weights goes with"),
        ("preset:unet2d_l4", {"halo": (8,)}, "together"),
        ("preset:unet2d_l4", {"halo": (-1,), "period": (1,)}, "0 or more"),
        ("preset:unet2d_l4", {"halo": (1,), "period": (0,)}, "1 or more"),
        ("preset:unet2d_l4", {"input_scale": 0.0}, "normalisation"),
        ("preset:unet2d_l4", {"input_offset": float("nan")}, "normalisation"),
    ],
)
def test_what_cannot_be_a_model_is_refused_at_once(location, options, say):
    with pytest.raises(ModelError, match=say):
        resolve_model(location, **options)
