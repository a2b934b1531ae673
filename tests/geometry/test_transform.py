"""Laws of rigid motions, and points computed by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volpipe.errors import GeometryError
from volpipe.geometry import Affine, Rigid

numbers = st.floats(-100, 100)
angles = st.floats(-math.pi, math.pi)
rigid = st.builds(Rigid, angles, st.tuples(numbers, numbers))
small = st.floats(-0.3, 0.3)
stretched = st.builds(lambda a, b, c, d, shift: Affine(((1 + a, b), (c, 1 + d)), shift), *[small] * 4,
                      st.tuples(numbers, numbers))  # fmt: skip
affine = st.builds(lambda motion, stretch: Affine.of(motion) @ stretch, rigid, stretched)
motions = rigid | affine
points = st.tuples(numbers, numbers)


@pytest.mark.parametrize(
    ("motion", "point", "moved"),
    [
        (Rigid(0.0, (2.0, -3.0)), (10.0, 20.0), (12.0, 17.0)),
        (Rigid(math.pi / 2), (0.0, 1.0), (1.0, 0.0)),  # x goes to y
        (Rigid(math.pi / 2), (1.0, 0.0), (0.0, -1.0)),  # y goes to -x
        (Rigid(math.pi / 6, (1.0, 2.0)), (0.0, 2.0), (2.0, 2 + math.sqrt(3))),
        (Affine(((2.0, 0.5), (0.0, 3.0)), (1.0, -1.0)), (1.0, 2.0), (4.0, 5.0)),
        (Affine(((0.0, 1.0), (-1.0, 0.0))), (0.0, 1.0), (1.0, 0.0)),  # a quarter turn
    ],
)
def test_points_computed_by_hand(motion, point, moved):
    np.testing.assert_allclose(motion(point), moved, atol=1e-12)


@given(st.tuples(rigid, rigid) | st.tuples(affine, affine), points)
def test_a_product_is_one_motion_after_the_other(pair, point):
    one, other = pair
    np.testing.assert_allclose((one @ other)(point), one(other(point)), atol=1e-9)


@given(motions, points)
def test_the_inverse_undoes(motion, point):
    np.testing.assert_allclose(motion.inverse(motion(point)), point, atol=1e-9)


@given(motions, points, points)
def test_about_another_origin_it_is_the_same_motion(motion, origin, point):
    centre = np.array(origin)
    np.testing.assert_allclose(motion.about(origin)(point), motion(point + centre) - centre, atol=1e-9)


@given(motions, points, st.floats(0.1, 10))
def test_in_another_unit_it_is_the_same_motion(motion, point, factor):
    np.testing.assert_allclose(motion.times(factor)(np.multiply(point, factor)), motion(point) * factor, atol=1e-8)


@pytest.mark.parametrize("broken", [{"angle_rad": math.nan}, {"shift": (0.0, math.inf)}, {"shift": (1.0, 2.0, 3.0)}])
def test_what_is_no_motion_is_refused(broken):
    with pytest.raises(GeometryError, match="finite"):
        Rigid(**broken)


@given(rigid, points)
def test_a_rigid_motion_is_an_affine_one(motion, point):
    np.testing.assert_array_equal(Affine.of(motion)(point), motion(point))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"rows": ((1.0, math.nan), (0.0, 1.0))}, "finite numbers"),
        ({"shift": (0.0, math.inf)}, "finite numbers"),
        ({"rows": ((1.0, 2.0), (2.0, 4.0))}, "undone"),
        ({"rows": ((1.0, 0.0),)}, "2 x 2"),
        ({"shift": (1.0, 2.0, 3.0)}, "2 x 2"),
    ],
)
def test_what_is_no_affine_map_is_refused(broken, said):
    with pytest.raises(GeometryError, match=said) as refusal:
        Affine(**broken)
    assert "\n" not in str(refusal.value)
