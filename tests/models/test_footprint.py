"""Closed-form footprints: hand-computed values, and in float64 the tile that reads them against the whole volume."""

from dataclasses import replace

import pytest

from volpipe.models import GeneratorArchitecture, UNetArchitecture

EXACT, WRONG = 1e-12, 1e-9  # std of the whole result


def unet(ndim, levels, **fields):
    return UNetArchitecture(ndim, levels, width=2, **{"upsampling": "nearest", **fields})


def generator(ndim, blocks, **fields):
    return GeneratorArchitecture(ndim, blocks, width=4, **fields)  # at width 2 whole layers die in ReLU


# architecture, then per axis: period, need before, need after, size class, lost. U-Net, P = 2**(L - 1): need 6P - 2,
# bilinear 7P - 2; valid 12P - 8 lost; ResNet-n: 8n + 10 and 8n + 11 (transposed), 8n + 14 and 8n + 11 (nearest),
# 8n + 18 and 8n + 15 (bilinear).
UNETS = [
    (unet(2, 3), (4, 22, 22, 0, 0)),
    (unet(2, 4), (8, 46, 46, 0, 0)),
    (unet(2, 5), (16, 94, 94, 0, 0)),
    (unet(2, 3, upsampling="transposed"), (4, 22, 22, 0, 0)),
    (unet(2, 4, upsampling="transposed"), (8, 46, 46, 0, 0)),
    (unet(2, 3, upsampling="bilinear"), (4, 26, 26, 0, 0)),
    (unet(2, 4, upsampling="bilinear"), (8, 54, 54, 0, 0)),
    (unet(2, 5, upsampling="bilinear"), (16, 110, 110, 0, 0)),
    (unet(2, 3, padding="valid"), (4, 0, 40, 0, 40)),
    (unet(2, 4, padding="valid", upsampling="transposed"), (8, 0, 92, 4, 88)),
    (unet(2, 5, padding="valid"), (16, 0, 188, 12, 184)),
    (unet(2, 3, padding="valid", upsampling="bilinear"), (4, 4, 44, 0, 40)),
    (unet(2, 4, padding="valid", upsampling="bilinear"), (8, 8, 100, 4, 88)),
    (unet(2, 5, padding="valid", upsampling="bilinear"), (16, 16, 204, 12, 184)),
    (unet(2, 4, downsampling="strided"), (8, 53, 46, 0, 0)),
    (unet(2, 3, pooling=((3, 3), (3, 3))), (9, 35, 35, 0, 0)),
    (unet(3, 3), (4, 22, 22, 0, 0)),
    (unet(3, 4, upsampling="transposed"), (8, 46, 46, 0, 0)),
    (unet(3, 3, upsampling="bilinear"), (4, 26, 26, 0, 0)),
    (unet(3, 3, padding="valid"), (4, 0, 40, 0, 40)),
    (unet(2, 1), (1, 2, 2, 0, 0)),
]
GENERATORS = [
    (generator(2, 6), (4, 58, 59, 0, 0)),
    (generator(2, 9), (4, 82, 83, 0, 0)),
    (generator(2, 6, upsampling="nearest"), (4, 62, 59, 0, 0)),
    (generator(2, 9, upsampling="nearest"), (4, 86, 83, 0, 0)),
    (generator(2, 6, upsampling="bilinear"), (4, 66, 63, 0, 0)),
    (generator(2, 9, upsampling="bilinear"), (4, 90, 87, 0, 0)),
    (generator(2, 6, padding="zero"), (4, 58, 59, 0, 0)),
    (generator(3, 6), (4, 58, 59, 0, 0)),
    (generator(3, 6, upsampling="bilinear", padding="zero"), (4, 66, 63, 0, 0)),
]
ALL = UNETS + GENERATORS
ANISOTROPIC = unet(3, 3, pooling=((1, 2, 2), (1, 2, 2)))
# network, axis along which it is cut
CUTS = [
    *((architecture, architecture.ndim - 1) for architecture, _ in ALL),
    (ANISOTROPIC, 0),
    (ANISOTROPIC, 1),
    (unet(3, 3, upsampling="transposed"), 0),
    (unet(2, 4), 0),
    (generator(2, 6), 0),
    (unet(3, 3, pooling=((1, 2, 2), (1, 2, 2)), downsampling="strided"), 0),
]


def label(value):
    if not isinstance(value, UNetArchitecture | GeneratorArchitecture):
        return None
    size = value.levels if isinstance(value, UNetArchitecture) else value.blocks
    return f"{value.kind}{size}-{value.ndim}d-{value.upsampling}-{value.padding}"


@pytest.mark.parametrize(("architecture", "expected"), ALL, ids=label)
def test_the_closed_form_has_the_values_computed_by_hand(architecture, expected):
    for axis in architecture.footprint().axes:
        assert (axis.period, axis.need_before, axis.need_after, axis.size_class, axis.lost) == expected


def test_an_axis_without_pooling_has_no_period():
    z, y, x = ANISOTROPIC.footprint().axes
    assert (z.period, z.need_before, z.need_after) == (1, 10, 10)
    assert (y.period, y.need_before, y.need_after) == (4, 22, 22)
    assert x == y


@pytest.mark.parametrize(
    ("blocks", "upsampling", "halo"),
    [
        (6, "transposed", (60, 60)),
        (9, "transposed", (84, 84)),
        (6, "nearest", (64, 60)),
        (9, "nearest", (88, 84)),
        (6, "bilinear", (68, 64)),
        (9, "bilinear", (92, 88)),
    ],
)
def test_a_generators_halo_is_its_need_rounded_up_to_4(blocks, upsampling, halo):
    assert generator(2, blocks, upsampling=upsampling).footprint().halo == (halo, halo)


class Cut:
    """A thin volume, long along one axis, and its whole-volume result."""

    def __init__(self, architecture, axis, random_network, random_image):
        footprint = architecture.footprint()
        self.rule = rule = footprint.axes[axis]
        self.network = random_network(architecture)
        reach = rule.halo_before + rule.halo_after
        self.length = rule.admissible(reach + 8 * rule.period + rule.lost)
        lengths = [a.admissible(max(a.lost + 1, 8)) for a in footprint.axes]
        lengths[axis] = self.length
        self.image = random_image(1, architecture.in_channels, *lengths)
        self.whole = self.network(self.image)
        start = rule.halo_before + 2 * rule.period
        self.interior = (start, start + 2 * rule.period)

    def tiles(self):
        """Own ranges: at the first face, far from both, at the last face."""
        end, step = self.length - self.rule.lost, 2 * self.rule.period
        return (0, step), self.interior, (end // step * step - step, end)


@pytest.mark.parametrize(("architecture", "axis"), CUTS, ids=label)
def test_a_tile_that_reads_its_footprint_equals_the_whole_volume(
    architecture, axis, random_network, random_image, tile_error
):
    cut = Cut(architecture, axis, random_network, random_image)
    for own in cut.tiles():
        read = cut.rule.read(*own, cut.length)
        assert tile_error(cut.network, cut.image, cut.whole, axis, own, read) <= EXACT


def sides(architecture, axis):
    """Sides on which a read can be shortened; a valid network that reads less after has no such output at all."""
    rule = architecture.footprint().axes[axis]
    return [side for side, can in (("before", rule.need_before > 0), ("after", rule.lost == 0)) if can]


@pytest.mark.parametrize(
    ("architecture", "axis", "side"), [(*cut, side) for cut in CUTS for side in sides(*cut)], ids=label
)
def test_one_period_less_on_either_side_is_seen(architecture, axis, side, random_network, random_image, tile_error):
    cut = Cut(architecture, axis, random_network, random_image)
    t0, t1 = cut.rule.read(*cut.interior, cut.length)
    read = (t0 + cut.rule.period, t1) if side == "before" else (t0, t1 - cut.rule.period)
    assert tile_error(cut.network, cut.image, cut.whole, axis, cut.interior, read) > WRONG


@pytest.mark.parametrize(
    "architecture",
    [
        unet(2, 4, upsampling="bilinear"),
        unet(2, 4, downsampling="strided"),
        unet(2, 3, pooling=((3, 3), (3, 3))),
        unet(2, 3, padding="valid", upsampling="bilinear"),
        generator(2, 6),
        generator(2, 6, upsampling="bilinear"),
    ],
    ids=label,
)
def test_a_single_voxel_anywhere_in_the_period_is_right(architecture, random_network, random_image, tile_error):
    cut = Cut(architecture, 1, random_network, random_image)
    for voxel in range(cut.interior[0], cut.interior[0] + cut.rule.period):
        own = (voxel, voxel + 1)
        read = cut.rule.read(*own, cut.length)
        assert tile_error(cut.network, cut.image, cut.whole, 1, own, read) <= EXACT


@pytest.mark.parametrize("architecture", [unet(2, 4), generator(2, 6)], ids=label)
def test_a_read_off_the_lattice_is_wrong(architecture, random_network, random_image, tile_error):
    cut = Cut(architecture, 1, random_network, random_image)
    t0, t1 = cut.rule.read(*cut.interior, cut.length)
    assert tile_error(cut.network, cut.image, cut.whole, 1, cut.interior, (t0 + 1, t1 + 1)) > 0.1


def test_a_valid_network_loses_what_it_says(random_network, random_image):
    for levels, upsampling in ((3, "nearest"), (4, "bilinear")):
        architecture = unet(2, levels, padding="valid", upsampling=upsampling)
        rule = architecture.footprint().axes[0]
        length = rule.admissible(rule.lost + 30)
        result = random_network(architecture)(random_image(1, 1, length, length + rule.period))
        assert result.shape[2:] == (length - rule.lost, length + rule.period - rule.lost)


def test_instance_and_group_norm_are_named_and_no_halo_cures_them(random_network, random_image, tile_error):
    for norm in ("instance", "group"):
        architecture = replace(unet(2, 3), norm=norm)
        assert architecture.exactness() == f"{norm} norm: statistics of the tile (module down.0.first.norm)"
        assert replace(generator(3, 6), norm=norm).exactness().endswith("(module stem.norm)")
        cut = Cut(architecture, 1, random_network, random_image)
        read = cut.rule.read(*cut.interior, cut.length)
        assert tile_error(cut.network, cut.image, cut.whole, 1, cut.interior, read) > 1e-3


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_constant_norms_are_exact(norm):
    assert replace(unet(3, 4), norm=norm).exactness() == ""
    assert replace(generator(2, 9), norm=norm).exactness() == ""
