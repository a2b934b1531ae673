"""A volume turned over is half a turn about its y axis, at every level in the same place."""

import pickle

import numpy as np
import pytest

from volpipe.geometry import Box
from volpipe.volume import TurnedOver, open_source, turned_layers

SIZE_UM = (4.0, 0.5, 0.25)


@pytest.fixture
def stored(tmp_path):
    """`stored(voxels, translation_um) -> source`."""
    from volpipe.volume import Layout, create_product

    def make(voxels, translation_um=(0.0, 0.0, 0.0), size_um=SIZE_UM):
        layout = Layout(
            voxels.shape, 1, voxels.dtype, voxel_size_um=size_um, translation_um=translation_um, chunk=(4, 8, 8),
            shard=(4, 8, 8),
        )  # fmt: skip
        product = create_product(str(tmp_path / f"{voxels.shape}.ome.zarr"), layout, {})
        for block in product.grid():
            product.write(block.core, voxels[None][:, *block.core.slices])
        product.publish(())
        product.update(state="complete")
        return open_source(product.location)

    return make


VOXELS = np.random.default_rng(0).integers(0, 255, (7, 19, 22)).astype(np.uint8)


@pytest.mark.parametrize("box", [Box.from_shape(VOXELS.shape), Box((0, 3, 5), (2, 9, 22)), Box((6, 0, 0), (7, 19, 1))])
def test_z_and_x_run_the_other_way_and_y_does_not(stored, box):
    turned = TurnedOver.of(stored(VOXELS))
    found = turned.read(box)
    np.testing.assert_array_equal(found[0], VOXELS[::-1, :, ::-1][box.slices])
    assert found.flags.c_contiguous
    assert (turned.shape, turned.voxel_size_um) == (VOXELS.shape, SIZE_UM)


def test_turned_twice_it_is_what_it_was(stored):
    source = stored(VOXELS, (1.0, 2.0, 3.0))
    twice = TurnedOver.of(TurnedOver.of(source))
    np.testing.assert_array_equal(twice.read(Box.from_shape(VOXELS.shape)), source.read(Box.from_shape(VOXELS.shape)))
    assert twice.translation_um == pytest.approx(source.translation_um)


def test_levels_stay_in_the_same_place(stored):
    """Level 1 has voxels of twice the size, the first of which lies half a voxel in."""
    fine, coarse = stored(VOXELS), stored(VOXELS[:, ::2, ::2], (0.0, 0.25, 0.125), (4.0, 1.0, 0.5))
    one, other = TurnedOver.of(fine), TurnedOver.of(coarse)
    first, last = (one.translation_um[2] + n * 0.25 for n in (0, 21))
    assert other.translation_um[2] - 0.125 == pytest.approx(first)  # both cover 22 fine voxels, seam on seam
    assert other.translation_um[2] + 10 * 0.5 + 0.125 == pytest.approx(last)
    assert other.translation_um[0] == one.translation_um[0]


def test_it_can_be_sent_and_is_not_taken_for_the_volume_itself(stored):
    source = stored(VOXELS)
    turned = pickle.loads(pickle.dumps(TurnedOver.of(source)))
    assert turned.identity() == {**source.identity(), "turned_over": True}
    assert turned.read(Box((0, 0, 0), (1, 1, 1)))[0, 0, 0, 0] == VOXELS[-1, 0, -1]


def test_layers_are_counted_from_the_other_end():
    assert turned_layers(0, 3, 10) == (7, 10)
    assert turned_layers(*turned_layers(2, 5, 10), 10) == (2, 5)
