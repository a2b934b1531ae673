"""Which footprint a job uses: what is known goes before what was given, unless a person insists."""

import pytest

from volpipe.errors import ModelError
from volpipe.models import load_model, preset, resolve_model
from volpipe.models.settle import settle

NAME = "preset:unet3d_l3_w2"
KNOWN = preset("unet3d_l3", width=2).footprint()  # need 22, period 4


def settled(halo=None, period=None, *, name=NAME, by_hand="checked", allow_inexact=False):
    ref = resolve_model(name, halo=halo, period=period)
    return settle(ref, load_model(ref), halo=by_hand, allow_inexact=allow_inexact)


@pytest.mark.parametrize("given", [{}, {"halo": [24], "period": [4]}, {"halo": [30, 22, 22], "period": [8, 4, 4]}])
def test_what_is_known_stands_where_a_halo_by_hand_covers_it(given):
    found = settled(**given)
    assert (found.footprint, found.exactness, found.on_trust) == (KNOWN, "", "")


@pytest.mark.parametrize(
    ("halo", "period", "say"),
    [
        ([20], [4], r"it needs 22,22,22"),
        ([22, 22, 21], [4], r"it needs 22,22,22"),
        ([24], [2], r"and 4,4,4"),
        ([24, 24], [4], "give 3 numbers each"),
    ],
)
def test_a_halo_by_hand_that_does_not_cover_it_is_refused(halo, period, say):
    with pytest.raises(ModelError, match=say):
        settled(halo, period)


def test_a_person_who_insists_gets_what_was_given_and_why_it_is_inexact():
    found = settled([20], [4], allow_inexact=True)
    assert [axis.need_before for axis in found.footprint.axes] == [20] * 3
    assert "needs 22,22,22" in found.exactness


def test_a_mode_that_is_inexact_for_its_halo_takes_what_is_given():
    found = settled([20], [4], by_hand="taken")
    assert [axis.need_before for axis in found.footprint.axes] == [20] * 3
    assert found.exactness == ""


def test_a_mode_that_reads_no_halo_takes_any():
    assert settled([0], [1], by_hand="ignored").footprint == KNOWN


VALID = "preset:unet3d_l3_valid_w2"  # loses 40 voxels


@pytest.mark.parametrize(
    ("name", "halo", "period", "say"),
    [
        (VALID, [1], [1], r"loses 40,40,40 voxels; leave it out"),
        (
            NAME,
            [20],
            [2],
            r"--period \(2,\), but it does not take \[66, 66, 66\] voxels; give a multiple of \[4, 4, 4\]",
        ),
    ],
)
@pytest.mark.parametrize("how", [{"allow_inexact": True}, {"by_hand": "taken"}], ids=str)
def test_what_a_network_cannot_be_run_on_is_refused_before_anything_is_written(name, halo, period, say, how):
    with pytest.raises(ModelError, match=say):
        settled(halo, period, name=name, **how)


def test_a_halo_by_hand_leaves_what_is_lost_and_the_resolution():
    known = settled(name=VALID).footprint.axes[0]
    found = settled([30], [4], name=VALID, allow_inexact=True).footprint.axes[0]
    assert (found.need_before, found.need_after, found.lost) == (30, 30, known.lost)
