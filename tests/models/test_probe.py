"""The probe: closed forms and known rows are found by running, what cannot be tiled is refused by name."""

import re
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import nn

from volpipe.geometry import AxisFootprint
from volpipe.models import probe as probing
from volpipe.models.architecture import build_random
from volpipe.models.presets import preset
from volpipe.models.probe import probe
from volpipe.models.trial import Refused, Trial


def of(network, ndim=2, channels=1):
    return probe(network.eval(), ndim, channels)


OURS = {
    "U-Net L3": ("unet2d_l4", {"levels": 3}),
    "U-Net L4": ("unet2d_l4", {}),
    "U-Net L4 nearest": ("unet2d_l4", {"upsampling": "nearest"}),
    "U-Net L3 bilinear": ("unet2d_l4", {"levels": 3, "upsampling": "bilinear"}),
    "U-Net L4 strided": ("unet2d_l4", {"downsampling": "strided"}),
    "U-Net L3 pooled by 3": ("unet2d_l4", {"levels": 3, "pooling": ((3, 3), (3, 3))}),
    "U-Net L3 valid": ("unet2d_l4_valid", {"levels": 3}),
    "U-Net L4 valid": ("unet2d_l4_valid", {}),
    "U-Net L3 valid bilinear": ("unet2d_l4_valid", {"levels": 3, "upsampling": "bilinear"}),
    "ResNet-6": ("resnet6_2d", {}),
    "ResNet-6 nearest": ("resnet6_2d", {"upsampling": "nearest"}),
    "ResNet-6 bilinear": ("resnet6_2d", {"upsampling": "bilinear"}),
    "U-Net L3 3D": ("unet3d_l3", {}),
    "U-Net L4 3D anisotropic": ("unet3d_l4_aniso", {}),
}


@pytest.mark.parametrize("name", OURS)
def test_our_closed_forms_are_found(name):
    preset_name, changes = OURS[name]
    architecture = preset(preset_name, width=2, **changes)
    found = of(build_random(architecture, seed=1), architecture.ndim)
    assert found.refusal == ""
    assert found.footprint == architecture.footprint()


class Pix2pix(nn.Module):
    """The U-Net of pix2pix with `depth` strided convolutions down and up."""

    def __init__(self, depth, width=2):
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(width if i else 1, width, 4, 2, 1) for i in range(depth))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(width if i == depth - 1 else 2 * width, width if i else 1, 4, 2, 1) for i in range(depth)
        )

    def forward(self, image):
        skips = []
        for down in self.down:
            image = nn.functional.leaky_relu(down(image), 0.2)
            skips.append(image)
        skips.pop()
        for up in reversed(self.up):
            image = up(image)
            image = torch.cat([image, skips.pop()], 1) if skips else image
        return image


@pytest.mark.parametrize("depth", [4, 5, 6, 7])
def test_pix2pix(depth):
    reach = 2 ** (depth + 1) - 1
    assert set(of(Pix2pix(depth)).footprint.axes) == {AxisFootprint(reach, reach, 2**depth)}


def test_a_network_that_changes_resolution():
    """PatchGAN's discriminator: 8 voxels in, 1 out."""
    layers = [nn.Conv2d(1 if i == 0 else 2, 2, 4, 2 if i < 3 else 1, 1) for i in range(5)]
    found = of(nn.Sequential(*(part for conv in layers for part in (conv, nn.LeakyReLU(0.2)))))
    assert found.scale == (Fraction(1, 8),) * 2
    assert {(a.need_before, a.need_after, a.period) for a in found.footprint.axes} == {(23, 39, 8)}


class Shuffled(nn.Module):
    """A layer norm over channels, and a pixel shuffle."""

    def __init__(self):
        super().__init__()
        self.down, self.norm = nn.Conv2d(1, 8, 2, stride=2), nn.LayerNorm(8)
        self.up, self.shuffle = nn.Conv2d(8, 4, 3, padding=1), nn.PixelShuffle(2)

    def forward(self, image):
        return self.shuffle(self.up(self.norm(self.down(image).movedim(1, -1)).movedim(-1, 1)))


class Windows(nn.Module):
    """Attention within windows of 4 x 4."""

    def __init__(self):
        super().__init__()
        self.embed, self.attention = nn.Conv2d(1, 8, 1), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, image):
        x = self.embed(image)
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        x = self.attention(x, x, x, need_weights=False)[0]
        return x.reshape(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)


TILEABLE = {
    "one convolution": (nn.Conv2d(1, 2, 3, padding=1), AxisFootprint(1, 1, 1)),
    "batch norm": (nn.Sequential(nn.Conv2d(1, 2, 5, padding=2), nn.BatchNorm2d(2)), AxisFootprint(2, 2, 1)),
    "instance norm with running statistics": (
        nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.InstanceNorm2d(2, track_running_stats=True)),
        AxisFootprint(1, 1, 1),
    ),
    "layer norm over channels, pixel shuffle": (Shuffled(), AxisFootprint(2, 2, 2)),
    "window attention": (Windows(), AxisFootprint(0, 0, 4)),
}


@pytest.mark.parametrize("name", TILEABLE)
def test_what_can_be_tiled_is_found(name):
    network, footprint = TILEABLE[name]
    found = of(network)
    assert found.refusal == ""
    assert set(found.footprint.axes) == {footprint}


class Excited(nn.Module):
    """Squeeze and excite."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.gate = nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1)

    def forward(self, image):
        image = self.conv(image)
        return image * self.gate(self.pool(image)).sigmoid()


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, image):
        return nn.functional.dropout(self.conv(image), 0.5, training=True)


class Labels(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, image):
        return self.conv(image).argmax(1, keepdim=True)


class Attending(Windows):
    """Attention over the whole image."""

    def forward(self, image):
        x = self.embed(image)
        tokens = x.flatten(2).movedim(1, 2)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].movedim(2, 1).reshape(x.shape)


def normed(norm):
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), norm)


UNTILEABLE = {
    "instance norm": (normed(nn.InstanceNorm2d(4)), "module 1: InstanceNorm2d"),
    "group norm": (normed(nn.GroupNorm(2, 4)), "module 1: GroupNorm"),
    "squeeze and excite": (Excited(), "module pool: AdaptiveAvgPool2d"),
    "attention": (Attending(), "module attention: MultiheadAttention"),
    "align_corners": (
        nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(1, 2, 3, padding=1), nn.Upsample(scale_factor=2, mode="bilinear",
                                                                                  align_corners=True)),
        "module 2: Upsample",
    ),
    "labels": (Labels(), "labels .*return scores"),
    "dropout": (Dropped(), "gives two results"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNTILEABLE)
def test_what_cannot_be_tiled_is_refused_by_name(name):
    network, named = UNTILEABLE[name]
    found = of(network)
    assert found.footprint is None
    assert re.search(named, found.refusal), found.refusal


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("side", ["need_before", "need_after"])
def test_the_self_test_refuses_a_need_one_period_short(axis, side):
    architecture = preset("unet2d_l4", levels=3, width=2)
    trial = Trial(build_random(architecture, seed=1).eval(), 2, 1)
    right = architecture.footprint().axes[axis]
    probing.require_tiled_equals_whole(trial, axis, right, Fraction(1))
    wrong = replace(right, **{side: getattr(right, side) - right.period})
    with pytest.raises(Refused, match="self-test"):
        probing.require_tiled_equals_whole(trial, axis, wrong, Fraction(1))


def test_the_network_is_left_as_it_is():
    network = build_random(preset("unet2d_l4", levels=2, width=2), seed=1).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    of(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert next(network.parameters()).dtype == torch.float32


def test_a_script_is_probed():
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 5, padding=2)).eval()
    found = of(torch.jit.script(network))
    assert found.refusal == ""
    assert set(found.footprint.axes) == {AxisFootprint(3, 3, 1)}
