"""The structure of a network's file: trained anew it is the same, and nothing else is; a shared answer is tested."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from volpipe.geometry import AxisFootprint
from volpipe.models import load_model, resolve_model
from volpipe.models import measured as remembering
from volpipe.models.measured import measured
from volpipe.models.structure import structure

AUTO = torch.export.Dim.AUTO


class Blurred(nn.Module):
    """A fixed kernel as a buffer, a factor as an attribute, trained weights, running statistics, sizes from lengths."""

    def __init__(self, *, kernel=3, blur=1.0, factor=2, slope=0.1, function=None, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Conv2d(1, 4, kernel, padding=kernel // 2), nn.Conv2d(4, 1, 1)
        self.norm, self.gate = nn.BatchNorm2d(4), nn.Parameter(torch.rand(1))
        self.norm.running_mean.uniform_()
        self.register_buffer("blur", blur * torch.ones(4, 1, 3, 3))
        self.factor: int = factor
        self.slope: float = slope

    def forward(self, image):
        x = F.conv2d(self.norm(self.first(image)), self.blur, padding=1, groups=4, stride=2)
        x = F.leaky_relu(F.max_pool2d(x, self.factor), self.slope)
        x = F.interpolate(x, size=[image.shape[2], image.shape[3]], mode="bilinear")
        return self.last(x) * self.gate


def exported(network, path, **lengths):
    spec = {0: AUTO, 2: AUTO, 3: AUTO, **lengths.get("dims", {})}
    torch.export.save(torch.export.export(network, (torch.rand(2, 1, 32, 32),), dynamic_shapes=(spec,)), path)


def scripted(network, path):
    torch.jit.script(network).save(path)


def traced(network, path):
    torch.jit.trace(network, torch.rand(1, 1, 32, 32)).save(path)


SAVERS = {".pt2": exported, ".ts": scripted, ".pt": traced}
ALL = pytest.mark.parametrize("suffix", SAVERS)


@pytest.fixture
def saved(tmp_path):
    def save(network, suffix, name="net", **how):
        path = tmp_path / f"{name}{suffix}"
        SAVERS[suffix](network.eval(), str(path), **how)
        return resolve_model(str(path), ndim=2, in_channels=1)

    return save


def key(ref):
    return structure(ref, load_model(ref).network)


@ALL
def test_a_network_trained_anew_has_the_same_structure(saved, suffix):
    one, other = (saved(Blurred(seed=seed), suffix, f"net{seed}") for seed in (1, 2))
    assert one.sha256 != other.sha256
    assert key(one) == key(other) is not None


@ALL
@pytest.mark.parametrize("change", [{"kernel": 5}, {"blur": 2.0}, {"factor": 4}, {"slope": 0.2}], ids=str)
def test_another_number_or_buffer_is_another_structure(saved, suffix, change):
    assert key(saved(Blurred(), suffix, "one")) != key(saved(Blurred(**change), suffix, "other"))


def test_other_lengths_are_another_structure(saved):
    multiple = 4 * torch.export.Dim("quarter", min=2, max=64)
    one = saved(Blurred(), ".pt2", "one")
    other = saved(Blurred(), ".pt2", "other", dims={3: multiple})
    assert key(one) != key(other) is not None


class Choosing(nn.Module):
    """What it reads depends on the value of a weight."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.weight, self.how = nn.Conv2d(1, 1, 3, padding=1), nn.Parameter(torch.rand(4)), how

    def forward(self, image):
        near, far = self.conv(image), F.interpolate(F.max_pool2d(image, 4), scale_factor=4.0)
        if self.how == "where":
            return torch.where(self.weight[0] > 0.5, near, far)
        if self.how == "mask":
            return near * (self.weight[0] > 0.5) + far * (self.weight[0] <= 0.5)
        if self.how == "index":
            return torch.stack([near, far])[self.weight.argmax() % 2]
        if self.how == "power":
            return near + far ** self.weight[0]
        if self.how == "whole":
            return near + far * self.weight[0].to(torch.int64)
        return near + far * self.weight[0].round()


@pytest.mark.parametrize("how", ["where", "mask", "index", "power", "whole", "round"])
@pytest.mark.parametrize("suffix", [".pt2", ".pt"])
def test_a_network_in_which_weights_choose_has_no_structure_to_share(saved, suffix, how):
    assert key(saved(Choosing(how), suffix)) is None


class Chosen(nn.Module):
    """A weight becomes a number of its program."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))

    def forward(self, image):
        return F.avg_pool2d(image, int(self.weight), stride=1, padding=1)


def test_a_script_that_makes_numbers_of_weights_has_no_structure_to_share(saved):
    assert key(saved(Chosen(), ".ts")) is None


@pytest.fixture
def probed(monkeypatch, tmp_path):
    """How often networks were probed, and their shared answers tested."""
    counts = {"probe": 0, "holds": 0}

    def counted(name, function):
        def call(*args):
            counts[name] += 1
            return function(*args)

        return call

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in counts:
        monkeypatch.setattr(remembering, name, counted(name, getattr(remembering, name)))
    return counts


def asked(ref):
    return measured(ref, load_model(ref))


@ALL
def test_a_network_trained_anew_is_tested_and_not_probed_again(saved, probed, suffix):
    first = asked(saved(Blurred(seed=1), suffix, "net1"))
    assert {replace(axis, smallest=1) for axis in first.footprint.axes} == {AxisFootprint(6, 5, 4)}
    assert probed == {"probe": 1, "holds": 0}
    again = saved(Blurred(seed=2), suffix, "net2")
    for _ in range(2):
        assert asked(again).footprint == first.footprint
        assert probed == {"probe": 1, "holds": 1}
    asked(saved(Blurred(kernel=5), suffix, "net3"))
    assert probed == {"probe": 2, "holds": 1}


def test_an_answer_that_fails_its_test_is_not_shared(saved, probed, monkeypatch):
    asked(saved(Blurred(seed=1), ".pt2", "net1"))
    monkeypatch.setattr(remembering, "holds", lambda *_: False)
    asked(saved(Blurred(seed=2), ".pt2", "net2"))
    assert probed["probe"] == 2


def test_a_refusal_is_remembered_for_its_file_alone(saved, probed):
    def normed(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4))

    one, other = (saved(normed(seed), ".pt2", f"net{seed}") for seed in (1, 2))
    assert key(one) == key(other) is not None
    for ref in (one, other, one):
        assert "module 1: GroupNorm, operation group_norm" in asked(ref).refusal
    assert probed == {"probe": 2, "holds": 0}


def test_a_factory_is_remembered_by_the_process_alone(probed, tmp_path, monkeypatch):
    (tmp_path / "plain_factory.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Upsample(scale_factor=1.0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(remembering, "_FOUND", {})
    ref = resolve_model("plain_factory:make", trust_code=True, ndim=2, in_channels=1)
    asked(ref), asked(replace(ref, halo=(1,), period=(1,)))
    assert probed["probe"] == 1
    monkeypatch.setattr(remembering, "_FOUND", {})  # as in another process
    asked(ref)
    assert probed["probe"] == 2
