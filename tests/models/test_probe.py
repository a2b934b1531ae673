"""The probe: rows of known footprints are found by running, what cannot be tiled is refused by name."""

import re
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from zoo import FOOTPRINTS, Net, Pix2pix, patchgan

from volpipe.geometry import AxisFootprint
from volpipe.models import probe as probing
from volpipe.models.architecture import build_random
from volpipe.models.layers import OneByOne
from volpipe.models.presets import preset
from volpipe.models.probe import holds, probe
from volpipe.models.stand_in import StayInFloat64
from volpipe.models.trial import Trial

EXACT = 1e-12  # std of the whole result


def of(network, ndim=2, channels=1):
    return probe(network.eval(), ndim, channels)


@pytest.mark.parametrize("name", FOOTPRINTS)
def test_the_probe_finds_what_was_computed_by_hand(name):
    architecture, (period, before, after, size_class, lost), halo = FOOTPRINTS[name]
    found = of(build_random(architecture, seed=1), architecture.ndim)
    assert (found.refusal, found.failure) == ("", "")
    axes = {replace(axis, smallest=1) for axis in found.footprint.axes}  # mirrored faces refuse very short images
    assert axes == {AxisFootprint(before, after, period, size_class, lost)}
    assert set(found.footprint.halo) == {halo}
    assert set(found.footprint.scale) == {1}


def test_an_axis_that_is_not_pooled_has_no_period():
    architecture = preset("unet3d_l3", width=2, pooling=((1, 2, 2), (1, 2, 2)))
    z, y, x = of(build_random(architecture, seed=1), 3).footprint.axes
    assert (z.period, z.need_before, z.need_after) == (1, 10, 10)
    assert (y.period, y.need_before, y.need_after) == (4, 22, 22)
    assert x == y


def mirrored_to_six(net, image):
    rows, columns = image.shape[2:]
    whole = F.pad(image, (0, -columns % 6, 0, -rows % 6), "reflect") if rows % 6 or columns % 6 else image
    return F.interpolate(F.max_pool2d(net.conv(whole), 6), scale_factor=6)[:, :, :rows, :columns]


@pytest.mark.parametrize(("depth", "need"), [(4, 31), (5, 63), (6, 127), (7, 255)])
def test_pix2pix(depth, need):
    assert set(of(Pix2pix(depth)).footprint.axes) == {AxisFootprint(need, need, 2**depth)}


def test_a_network_that_changes_resolution(tiled_error):
    """PatchGAN's discriminator: 8 voxels in, 1 out."""
    network = patchgan()
    found = of(network)
    assert found.footprint.scale == (Fraction(1, 8),) * 2
    assert {(a.need_before, a.need_after, a.period) for a in found.footprint.axes} == {(23, 39, 8)}
    assert set(found.footprint.halo) == {(24, 40)}
    assert tiled_error(network.double(), found) <= EXACT


def conv(inputs, outputs, kernel=3, **options):
    return nn.Conv2d(inputs, outputs, kernel, **{"padding": kernel // 2, **options})


def layer_norm_over_channels_and_pixel_shuffle(net, image):
    normed = net.norm(net.down(image).movedim(1, -1)).movedim(-1, 1)
    return F.pixel_shuffle(net.up(normed), 2)


def attention_in_windows(net, image, window=4):
    x = net.embed(image)
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // window, window, w // window, window).permute(0, 2, 4, 3, 5, 1).reshape(-1, window**2, c)
    x = net.attention(x, x, x, need_weights=False)[0]
    return x.reshape(n, h // window, w // window, window, window, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)


def attention(net, image):
    x = net.embed(image)
    tokens = x.flatten(2).movedim(1, 2)
    return net.attention(tokens, tokens, tokens, need_weights=False)[0].movedim(2, 1).reshape(x.shape)


def attending(how):
    return Net(how, embed=nn.Conv2d(1, 8, 1), attention=nn.MultiheadAttention(8, 2, batch_first=True))


def convnext(width=8):
    """Two ConvNeXt blocks on 2 x 2 patches: depthwise 7-convolution, norm of channels, layer scale starting at 1e-6."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.norm = conv(width, width, 7, groups=width), nn.LayerNorm(width, eps=1e-6)
            self.grow, self.shrink = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.gamma = nn.Parameter(torch.full((width,), 1e-6))

        def forward(self, image):
            x = self.norm(self.mix(image).permute(0, 2, 3, 1))
            x = self.gamma * self.shrink(F.gelu(self.grow(x)))
            return image + x.permute(0, 3, 1, 2)

    stem, head = nn.Conv2d(1, width, 2, stride=2), nn.ConvTranspose2d(width, 1, 2, stride=2)
    return nn.Sequential(stem, Block(), Block(), head)


def nnunet(ndim, norm, width=4, levels=3):
    """The plain U-Net of nnU-Net: two convolutions a level, strided ones down, transposed ones up, leaky ReLU."""
    convolution, transposed = ((nn.Conv2d, nn.ConvTranspose2d), (nn.Conv3d, nn.ConvTranspose3d))[ndim - 2]

    def unit(inputs, outputs, stride=1):
        return nn.Sequential(
            convolution(inputs, outputs, 3, stride, 1), norm(outputs), nn.LeakyReLU(0.01, inplace=True)
        )

    widths = [width * 2**level for level in range(levels)]
    inputs = [1, *widths]
    down = [nn.Sequential(unit(inputs[i], w, 2 if i else 1), unit(w, w)) for i, w in enumerate(widths)]
    up = [transposed(w, w // 2, 2, 2) for w in widths[:0:-1]]
    join = [nn.Sequential(unit(w, w // 2), unit(w // 2, w // 2)) for w in widths[:0:-1]]

    def forward(net, image):
        skips = []
        for stage in net.down:
            image = stage(image)
            skips.append(image)
        skips.pop()
        for grow, stage in zip(net.up, net.join, strict=True):
            image = stage(torch.cat([grow(image), skips.pop()], 1))
        return net.head(image)

    return Net(forward, down=nn.ModuleList(down), up=nn.ModuleList(up), join=nn.ModuleList(join),
               head=convolution(width, 2, 1))  # fmt: skip


def small_unet(levels, *, pooling=2, padding=1, mode="nearest", by_size=False, width=4):
    """One convolution a level; upsampling by a factor or to the size of the skip."""
    widths = [width * 2**level for level in range(levels)]
    factors = pooling if isinstance(pooling, tuple) else (pooling,) * (levels - 1)
    down = [conv(1 if i == 0 else widths[i - 1], w, padding=padding) for i, w in enumerate(widths)]
    up = [conv(widths[i] + widths[i - 1], widths[i - 1], padding=padding) for i in range(levels - 1, 0, -1)]

    def forward(net, image):
        skips = []
        for stage, factor in zip(net.down, factors, strict=False):
            skips.append(F.relu(stage(image)))
            image = F.max_pool2d(skips[-1], factor)
        image = F.relu(net.down[-1](image))
        for stage, factor in zip(net.up, reversed(factors), strict=True):
            skip = skips.pop()
            size = {"size": skip.shape[2:]} if by_size else {"scale_factor": factor}
            image = F.interpolate(image, mode=mode, **size)
            cut = [(a - b) // 2 for a, b in zip(skip.shape[2:], image.shape[2:], strict=True)]
            skip = skip[..., cut[0] : cut[0] + image.shape[2], cut[1] : cut[1] + image.shape[3]]
            image = F.relu(stage(torch.cat([image, skip], 1)))
        return net.head(image)

    return Net(forward, down=nn.ModuleList(down), up=nn.ModuleList(up), head=nn.Conv2d(width, 1, 1))


def padded_to(multiple, network, *, both_sides=False):
    """Pads to a multiple inside, and crops: it takes every length."""

    def forward(net, image):
        h, w = image.shape[2:]
        y, x = (-h % multiple, -w % multiple)
        top, left = (y // 2, x // 2) if both_sides else (0, 0)
        return net.network(F.pad(image, (left, x - left, top, y - top)))[..., top : top + h, left : left + w]

    return Net(forward, network=network)


def segnet(net, image):
    pooled, where = F.max_pool2d(F.relu(net.a(image)), 2, return_indices=True)
    return net.c(F.max_unpool2d(F.relu(net.b(pooled)), where, 2, output_size=image.shape[2:]))


def window_that_shrinks(net, image):
    pooled = F.avg_pool2d(image, min(8, *image.shape[2:]))
    return F.interpolate(net.conv(pooled), size=image.shape[2:])


A = AxisFootprint
PLAIN = (nn.ReLU(), conv(4, 1))
TILEABLE = {
    "one convolution": (conv(1, 2), A(1, 1)),
    "batch norm": (nn.Sequential(conv(1, 2, 5), nn.BatchNorm2d(2)), A(2, 2)),
    "instance norm with running statistics": (
        nn.Sequential(conv(1, 2), nn.InstanceNorm2d(2, track_running_stats=True)),
        A(1, 1),
    ),
    "layer norm over channels, pixel shuffle": (
        Net(layer_norm_over_channels_and_pixel_shuffle, down=nn.Conv2d(1, 8, 2, stride=2), norm=nn.LayerNorm(8),
            up=conv(8, 4)),
        A(2, 2, 2),
    ),
    "window attention": (attending(attention_in_windows), A(0, 0, 4)),
    "ConvNeXt": (convnext(), A(12, 12, 2)),
    "nnU-Net, batch norm": (nnunet(2, nn.BatchNorm2d), A(19, 16, 4)),
    # convolutions
    "dilated": (nn.Sequential(conv(1, 4, dilation=4, padding=4), *PLAIN), A(5, 5)),
    "strided and dilated": (
        nn.Sequential(conv(1, 4, dilation=2, stride=2, padding=2), nn.ConvTranspose2d(4, 4, 2, 2), *PLAIN), A(4, 3, 2)),
    "padding that differs per side": (
        Net(lambda net, x: net.b(F.relu(net.a(F.pad(x, (3, 0, 3, 0))))), a=conv(1, 4, 4, padding=0), b=conv(4, 1)),
        A(4, 1),
    ),
    "even kernels": (nn.Sequential(conv(1, 4, 4, padding="same"), nn.ReLU(), conv(4, 1, 2, padding="same")), A(1, 3)),
    "reflect": (nn.Sequential(conv(1, 4, 5, padding_mode="reflect"), *PLAIN), A(3, 3, smallest=3)),
    "replicate": (nn.Sequential(conv(1, 4, 5, padding_mode="replicate"), *PLAIN), A(3, 3)),
    "depthwise": (nn.Sequential(conv(1, 8), nn.GELU(), conv(8, 8, 7, groups=8), conv(8, 1, 1)), A(4, 4)),
    # a shortcut that would hide the period: small, or closed until training opens it
    "small beside a shortcut": (
        Net(lambda net, x: net.wide(x) + 1e-4 * net.deep(x), wide=conv(1, 1, 1), deep=small_unet(3, by_size=True)),
        A(11, 11, 4),
    ),
    "gate at 0": (
        Net(lambda net, x: net.wide(x) + net.gate * net.deep(x), wide=conv(1, 1, 1),
            deep=small_unet(3, by_size=True), gate=nn.Parameter(torch.zeros(()))),
        A(11, 11, 4),
    ),
    "one channel, which a ReLU may close": (small_unet(4, width=1, by_size=True), A(23, 23, 8)),
    # sizes
    "upsampled to a size": (small_unet(3, by_size=True), A(11, 11, 4)),
    "upsampled to a size, bilinear": (small_unet(4, by_size=True, mode="bilinear"), A(31, 31, 8)),
    "valid": (small_unet(3, padding=0), A(0, 22, 4, 2, 20)),
    "pooled by 3": (small_unet(3, pooling=3), A(22, 22, 9)),
    "pooled by 2, then 3": (small_unet(3, pooling=(2, 3)), A(15, 15, 6)),
    "pooled by 3, then 2": (small_unet(3, pooling=(3, 2)), A(16, 16, 6)),
    "pooled by 13": (
        Net(lambda net, x: F.interpolate(net.a(x), size=x.shape[2:]), a=nn.Conv2d(1, 2, 13, 13)), A(0, 0, 13)),
    "padded to 8 inside": (padded_to(8, small_unet(4)), A(23, 23, 8)),
    "padded to 16 inside, period 4": (padded_to(16, small_unet(3)), A(11, 11, 16)),
    "padded to 12 inside on both sides, period 4": (padded_to(12, small_unet(3), both_sides=True), A(11, 11, 12)),
    "lengths are odd": (
        nn.Sequential(conv(1, 4, stride=2), nn.ReLU(), nn.ConvTranspose2d(4, 1, 3, 2, 1)), A(1, 2, 2, 1)),
    "mirrored to a multiple of 6 inside": (Net(mirrored_to_six, conv=conv(1, 1)), A(1, 1, 6)),
    "twice the resolution": (
        nn.Sequential(conv(1, 8), nn.ReLU(), conv(8, 4), nn.PixelShuffle(2)),
        A(2, 2, scale=Fraction(2)),
    ),
    "unpooled to where the largest was": (Net(segnet, a=conv(1, 4), b=conv(4, 4), c=conv(4, 1)), A(5, 5, 2)),
    "a window that shrinks with small images": (Net(window_that_shrinks, conv=conv(1, 1)), A(8, 8, 8)),
}  # fmt: skip


@pytest.mark.parametrize("name", TILEABLE)
def test_what_can_be_tiled_is_found_and_exact(name, tiled_error):
    torch.manual_seed(0)
    network, footprint = TILEABLE[name]
    found = of(network)
    assert (found.refusal, found.failure) == ("", "")
    assert set(found.footprint.axes) == {footprint}
    assert tiled_error(network.double(), found) <= EXACT


@pytest.mark.parametrize("change", [lambda x: 2 * torch.sqrt(x + 0.375), torch.log1p])
def test_roots_and_logarithms_are_measured_on_positive_values(change):
    found = of(Net(lambda net, x: net.conv(change(x)), conv=conv(1, 1)))
    assert (found.refusal, found.failure) == ("", "")
    assert set(found.footprint.axes) == {A(1, 1)}


def test_axes_are_measured_one_by_one(tiled_error):
    network = Net(lambda net, x: net.conv(F.max_pool2d(x, (2, 3)).repeat_interleave(2, 2).repeat_interleave(3, 3)),
                  conv=nn.Conv2d(1, 1, (3, 5), padding=(1, 2)))  # fmt: skip
    found = of(network)
    assert found.footprint.axes == (A(2, 2, 2), A(3, 3, 3))
    assert tiled_error(network.double(), found) <= EXACT


def test_an_nnunet_in_3d_is_found_and_exact(tiled_error):
    network = nnunet(3, nn.BatchNorm3d, levels=2)
    found = of(network, 3)
    assert set(found.footprint.axes) == {A(7, 6, 2)}
    assert tiled_error(network.double(), found, periods=3) <= EXACT


def normed(norm):
    return nn.Sequential(conv(1, 4), norm)


def squeeze_and_excite(net, image):
    image = net.conv(image)
    return image * net.gate(net.pool(image)).sigmoid()


def with_coordinates(net, image):
    y = torch.linspace(0, 1, image.shape[2], dtype=image.dtype)
    return net.conv(torch.cat([image, y[:, None].expand_as(image)], 1))


def hiding(hide):
    """A shortcut shows NaN, the deep path does not."""
    return Net(lambda net, x: net.wide(x) + net.deep(hide(net.first(x))), wide=conv(1, 1), first=conv(1, 1, 1),
               deep=small_unet(3))  # fmt: skip


LARGE = "self-test of the probe"


class Longer(nn.Module):
    """A wider convolution of long images."""

    def __init__(self):
        super().__init__()
        self.near, self.far = conv(1, 1), nn.Conv2d(1, 1, 3, padding=8, dilation=8)

    def forward(self, image):
        if image.shape[2] >= 400:
            return self.far(image)
        return self.near(image)


def seeing(change):
    """A convolution of what a function makes of the image."""
    return Net(lambda net, x: net.conv(change(net, x)), conv=conv(1, 1))


UNTILEABLE = {
    "instance norm": (normed(nn.InstanceNorm2d(4)), "everything.*module 1: InstanceNorm2d"),
    "group norm": (normed(nn.GroupNorm(2, 4)), "everything.*module 1: GroupNorm"),
    "batch norm without statistics": (normed(nn.BatchNorm2d(4, track_running_stats=False)), "module 1: BatchNorm2d"),
    "nnU-Net": (nnunet(2, lambda c: nn.InstanceNorm2d(c, affine=True)), "module down.0.0.1: InstanceNorm2d"),
    "squeeze and excite": (
        Net(squeeze_and_excite, conv=conv(1, 4), pool=nn.AdaptiveAvgPool2d(1), gate=nn.Conv2d(4, 4, 1)),
        "module pool: AdaptiveAvgPool2d",
    ),
    "align_corners": (
        nn.Sequential(nn.MaxPool2d(2), conv(1, 2), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)),
        "module 2: Upsample",
    ),
    "labels": (Net(lambda net, x: net.conv(x).argmax(1, keepdim=True), conv=conv(1, 4)), "labels .*argmax.*scores"),
    "labels as numbers": (
        Net(lambda net, x: net.conv(x).argmax(1, keepdim=True).to(x.dtype), conv=conv(1, 4)), "values .*argmax"),
    "dropout": (Net(lambda net, x: F.dropout(net.conv(x), 0.5, training=True), conv=conv(1, 4)),
                "two results.*bernoulli"),
    "minus its mean": (Net(lambda net, x: net.conv(x - x.mean()), conv=conv(1, 1)), "everything.*operation mean"),
    "filtered by Fourier": (Net(lambda net, x: torch.fft.irfft2(torch.fft.rfft2(x) * 2)), "everything.*operation _fft"),
    "circular": (nn.Sequential(conv(1, 4, padding_mode="circular"), *PLAIN), "one face .* the other .*module 0"),
    "rolled": (Net(lambda net, x: net.conv(x.roll(3, 2)), conv=conv(1, 1)), "one face .* the other .*roll"),
    "mirrored": (Net(lambda net, x: net.conv(x) + x.flip(3), conv=conv(1, 1)), "along x no shift .*flip"),
    "coordinates": (Net(with_coordinates, conv=conv(2, 1)), "along y no shift .*linspace"),
    "a branch on a mean": (
        Net(lambda net, x: net.near(x) if x.mean() > 0 else net.far(x), near=conv(1, 1), far=conv(1, 1, 7)),
        "a number read from the image decides .*operation _local_scalar_dense",
    ),
    "sorted": (Net(lambda net, x: net.conv(x.sort(2).values), conv=conv(1, 1)), "along y .*operation sort"),
    "voxels above 200": (seeing(lambda net, x: torch.where(x > 200, F.avg_pool2d(x, 9, 1, 4), x)), LARGE),
    "a mask of bright voxels": (seeing(lambda net, x: x * (1 - F.max_pool2d((x > 200) * 1.0, 9, 1, 4))), LARGE),
    "a mask of dark voxels": (seeing(lambda net, x: x * F.max_pool2d((x < 5) * 1.0, 9, 1, 4)), LARGE),
    "a choice by the largest": (seeing(lambda net, x: torch.where(x.amax() > 1, x / 255, x)), LARGE),
    "a branch on the largest": (
        seeing(lambda net, x: x / 255 if x.max() > 1 else x),
        r"a number read from the image decides .*operation _local_scalar_dense",
    ),
    "a branch on the number of voxels": (
        Net(lambda net, x: (net.near if x[0, 0].numel() < 500**2 else net.far)(x), near=conv(1, 1), far=conv(1, 1, 7)),
        r"depends on the image's size \(\[512, 512\] voxels: operation convolution\)",
    ),
    "voxels of one value": (seeing(lambda net, x: torch.where(x == 255, F.avg_pool2d(x, 9, 1, 4), x)), LARGE),
    "a mask of black voxels": (seeing(lambda net, x: x * (1 - F.max_pool2d((x == 0) * 1.0, 9, 1, 4))), LARGE),
    "a band of values": (seeing(lambda net, x: x * F.max_pool2d(((x > 100) & (x < 200)) * 1.0, 9, 1, 4)), LARGE),
    "a factor by the length": (
        seeing(lambda net, x: x * (0.5 if x.shape[3] > 300 else 1)),
        r"depends on the image's size \(\[512, 512\] voxels: operation mul\)",
    ),
    "a script that branches on the length": (
        torch.jit.script(Longer()),
        r"depends on the image's size \(\[512, 512\] voxels: operation convolution\)",
    ),
    "any square": (Net(lambda net, x: net.conv(x) + x.mT, conv=conv(1, 1)), "equal edges alone, as 4 and 5"),
    "cropped at one end": (Net(lambda net, x: net.conv(x)[:, :, 3:], conv=conv(1, 1)), "y it loses more .* start"),
    "more than it sees": (nn.Conv2d(1, 1, 3, padding=2), "along y it returns 2 voxels more than it sees"),
    "padding that is moved inside": (
        Net(lambda net, x: net.conv(F.pad(x, (0, 0, 0, 3))[:, :, 3:]), conv=conv(1, 1)),
        "some of its output does not depend on the image",
    ),
    "NaN hidden by nan_to_num": (hiding(torch.nan_to_num), "self-test.*operation nan_to_num"),
    "NaN hidden by a choice": (hiding(lambda x: torch.where(x > 0, x, 0)), "self-test.*operation where"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNTILEABLE)
def test_what_cannot_be_tiled_is_refused_by_name(name):
    network, named = UNTILEABLE[name]
    found = of(network)
    assert found.footprint is None
    assert re.search(named, found.refusal), found.refusal or found.failure


def test_a_network_whose_images_are_run_one_by_one_is_named_as_it_was_written():
    network, named = UNTILEABLE["align_corners"]
    assert re.search(rf"\({named}", of(OneByOne(network)).refusal)


def test_attention_over_the_image_is_refused_by_name(monkeypatch):
    """On shorter lines than usual: its price is the square of the length."""
    monkeypatch.setattr(probing, "LONGEST_LINE", 288)
    assert re.search("everything.*module attention: MultiheadAttention", of(attending(attention)).refusal)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("side", ["need_before", "need_after"])
def test_the_self_test_refuses_a_need_one_period_short(axis, side):
    architecture = preset("unet2d_l4", levels=3, width=2)
    trial = Trial(build_random(architecture, seed=1).eval(), 2, 1)
    right = architecture.footprint().axes[axis]
    wrong = replace(right, **{side: getattr(right, side) - right.period})
    for strip in (trial.strip(axis), trial.strip(axis, network=trial.own)):
        assert probing.tiled_equals_whole(strip, 100, right)
        assert not probing.tiled_equals_whole(strip, 100, wrong)


@pytest.mark.parametrize("wrong", [A(22, 22, 2), A(22, 22, 4, 1), A(21, 22, 1)])
def test_the_self_test_refuses_a_wrong_lattice(wrong):
    trial = Trial(small_unet(4).eval(), 2, 1)
    assert not probing.tiled_equals_whole(trial.strip(0), 104 + wrong.size_class, wrong)


def test_the_self_test_notices_one_voxel_that_matters_beyond_the_need():
    trial = Trial(nn.Sequential(conv(1, 4, 9), nn.AvgPool2d(4), nn.Upsample(scale_factor=4)).eval(), 2, 1)
    assert probing.tiled_equals_whole(trial.strip(0), 64, A(4, 4, 4))
    for short in (A(3, 4, 4), A(4, 3, 4)):  # what is read is the same, rounded up to the period
        assert not probing.tiled_equals_whole(trial.strip(0), 64, short)


def test_the_self_test_has_the_networks_own_weights_too():
    """A weight that says how far to look; random ones look elsewhere."""

    def looking(net, image):
        far = int(net.far)
        return F.pad(image, (0, 0, 0, far))[:, :, far:]

    refusal = of(Net(looking, far=nn.Parameter(torch.tensor(8.0)))).refusal
    assert re.search("with its own weights .*need 0, [01] at period 1", refusal), refusal


class Device(nn.Module):
    """Makes tensors without `device=`, as users' networks do: it cannot be run on meta tensors."""

    def __init__(self):
        super().__init__()
        self.first, self.second = conv(1, 4, 5, stride=2), nn.ConvTranspose2d(4, 1, 2, 2)

    def forward(self, image):
        x = self.first(image)
        return self.second(x * torch.ones(x.shape[1], 1, 1) + torch.tensor(0.5))


def test_what_fails_on_meta_tensors_is_measured_with_real_tiles(tiled_error):
    network = Device()
    with pytest.raises(RuntimeError, match="meta"):
        Device().to("meta")(torch.zeros(1, 1, 8, 8, device="meta"))
    found = of(network)
    assert set(found.footprint.axes) == {A(2, 1, 2)}
    assert tiled_error(network.double(), found) <= EXACT


@pytest.mark.parametrize("low", [torch.float32, torch.float16])
def test_a_network_that_casts_inside_is_probed_in_float64_all_the_same(low, tiled_error):
    network = Net(lambda net, x: net.deep(x).to(low).float(), deep=small_unet(3))
    found = of(network)
    assert set(found.footprint.axes) == {A(11, 11, 4)}
    with StayInFloat64():
        assert tiled_error(network.double(), found) <= EXACT


def test_a_network_that_gives_no_image_is_a_failure_and_no_refusal():
    found = of(Net(lambda net, x: (x, x)))
    assert (found.footprint, found.refusal) == (None, "")
    assert "takes no image with all edges equal" in found.failure


def test_a_frozen_script_has_its_weights_as_constants_and_is_probed_with_them():
    network = nn.Sequential(conv(1, 4), nn.ReLU(), conv(4, 1, 5)).eval()
    found = of(torch.jit.freeze(torch.jit.trace(network, torch.rand(1, 1, 16, 16))))
    assert set(found.footprint.axes) == {A(3, 3)}


def test_constants_that_are_no_buffers_are_run_in_float64_too():
    network = Net(lambda net, x: F.conv2d(x, net.blur, padding=2), blur=torch.ones(1, 1, 5, 5))
    assert set(of(network).footprint.axes) == {A(2, 2)}


def test_many_channels_are_thinned_and_the_answer_is_the_same():
    architecture = preset("unet2d_l4", levels=3, width=32, upsampling="nearest")
    network = build_random(architecture, seed=1).eval()
    trial = Trial(network, 2, 1)
    assert trial.cut == 8
    assert of(network).footprint == architecture.footprint()


def half_of_the_channels(net, image):
    """Names a channel in its code: with a k-th of them the second half would be empty."""
    x = F.relu(net.first(image))
    far = F.interpolate(F.max_pool2d(x[:, 16:], 4), scale_factor=4)
    return net.last(x[:, :16]) + far.sum(1, keepdim=True)


def test_channels_that_the_code_names_are_not_thinned():
    network = Net(half_of_the_channels, first=conv(1, 32), last=conv(16, 1))
    assert Trial(network.eval(), 2, 1).cut == 1
    assert set(of(network).footprint.axes) == {A(2, 2, 4)}


def test_what_was_found_of_one_training_is_tested_with_another():
    architecture = preset("unet2d_l4", levels=3, width=2)
    found = of(build_random(architecture, seed=1))
    assert found.any_weights
    assert holds(build_random(architecture, seed=2).eval(), 2, 1, found)
    deeper = preset("unet2d_l4", levels=4, width=2)
    assert not holds(build_random(deeper, seed=2).eval(), 2, 1, found)


def test_the_network_is_left_as_it_is():
    network = build_random(preset("unet2d_l4", levels=2, width=2), seed=1).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    of(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert next(network.parameters()).dtype == torch.float32


def test_a_script_is_probed():
    network = nn.Sequential(conv(1, 2), nn.ReLU(), conv(2, 1, 5)).eval()
    found = of(torch.jit.script(network))
    assert found.refusal == ""
    assert set(found.footprint.axes) == {AxisFootprint(3, 3, 1)}


class Fixed(nn.Module):
    """A transformer's way with images: a linear layer over the tokens of one length, tokens of 4 voxels."""

    def __init__(self, embeds):
        super().__init__()
        self.embed, self.mix = nn.Conv2d(1, 3, 4, stride=4), nn.Linear(64, 64)
        self.shuffle = None if embeds else nn.PixelShuffle(4)
        self.grow = nn.Conv2d(3, 16, 1)

    def forward(self, image):
        tokens = self.embed(image)
        mixed = self.mix(tokens.flatten(2)).reshape(tokens.shape)
        return mixed if self.shuffle is None else self.shuffle(self.grow(mixed))


@pytest.mark.parametrize(("embeds", "scale", "period"), [(False, 1, 1), (True, Fraction(1, 4), 4)])
def test_a_network_with_a_fixed_input_has_a_window(embeds, scale, period):
    found = of(Fixed(embeds))
    assert found.refusal == found.failure == ""
    assert set(found.footprint.axes) == {AxisFootprint(period=period, window=32, scale=Fraction(scale))}
