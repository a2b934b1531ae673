"""Laws of the course of tissue inside a slab: structures that move at a known rate, and faces carried along it."""

import numpy as np
import pytest
from made_tissue import Waves
from scipy import ndimage

from volpipe.geometry import Rigid
from volpipe.registration.flow import COURSE, REACH, carried, flow, in_the_middle

SIZE = (96, 80)
INSIDE = (slice(12, -12), slice(12, -12))


def leaning(rate, layers=4, size=SIZE, **waves):
    """Tissue whose structures move by `rate` voxels (y, x) in each layer, and change a little."""
    tissue = Waves(shortest=6.0, drift=0.03, **waves)
    moved = [tissue.window([z], size, Rigid(0.0, tuple(-z * np.array(rate))))[0] for z in range(layers)]
    return np.stack(moved)


@pytest.mark.parametrize("rate", [(0.0, 0.0), (0.6, -0.3), (-1.2, 0.9)])
@pytest.mark.parametrize("layers", [2, 3, 4])
def test_structures_that_move_as_one_have_that_course_everywhere(rate, layers):
    course = flow(leaning(rate, layers))
    assert course.shape == (2, *SIZE)
    for found, truth in zip(course, rate, strict=True):
        assert np.median(found[INSIDE]) == pytest.approx(truth, abs=0.04)
        assert np.percentile(np.abs(found[INSIDE] - truth), 90) < 0.15


def test_structures_that_part_have_courses_of_their_own():
    left, right = leaning((0.5, 0.0), seed=1), leaning((-0.5, 0.0), seed=2)
    course = flow(np.concatenate([left[..., :40], right[..., 40:]], axis=-1))
    assert np.median(course[0, 16:-16, 10:24]) == pytest.approx(0.5, abs=0.1)
    assert np.median(course[0, 16:-16, -24:-10]) == pytest.approx(-0.5, abs=0.1)


def test_where_nothing_is_seen_the_course_is_that_of_the_slab():
    slab = leaning((0.6, -0.3))
    slab[:, 30:, :] = slab.mean()
    course = flow(slab)
    np.testing.assert_allclose(course[:, 70:, 20:60].mean((1, 2)), (0.6, -0.3), atol=0.1)


def test_noise_has_no_course_of_its_own():
    slab = leaning((0.6, -0.3))
    slab[:, 40:, :] = np.random.default_rng(0).normal(0, 0.05 * slab.std(), slab[:, 40:, :].shape)
    np.testing.assert_allclose(flow(slab)[:, 70:, 20:60].mean((1, 2)), (0.6, -0.3), atol=0.15)


def test_gain_and_offset_of_layers_change_no_course():
    slab = leaning((0.6, -0.3))
    other = slab * np.array([1, 3, 0.5, 10])[:, None, None] + np.array([0, 5, -7, 100])[:, None, None]
    np.testing.assert_allclose(flow(other), flow(slab), atol=1e-6)


def test_what_is_not_known_tells_nothing():
    """Neither values beyond it nor the rim of what fills it: a hole with another course in it changes little."""
    slab, other = leaning((0.5, 0.0)), leaning((-2.0, 0.0), seed=3)
    hole = (slice(None), slice(40, 56), slice(30, 50))
    liar, holed = slab.copy(), slab.copy()
    liar[hole], holed[hole] = other[hole], np.nan
    assert np.abs(flow(holed)[0] - 0.5)[INSIDE].max() < 0.35
    assert np.abs(flow(liar)[0] - 0.5)[INSIDE].max() > 0.7
    np.testing.assert_allclose(flow(holed + 1e4), flow(holed), atol=1e-6)


def test_a_layer_without_structure_is_left_out_and_its_distance_counts():
    slab = leaning((0.4, 0.2), 4)
    for nothing in (np.nan, 7.0):
        without = slab.copy()
        without[1] = nothing
        np.testing.assert_allclose(np.median(flow(without)[:, *INSIDE], (1, 2)), (0.4, 0.2), atol=0.04)


@pytest.mark.parametrize("layers", [0, 1])
def test_fewer_than_two_layers_have_no_course(layers):
    slab = leaning((0.4, 0.2), 3)
    slab[layers:] = np.nan
    assert flow(slab) is None
    assert flow(slab[:layers]) is None


# ---------------------------------------------------------------------- carried


@pytest.mark.parametrize("layers", [0.0, 0.5, 2.0, -3.0])
def test_a_layer_is_carried_to_where_its_structures_are_then(layers):
    rate = (0.6, -0.4)
    tissue = Waves(shortest=6.0, drift=0.0)
    there = tissue.window([0], SIZE, Rigid(0.0, tuple(-layers * np.array(rate))))[0]
    course = np.broadcast_to(np.array(rate)[:, None, None], (2, *SIZE))
    found = carried(tissue.window([0], SIZE)[0], course, layers)
    assert np.abs(found - there)[INSIDE].max() < 0.01 * there.std()


def test_along_a_course_that_differs_from_place_to_place_each_structure_keeps_its_own():
    """A blob starts where the course is 2 voxels a layer; where it arrives it is less."""
    y, x = np.indices(SIZE)
    blob = np.exp(-((y - 48) ** 2 + (x - 30) ** 2) / 18)
    course = np.stack([np.zeros(SIZE), 2.0 - 0.05 * (x - 30)])
    found = carried(blob, course, 4)
    centre = ndimage.center_of_mass(found)
    assert centre == pytest.approx((48, 38), abs=0.15)
    assert ndimage.center_of_mass(carried(found, course, -4)) == pytest.approx((48, 38 - 4 * 1.6), abs=0.35)


def test_what_is_not_known_is_carried_too():
    layer = Waves().window([0], SIZE)[0]
    layer[40:50, 30:40] = np.nan
    found = carried(layer, np.stack([np.ones(SIZE), np.zeros(SIZE)]), 3)
    assert np.isnan(found[44:52, 31:39]).all()
    assert np.isfinite(found[:42]).all()
    assert np.isfinite(found[55:]).all()


# ---------------------------------------------------------------------- the gap's middle


def test_slabs_are_carried_to_where_their_tissue_is_in_the_gaps_middle():
    """By hand: over 5 layers from face to face it is 2.5 further; only the layers at the gap tell the course."""
    v, tissue, pose = np.array([0.5, -0.6]), Waves(shortest=8.0, drift=0.0), Rigid(0.8, (2.0, -3.0))

    def layer(depth, pose):
        return tissue.window([0], SIZE, Rigid(0.0, tuple(-depth * v)) @ pose)[0]

    noise = np.random.default_rng(0).normal(size=(2, 3, *SIZE))
    upper = np.concatenate([noise[0], [layer(z, Rigid()) for z in range(COURSE)]])
    last = COURSE - 1
    lower = np.concatenate([[layer(last + 5 + z, pose) for z in range(COURSE)], noise[1]])
    for layers, place in zip(in_the_middle(upper, lower, 5), (Rigid(), pose), strict=True):
        middle = layer(last + 2.5, place)
        assert layers.shape == (2, *SIZE)
        assert np.abs(layers - middle)[:, 16:-16, 16:-16].max() < 0.25 * middle.std()


def test_layers_stay_in_the_order_of_the_volume():
    """Tissue that stands still is carried nowhere."""
    still = np.stack([(n + 1) * Waves(shortest=8.0, drift=0.0).window([0], SIZE)[0] for n in range(4)])
    upper, lower = in_the_middle(still, still, 3)
    np.testing.assert_allclose(upper, still[2:], atol=1e-6)
    np.testing.assert_allclose(lower, still[:2], atol=1e-6)


def test_a_slab_of_one_layer_has_no_middle_to_be_carried_to():
    slab = leaning((0.4, 0.2))
    assert in_the_middle(slab[:1], slab, 2) is None
    assert in_the_middle(slab, slab[:1], 2) is None


def test_nothing_is_carried_beyond_reach():
    slab = leaning((0.4, 0.2))
    assert in_the_middle(slab, slab, 2 * REACH) is not None
    assert in_the_middle(slab, slab, 2 * REACH + 1) is None
