"""Volumes on an object store, served by moto on this machine."""

import numpy as np
import pytest

from volpipe.errors import VolumeError
from volpipe.geometry import Box
from volpipe.volume.source import open_source

pytest.importorskip("obstore")
pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def volume(bucket, crop):
    """URL of a multiscale that holds the crop."""
    import zarr
    from obstore.store import from_url
    from zarr.storage import ObjectStore

    group = zarr.create_group(ObjectStore(from_url(f"{bucket}/a.ome.zarr")))
    group.create_array("0", data=crop, chunks=(16, 16, 16), shards=(32, 32, 32))
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    scale = [{"type": "scale", "scale": [8, 4, 4]}]
    multiscale = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    return f"{bucket}/a.ome.zarr"


@pytest.mark.parametrize("inside", ["", "/", "/0"])
def test_a_volume_on_an_object_store_reads_as_on_disk(inside, volume, crop):
    source = open_source(volume + inside)
    assert source.voxel_size_um == pytest.approx((0.008, 0.004, 0.004))
    box = Box((3, 4, 5), (37, 40, 53))
    np.testing.assert_array_equal(source.read(box)[0], crop[box.slices])


def test_its_identity_carries_the_entity_tag(volume):
    assert open_source(volume).identity()["modified"]
    assert open_source(volume).identity() == open_source(volume).identity()


@pytest.mark.parametrize("url", ["s3://bucket/absent.zarr", "s3://absent/a.zarr", "parrot://a/b"])
def test_what_is_not_there_is_refused_in_one_line(url, volume):
    with pytest.raises(VolumeError, match=url) as refused:
        open_source(url)
    assert "\n" not in str(refused.value)


def test_a_missing_library_is_named_with_its_extra(volume, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    with pytest.raises(VolumeError, match=r"obstore, which is not installed: pip install 'volpipe\[remote\]'"):
        open_source(volume)
