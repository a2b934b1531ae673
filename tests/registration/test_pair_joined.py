"""What two looks at a pair say together: the mean of those that agree and know the slant, or the surer one."""

import math
from types import SimpleNamespace

import pytest
import torch

from volpipe.geometry import Rigid
from volpipe.registration import pair
from volpipe.registration.search import Mode, Prior
from volpipe.registration.slant import put_on, taken_off

NEAR = (0.01, 2.0)
STILL = Rigid()


def look(shift, spread=4.0, angle=0.0, slant=STILL):
    """Of windows of 96; what it sees lies at (shift, 0)."""
    closer = SimpleNamespace(spacing=(1.0, 1.0), moving=torch.zeros(1, 96, 96))
    best = Mode(Rigid(angle, (shift, 0.0)), (0.0, spread), 1.0)
    return pair._Look([], best, closer, Prior(STILL, 1.0, (20.0, 20.0)), None, 96, slant)


def joined(*looks, sure=(0.8, 0.4)):
    found = pair._joined(looks, sure, NEAR)
    return found.shift[0]


def test_looks_that_agree_count_by_how_sure_they_are_over_their_variance():
    assert joined(look(0.0), look(3.0)) == pytest.approx(1.0)
    assert joined(look(0.0, 4.0), look(3.0, 2.0)) == pytest.approx(2.0)
    angle = pair._joined([look(0.0), look(0.0, angle=0.009)], (0.8, 0.4), NEAR).angle_rad
    assert angle == pytest.approx(0.003)


def test_what_would_count_for_little_is_left_out_but_the_surest_never_is():
    assert joined(look(0.0, 2.0), look(3.0, 3.0)) == 0.0  # 0.2 and 0.044
    assert joined(look(0.0, 8.0), look(3.0, 1.5), sure=(0.95, 0.4)) == pytest.approx(3 * 0.9230, abs=0.01)


def test_what_is_finer_than_a_part_of_a_voxel_counts_no_more(monkeypatch):
    monkeypatch.setattr(pair, "refined", lambda comparison, start, prior: start)
    assert joined(look(0.0, 0.1), look(3.0, 0.01), sure=(0.8, 0.8)) == pytest.approx(1.5)


@pytest.mark.parametrize(("other", "agrees"), [
    (look(3.9), True), (look(4.1), False), (look(0.0, angle=0.019), True), (look(0.0, angle=0.021), False),
])  # fmt: skip
def test_looks_agree_within_twice_the_tolerances(other, agrees):
    found = pair._joined([look(0.0), other], (0.8, 0.7), NEAR)
    assert (found != STILL) == agrees
    assert pair._joined([other, look(0.0)], (0.8, 0.7), NEAR) != STILL


def test_a_look_that_does_not_know_the_slant_is_not_averaged():
    assert joined(look(0.0, slant=None), look(1.0)) == 0.0
    assert joined(look(0.0, slant=None), look(1.0), sure=(0.4, 0.8)) == 1.0


def test_looks_are_compared_without_their_slant():
    leaning = look(5.0, slant=Rigid(0.0, (5.0, 0.0)))
    assert joined(leaning, look(3.0)) == pytest.approx(1.0)
    assert joined(leaning, look(5.0)) == 0.0


def test_of_looks_that_know_nothing_the_first_counts():
    assert joined(look(1.0), look(2.0), sure=(0.0, 0.0)) == 1.0


def test_an_angle_is_counted_on_across_half_a_turn():
    slant, motion = Rigid(0.02, (1.0, -2.0)), Rigid(math.pi - 0.01, (30.0, 10.0))
    moved = put_on(slant, motion)
    assert moved.angle_rad == pytest.approx(math.pi + 0.01)
    assert moved((3.0, 4.0)) == pytest.approx(slant(motion((3.0, 4.0))))
    back = taken_off(slant, moved)
    assert back.angle_rad == pytest.approx(motion.angle_rad)
    assert back.shift == pytest.approx(motion.shift)
