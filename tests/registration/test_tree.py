"""Laws of the walk over the tree, with slabs whose voxels say where they lie, so that a pair can be exact.

Each slab has two layers: y and x, in micrometres from the upper slab's centre, of where its tissue truly belongs. The
pair fits a rigid motion to them, adds noise, and finds nothing outside the prior that it is given.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from volpipe.errors import GeometryError
from volpipe.geometry import Box, Node, NodeGrid, Rigid, SlabFrame
from volpipe.registration.estimate import LIKELY, PairEstimate
from volpipe.registration.tree import LevelReader, TreeSearch, estimate_batch, estimate_node, register_tree

VOXEL_UM = (2.0, 3.0)
POSE = Rigid(0.3, (60.0, -90.0))  # of the lower slab, upper_from_lower


def places(frame, level, box):
    """(2, y, x): where each voxel lies, from its slab's centre."""
    y, x = (
        ((np.arange(a, b) + 0.5) * 2**level - extent / 2) * um
        for a, b, extent, um in zip(box.start, box.stop, frame.extent, frame.voxel_um, strict=True)
    )
    return np.stack(np.meshgrid(y, x, indexing="ij"))


def bent(points):
    """Smooth tissue: neighbouring places move by up to 3 % of their distance."""
    y, x = points
    return np.stack([y + 6 * np.sin(x / 200 + 1), x + 4 * np.sin(y / 150) + 3 * np.cos(x / 250)])


def belongs(points):
    """Where tissue at these points (2, ...) of the lower slab truly lies in the upper one."""
    return np.moveaxis(POSE(np.moveaxis(bent(points), 0, -1)), -1, 0)


@dataclass
class Reader:
    """What a slab's voxels say, and how many were read of each level."""

    frame: SlabFrame
    where: object
    read: dict = field(default_factory=dict)

    def __call__(self, level, box):
        assert Box.from_shape(self.frame.shape(level)).contains(box)
        assert not box.is_empty
        layers = self.where(places(self.frame, level, box))
        self.read.setdefault(level, []).append(layers.size)
        return layers


@dataclass
class ExactPair:
    """Fits the motion that the voxels tell; noise as a fraction of the crop's width and in rad."""

    noise: float = 0.0
    noise_rad: float = 0.0
    seed: int = 0
    refuses: object = lambda call: False
    calls: list = field(default_factory=list)

    def __call__(self, upper, lower, *, gap_layers, max_shift, max_angle_rad, voxel_size_um, around, carry):
        assert gap_layers == 1
        assert not carry
        assert upper.shape == lower.shape
        um = voxel_size_um[1:]
        height, width = upper.shape[1:]
        own = places(SlabFrame((height, width), um), 0, Box((0, 0), (height, width)))
        centre = np.nanmean(upper - own, axis=(1, 2))
        moved = (lower - centre[:, None, None]).reshape(2, -1)
        seen = np.isfinite(moved[0]) & (np.abs(moved) <= np.reshape(np.multiply(um, height), (2, 1)) / 2).all(0)
        if seen.sum() < seen.size / 8:  # too little tissue has a counterpart
            return PairEstimate(around, 0.0, False)
        truth = fitted(own.reshape(2, -1)[:, seen].T, moved[:, seen].T)
        reach = min(height * um[0], width * um[1])
        rng = np.random.default_rng((self.seed, len(self.calls)))
        off = np.subtract(truth.shift, around.shift), math.remainder(truth.angle_rad - around.angle_rad, math.tau)
        self.calls.append((np.hypot(*off[0]) / reach / max_shift, abs(off[1]) / max_angle_rad))
        if max(self.calls[-1]) > 1.2 or self.refuses(len(self.calls)):
            return PairEstimate(around @ Rigid(0.05, (9.0, 9.0)), 0.1, False)
        angle, *shift = rng.normal(size=3) * (self.noise_rad, reach * self.noise, reach * self.noise)
        return PairEstimate(Rigid(truth.angle_rad + angle, tuple(np.add(truth.shift, shift))), 0.9, True)


def fitted(points, moved):
    """The rigid motion that brings points (n, 2) nearest to where they moved (Procrustes, in complex numbers)."""
    z, w = points[:, 1] + 1j * points[:, 0], moved[:, 1] + 1j * moved[:, 0]
    angle = np.angle(np.vdot(z - z.mean(), w - w.mean()))
    shift = w.mean() - np.exp(1j * angle) * z.mean()
    return Rigid(float(angle), (float(shift.imag), float(shift.real)))


def search(extent=(1024, 1024), coarsest=5, lower=None, window=32, **options):
    frame = SlabFrame(extent, VOXEL_UM)
    lower = SlabFrame(lower or extent, VOXEL_UM)
    readers = {"read_upper": Reader(frame, lambda points: points), "read_lower": Reader(lower, belongs)}
    given = {"pair": ExactPair(), "voxel_z_um": 8.0, "gap_layers": 1, "start": POSE, **readers, **options}
    return TreeSearch(NodeGrid(frame, window, coarsest), lower, **given)


def off_um(node, transform, grid):
    """How far a motion is from the truth, at the tissue that belongs to a node's centre."""
    source = np.array(transform.inverse(grid.centre_um(node)))
    return np.hypot(*(np.array(grid.centre_um(node)) - belongs(source)))


def test_a_tenth_of_error_at_the_root_stays_a_tenth_of_each_width_and_ends_under_a_voxel():
    errors, leaves = [], []
    for turn in range(2):
        kick = Rigid(0.09 * (-1) ** turn, tuple(0.1 * 1024 * 2.0 * np.array((np.sin(turn), np.cos(turn)))))
        walk = search(lower=(1500, 1500), start=kick @ POSE, pair=ExactPair(0.006, 0.005, seed=turn))
        found = register_tree(walk)
        for node, estimate in found.items():
            if node.level < 5:
                width = min(walk.grid.width_um(node.level))
                errors.append(off_um(node, found[node.parent].transform, walk.grid) / width)
            if node.level == 0:
                leaves.append(off_um(node, estimate.transform, walk.grid) / min(VOXEL_UM))
    assert len(errors) == 2 * 1364
    assert np.mean(np.array(errors) <= 0.1) >= 0.99
    assert np.mean(np.array(leaves) < 1) >= 0.99
    assert max(leaves) < 2


def test_with_an_exact_pair_every_node_finds_the_tissue_at_its_centre():
    walk = search((700, 500), 4, lower=(1000, 900))
    for node, estimate in register_tree(walk).items():
        assert estimate.trusted
        if node.level < 2:
            assert off_um(node, estimate.transform, walk.grid) < 0.02 * min(walk.grid.width_um(node.level))


def test_a_rigid_slab_is_found_to_rounding_at_every_node(monkeypatch):
    monkeypatch.setitem(globals(), "bent", lambda points: points)
    walk = search((500, 700), 3, lower=(600, 650), start=Rigid(0.02, (5.0, 4.0)) @ POSE)
    found = register_tree(walk)
    assert sum(estimate.trusted for estimate in found.values()) > 0.8 * len(found)  # the rest has no counterpart
    for estimate in found.values():
        if estimate.trusted:
            assert estimate.transform.angle_rad == pytest.approx(POSE.angle_rad, abs=1e-6)
            np.testing.assert_allclose(estimate.transform.shift, POSE.shift, atol=1e-3)
            np.testing.assert_allclose(estimate.at((7.0, 9.0))((1, 2)), POSE((8, 11)) - (7, 9), atol=1e-3)


def test_what_a_node_reads_is_what_it_says_and_the_same_at_every_level():
    walk = search((4096, 4096), 4, window=64, start=Rigid(), pair=Always(False))
    walk = replace(walk, read_upper=Reader(walk.lower, np.zeros_like), read_lower=Reader(walk.lower, np.zeros_like))
    found = register_tree(walk)
    means = []
    for level in walk.grid.levels:
        counted = walk.read_upper.read[level] + walk.read_lower.read[level]
        said = [estimate.voxels_read for node, estimate in found.items() if node.level == level]
        assert sum(said) == sum(counted)
        means.append(np.mean(said))
    assert max(means) <= 1.1 * min(means)
    assert max(means) == 2 * 2 * walk.side**2


@dataclass
class Always:
    """Says the same everywhere, and remembers what it was asked."""

    accepted: bool
    asked: list = field(default_factory=list)

    def __call__(self, upper, lower, **options):
        self.asked.append((upper, lower, options))
        return PairEstimate(options["around"], 0.3, self.accepted)


def test_nodes_that_are_not_trusted_keep_their_parents_motion():
    start = Rigid(0.1, (3.0, 4.0))
    found = register_tree(search((256, 256), 3, pair=Always(False), start=start))
    assert all(not estimate.trusted and estimate.transform == start for estimate in found.values())
    assert all(estimate.missed == 4 - node.level for node, estimate in found.items())
    assert all(estimate.confidence == 0.3 for estimate in found.values())


@pytest.mark.parametrize("confidence", [LIKELY - 0.01, LIKELY])
def test_a_node_is_trusted_where_it_is_likelier_right_than_wrong(confidence):
    walk = search((64, 64), 1, start=Rigid(), pair=lambda *_, around, **__: PairEstimate(around, confidence, False))
    assert {estimate.trusted for estimate in register_tree(walk).values()} == {confidence >= LIKELY}


@pytest.mark.parametrize(("accepted", "least", "trusted"), [(True, 0.4, False), (False, 0.3, True)])
def test_a_tree_may_have_its_own_bound_of_confidence(accepted, least, trusted):
    walk = search((64, 64), 1, start=Rigid(), pair=Always(accepted), least_confidence=least)  # the confidence is 0.3
    assert {estimate.trusted for estimate in register_tree(walk).values()} == {trusted}


def test_a_child_of_a_trusted_node_starts_from_it_and_of_another_from_its_grandparent():
    walk = search((256, 256), 3, pair=ExactPair(refuses=lambda call: call == 2))
    found = register_tree(walk)
    root, first = found[Node(3, 0, 0)], found[Node(2, 0, 0)]
    assert (root.trusted, first.trusted, first.missed) == (True, False, 1)
    assert first.transform == root.transform
    assert all(found[child].trusted for child in walk.grid.children(first.node))


def test_the_prior_stays_a_fraction_of_the_width_and_its_angles_halve():
    walk = search(max_shift=0.08, max_angle_rad=0.1)
    assert [walk.prior(level, 0) for level in (5, 4, 3, 2, 1, 0)] == [
        (0.08, angle) for angle in (0.1, 0.05, 0.04, 0.04, 0.04, 0.04)
    ]
    assert walk.prior(3, 1) == (0.16, 0.05)  # one miss: twice the fraction, the angles of the parent
    assert walk.prior(0, 5) == (0.25, 0.1)
    assert replace(walk, max_angle_rad=0.01).prior(0, 0) == (0.08, 0.01)


def test_the_pair_is_told_the_prior_of_the_window_and_what_the_crops_leave_over():
    walk = search((256, 256), 3, pair=(pair := Always(True)))
    estimate = estimate_node(walk, Node(1, 1, 2), POSE)
    upper, lower, options = pair.asked[0]
    boxes = walk.boxes(Node(1, 1, 2), POSE)
    centres = walk.grid.frame.centre_um(boxes[0], 1), walk.lower.centre_um(boxes[1], 1)
    assert upper.shape == lower.shape == (2, 42, 42)
    assert options["max_shift"] == pytest.approx(0.1 * 32 / 42)
    assert options["voxel_size_um"] == (8.0, 4.0, 6.0)
    np.testing.assert_allclose(options["around"]((3.0, 4.0)), POSE(np.add((3.0, 4.0), centres[1])) - centres[0])
    assert (np.abs(options["around"].shift) <= np.divide((4.0, 6.0), 2) * 1.5).all()
    np.testing.assert_allclose(estimate.transform.shift, POSE.shift)


def test_the_lower_crop_stays_in_its_slab_as_far_as_its_margin():
    walk = search((200, 200), 1, start=Rigid())
    inner = Node(0, 1, 1)  # 32 to 64; its crop from 27
    assert walk.boxes(inner, Rigid(0.0, (29.0 * 2, 60.0 * 3)))[1].start == (0, -28)  # from -2 and from -33


@pytest.mark.parametrize("angle", [0.0, 0.1, -0.1])
def test_the_margin_fills_the_window_for_every_motion_of_the_prior(angle):
    walk = search(start=Rigid())
    node = Node(0, 9, 12)
    _, lower = walk.boxes(node, Rigid())
    for shift in 0.1 * 32 * np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]):
        corners = np.array([(y, x) for y in (-16, 16) for x in (-16, 16)])  # of the upper window, from its centre
        place = Rigid(angle, tuple(shift)).inverse(corners) + np.add(lower.start, lower.stop) / 2
        assert (place >= lower.start).all()
        assert (place <= lower.stop).all()


def test_outside_the_slab_nothing_is_known_and_at_its_edge_the_crop_moves_inwards():
    walk = search((200, 200), 1, pair=(pair := Always(True)), start=Rigid(0.0, (0.0, 0.0)))
    estimate_node(walk, Node(0, 0, 3), Rigid())
    upper, lower, _ = pair.asked[0]
    assert np.isfinite(upper).all()
    np.testing.assert_array_equal(upper, places(walk.lower, 0, Box((0, 91), (42, 133))).astype(np.float32))
    assert np.isfinite(lower).all()
    estimate_node(walk, Node(0, 6, 3), Rigid())  # 192 to 224 of 200, with its margin from 187, moved to 182
    upper, _, _ = pair.asked[1]
    assert np.isfinite(upper[:, :18]).all()
    assert np.isnan(upper[:, 18:]).all()


def test_a_node_without_counterpart_or_without_tissue_is_not_compared():
    walk = search((200, 200), 1, pair=(pair := Always(True)))
    far = Rigid(0.0, (0.0, 5000.0))
    estimate = estimate_node(walk, Node(0, 1, 1), far, missed=2)
    assert (estimate.transform, estimate.confidence, estimate.missed) == (far, 0.0, 3)
    assert estimate.voxels_read == 2 * 42 * 42
    for blank in (np.nan, 7.0):
        empty = replace(walk, read_upper=lambda level, box, v=blank: np.full((3, *box.shape), v))
        assert not estimate_node(empty, Node(0, 1, 1), Rigid()).trusted
    assert pair.asked == []
    for columns, asked in ((14, 1), (10, 1)):  # known of 42: a third is enough, less than a quarter is not
        estimate_node(walk, Node(0, 1, 1), Rigid(0.0, (0.0, 3.0 * (74 - columns))))
        assert len(pair.asked) == asked
    assert np.isfinite(pair.asked[0][1][0, 0]).sum() == 14


@pytest.mark.parametrize("depth", [1, 2, 6])
def test_batches_change_nothing(depth):
    walk = search((300, 260), 3)
    whole = register_tree(walk, depth=4)
    assert register_tree(walk, depth) == whole
    assert set(whole) == set(walk.grid)


def test_a_batch_needs_its_roots_parent():
    walk = search((300, 260), 3)
    with pytest.raises(GeometryError, match="was not given"):
        estimate_batch(walk, Node(1, 0, 0), depth=2)


def test_arrays_in_memory_are_read_by_level():
    levels = [np.arange(2 * 8 * 8).reshape(2, 8, 8), np.arange(2 * 4 * 4).reshape(2, 4, 4)]
    np.testing.assert_array_equal(LevelReader(levels)(1, Box((1, 2), (3, 4))), levels[1][:, 1:3, 2:4])


def test_slabs_of_different_voxels_and_negative_margins_are_refused():
    with pytest.raises(GeometryError, match="resample one slab"):
        replace(search(), lower=SlabFrame((10, 10), (2.0, 3.1)))
    with pytest.raises(GeometryError, match="margin"):
        search(margin=-0.1)
