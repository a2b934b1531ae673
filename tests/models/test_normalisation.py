import pytest

from volpipe.errors import ModelError
from volpipe.models import Normalisation


def apply(normalisation, *stored):
    triples = zip(stored, normalisation.scale, normalisation.offset, strict=True)
    return [value * scale + offset for value, scale, offset in triples]


def test_a_range_becomes_zero_to_one():
    assert apply(Normalisation.from_range(10, 20), 10) == [0]
    assert apply(Normalisation.from_range([10, 0], [20, 4]), 20, 1) == [1, 0.25]


def test_mean_becomes_zero_and_std_one():
    assert apply(Normalisation.from_mean_std([3, 8], [2, 4]), 5, 8) == [1, 0]


def test_identity_changes_nothing():
    assert apply(Normalisation.identity(2), 7.5, -1) == [7.5, -1]
    assert Normalisation.identity(2).channels == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: Normalisation.from_range(2, 2),
        lambda: Normalisation.from_range(float("nan"), 2),
        lambda: Normalisation.from_mean_std(0, 0),
        lambda: Normalisation((0.0,), (1.0,)),
        lambda: Normalisation((1.0, 1.0), (0.0,)),
        lambda: Normalisation((), ()),
        lambda: Normalisation((float("inf"),), (0.0,)),
    ],
)
def test_constants_that_destroy_the_image_are_refused(make):
    with pytest.raises(ModelError, match="normalisation"):
        make()
