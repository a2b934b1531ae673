"""Fields in zarr: what comes back is what was stored, and what is no field says so."""

import math

import numpy as np
import pytest
import zarr

from volpipe.errors import ProductError
from volpipe.geometry import Rigid
from volpipe.jobs.field_store import load_field, store_field
from volpipe.registration.field import Field


def small(pose=Rigid()):  # noqa: B008 (frozen)
    displacement = np.random.default_rng(0).normal(0, 0.1, (2, 4, 5)).astype(np.float32)
    return Field(pose, displacement, (-3.0, 1 / 3), (2.0, 1.5), np.full((4, 5), 0.5, np.float32))


def test_a_field_goes_into_its_store_and_comes_back(tmp_path):
    field, place = small(Rigid(0.1, (1 / 3, -math.pi))), str(tmp_path / "f.zarr")
    for _ in range(2):
        store_field(place, field)
    back = load_field(place)
    for name in ("displacement", "confidence"):
        np.testing.assert_array_equal(getattr(back, name), getattr(field, name))
    assert (back.pose, back.origin_um, back.spacing_um) == (field.pose, field.origin_um, field.spacing_um)


def test_what_is_no_field_is_refused_and_nothing_foreign_replaced(tmp_path, volume, noise):
    place = volume(noise((3, 4, 5)), name="v.ome.zarr")
    with pytest.raises(ProductError, match="no field"):
        load_field(place)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(ProductError, match="did not make"):
        store_field(str(tmp_path / "mine"), small())
    with pytest.raises(ProductError, match="no zarr 3 group"):
        load_field(str(tmp_path / "nothing"))


@pytest.mark.parametrize("lost", ["pose", "origin_um", "spacing_um", "displacement", "confidence"])
def test_a_field_that_lacks_a_part_is_none(tmp_path, lost):
    place = str(tmp_path / "f.zarr")
    store_field(place, small())
    group = zarr.open_group(place)
    if lost in group:
        del group[lost]
    else:
        group.attrs["volpipe"] = {name: value for name, value in group.attrs["volpipe"].items() if name != lost}
    with pytest.raises(ProductError, match="is no field of a slab, version 1"):
        load_field(place)
