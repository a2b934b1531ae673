"""Encodings: declared scalings round to the nearest level, labels are the largest channel."""

import numpy as np
import pytest

from volpipe.errors import ConfigError
from volpipe.stitching import Encoding

VALUES = np.linspace(-0.2, 1.2, 3 * 4 * 5 * 6, dtype=np.float32).reshape(3, 4, 5, 6)


def test_uint8_is_off_by_half_a_level_at_most():
    encoding = Encoding("uint8", (0.0, 1.0))
    stored = encoding.encode(VALUES)
    scaling = encoding.attributes()
    back = stored * scaling["scale"] + scaling["offset"]
    assert stored.dtype == np.uint8
    assert np.abs(back - VALUES.clip(0, 1)).max() <= scaling["scale"] / 2 * 1.0001


def test_the_ends_of_the_range_are_0_and_255():
    stored = Encoding("uint8", (-1.0, 1.0)).encode(np.array([[[[-1.0, 0.0, 1.0]]]], np.float32))
    np.testing.assert_array_equal(stored.ravel(), [0, 128, 255])


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_floats_are_stored_as_they_are(name):
    np.testing.assert_array_equal(Encoding(name).encode(VALUES), VALUES.astype(name))


def test_labels_are_the_largest_channel_and_the_first_of_equals():
    values = np.zeros((3, 1, 1, 3))
    values[1, 0, 0, 0] = values[2, 0, 0, 1] = 1
    encoding = Encoding("labels")
    np.testing.assert_array_equal(encoding.encode(values).ravel(), [1, 2, 0])
    assert encoding.channels(3) == 1
    assert encoding.dtype(300) == np.uint16


@pytest.mark.parametrize(("name", "values"), [("uint8", None), ("uint8", (1.0, 1.0)), ("int3", None)])
def test_an_encoding_that_cannot_be_is_refused(name, values):
    with pytest.raises(ConfigError, match="output"):
        Encoding(name, values)
