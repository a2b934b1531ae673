"""Label images lie inside their image, however its place is written."""

import shutil

import numpy as np
import pytest

from volpipe.volume import Layout, create_product
from volpipe.volume.labels import create_labels, labels_of
from volpipe.volume.validate import validate

LAYOUT = Layout((4, 5, 6), 2, np.dtype(np.float32), (1.0, 1.0, 1.0), chunk=(4, 5, 6), shard=(4, 5, 6))


@pytest.mark.parametrize("end", ["", "/"])
def test_a_slash_at_the_end_of_an_address_changes_nothing(end):
    labels = labels_of(f"s3://bucket/out.ome.zarr{end}", "known", LAYOUT)
    assert labels.location == "s3://bucket/out.ome.zarr/labels/known"
    assert (labels.layout.channels, labels.layout.dtype, labels.layout.shape) == (1, np.uint8, (4, 5, 6))


@pytest.fixture
def labelled(tmp_path):
    """A finished product with a finished label image."""
    made = create_product(str(tmp_path / "out.ome.zarr"), LAYOUT, {})
    labels = create_labels(made.location, "known", LAYOUT)
    for each in (made, labels):
        each.write(each.layout.grid.region, np.ones((each.layout.channels, 4, 5, 6), each.layout.dtype))
        each.update(state="complete")
    return tmp_path / "out.ome.zarr"


def test_a_sound_label_image_is_no_problem(labelled):
    assert validate(str(labelled), deep=True) == []


def test_what_is_wrong_with_a_label_image_is_told_of_its_image(labelled):
    labels_of(str(labelled), "known", LAYOUT).update(state="running")
    (problem,) = validate(str(labelled))
    assert problem.startswith("labels/known: state is 'running'")


def test_a_flipped_byte_of_a_label_image_is_seen(labelled):
    (shard,) = (path for path in (labelled / "labels" / "known" / "0" / "c").rglob("*") if path.is_file())
    data = bytearray(shard.read_bytes())
    data[10] ^= 0xFF
    shard.write_bytes(data)
    assert validate(str(labelled)) == []
    (problem,) = validate(str(labelled), deep=True)
    assert problem.startswith("labels/known: level 0: shard (0, 0, 0) does not decode")


def test_a_label_image_that_is_listed_and_not_there_is_told(labelled):
    shutil.rmtree(labelled / "labels" / "known")
    (problem,) = validate(str(labelled))
    assert problem.startswith("labels/known: ")
    assert "no zarr 3 group" in problem
