"""The laws that a stitching mode passes or is declared inexact, in float64 against whole-volume inference.

Volumes are long on one axis and small on the others, each axis in turn: a U-Net of 4 levels has no interior tile below
own + 2 * 48 voxels, and a test whose tiles all touch the faces proves nothing about the context.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from zoo import on_all

from volpipe.errors import GeometryError
from volpipe.geometry import AxisFootprint, BlockGrid, Box, Footprint
from volpipe.models.architecture import build_random
from volpipe.models.presets import preset
from volpipe.models.probe import probe
from volpipe.stitching import Assembly, Encoding, cropped, read_box, stitch
from volpipe.stitching.overlap import Overlap
from volpipe.stitching.tile_and_stitch import TileAndStitch
from volpipe.stitching.valid import Valid

PLANES = Assembly("2d", "z")
NETS = {
    "unet3d_l3": (preset("unet3d_l3", width=2), Assembly("3d"), 24, 117),
    "unet3d_l4": (preset("unet3d_l4", width=2), Assembly("3d"), 16, 165),
    "unet3d_l3 bilinear": (preset("unet3d_l3", width=2, upsampling="bilinear"), Assembly("3d"), 24, 125),
    "unet3d_l4 anisotropic": (preset("unet3d_l4_aniso", width=2), Assembly("3d"), 16, 165),
    "resnet6_3d": (preset("resnet6_3d", width=1), Assembly("3d"), 24, 167),
    "unet2d_l4 z": (preset("unet2d_l4", width=2), Assembly("2d", "z"), 16, 165),
    "unet2d_l4 y": (preset("unet2d_l4", width=2), Assembly("2d", "y"), 16, 165),
    "unet2d_l3 orthoslice": (preset("unet2d_l4", levels=3, width=2), Assembly("orthoslice"), 16, 117),
    "resnet6_2d x": (preset("resnet6_2d", width=2), Assembly("2d", "x"), 20, 187),
}
FLOAT64 = Encoding("float64")


def network_of(architecture):
    net = build_random(architecture, seed=3).double().eval()

    @torch.inference_mode()
    def run(x):
        return net(torch.from_numpy(np.ascontiguousarray(x))).numpy()

    return run


def volume_of(architecture, axis, length, seed=0):
    shape = [9, 9, 9]
    shape[axis] = length
    return np.random.default_rng(seed).normal(size=(architecture.in_channels, *shape))


def whole(volume, run, assembly, footprint):
    """The reference: the network on the whole volume, padded at its end into the size class."""
    shape = volume.shape[1:]
    missing = [(0, axis.admissible(n) - n) for axis, n in zip(footprint.axes, shape, strict=True)]
    padded = np.pad(volume, [(0, 0), *missing], mode="edge")[None]
    out = on_all(assembly, run, padded)[0]
    return out[(slice(None), *Box.from_shape(shape).slices)]


def tiled(volume, run, assembly, footprint, mode, block, tile, batch=1, region=None, change=None):
    """The stitched product of a region, block by block, as a worker makes it."""
    shape = volume.shape[1:]
    grid = BlockGrid(region or Box.from_shape(shape), block)
    product = None
    for one in grid:
        tiles = mode.tiles(one.core, shape, tile, footprint)
        tiles = tiles if change is None else [change(t) for t in tiles]
        box = read_box(tiles, shape, mode.outside)
        window = volume[(slice(None), *box.slices)]
        out = np.full((1, *one.core.shape), np.nan)
        stitch(
            window, box, tiles, cropped(run), volume=shape, outside=mode.outside,
            assembly=assembly, encoding=FLOAT64, out=out, core=one.core, batch=batch,
        )  # fmt: skip
        product = np.full((1, *grid.region.shape), np.nan) if product is None else product
        product[(slice(None), *one.core.relative_to(grid.region.start).slices)] = out
    return product


VALID = {
    "unet3d_l3_valid": (preset("unet3d_l3_valid", width=2), Assembly("3d"), 24),
    "unet3d_l3_valid bilinear": (preset("unet3d_l3_valid", width=2, upsampling="bilinear"), Assembly("3d"), 24),
    "unet2d_l4_valid y": (preset("unet2d_l4_valid", width=2), Assembly("2d", "y"), 16),
}


def valid_setting(name, more=(5, 1, 77)):
    """A volume that leaves `more` voxels of product, and what the network gives on it."""
    architecture, assembly, edge = VALID[name]
    run, footprint = network_of(architecture), assembly.footprint(architecture.footprint())
    shape = tuple(axis.lost + n for axis, n in zip(footprint.axes, more, strict=True))
    volume = np.random.default_rng(0).normal(size=(1, *shape))
    missing = [(0, axis.admissible(n) - n) for axis, n in zip(footprint.axes, shape, strict=True)]
    reference = on_all(assembly, run, np.pad(volume, [(0, 0), *missing], mode="edge")[None])[0]
    tile = tuple(max(edge, p) // p * p for p in footprint.period)
    return volume, run, assembly, footprint, tile, reference[(slice(None), *(slice(n) for n in more))]


@pytest.mark.parametrize("name", VALID)
def test_valid_equals_the_network_on_the_whole_volume(name):
    volume, run, assembly, footprint, tile, reference = valid_setting(name)
    region = Valid().region(volume.shape[1:], footprint)
    assert region.shape == reference.shape[1:]
    for block in (tile, (5, 9, 31), region.shape):  # off the lattice too
        product = tiled(volume, run, assembly, footprint, Valid(), block, tile, region=region)
        assert error(product, reference) < 1e-12


@pytest.mark.parametrize("name", VALID)
def test_a_valid_read_off_the_lattice_is_seen(name):
    volume, run, assembly, footprint, tile, reference = valid_setting(name)
    region = Valid().region(volume.shape[1:], footprint)

    def shifted(t):
        """A read that starts one voxel late, with all that is needed."""
        period, start, stop = footprint.period[2], list(t.read.start), list(t.read.stop)
        if start[2] >= period and stop[2] + 1 <= volume.shape[3]:
            start[2], stop[2] = start[2] - period + 1, stop[2] + 1
        return replace(t, read=Box(tuple(start), tuple(stop)))

    changed = tiled(volume, run, assembly, footprint, Valid(), tile, tile, region=region, change=shifted)
    assert error(changed, reference) > 1e-3


def test_every_tile_of_tile_and_stitch_has_a_length_that_the_network_takes():
    axis = AxisFootprint(2, 2, period=2, size_class=1)
    tiles = TileAndStitch().tiles(Box((0,), (33,)), (33,), (8,), Footprint((axis,)))
    assert [(t.own.start[0], t.own.stop[0]) for t in tiles] == [(0, 8), (8, 16), (16, 24), (24, 32), (32, 33)]
    for tile in tiles:
        assert tile.read.shape[0] == axis.admissible(tile.read.shape[0])
        assert tile.read.contains(tile.own)


def test_a_volume_smaller_than_what_is_lost_is_refused():
    architecture = VALID["unet3d_l3_valid"][0]
    with pytest.raises(GeometryError, match=r"loses \(40, 40, 40\) voxels of a volume of \(50, 40, 50\)"):
        Valid().region((50, 40, 50), architecture.footprint())


def error(product, reference):
    return np.abs(product - reference).max() / reference.std()


def long_axes(assembly):
    return [axis for axis in range(3) if assembly.sees[axis]]


CASES = [
    pytest.param(name, axis, id=f"{name}, long {'zyx'[axis]}") for name in NETS for axis in long_axes(NETS[name][1])
]


def setting(name, axis):
    architecture, assembly, edge, length = NETS[name]
    volume = volume_of(architecture, axis, length)
    footprint = assembly.footprint(architecture.footprint())
    tile = tuple(max(edge, p) // p * p for p in footprint.period)
    return volume, network_of(architecture), assembly, footprint, tile


@pytest.mark.parametrize(("name", "axis"), CASES)
def test_overlap_equals_whole_volume_inference(name, axis):
    volume, run, assembly, footprint, tile = setting(name, axis)
    reference = whole(volume, run, assembly, footprint)
    for block in (tile, tuple(2 * t for t in tile), volume.shape[1:]):
        assert error(tiled(volume, run, assembly, footprint, Overlap(), block, tile), reference) < 1e-12


def shorter(footprint, axis):
    """The footprint with one period less of halo on both sides of one axis."""
    one = footprint.axes[axis]
    less = replace(one, need_before=one.halo_before - one.period, need_after=one.halo_after - one.period)
    return Footprint((*footprint.axes[:axis], less, *footprint.axes[axis + 1 :]))


@pytest.mark.parametrize(("name", "axis"), CASES)
def test_one_period_less_of_halo_is_seen(name, axis):
    volume, run, assembly, footprint, tile = setting(name, axis)
    reference = whole(volume, run, assembly, footprint)
    product = tiled(volume, run, assembly, shorter(footprint, axis), Overlap(), tile, tile)
    assert error(product, reference) > 1e-9


@pytest.mark.parametrize(
    ("name", "axis"), [case for case in CASES if "aniso" not in case.id or "long z" not in case.id]
)
def test_a_read_off_the_lattice_is_seen(name, axis):
    """Reads that start one voxel late, with all the context that is needed: worse than a halo too short."""
    volume, run, assembly, footprint, tile = setting(name, axis)
    reference = whole(volume, run, assembly, footprint)

    def shifted(t):
        period = footprint.period[axis]
        start, stop = list(t.read.start), list(t.read.stop)
        if start[axis] >= period and stop[axis] + 1 <= volume.shape[1 + axis]:
            start[axis], stop[axis] = start[axis] - period + 1, stop[axis] + 1
        return replace(t, read=Box(tuple(start), tuple(stop)))

    product = tiled(volume, run, assembly, footprint, Overlap(), tile, tile, change=shifted)
    assert error(product, reference) > 1e-3


@pytest.mark.parametrize("mode", [Overlap(), TileAndStitch()])
@pytest.mark.parametrize("name", ["unet3d_l3", "unet2d_l4 y", "resnet6_3d"])
def test_the_result_does_not_depend_on_blocks_or_batches(mode, name):
    volume, run, assembly, footprint, tile = setting(name, 2)
    reference = tiled(volume, run, assembly, footprint, mode, volume.shape[1:], tile)
    for block, batch in ((tile, 1), ((5, 9, 31), 1), (tuple(2 * t for t in tile), 3)):
        product = tiled(volume, run, assembly, footprint, mode, block, tile, batch)
        assert error(product, reference) < 1e-12


@pytest.mark.parametrize("mode", [Overlap(), TileAndStitch()])
def test_a_box_of_the_volume_is_that_part_of_the_product(mode):
    volume, run, assembly, footprint, tile = setting("unet3d_l3", 2)
    reference = tiled(volume, run, assembly, footprint, mode, volume.shape[1:], tile)
    region = Box((3, 0, 35), (9, 7, 90))
    product = tiled(volume, run, assembly, footprint, mode, (8, 8, 30), tile, region=region)
    assert error(product, reference[(slice(None), *region.slices)]) < 1e-12


@pytest.mark.parametrize("name", ["unet3d_l3", "unet2d_l4 z", "resnet6_2d x"])
def test_tiles_without_context_are_not_the_whole_volume(name):
    axis = 1
    volume, run, assembly, footprint, tile = setting(name, axis)
    reference = whole(volume, run, assembly, footprint)
    assert error(tiled(volume, run, assembly, footprint, TileAndStitch(), tile, tile), reference) > 1e-3
    assert "see nothing of each other" in TileAndStitch().inexact


@pytest.mark.parametrize("mode", [Overlap(), TileAndStitch()])
@pytest.mark.parametrize("shape", [(5, 6, 7), (1, 16, 33), (16, 16, 16)])
def test_a_volume_smaller_than_a_tile_is_one_tile(mode, shape):
    architecture, assembly, *_ = NETS["unet3d_l3"]
    run, footprint = network_of(architecture), architecture.footprint()
    volume = np.random.default_rng(1).normal(size=(1, *shape))
    product = tiled(volume, run, assembly, footprint, mode, (64, 64, 64), (64, 64, 64))
    assert error(product, whole(volume, run, assembly, footprint)) < 1e-12


def test_several_channels_in_and_out():
    architecture = preset("unet3d_l3", width=2, in_channels=2, out_channels=3)
    run, footprint = network_of(architecture), architecture.footprint()
    volume = volume_of(architecture, 2, 117)
    reference = whole(volume, run, Assembly("3d"), footprint)
    out = np.empty((3, 9, 9, 50))
    core = Box((0, 0, 40), (9, 9, 90))
    tiles = Overlap().tiles(core, volume.shape[1:], (24, 24, 24), footprint)
    box = read_box(tiles, volume.shape[1:], "edge")
    stitch(
        volume[(slice(None), *box.slices)], box, tiles, cropped(run), volume=volume.shape[1:], outside="edge",
        assembly=Assembly("3d"), encoding=FLOAT64, out=out, core=core, batch=2,
    )  # fmt: skip
    assert error(out, reference[(slice(None), *core.slices)]) < 1e-12


def test_a_halo_larger_than_a_block_is_read():
    footprint = Footprint((AxisFootprint(46, 46, 8),))
    (tile,) = Overlap().tiles(Box((64,), (72,)), (400,), (8,), footprint)
    assert tile.read == Box((16,), (120,))


@pytest.mark.parametrize("name", VALID)
@pytest.mark.parametrize("shape", [(5, 33, 61), (24, 8, 83)])
def test_mirrored_faces_equal_the_network_on_the_mirrored_volume(name, shape):
    architecture, assembly, edge = VALID[name]
    run, footprint, mode = network_of(architecture), assembly.footprint(architecture.footprint()), Valid("reflect")
    volume = np.random.default_rng(0).normal(size=(1, *shape))
    grown = [n + axis.lost for axis, n in zip(footprint.axes, shape, strict=True)]
    befores = [axis.lost // 2 for axis in footprint.axes]
    afters = [a.admissible(m) - n - b for a, m, n, b in zip(footprint.axes, grown, shape, befores, strict=True)]
    mirrored = np.pad(volume, [(0, 0), *zip(befores, afters, strict=True)], mode="reflect")
    reference = on_all(assembly, run, mirrored[None])[0][(slice(None), *(slice(n) for n in shape))]
    tile = tuple(max(edge, p) // p * p for p in footprint.period)
    assert mode.region(shape, footprint) == Box.from_shape(shape)
    for block in (tile, (5, 9, 31), shape):
        assert error(tiled(volume, run, assembly, footprint, mode, block, tile), reference) < 1e-12


class Rescaling(torch.nn.Module):
    """Convolutions around a change of resolution: down by 4 with strides, up by 2 with a pixel shuffle."""

    def __init__(self, up):
        super().__init__()
        conv = torch.nn.Conv2d
        down = [conv(1, 3, 3, padding=1), conv(3, 4, 4, 2, 1), conv(4, 4, 4, 2, 1), conv(4, 1, 3, padding=1)]
        grow = [conv(1, 4, 3, padding=1), conv(4, 4, 3, padding=1), torch.nn.PixelShuffle(2)]
        self.layers = torch.nn.Sequential(*(grow if up else down))
        with torch.no_grad():
            for number, weight in enumerate(self.parameters()):
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)))

    def forward(self, image):
        return self.layers(image)


@pytest.mark.parametrize("up", [False, True], ids=["down by 4", "up by 2"])
@pytest.mark.parametrize("axis", "zyx")
def test_a_network_that_changes_the_resolution(up, axis):
    network = Rescaling(up).double().eval()
    found = probe(network, 2, 1)
    assembly, shape = Assembly("2d", axis), (21, 37, 30)
    footprint = assembly.footprint(found.footprint)

    def run(planes):
        with torch.inference_mode():
            return network(torch.from_numpy(np.ascontiguousarray(planes))).numpy()

    volume = np.random.default_rng(0).normal(size=(1, *shape))
    missing = [(0, axis.admissible(n) - n) for axis, n in zip(footprint.axes, shape, strict=True)]
    region = Overlap().region(shape, footprint)
    reference = on_all(assembly, run, np.pad(volume, [(0, 0), *missing], mode="edge")[None])[0]
    reference = reference[(slice(None), *region.slices)]
    kept, changed = (21, 37, 30)["zyx".index(axis)], (42, 74, 60) if up else (6, 10, 8)
    assert region.shape == tuple(kept if one == axis else changed["zyx".index(one)] for one in "zyx")
    tile = tuple(max(16 if up else 4, p) // p * p for p in footprint.output_period)
    for block in (tile, (5, 9, 31), region.shape):
        product = tiled(volume, run, assembly, footprint, Overlap(), block, tile, region=region)
        assert error(product, reference) < 1e-12
    short = Footprint(tuple(replace(one, need_before=0, need_after=0) for one in footprint.axes))
    assert error(tiled(volume, run, assembly, short, Overlap(), tile, tile, region=region), reference) > 1e-3
