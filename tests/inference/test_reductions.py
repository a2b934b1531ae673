"""The laws of what sees the whole volume: a program is right as it stands, with statistics, and by passes over it."""

from functools import partial, reduce

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from zoo import Net

from volpipe.errors import GeometryError, ModelError
from volpipe.geometry import BlockGrid, Box
from volpipe.inference.intervals import Moments, Survey, capture, passes
from volpipe.inference.intervals.explain import explain
from volpipe.inference.intervals.moments import moments
from volpipe.inference.intervals.reduction import normalised
from volpipe.inference.intervals.rule import CannotCapture
from volpipe.models.architecture import build_random
from volpipe.models.generator import GeneratorArchitecture
from volpipe.models.held import Held
from volpipe.models.probe import probe
from volpipe.models.unet import UNetArchitecture

EXACT = 1e-12  # std of the whole result


def conv(i, o, k=3, **options):
    return nn.Conv2d(i, o, k, **{"padding": k // 2} | options)


def blocks_of(shape):
    """At both ends, off them, and the whole."""
    for place in (0, 1, 3, 5):
        start = [n * place // 5 - (place == 5) * 3 for n in shape]
        yield Box(tuple(start), tuple(min(n, a + 7) for a, n in zip(start, shape, strict=True)))
    yield Box.from_shape(shape)


def squeeze_excite(mean):
    """The gate of two 1-convolutions behind the mean of everything."""
    return Net(
        lambda net, x: x * net.b(net.a(mean(x)).relu()).sigmoid(), a=nn.Conv2d(4, 2, 1), b=nn.Conv2d(2, 4, 1)
    )  # fmt: skip


def flat_squeeze_excite(mean):
    """As it was published: through tensors without axes of space."""

    def call(net, x):
        x = net.c(x)
        return net.out(x * net.b(net.a(mean(x)).relu()).sigmoid().view(*x.shape[:2], 1, 1).expand_as(x))

    return Net(call, c=conv(1, 4), a=nn.Linear(4, 2), b=nn.Linear(2, 4), out=conv(4, 1))


def pooled_and_grown(net, x, **how):
    """The context of DeepLab: pooled to one voxel, grown to all of them, beside the image."""
    x = net.c(x)
    context = functional.interpolate(net.pool(x), size=x.shape[2:], **how)
    return net.out(torch.cat([x, context], 1))


def grown(**how):
    function = partial(pooled_and_grown, **how)
    return Net(function, c=conv(1, 3), pool=nn.AdaptiveAvgPool2d(1), out=conv(6, 1))


def shared(net, x):
    return net.c(net.norm(net.b(net.norm(net.a(x)).relu())))


def parallel(net, x):
    y = net.a(x)
    return net.c(net.one(y) + net.two(net.b(x)))


NETWORKS = {
    "instance norm first": nn.Sequential(nn.InstanceNorm2d(1), conv(1, 2), nn.ReLU(), conv(2, 1)),
    "instance norm, twice": nn.Sequential(
        conv(1, 4), nn.InstanceNorm2d(4, affine=True), nn.ReLU(), conv(4, 4), nn.InstanceNorm2d(4), conv(4, 1)
    ),
    "group norm": nn.Sequential(conv(1, 4), nn.GroupNorm(2, 4), nn.ReLU(), conv(4, 1)),
    "one module, used twice": Net(shared, a=conv(1, 4), b=conv(4, 4), norm=nn.GroupNorm(2, 4), c=conv(4, 1)),
    "two that do not wait": Net(
        parallel, a=conv(1, 2), b=conv(1, 2, 5), one=nn.InstanceNorm2d(2), two=nn.GroupNorm(1, 2), c=conv(2, 1)
    ),
    "squeeze-excite": nn.Sequential(conv(1, 4), squeeze_excite(nn.AdaptiveAvgPool2d(1)), conv(4, 1)),
    "squeeze-excite by mean": nn.Sequential(
        conv(1, 4), nn.ReLU(), squeeze_excite(lambda x: x.mean((2, 3), keepdim=True)), conv(4, 1)
    ),
    "squeeze-excite as published": flat_squeeze_excite(
        lambda x: functional.adaptive_avg_pool2d(x, 1).view(x.shape[:2])
    ),
    "squeeze-excite by mean without axes": flat_squeeze_excite(lambda x: x.mean((-1, -2))),
    "squeeze-excite by names": flat_squeeze_excite(lambda x: torch.mean(input=x, axis=(2, 3))),
    "batch norm without statistics": nn.Sequential(
        conv(1, 4), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(), conv(4, 1)
    ),
    "pooled and grown": grown(mode="bilinear"),
    "pooled and grown, nearest": grown(mode="nearest"),
    "strided": nn.Sequential(
        conv(1, 2, stride=2), nn.InstanceNorm2d(2), nn.ReLU(), nn.Upsample(scale_factor=2), conv(2, 1)
    ),
}
BUILT = {
    "U-Net L3, instance norm": lambda: UNetArchitecture(3, levels=3, width=2, norm="instance"),
    "U-Net L3, group norm": lambda: UNetArchitecture(3, levels=3, width=4, norm="group"),
    "U-Net 2D L3, instance norm": lambda: UNetArchitecture(2, levels=3, width=2, norm="instance"),
    "ResNet-6, instance norm": lambda: GeneratorArchitecture(3, blocks=6, width=1, norm="instance"),
}
SHAPES = {2: (36, 44), 3: (12, 16, 44)}


def network_of(name):
    torch.manual_seed(0)
    made = NETWORKS[name] if name in NETWORKS else build_random(BUILT[name](), seed=1)
    for parameter in made.parameters() if name in NETWORKS else ():
        nn.init.normal_(parameter, std=0.5)
    ndim = 3 if any(isinstance(module, nn.Conv3d) for module in made.modules()) else 2
    return made.double().eval().requires_grad_(False), SHAPES[ndim]


def measured(program, volume, counts, block):
    """The statistics of a program, pass by pass and block by block."""
    known = []
    for count in counts:
        survey = Survey(program.given(known), count)
        parts = []
        for each in BlockGrid(Box.from_shape(survey.size), block):
            plan = survey.plan(each.core)
            parts.append(survey.moments(plan(volume[(..., *plan.read.slices)])))
        known += [reduce(Moments.merge, of_one) for of_one in zip(*parts, strict=True)]
    return known


@pytest.fixture(scope="module", params=[*NETWORKS, *BUILT])
def case(request):
    """(network, volume, whole result, program)."""
    network, shape = network_of(request.param)
    volume = torch.randn(1, 1, *shape, dtype=torch.float64) + 1
    return network, volume, network(volume), capture(network, shape)


def largest(plans, volume, whole):
    errors = [
        float((plan(volume[(..., *plan.read.slices)]) - whole[(..., *plan.block.slices)]).abs().max()) for plan in plans
    ]
    return max(errors) / float(whole.std())


def test_without_statistics_a_block_reads_the_whole_volume_and_is_right(case):
    _, volume, whole, program = case
    plan = program.plan(Box((1,) * (volume.ndim - 2), (9,) * (volume.ndim - 2)))
    assert plan.read == Box.from_shape(volume.shape[2:])
    assert largest([plan], volume, whole) < EXACT


@pytest.mark.parametrize("block", [(8, 8, 8), (5, 16, 13)])
def test_a_block_with_statistics_of_passes_is_that_block_of_the_whole(case, block):
    _, volume, whole, program = case
    known = measured(program, volume, passes(program), block[: volume.ndim - 2])
    assert len(known) == len(program.reductions)
    given, before = program.given(known), volume.clone()
    assert largest(map(given.plan, blocks_of(program.shape)), volume, whole) < EXACT
    assert torch.equal(volume, before)
    assert not given.reductions


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "strided"])
def test_images_with_statistics_of_their_own_go_together(name):
    """Planes of a volume; and in parts, as on a GPU that has no memory for all."""
    network, shape = network_of(name)
    planes = torch.randn(3, 1, *shape, dtype=torch.float64) + torch.arange(3).view(3, 1, 1, 1)
    program, whole = capture(network, shape), torch.cat([network(plane[None]) for plane in planes])
    known = measured(program, planes, passes(program), (20, 44))
    plan = program.given(known).plan(Box((3, 4), (20, 31)))
    assert largest([plan], planes, whole) < EXACT
    apart = plan.of_images(slice(1, 3))(planes[(slice(1, 3), ..., *plan.read.slices)])
    assert float((apart - whole[(slice(1, 3), ..., *plan.block.slices)]).abs().max() / whole.std()) < EXACT
    swapped = program.given([each.part(slice(None, None, -1)) for each in known]).plan(plan.block)
    assert largest([swapped], planes, whole) > 1e-3  # the law was seen to fail


def test_pooled_statistics_are_exact_where_one_block_is_the_volume(case):
    _, volume, whole, program = case
    known = measured(program, volume, [len(program.reductions)], volume.shape[2:])
    assert largest([program.given(known).plan(Box.from_shape(program.shape))], volume, whole) < EXACT


def test_a_wrong_statistic_shows(case):
    """What was never seen to fail tests nothing."""
    _, volume, whole, program = case
    first, *others = measured(program, volume, passes(program), (64,) * (volume.ndim - 2))
    wrong = Moments.of(int(first.count[0, 0]), first.mean[0] + 1e-3, first.m2[0])
    made = program.given([wrong, *others]).plan(Box.from_shape(program.shape))
    assert largest([made], volume, whole) > 1e-9


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("squeeze-excite")])
def test_with_statistics_a_block_reads_what_the_held_network_does(name):
    network, shape = network_of(name)
    found = probe(Held(network), 2, 1).footprint
    plan = capture(network, shape).local.plan(Box((16, 16), (20, 20)))
    (before, after), _ = found.halo
    assert plan.read == Box((16 - before,) * 2, (20 + after,) * 2)


def test_with_statistics_a_norm_costs_no_more_than_a_batch_norm():
    normed, shape = network_of("U-Net L3, instance norm")
    plain = build_random(UNetArchitecture(3, levels=3, width=2), 1)
    block = Box((0, 0, 8), (8, 8, 24))
    cost = capture(normed, shape).local.plan(block).cost()
    like = capture(plain.double().eval(), shape).plan(block).cost()
    assert cost.flops == like.flops
    assert cost.peak_bytes <= 1.02 * like.peak_bytes


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_one_voxel_is_grown_to_a_block_and_not_to_the_volume(mode):
    program, block = capture(grown(mode=mode), (4096, 4096)).local, Box((2000, 2000), (2032, 2032))
    assert program.plan(block).cost().peak_bytes < 40 * block.size * 4


def test_norms_that_do_not_wait_for_one_another_share_a_pass():
    counts = {name: passes(capture(*network_of(name))) for name in NETWORKS}
    assert counts["two that do not wait"] == [2]
    assert counts["one module, used twice"] == [1, 1]
    assert counts["pooled and grown"] == [1]


def test_instance_norm_that_was_trained_on_a_running_mean_needs_no_pass():
    norm = nn.InstanceNorm2d(2, affine=True, track_running_stats=True)
    norm.running_mean.uniform_(-1, 1)
    network = nn.Sequential(conv(1, 2), norm, nn.ReLU(), conv(2, 1)).double().eval()
    volume = torch.randn(1, 1, 20, 24, dtype=torch.float64)
    program = capture(network, (20, 24))
    assert not program.reductions
    with torch.no_grad():
        assert largest([program.plan(Box((3, 4), (9, 12)))], volume, network(volume)) < EXACT


def test_statistics_of_another_network_are_refused():
    program = capture(*network_of("group norm"))
    with pytest.raises(ModelError, match=r"group_norm of module 1: has 2 groups, the statistics are of 4"):
        program.given([Moments.unit(4)])
    with pytest.raises(ModelError, match="statistics of 2 layers for a network that has 1"):
        program.given([Moments.unit(2)] * 2)


def test_pooling_to_more_than_a_voxel_is_named():
    with pytest.raises(CannotCapture, match=r"adaptive_avg_pool2d.* of module 1 has no interval rule"):
        capture(nn.Sequential(conv(1, 1), nn.AdaptiveAvgPool2d(2), nn.Upsample(scale_factor=8)), (16, 16))


def test_an_explanation_is_of_a_block_whose_statistics_are_known():
    from volpipe.models.presets import random_checkpoint

    model = random_checkpoint("unet2d_l4_w2").model()
    network, _ = network_of("squeeze-excite")
    found = explain(model, capture(network, (64, 64)), Box((20, 20), (30, 30)))
    assert found.read == Box((18, 18), (32, 32))
    operations = [layer.operations[0] for layer in found.layers]
    assert operations == ["input", "conv2d", "conv2d", "conv2d", "mul", "conv2d"]


# ---------------------------------------------------------------------- moments


@pytest.mark.parametrize("groups", [6, 2, 1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_moments_are_those_of_numpy_in_float64(groups, dtype, monkeypatch):
    monkeypatch.setattr("volpipe.inference.intervals.moments.AT_ONCE", 300)  # in slabs
    image = (torch.randn(1, 6, 7, 5, 4) + 100).to(dtype)
    values = image.double().numpy().reshape(groups, -1)
    found = Moments.of_tensor(moments(image, groups))
    assert found.count == values.shape[1]
    np.testing.assert_allclose(found.mean[0], values.mean(1), rtol=1e-15)
    np.testing.assert_allclose((found.m2 / found.count)[0], values.var(1), rtol=1e-12)


def test_moments_of_parts_are_those_of_the_whole():
    image = torch.randn(1, 3, 20, 9, dtype=torch.float64) + 1e3
    parts = [Moments.of_tensor(moments(part, 3)) for part in image.split((1, 7, 12), 2)]
    whole, merged = Moments.of_tensor(moments(image, 3)), reduce(Moments.merge, parts)
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-15)
    np.testing.assert_allclose(merged.m2, whole.m2, rtol=1e-13)
    for again in (Moments.from_json(merged.as_json()), Moments.from_bytes(merged.as_bytes(), 3)):
        np.testing.assert_array_equal(again.rows, merged.rows)


def test_every_image_has_moments_of_its_own():
    images = torch.randn(3, 2, 5, 6)
    together, apart = moments(images, 2), [moments(image[None], 2) for image in images]
    torch.testing.assert_close(together, torch.cat(apart))
    np.testing.assert_array_equal(Moments.of_tensor(together).tensor(2, "cpu"), together)


def test_moments_of_images_as_one_are_those_of_one_image():
    images = torch.randn(4, 2, 5, 6, dtype=torch.float64) + 10
    joined = Moments.of_tensor(moments(images, 2)).joined()
    one = Moments.of_tensor(moments(images.transpose(0, 1).reshape(1, 2, 20, 6), 2))
    np.testing.assert_allclose(joined.rows, one.rows, rtol=1e-13)


def test_statistics_of_other_images_are_refused():
    """torch would make the output as many."""
    image, three = torch.zeros(1, 2, 4, 4), torch.zeros(3, 2, 1, 1)
    with pytest.raises(GeometryError, match="statistics of 3 images for 1"):
        normalised(image, three, three, torch.empty_like(image))


@pytest.mark.parametrize(
    "norm",
    [
        lambda x: torch.instance_norm(
            input=x, weight=None, bias=None, running_mean=None, running_var=None, use_input_stats=True, momentum=0.1,
            eps=1e-5, cudnn_enabled=False,
        ),
        lambda x: torch.batch_norm(
            input=x, weight=None, bias=None, running_mean=None, running_var=None, training=True, momentum=0.1,
            eps=1e-5, cudnn_enabled=False,
        ),
        lambda x: functional.instance_norm(input=x, running_mean=None, eps=1e-5),
        lambda x: functional.group_norm(input=x, num_groups=2),
        lambda x: x * torch.ops.aten.mean.dim(self=x, dim=[2, 3], keepdim=True),
    ],
)  # fmt: skip
def test_a_held_statistic_is_known_by_any_name_of_its_arguments(norm):
    image = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(Held(Net(lambda _, x: norm(x)))(image), image)
