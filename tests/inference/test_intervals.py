"""The law of interval execution: in float64 a block equals that block of the network on the whole volume."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from zoo import FOOTPRINTS, Net, Pix2pix, patchgan

from volpipe.geometry import Box
from volpipe.inference.intervals import capture, footprint_of, recipe
from volpipe.inference.intervals.rule import CannotCapture
from volpipe.models.architecture import build_random
from volpipe.models.layers import Joined, OneByOne
from volpipe.models.presets import preset

EXACT = 1e-12  # std of the whole result
pytestmark = pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel lengths")


def conv(i, o, k=3, **options):
    return nn.Conv2d(i, o, k, **{"padding": k // 2} | options)


def milesial(net, x):
    """Up to an odd size, padded to the skip's."""
    down = net.down(functional.max_pool2d(x, 2))
    up = functional.interpolate(down, scale_factor=2, mode="bilinear", align_corners=True)
    left, top = x.shape[3] - up.shape[3], x.shape[2] - up.shape[2]
    up = functional.pad(up, [left // 2, left - left // 2, top // 2, top - top // 2])
    return net.out(torch.cat([x, up], 1))


def twice_before_norm(net, x):
    y = net.a(x)
    return functional.relu(net.norm(y)) + y


def pads(mode):
    return Net(lambda net, x: net.c(functional.pad(x, (3, 2, 1, 3), mode=mode)), c=nn.Conv2d(1, 2, 3))


def bn(channels):
    norm = nn.BatchNorm2d(channels)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    return norm


SMALL = {
    "strided": nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.Conv2d(2, 2, 4, 2, 1)),
    "dilated": nn.Sequential(nn.Conv2d(1, 2, 3, padding=4, dilation=4), nn.Conv2d(2, 1, 5)),
    "even same": nn.Conv2d(1, 2, (4, 2), padding="same"),
    "max pool padded": nn.Sequential(nn.Conv2d(1, 2, 1), Net(lambda _, x: x - 50), nn.MaxPool2d(3, 2, 1)),
    "max pool ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
    "avg pool padded": nn.AvgPool2d(3, 2, 1),
    "avg pool padded, volume counted": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "avg pool ceil": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "transposed": nn.Sequential(nn.Conv2d(1, 2, 2, 2), nn.ConvTranspose2d(2, 2, 3, 2, 1, output_padding=1)),
    "transposed, wide": nn.ConvTranspose2d(1, 2, 5, 3, 1, dilation=2),
    "transposed, gaps": nn.ConvTranspose2d(1, 1, 1, 3),
    "reflect": pads("reflect"),
    "replicate": pads("replicate"),
    "circular": pads("circular"),
    "constant": Net(lambda net, x: net.c(functional.pad(x, (3, -2, -1, 3), value=2.0)), c=nn.Conv2d(1, 2, 3)),
    "roll": Net(lambda net, x: net.c(x.roll((3, -2), (2, 3))), c=conv(1, 2)),
    "flip": Net(lambda net, x: net.c(x) + x.flip(3), c=conv(1, 1)),
    "slice": Net(lambda net, x: net.c(x)[:, :, 3:-2, 1::2], c=conv(1, 2)),
    "nearest": Net(lambda net, x: net.c(functional.interpolate(x, scale_factor=2)), c=conv(1, 2)),
    "nearest by a size": Net(lambda net, x: net.c(functional.interpolate(x, size=(50, 29))), c=conv(1, 2)),
    "linear": Net(lambda net, x: functional.interpolate(net.c(x), scale_factor=2, mode="bilinear"), c=conv(1, 2)),
    "linear by 3": Net(lambda net, x: functional.interpolate(net.c(x), scale_factor=3, mode="bilinear"), c=conv(1, 2)),
    "linear by 1.5": Net(lambda _, x: functional.interpolate(x, scale_factor=1.5, mode="bilinear")),
    "linear by a size": Net(lambda _, x: functional.interpolate(x, size=(50, 29), mode="bilinear")),
    "corners": Net(lambda _, x: functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)),
    "pixel shuffle": nn.Sequential(conv(1, 8), nn.PixelShuffle(2), conv(2, 1)),
    "several images": Joined(Net(lambda net, x: {"a": net.a(x), "b": net.b(net.a(x))}, a=conv(1, 2), b=conv(2, 3, 5))),
    "images apart": OneByOne(nn.Sequential(conv(1, 2), nn.BatchNorm2d(2, track_running_stats=False), conv(2, 1))),
    "dense": Net(
        lambda net, x: net.c(torch.cat([net.b(torch.cat([x, a := net.a(x)], 1)), a, x], 1)),
        a=conv(1, 2),
        b=conv(3, 2, 7),
        c=conv(5, 1),
    ),
    "milesial": Net(milesial, down=conv(1, 2), out=conv(3, 1)),
    "used twice before a norm": Net(twice_before_norm, a=conv(1, 2), norm=bn(2)),
    "batch norm": nn.Sequential(conv(1, 3), bn(3), nn.ReLU(), conv(3, 1)),
    "an activation first": nn.Sequential(nn.ReLU(), conv(1, 2)),
    "an activation of a view": Net(lambda net, x: net.c(x[:, :, 2:].relu()), c=conv(1, 2)),
    "activations": nn.Sequential(
        conv(1, 4), nn.PReLU(4), nn.ELU(), nn.GELU(), nn.LeakyReLU(), nn.Tanh(), nn.Softmax(1)
    ),
    "chunks": Net(lambda net, x: (p := net.c(x).chunk(2, 1))[0] * p[1].sigmoid(), c=conv(1, 4)),
    "argmax": Net(lambda net, x: net.c(x).argmax(1, keepdim=True).to(x.dtype), c=conv(1, 4)),
    "a constant as large as the volume": Net(
        lambda net, x: net.c(x * net.place), c=conv(1, 1), place=nn.Parameter(torch.rand(1, 1, 37, 41))
    ),
    "coordinates": Net(
        lambda net, x: net.c(torch.cat([x, torch.linspace(0, 1, x.shape[3]).expand_as(x).to(x)], 1)), c=conv(2, 1)
    ),
    "made like the image": Net(lambda net, x: net.c(x) + torch.ones_like(x, device=x.device), c=conv(1, 1)),
    "two plain convolutions, in slabs": nn.Sequential(conv(1, 2), nn.ReLU(), conv(2, 2, 5), nn.ReLU(), conv(2, 1)),
    "corners of a network": Net(
        lambda net, x: net.c(functional.interpolate(net.a(x), scale_factor=2, mode="bilinear", align_corners=True)),
        a=conv(1, 2),
        c=conv(2, 1),
    ),
}
BUILT = {
    "pix2pix": (lambda: Pix2pix(4), (96, 112)),
    "PatchGAN": (patchgan, (136, 120)),
}  # fmt: skip
PRESETS = {
    "unet2d_l4": ({"levels": 4}, (144, 152)),
    "unet2d_l4 bilinear": ({"levels": 4, "upsampling": "bilinear"}, (144, 152)),
    "unet2d_l4 nearest": ({"levels": 4, "upsampling": "nearest"}, (144, 152)),
    "unet2d_l4 strided": ({"downsampling": "strided"}, (144, 152)),
    "unet2d_l4 anisotropic": ({"pooling": ((1, 2), (2, 2), (3, 2))}, (120, 152)),
    "unet3d_l3 bilinear": ({"upsampling": "bilinear"}, (12, 12, 84)),
    "unet3d_l3 nearest, strided": ({"upsampling": "nearest", "downsampling": "strided"}, (12, 84, 12)),
    "unet2d_l4_valid": ({}, (188, 204)),
    "unet3d_l3": ({}, (20, 24, 108)),
    "unet3d_l3_valid": ({}, (60, 60, 108)),
    "unet3d_l4_aniso": ({}, (16, 24, 136)),
    "resnet6_2d": ({}, (80, 136)),
    "resnet6_2d nearest": ({"upsampling": "nearest"}, (80, 136)),
    "resnet6_3d": ({"width": 1}, (12, 16, 100)),
}


def network_of(name):
    torch.manual_seed(0)
    if name in SMALL:
        return SMALL[name].double().eval(), (37, 41)
    if name in BUILT:
        build, shape = BUILT[name]
        return build().double().eval(), shape
    options, shape = PRESETS[name]
    made = preset(name.split()[0], **({"width": 2} | options))
    return build_random(made, seed=1).double().eval(), shape


def blocks_of(shape, seed=0):
    """Of 1 to 3 voxels at faces, edges and corners and 1 to 3 voxels off them; random ones of 1 to 20; the whole."""
    places = itertools.product(range(5), repeat=len(shape))
    for number, place in enumerate(itertools.islice(places, 0, None, 1 if len(shape) == 2 else 2)):
        sides = [
            (0, 1 + number % 3, n // 2, max(0, n - 1 - extent - number // 3 % 3), max(0, n - extent))
            for n in shape
            for extent in [1 + number % 3]
        ]
        start = tuple(side[p] for side, p in zip(sides, place, strict=True))
        yield Box(start, tuple(min(n, a + 1 + number % 3) for a, n in zip(start, shape, strict=True)))
    yield Box.from_shape(shape)
    random = np.random.default_rng(seed)
    for _ in range(20):
        extent = [int(random.integers(1, min(n, 20) + 1)) for n in shape]
        start = [int(random.integers(0, n - e + 1)) for n, e in zip(shape, extent, strict=True)]
        yield Box(tuple(start), tuple(a + e for a, e in zip(start, extent, strict=True)))


@pytest.mark.parametrize("name", [*SMALL, *BUILT, *PRESETS])
def test_a_block_is_that_block_of_the_whole(name):
    check(*network_of(name))


def check(network, shape):
    """The law, for every block of `blocks_of`; of every fourth in two images at once."""
    volume = torch.randn(2, 1, *shape, dtype=torch.float64)
    with torch.no_grad():
        whole = torch.cat([network(image) for image in volume.split(1)])
    program, before = capture(network, shape), volume.clone()
    assert program.shape == tuple(whole.shape[2:])
    worst = 0.0
    for number, block in enumerate(blocks_of(program.shape)):
        plan, images = program.plan(block), slice(0, 2) if number % 4 == 0 else slice(number % 2, number % 2 + 1)
        made, expected = plan(volume[(images, slice(None), *plan.read.slices)]), whole[images]
        assert made.shape == (*expected.shape[:2], *block.shape)
        worst = max(worst, float((made - expected[(..., *block.slices)]).abs().max()))
    assert worst <= EXACT * float(whole.std())
    assert torch.equal(volume, before)


def lines(x):
    return [torch.linspace(-1, 1, n, dtype=x.dtype, device=x.device) for n in x.shape[2:]]


def mesh(x):
    return torch.meshgrid(lines(x), indexing="ij")


def product(x):
    down, right = lines(x)
    return down[:, None] * (right + 2)


def ones(x):
    return torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)


def with_channels(make, channels):
    return Net(lambda net, x: net.c(torch.cat([x, make(x)], 1)), c=conv(1 + channels, 1))


def added(make):
    return Net(lambda net, x: net.c(x + make(x)), c=conv(1, 1))


PLACES = {  # made of coordinates, on a box of them alone
    "as CoordConv does": with_channels(lambda x: lines(x)[0].view(1, 1, -1, 1).repeat(len(x), 1, 1, x.shape[3]), 1),
    "expanded": with_channels(lambda x: torch.stack(mesh(x))[None].expand(len(x), -1, -1, -1), 2),
    "repeated": with_channels(lambda x: torch.stack(mesh(x)).unsqueeze(0).repeat(len(x), 1, 1, 1), 2),
    "channels last": with_channels(lambda x: (torch.stack(mesh(x), -1) * 2).permute(2, 0, 1)[None], 2),
    "turned": added(lambda x: (lines(x)[1][:, None] * lines(x)[0]).T),
    "of one axis": added(lambda x: lines(x)[0][:, None] + torch.zeros_like(lines(x)[1])),
    "distance": Net(
        lambda net, x: net.c(x + torch.linalg.vector_norm(torch.stack(mesh(x)), dim=0).clone() * net.w),
        c=conv(2, 1),
        w=nn.Parameter(torch.randn(1, 2, 1, 1)),
    ),
    "a channel": added(lambda x: (torch.stack(mesh(x))[None] * 2)[:, 1:2]),
    "a plane": added(lambda x: (torch.stack(mesh(x)) * 2)[0]),
    "sum": added(lambda x: torch.stack(mesh(x)).pow(2).sum(0, keepdim=True)),
    "softmax": with_channels(lambda x: functional.softmax(torch.stack(mesh(x))[None] * 3, 1), 2),
    "flat": with_channels(lambda x: (torch.stack(mesh(x))[None] * torch.ones(3, 1, 1, 1).to(x)).flatten(0, 1)[None], 6),
    "where": added(lambda x: torch.where(product(x) > 0, product(x), -1.0)),
    "filled": with_channels(lambda x: torch.cat([ones(x), 2 * ones(x), torch.full_like(ones(x), 0.5)], 1), 3),
}
WHOLE = {  # of which an operation needs all
    "largest": added(lambda x: product(x) / product(x).max()),
    "running sum": added(lambda x: product(x).cumsum(0)),
    "every other": Net(lambda _, x: functional.avg_pool2d(x.double(), 2) + product(x)[:-1:2, :-1:2]),
    "halves": added(lambda x: (p := (torch.stack(mesh(x))[None] * 2).chunk(2, 1))[0] * p[1]),
    "smoothed": added(lambda x: functional.avg_pool2d(product(x)[None], 3, 1, 1)),
    "turned round": added(lambda x: product(x).flip(0) + product(x).roll(3, 1)),
    "counted": added(lambda x: torch.arange(x[0, 0].numel(), device=x.device).view(x.shape[2:]).to(x) / 1000),
}


@pytest.mark.parametrize("name", PLACES)
def test_large_constants_are_made_for_a_block_alone(name, monkeypatch):
    monkeypatch.setattr(recipe, "LARGE_BYTES", 1000)
    monkeypatch.setattr(recipe, "WHOLE_BYTES", 0)
    network = PLACES[name].double().eval()
    check(network, (37, 41))
    monkeypatch.setattr(recipe, "LARGE_BYTES", 2**24)
    program = capture(network, (2**20, 2**20))  # 8 TiB a channel
    plan = program.plan(Box((5, 2**19), (37, 2**19 + 32)))
    assert plan(torch.zeros(1, 1, *plan.read.shape, dtype=torch.float64)).shape == (1, 1, 32, 32)
    assert plan.cost().peak_bytes < 2**20
    assert program.constant_bytes < 2**26


@pytest.mark.parametrize(
    ("make", "least", "most"),
    [
        (lambda x: (a := product(x)).sin() + (b := a.cos()).exp() * b + a, 4, 5),  # a, b and one more, and the result
        (lambda x: product(x).sin()[:1] + product(x).cos()[:1], 2, 3),  # a view holds all of what it sees a row of
    ],
)
def test_constants_that_are_alive_at_once_are_counted(make, least, most):
    planes = capture(added(make).double().eval(), (37, 41)).constant_bytes / (37 * 41 * 8)
    assert least <= planes <= most


def test_whole_constants_that_one_operation_is_given_are_counted_together(monkeypatch):
    monkeypatch.setattr(recipe, "LARGE_BYTES", 1000)
    two = added(lambda x: functional.mse_loss(product(x), ones(x)[0, 0]))  # of two recipes; one more while it is made
    assert capture(two.double().eval(), (37, 41)).constant_bytes >= 3 * 37 * 41 * 8


@pytest.mark.parametrize("name", WHOLE)
def test_a_constant_of_which_all_is_needed_is_made_whole_and_counted_or_refused(name, monkeypatch):
    monkeypatch.setattr(recipe, "LARGE_BYTES", 1000)
    network = WHOLE[name].double().eval()
    if name != "every other":  # which has no parameter to tell its type
        check(network, (37, 41))
    assert capture(network, (37, 41)).constant_bytes >= 37 * 41 * 4
    with pytest.raises(CannotCapture, match=r"operation aten.* needs all of a constant of [\d.]+ GiB, which is not"):
        capture(network, (2**16, 2**16))


def test_a_weight_that_is_computed_is_no_constant_of_the_volume(monkeypatch):
    monkeypatch.setattr(recipe, "LARGE_BYTES", 100)
    monkeypatch.setattr(recipe, "WHOLE_BYTES", 0)
    network = Net(lambda net, x: functional.conv2d(x, net.w / net.w.norm()), w=nn.Parameter(torch.randn(4, 1, 5, 5)))
    check(network.double(), (37, 41))


def test_an_operation_without_a_rule_is_named():
    with pytest.raises(CannotCapture, match=r"fft.*of module .*1"):
        capture(nn.Sequential(conv(1, 1), Net(lambda _, x: torch.fft.fft2(x).real)), (16, 16))


@pytest.mark.parametrize("name", FOOTPRINTS)
def test_an_aligned_block_reads_what_was_computed_by_hand(name):
    architecture, (period, before, after, size_class, _), _ = FOOTPRINTS[name]
    with torch.device("meta"):
        network = architecture.build().eval()
    length, a = period * (960 // period) + size_class, 320 // period * period
    b, ndim = a + 4 * period, architecture.ndim
    read = capture(network, (length,) * ndim).plan(Box((a,) * ndim, (b,) * ndim)).read
    assert read == Box((a - before,) * ndim, (b + after,) * ndim)


@pytest.mark.parametrize("name", ["U-Net L3", "ResNet-6"])
def test_the_footprint_of_a_program_is_that_of_its_network(name):
    """Cells of 32 voxels are aligned to both networks' periods."""
    architecture, (_, before, after, *_), _ = FOOTPRINTS[name]
    with torch.device("meta"):
        network = architecture.build().eval()
    found = footprint_of(capture(network, (300, 192)))
    assert [(axis.need_before, axis.need_after) for axis in found.axes] == [(before, after)] * 2
    assert [axis.admissible(n) for axis, n in zip(found.axes, (300, 192), strict=True)] == [300, 192]


def test_the_footprint_of_a_program_covers_every_tile_of_its_volume():
    """`align_corners`: how far a tile reads depends on where it lies."""
    network = nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True))
    program = capture(network, (150, 4))
    (axis, _) = footprint_of(program).axes
    reads = set()
    for a, size in itertools.product(range(150), (1, 7, 40)):
        stop = min(a + size, 150)
        read, (start, end) = program.plan(Box((a, 0), (stop, 4))).read, axis.read(a, stop, 150)
        first, last = read.start[0], read.stop[0]
        assert start <= first < last <= end
        reads.add(a - first)
    assert len(reads) > 2


def test_a_program_that_changes_the_resolution_tells_no_footprint():
    with pytest.raises(CannotCapture, match=r"makes \(4, 4\) voxels of \(8, 8\)"):
        footprint_of(capture(nn.Conv2d(1, 1, 2, 2), (8, 8)))


def test_modules_are_named_as_whoever_wrote_them_knows_them():
    network = OneByOne(Joined(Net(lambda net, x: (net.a(x), net.b(x)), a=conv(1, 2), b=nn.Sequential(conv(1, 2)))))
    steps = capture(network.eval(), (16, 20)).steps
    assert [step.call.where for step in steps if "conv" in step.call.name] == ["a", "b.0"]
    assert [step.call.where for step in steps if "cat" in step.call.name] == [""]


def test_what_serves_one_image_alone_is_known():
    alone = {
        name: capture(*network_of(name)).alone for name in ("images apart", "coordinates", "batch norm", "milesial")
    }
    assert alone == {"images apart": True, "coordinates": True, "batch norm": False, "milesial": False}


def test_numbers_made_on_the_images_device_have_no_values_and_are_refused():
    network = Net(lambda net, x: net.c(x - torch.tensor([0.5], device=x.device)), c=conv(1, 1))
    with pytest.raises(CannotCapture, match=r"makes a tensor of numbers on the device of the image.*register_buffer"):
        capture(network, (16, 16))
