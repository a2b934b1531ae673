"""Laws of the reruns, with slabs whose voxels say where they lie, so that a pair can be exact.

Each slab has two layers: y and x, in voxels from the upper slab's centre, of where its tissue lies.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from volpipe.errors import GeometryError
from volpipe.geometry import Rigid
from volpipe.registration.consistency import Reruns, offsets_of, true_displacements
from volpipe.registration.estimate import PairEstimate

WINDOW, WIDTH = 16, 64
SLAB = WIDTH + WINDOW
OFFSETS = ((0, 0), (5, 11), (15, 3))
TRUTH = Rigid(0.04, (2.5, -1.5))


def places(size=SLAB):
    axis = np.arange(size) - (size - 1) / 2
    return np.stack(np.meshgrid(axis, axis, indexing="ij"))


def slabs(truth=TRUTH):
    own = places()
    return own, np.moveaxis(truth(np.moveaxis(own, 0, -1)), -1, 0)


@dataclass
class Exact:
    """Fits the motion that the voxels tell."""

    shown: list = field(default_factory=list)

    def __call__(self, upper, lower, *, voxel_size_um, **options):
        self.shown.append((voxel_size_um[1], upper))
        own = places(upper.shape[-1]).reshape(2, -1) * voxel_size_um[1]
        centre = np.nanmean(upper - own.reshape(upper.shape), axis=(1, 2))
        moved = lower.reshape(2, -1) - centre[:, None]
        seen = np.isfinite(moved[0])
        z, w = (points[1, seen] + 1j * points[0, seen] for points in (own, moved))
        angle = np.angle(np.vdot(z - z.mean(), w - w.mean()))
        shift = w.mean() - np.exp(1j * angle) * z.mean()
        return PairEstimate(Rigid(float(angle), (float(shift.imag), float(shift.real))), 0.9, True)


@dataclass
class Leaves:
    """Trusts the finest nodes alone; they say that tissue moved by a hundredth of where their window lies."""

    def __call__(self, upper, lower, *, voxel_size_um, around, **options):
        if voxel_size_um[1] > 1 or upper.shape[-1] == WIDTH:  # a coarse node, or the whole pair
            return PairEstimate(Rigid(), 0.1, False)
        y, x = np.nanmean(upper, axis=(1, 2)) / -100
        return PairEstimate(Rigid(0.0, (float(y), float(x))), 0.9, True)


def reruns(pair, offsets=OFFSETS, **options):
    given = {"width": WIDTH, "window": WINDOW, "gap_layers": 0, "max_shift": 0.1, "max_angle_rad": 0.1, **options}
    return Reruns(offsets, pair=pair, **given)


def test_with_an_exact_pair_every_run_says_the_truth_at_every_cell():
    runs = reruns(Exact())
    found = runs.displacements(*slabs())
    truth = true_displacements(TRUTH, runs.cells)
    assert found.shape == (3, 9, 2)
    assert np.ptp(truth, axis=0).min() > 1  # cells differ by more than what is asked for
    np.testing.assert_allclose(found, np.broadcast_to(truth, found.shape), atol=1e-4)


@dataclass
class Leaning(Exact):
    """Sees tissue at a slant, and tells it of whole slabs."""

    def __call__(self, upper, lower, **options):
        found = super().__call__(upper, lower, **options)
        seen = Rigid(0.0, (1.7, -0.9)) @ found.transform
        if upper.shape[-1] == WIDTH:
            return replace(found, as_cut=seen)
        return replace(found, transform=seen)


def test_the_slant_that_the_pair_knows_is_taken_off_what_nodes_see():
    runs = reruns(Leaning())
    found, truth = runs.displacements(*slabs()), true_displacements(TRUTH, runs.cells)
    np.testing.assert_allclose(found, np.broadcast_to(truth, found.shape), atol=1e-4)


def test_every_run_sees_the_slabs_from_its_offset_on_with_nothing_filled_in():
    pair = Exact()
    reruns(pair).displacements(*slabs())
    wholes = [upper for _, upper in pair.shown if upper.shape[-1] == WIDTH]
    assert [tuple(whole[:, 0, 0]) for whole in wholes] == [(y - (SLAB - 1) / 2, x - (SLAB - 1) / 2) for y, x in OFFSETS]
    runs = np.array_split(np.arange(len(pair.shown)), len(OFFSETS))
    for spacing in (1.0, 2.0, 4.0):  # the windows of every level lie elsewhere, by the offset
        seen = [
            np.array([np.nanmean(pair.shown[i][1], axis=(1, 2)) for i in run if pair.shown[i][0] == spacing])
            for run in runs
        ]
        for offset, one in zip(OFFSETS, seen, strict=True):
            np.testing.assert_allclose(one, seen[0] + offset, atol=1e-4)


def test_a_cell_has_the_motion_of_the_leaf_that_holds_its_centre():
    runs = reruns(Leaves())
    found = runs.displacements(*slabs())
    checked = 0
    for offset, run in zip(OFFSETS, found, strict=True):
        leaf = np.floor((runs.cells + SLAB / 2 - offset) / WINDOW)
        inner = ((leaf > 0) & (leaf < WIDTH / WINDOW - 1)).all(axis=1)  # at an edge a crop moves inwards
        centre = (leaf + 0.5) * WINDOW + offset - SLAB / 2
        np.testing.assert_allclose(run[inner], centre[inner] / 100, atol=1e-6)
        assert (np.abs(centre - runs.cells) <= WINDOW / 2).all()
        checked += inner.sum()
    assert checked >= 10


def test_cells_are_the_windows_of_the_first_run_that_every_run_sees_whole():
    cells = reruns(Exact()).cells + SLAB / 2
    np.testing.assert_array_equal(cells[:4], [(24, 24), (24, 40), (24, 56), (40, 24)])
    assert (cells - WINDOW / 2).min() >= max(max(OFFSETS))
    assert (cells + WINDOW / 2).max() <= WIDTH


def test_a_prior_is_what_the_pair_is_told():
    told = []

    def pair(upper, lower, **options):
        told.append(options)
        return PairEstimate(options["around"], 0.1, False)

    reruns(pair, gap_layers=3, max_shift=0.07, max_angle_rad=0.02).displacements(*slabs())
    assert {options["gap_layers"] for options in told} == {3}
    whole, *nodes = told[: len(told) // len(OFFSETS)]
    assert (whole["carry"], {options["carry"] for options in nodes}) == (True, {False})  # as register has it
    assert (told[0]["max_shift"], told[0]["max_angle_rad"], told[0]["around"]) == (0.07, 0.02, Rigid())


@pytest.mark.parametrize(
    ("count", "window", "offsets"),
    [
        (2, 32, ((0, 0), (16, 16))),
        (5, 32, ((0, 0), (6, 12), (12, 25), (19, 6), (25, 19))),
        (8, 16, ((0, 0), (2, 6), (4, 12), (6, 2), (8, 8), (10, 14), (12, 4), (14, 10))),
    ],
)
def test_offsets_are_a_lattice_spread_over_a_window(count, window, offsets):
    assert offsets_of(count, window) == offsets


@pytest.mark.parametrize("count", range(2, 17))
def test_no_two_offsets_share_a_row_or_a_column(count):
    found = offsets_of(count, 16)
    assert found[0] == (0, 0)
    for axis in range(2):
        places = sorted(offset[axis] for offset in found)
        assert len(set(places)) == count
        assert max(np.diff([*places, 16])) <= 16 / count + 1


@pytest.mark.parametrize("count", [1, 17])
def test_offsets_that_a_window_has_no_room_for_are_refused(count):
    with pytest.raises(GeometryError, match="give 2 to 16"):
        offsets_of(count, 16)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 48}, "width of 48 voxels for windows of 16; give the window times 2, 4, 8"),
        ({"width": 16}, "give the window times 2, 4, 8"),
        ({"width": 72}, "give the window times 2, 4, 8"),
        ({"offsets": ((0, 0),)}, "give two or more, each 0 to 16"),
        ({"offsets": ((0, 0), (17, 0))}, "give two or more, each 0 to 16"),
    ],
)
def test_what_makes_no_reruns_is_refused(options, said):
    with pytest.raises(GeometryError, match=said):
        reruns(Exact(), **options)


def test_slabs_of_another_size_are_refused():
    with pytest.raises(GeometryError, match=r"lower is .* give 80 in y and in x"):
        reruns(Exact()).displacements(places(), places(64))
