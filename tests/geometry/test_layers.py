"""Laws of the layers of a stack."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volpipe.errors import GeometryError
from volpipe.geometry import Layers, Place
from volpipe.geometry.layers import runs

stacks = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), min_size=1, max_size=6).map(
    lambda pairs: Layers(tuple(n for n, _ in pairs), tuple(gap for _, gap in pairs[1:]))
)


@given(stacks)
def test_every_layer_is_owned_by_exactly_one_slab_or_gap(layers):
    owned = [layer for place in layers.places for layer in range(place.first_layer, place.stop)]
    assert owned == list(range(sum(layers.slabs) + sum(layers.gaps))) == list(range(layers.depth))
    for place in layers.places:
        assert all(layers.owner(layer) is place for layer in range(place.first_layer, place.stop))


@given(stacks)
def test_slabs_and_gaps_have_their_layers_in_order(layers):
    slabs = [place for place in layers.places if place.slab is not None]
    assert [(place.slab, place.layers) for place in slabs] == list(enumerate(layers.slabs))
    between = [after.first_layer - before.stop for before, after in pairwise(slabs)]
    assert between == list(layers.gaps)


def test_owners_counted_by_hand():
    layers = Layers((4, 2, 3), (1, 0))
    assert layers.places == (Place(0, 0, 4), Place(None, 4, 1), Place(1, 5, 2), Place(2, 7, 3))
    assert [layers.owner(layer).slab for layer in range(10)] == [0, 0, 0, 0, None, 1, 1, 2, 2, 2]


@given(stacks)
def test_runs_of_layers_are_the_places_again(layers):
    owners = [layers.owner(layer) for layer in range(layers.depth)]
    assert [(place, len(run)) for place, run in runs(owners)] == [(place, place.layers) for place in layers.places]


@pytest.mark.parametrize("given", [((), ()), ((3, 0), (1,)), ((3, 3), ()), ((3, 3), (-1,)), ((3,), (1,))])
def test_what_is_no_stack_is_refused(given):
    with pytest.raises(GeometryError, match="layers: "):
        Layers(*given)


@pytest.mark.parametrize("layer", [-1, 10])
def test_a_layer_that_is_not_there_is_refused(layer):
    with pytest.raises(GeometryError, match="give 0 to 9"):
        Layers((4, 2, 3), (1, 0)).owner(layer)
