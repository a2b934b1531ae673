"""Laws of the fit: what all nodes say is what the field does, single liars and folds are not believed."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volpipe.errors import GeometryError
from volpipe.geometry import Raster, Rigid
from volpipe.registration import field_fit
from volpipe.registration.field import STEEPEST
from volpipe.registration.field_fit import Node, believed, conjugate_gradients, fit_field

SHAPE, SPACING = (9, 11), (8.0, 5.0)
PLACE = {"extent_um": (72.0, 55.0), "spacing_um": SPACING}
CENTRES = Raster.centred(SHAPE, SPACING).points(Raster.centred(SHAPE, SPACING).box).reshape(-1, 2)
TURN = 0.2
POSE = Rigid(TURN, (4.0, -3.0))


def waves(points):
    """A map that bends by half a node."""
    y, x = np.moveaxis(points, -1, 0)
    return POSE(points) + np.stack([2 * np.sin(x / 20), 1.5 * np.cos(y / 25)], axis=-1)


def rigid_nodes(motion):
    """Nodes of a rigid motion about the slab's centre, each re-centred to its own."""
    return [Node(tuple(centre), motion.about(centre), 1.0) for centre in CENTRES]


def test_where_all_is_known_the_pose_pulls_at_nothing(nodes_of):
    field = fit_field(nodes_of(Rigid(0.0, (3.0, -4.0)), (15, 15)), Rigid(), extent_um=(120.0, 75.0), spacing_um=SPACING)
    np.testing.assert_allclose(field.push((0.0, 0.0)), (3.0, -4.0), atol=1e-3)


@pytest.mark.parametrize("motion", [Rigid(), Rigid(0.0, (3.0, -2.0)), Rigid(0.05, (1.0, 2.0)), POSE])
def test_nodes_of_one_motion_are_that_motion(motion):
    """Whatever the pose is: a pose off by a small motion is corrected, its turn included."""
    field = fit_field(rigid_nodes(motion), motion @ Rigid(0.02, (0.7, -0.4)), **PLACE)
    np.testing.assert_allclose(field.push(CENTRES), motion(CENTRES), atol=0.06)
    exact = fit_field(rigid_nodes(motion), motion, **PLACE)
    np.testing.assert_allclose(exact.push(CENTRES), motion(CENTRES), atol=1e-6)
    np.testing.assert_allclose(exact.displacement, 0, atol=1e-6)


def test_a_smooth_map_is_found_between_the_nodes_too(nodes_of):
    field = fit_field(nodes_of(waves, angle_rad=TURN), POSE, **PLACE)
    points = np.random.default_rng(0).uniform((-30, -24), (30, 24), (300, 2))
    np.testing.assert_allclose(field.push(points), waves(points), atol=0.12)


def test_a_turn_of_a_node_counts():
    """One node alone, that turns about its own centre: the field turns there."""
    motion = Rigid(0.1)
    field = fit_field([Node((8.0, 5.0), motion, 1.0)], Rigid(), **PLACE, stiffness=1e-3)
    above, below = field.push([(7.0, 5.0), (9.0, 5.0)])
    moved = below - above
    assert np.arctan2(-moved[1], moved[0]) == pytest.approx(0.1, abs=0.01)


def test_without_trusted_nodes_there_is_the_pose(nodes_of):
    for nodes in (
        [],
        [replace(node, trusted=False) for node in nodes_of(waves, angle_rad=TURN)],
        nodes_of(waves, confidence=0.0, angle_rad=TURN),
    ):
        field = fit_field(nodes, POSE, **PLACE)
        assert not field.displacement.any()
        assert not field.confidence.any()
        assert field.raster.box.size > len(CENTRES)


def test_a_node_that_is_trusted_alone_among_others_is_not_believed(nodes_of):
    far = {"upper_from_lower": Rigid(TURN, (9.0, -9.0)), "confidence": 0.6}
    nodes = [replace(node, trusted=False, confidence=0.3) for node in nodes_of(POSE, angle_rad=TURN)]
    row, beside = 4 * SHAPE[1], SPACING[1]

    def told(*columns, near=nodes):
        seen = list(near)
        for column in columns:
            seen[row + column] = replace(seen[row + column], **far, trusted=True)
        return seen, [node.centre_um[1] / beside + 5 for node in believed(seen, SPACING)]

    alone, nothing = told(3)
    assert nothing == []
    field = fit_field(alone, POSE, **PLACE)
    assert not field.displacement.any()
    assert not field.confidence.any()
    assert told(3, 5)[1] == pytest.approx([3, 5])  # two nodes apart
    assert told(3, 6)[1] == []
    assert told(3, 5, 9)[1] == pytest.approx([3, 5])
    across = [replace(nodes[row + 3], **far, trusted=True), replace(nodes[row + 2 * SHAPE[1] + 5], **far, trusted=True)]
    assert believed([*nodes, *across], SPACING) == across  # two nodes apart along both axes
    assert believed([across[0], nodes[row + 4]], SPACING) == []  # one other that found nothing is enough
    pair, _ = told(3, 5)
    assert believed(believed(pair, SPACING), SPACING) == believed(pair, SPACING)
    on_ground = [replace(node, confidence=0.0) for node in nodes]
    assert told(3, near=on_ground)[1] == pytest.approx([3])  # all that was there to be looked at


def test_far_from_trusted_nodes_the_pose_takes_over_smoothly(nodes_of):
    nodes = [node for node in nodes_of(Rigid(0.0, (2.0, 1.0)), (9, 41)) if node.centre_um[1] < -60]
    field = fit_field(nodes, Rigid(), extent_um=(72.0, 205.0), spacing_um=SPACING)
    size = np.linalg.norm(field.displacement[:, 5], axis=0)
    known = np.linalg.norm((2.0, 1.0))
    np.testing.assert_allclose(size[:6], known, atol=0.1)
    assert size[-10:].max() < 0.02 * known
    assert np.abs(np.diff(size)).max() < known / 3  # no step
    assert (field.confidence[:, :5] > 0.9).any()
    assert not field.confidence[:, -20:].any()


def test_noise_of_single_nodes_is_smoothed(nodes_of):
    noise = np.random.default_rng(0).normal(0, 0.5, CENTRES.shape)
    field = fit_field(nodes_of(lambda p: waves(p) + noise, angle_rad=TURN), POSE, **PLACE)
    left = field.push(CENTRES) - waves(CENTRES)
    assert np.sqrt((left**2).mean()) < 0.6 * np.sqrt((noise**2).mean())


def test_outliers_are_not_believed_and_marked(nodes_of):
    nodes, random = nodes_of(waves, angle_rad=TURN), np.random.default_rng(0)
    liars = random.choice(len(nodes), 15, replace=False)
    for liar in liars:
        nodes[liar] = replace(nodes[liar], upper_from_lower=Rigid(TURN, tuple(random.uniform(-15, 15, 2))))
    field = fit_field(nodes, POSE, **PLACE)
    np.testing.assert_allclose(field.push(CENTRES), waves(CENTRES), atol=0.6)
    at = np.rint(field.raster.places(waves(CENTRES))).astype(int)
    confidence = field.confidence[at[:, 0], at[:, 1]]
    assert np.median(np.delete(confidence, liars)) > np.median(confidence[liars]) + 0.2


def test_of_two_nodes_the_more_confident_one_is_believed():
    found = []
    for confidence in (0.1, 0.5, 0.9):
        nodes = [Node((0.0, 0.0), Rigid(0.0, (1.0, 0.0)), confidence), Node((0.0, 0.0), Rigid(), 1 - confidence)]
        found.append(fit_field(nodes, Rigid(), **PLACE).push((0.0, 0.0))[0])
    assert found == sorted(found)
    assert found[2] - found[0] > 0.3


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 30))
def test_no_nodes_make_a_field_fold(seed, size):
    """Each node says something else, by up to thirty nodes."""
    random = np.random.default_rng(seed)
    shifts = random.normal(0, size * 8, (len(CENTRES), 2))
    nodes = [Node(tuple(c), Rigid(0.0, tuple(s)), 1.0) for c, s in zip(CENTRES.tolist(), shifts.tolist(), strict=True)]
    field = fit_field(nodes, POSE, **PLACE)
    assert field.jacobian.min() > 0
    assert field.steepness.max() <= STEEPEST
    np.testing.assert_allclose(field.push(field.pull(CENTRES)), CENTRES, atol=1e-6)


def across(points):
    """Both halves of the slab lie over each other by six nodes: a fold that most nodes agree on."""
    return points - np.where(points[..., 1:] > 0, 1, -1) * (0.0, 15.0)


def test_a_fold_is_smoothed_and_marked_and_the_rest_is_left_alone(nodes_of):
    nodes = nodes_of(across, (9, 31))
    place = {"extent_um": (72.0, 155.0), "spacing_um": SPACING}
    field = fit_field(nodes, Rigid(), **place)
    middle = field.raster.shape[1] // 2
    assert field.jacobian.min() > 0
    assert field.confidence[:, middle].max() < 0.1
    assert field.confidence[4, 7] > 0.9
    far = Raster.centred((9, 2), (8.0, 140.0))
    far = far.points(far.box).reshape(-1, 2)
    np.testing.assert_allclose(field.push(far), across(far), atol=0.5)


def test_a_fold_that_nothing_cures_is_refused(nodes_of, monkeypatch):
    monkeypatch.setattr(field_fit, "UNFOLDS", 0)
    with pytest.raises(GeometryError, match="folds at y"):
        fit_field(nodes_of(across), Rigid(), **PLACE)


def test_the_slab_above_may_lie_anywhere_in_the_reconstruction(nodes_of):
    """A chain: the nodes tell of the slab above, whose own pose or field says where that lies."""
    above = Rigid(-0.3, (20.0, 9.0))
    field = fit_field(nodes_of(waves, angle_rad=TURN), above @ POSE, **PLACE, reconstruction_from_upper=above)
    np.testing.assert_allclose(field.push(CENTRES), above(waves(CENTRES)), atol=0.1)
    upper = fit_field(nodes_of(waves, angle_rad=TURN), POSE, **PLACE)
    chained = fit_field(nodes_of(lambda p: p), POSE, **PLACE, reconstruction_from_upper=upper.push)
    np.testing.assert_allclose(chained.push(CENTRES), upper.push(CENTRES), atol=0.1)


def test_a_correction_of_the_pose_by_what_nodes_say_beyond_the_pair(nodes_of):
    """The stack moved the slab (its drift was taken out): the nodes bend it where it lies now."""
    pose = Rigid(0.15, (6.0, -5.0))
    field = fit_field(nodes_of(waves, angle_rad=TURN), pose, **PLACE, reconstruction_from_upper=pose @ POSE.inverse)
    np.testing.assert_allclose(field.push(CENTRES), (pose @ POSE.inverse)(waves(CENTRES)), atol=0.1)


@pytest.mark.parametrize(
    ("nodes", "more", "said"),
    [
        ([Node((0.0, 0.0), Rigid(), 1.5)], {}, "0..1"),
        ([Node((np.nan, 0.0), Rigid(), 1.0)], {}, "finite"),
        ([], {"stiffness": 0.0}, "stiffness"),
        ([], {"extent_um": (0.0, 5.0)}, "raster"),
    ],
)
def test_what_is_no_node_is_refused(nodes, more, said):
    with pytest.raises(GeometryError, match=said):
        fit_field(nodes, Rigid(), **PLACE | more)


def test_conjugate_gradients_solve():
    random = np.random.default_rng(0)
    half = random.standard_normal((30, 20))
    matrix, wanted = half.T @ half, random.standard_normal((20, 2))
    found = conjugate_gradients(field_fit.sparse.csr_matrix(matrix), matrix @ wanted, np.zeros((20, 2)))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    with pytest.raises(GeometryError, match="no smooth field found in 3 steps"):
        conjugate_gradients(field_fit.sparse.csr_matrix(matrix), matrix @ wanted, np.zeros((20, 2)), most=3)
