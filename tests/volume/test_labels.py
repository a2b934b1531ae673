"""Label images lie inside their image, however its place is written."""

import numpy as np
import pytest

from volpipe.volume import Layout
from volpipe.volume.labels import labels_of

LAYOUT = Layout((4, 5, 6), 2, np.dtype(np.float32), (1.0, 1.0, 1.0), chunk=(4, 5, 6), shard=(4, 5, 6))


@pytest.mark.parametrize("end", ["", "/"])
def test_a_slash_at_the_end_of_an_address_changes_nothing(end):
    labels = labels_of(f"s3://bucket/out.ome.zarr{end}", "known", LAYOUT)
    assert labels.location == "s3://bucket/out.ome.zarr/labels/known"
    assert (labels.layout.channels, labels.layout.dtype, labels.layout.shape) == (1, np.uint8, (4, 5, 6))
