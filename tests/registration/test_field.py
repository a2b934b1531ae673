"""Laws of a displacement field: its inverse undoes it, and it never folds."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volpipe.errors import GeometryError
from volpipe.geometry import Box, Raster, Rigid
from volpipe.registration.field import STEEPEST, Field, bilinear, steepness


def field_of(displacement, pose=None, spacing=(1.0, 1.0)):
    displacement = np.asarray(displacement, np.float32)
    return Field(pose or Rigid(), displacement, (0.0, 0.0), spacing, np.ones(displacement.shape[1:], np.float32))


def test_a_field_of_nothing_is_the_pose():
    pose = Rigid(0.3, (5.0, -2.0))
    points = np.random.default_rng(0).uniform(-9, 9, (50, 2))
    np.testing.assert_allclose(field_of(np.zeros((2, 3, 4)), pose).pull(points), pose.inverse(points), atol=1e-12)


def test_points_computed_by_hand():
    displacement = np.zeros((2, 2, 3))
    displacement[:, 1, 1] = 0.2, -0.4
    field = field_of(displacement, Rigid(0.0, (10.0, 0.0)), spacing=(2.0, 4.0))
    # half a cell off in x, a quarter off in y: 1/2 * 3/4 of the node's displacement
    np.testing.assert_allclose(field.pull((1.5, 2.0)), (1.5 + 0.2 * 0.375 - 10, 2.0 - 0.4 * 0.375), atol=1e-7)
    # outside as on the nearest edge
    np.testing.assert_allclose(field.displacement_at((99.0, 4.0)), (0.2, -0.4), atol=1e-7)


def test_pushing_undoes_pulling_inside_and_outside(bent):
    points = np.random.default_rng(0).uniform(-60, 60, (500, 2))
    np.testing.assert_allclose(bent.push(bent.pull(points)), points, atol=1e-8)
    np.testing.assert_allclose(bent.pull(bent.push(points)), points, atol=1e-8)


@given(st.integers(0, 10_000), st.floats(0.05, STEEPEST))
def test_the_steepest_field_allowed_has_an_inverse_and_keeps_its_sides(seed, steep):
    random = np.random.default_rng(seed)
    displacement = random.standard_normal((2, 5, 6))
    spacing = (2.0, 3.0)
    displacement *= 0.999 * steep / steepness(displacement, spacing).max()
    field = field_of(displacement, Rigid(0.4, (1.0, 2.0)), spacing)
    points = random.uniform(-3, 20, (40, 2))
    np.testing.assert_allclose(field.push(field.pull(points)), points, atol=1e-7)
    assert field.jacobian.min() >= (1 - STEEPEST) ** 2


def test_the_determinant_is_that_of_small_triangles(bent):
    raster, at = bent.raster, np.random.default_rng(0)
    smallest = np.full(bent.jacobian.shape, np.inf)
    for _ in range(200):
        corner, step = at.uniform(0, 0.98, (*smallest.shape, 2)), 1e-4
        cell = raster.points(Box((0, 0), smallest.shape)) + corner * raster.spacing_um
        by_y, by_x = (bent.pull(cell + d) - bent.pull(cell) for d in ((step, 0.0), (0.0, step)))
        smallest = np.minimum(smallest, (by_y[..., 0] * by_x[..., 1] - by_y[..., 1] * by_x[..., 0]) / step**2)
    assert (smallest >= bent.jacobian - 1e-6).all()
    assert (smallest <= bent.jacobian + 0.05).all()


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_every_corner_of_a_cell_is_looked_at(corner):
    """One node moved by (0.5, 0): in its corner the gradient is (0.5, 0.5), in the others it is less."""
    displacement = np.zeros((2, 2, 2))
    displacement[0, *corner] = 0.5
    assert field_of(displacement).steepness == pytest.approx(0.5 * np.sqrt(2))
    inwards = -1 if corner[0] else 1
    displacement[0, *corner] = 0.5 * inwards
    assert field_of(displacement).jacobian == pytest.approx(0.5)


def test_points_move_apart_by_no_more_than_the_stretch(bent):
    one, other = np.random.default_rng(0).uniform(-50, 50, (2, 2000, 2))
    before, after = (np.linalg.norm(a - b, axis=-1) for a, b in ((one, other), (bent.pull(one), bent.pull(other))))
    assert (after <= bent.stretch * before).all()


@pytest.mark.parametrize("by", [-1.0, -2.5, 1.0])
def test_a_fold_is_refused_with_its_place(by):
    displacement = np.zeros((2, 4, 5))
    displacement[1, :, 3:] = by  # all that is right of x = 2 um lies one node or more to the left
    with pytest.raises(GeometryError, match=re.escape("folds at y 0.5, x 2.5 um")):
        field_of(displacement)


def test_a_turn_is_no_fold_and_a_mirror_is():
    raster = Raster.centred((5, 5), (1.0, 1.0))
    points = raster.points(raster.box)
    turned, mirrored = np.moveaxis(Rigid(0.5)(points) - points, -1, 0), np.moveaxis(points * (0, -2), -1, 0)
    assert field_of(turned).jacobian.min() == pytest.approx(1, abs=1e-5)
    with pytest.raises(GeometryError, match="folds"):
        field_of(mirrored)


@pytest.mark.parametrize("shape", [(2, 1, 4), (3, 4, 4), (4, 4)])
def test_what_is_no_field_is_refused(shape):
    with pytest.raises(GeometryError, match="rows, columns"):
        Field(Rigid(), np.zeros(shape, np.float32), (0.0, 0.0), (1.0, 1.0), np.ones(shape[1:], np.float32))


def test_numbers_that_are_not_finite_are_refused():
    displacement = np.zeros((2, 3, 3))
    displacement[0, 1, 1] = np.nan
    with pytest.raises(GeometryError, match="not finite"):
        field_of(displacement)


def test_a_displacement_is_the_same_to_the_last_bit_among_any_points(bent):
    points = np.random.default_rng(0).uniform(-60, 60, (1001, 2))
    whole = bent.pull(points)
    parts = [bent.pull(points[a : a + n]) for a, n in ((0, 1), (1, 300), (301, 700))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_weights_add_up_and_give_back_straight_lines():
    raster = Raster((4, 5), (2.0, 3.0), (-1.0, 7.0))
    points = np.random.default_rng(0).uniform((-1, 7), (5, 19), (100, 2))
    corners, weights = bilinear(raster, points)
    np.testing.assert_allclose(sum(weights), 1)
    nodes = raster.points(raster.box).reshape(-1, 2)
    found = sum(nodes[c] * w[:, None] for c, w in zip(corners, weights, strict=True))
    np.testing.assert_allclose(found, points)
