"""Keys and bytes, on local disk and on an object store (moto's S3, in this process)."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest

from volpipe.errors import ProductError, VolumeError, WriteError
from volpipe.volume.folder import PARTIAL, LocalFolder, absolute, occupied, open_folder, writing


@pytest.fixture(scope="module")
def bucket():
    """The address of an empty bucket on a server of this process."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("obstore")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        request = urllib.request.Request(f"http://{host}:{port}/bucket", method="PUT")
        urllib.request.urlopen(request).close()
        yield "s3://bucket"
    server.stop()


@pytest.fixture(params=["local", "s3"])
def location(request, tmp_path):
    if request.param == "local":
        return str(tmp_path / "folder")
    return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


@pytest.fixture
def folder(location):
    return open_folder(location)


def test_what_was_put_is_got(folder):
    assert folder.get("a/b") is None
    folder.put("a/b", b"one")
    folder.put("a/b", b"two")
    assert folder.get("a/b") == b"two"


def test_a_new_key_has_one_writer(folder):
    folder.put_new("segment-1", b"first")
    with pytest.raises(ProductError, match="another run"):
        folder.put_new("segment-1", b"second")
    assert folder.get("segment-1") == b"first"


def test_keys_are_found_by_their_beginning(folder):
    for key in ("receipts-2", "receipts-1", "key.json", "deep/receipts-3", "deep/er/x"):
        folder.put(key, b"")
    assert folder.keys("receipts-") == ["receipts-1", "receipts-2"]
    assert folder.keys("deep/r") == ["deep/receipts-3"]
    assert folder.keys("deep/") == ["deep/er/x", "deep/receipts-3"]
    assert len(folder.keys()) == 5
    assert folder.keys("nothing/here") == []


def test_a_deleted_key_is_gone_and_may_be_deleted_again(folder):
    folder.put("a", b"x")
    folder.delete("a")
    folder.delete("a")
    assert folder.get("a") is None
    assert folder.keys() == []


def test_folders_pickle(folder):
    folder.put("a", b"x")
    assert pickle.loads(pickle.dumps(folder)).get("a") == b"x"


def test_a_place_is_occupied_once_something_is_stored_there(folder, location):
    assert not occupied(location)
    folder.put("a", b"x")
    assert occupied(location)


def test_products_live_on_object_stores_too(bucket):
    from volpipe.geometry import BlockGrid
    from volpipe.volume.layout import Layout
    from volpipe.volume.product import create_product, open_product

    layout = Layout((20, 30, 40), 1, np.dtype("uint16"), (1.0, 1.0, 1.0), chunk=(8, 8, 8), shard=(16, 16, 16))
    product = create_product(f"{bucket}/out.ome.zarr", layout, {})
    voxels = np.random.default_rng(0).integers(0, 60_000, (1, *layout.shape), dtype=np.uint16)
    for block in BlockGrid(layout.grid.region, layout.shard):
        product.write(block.core, voxels[:, *block.core.slices])
    product.update(state="complete")
    assert (open_product(f"{bucket}/out.ome.zarr").read(layout.grid.region) == voxels).all()
    with pytest.raises(ProductError, match="exists"):
        create_product(f"{bucket}/out.ome.zarr", layout, {})
    create_product(f"{bucket}/out.ome.zarr", layout, {}, replace=True)
    assert not open_product(f"{bucket}/out.ome.zarr").read(layout.grid.region).any()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_put_leaves_what_was_there_and_no_rubbish(tmp_path, monkeypatch, step):
    folder = LocalFolder(str(tmp_path))
    folder.put("a", b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(WriteError, match="the disk is full"):
        folder.put("a", b"new")
    assert folder.get("a") == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_put_that_is_killed_leaves_nothing_under_its_key(tmp_path):
    # The process dies after the bytes are written and before they are renamed: the worst moment.
    code = (
        "import os, signal, sys\n"
        "from volpipe.volume.folder import open_folder\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "open_folder(sys.argv[1]).put('a', b'half')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    folder = open_folder(str(tmp_path))
    assert folder.get("a") is None
    assert folder.keys() == []
    assert any(name.endswith(PARTIAL) for name in os.listdir(tmp_path))


@pytest.mark.parametrize(
    ("number", "text"), [(errno.ENOSPC, "disk is full"), (errno.EDQUOT, "quota"), (errno.EROFS, "read-only")]
)
def test_what_trying_again_cannot_cure_is_a_write_error(number, text):
    with pytest.raises(WriteError, match=text), writing("/out"):
        raise OSError(number, "x")


def test_what_may_go_away_passes():
    with pytest.raises(OSError, match="x") as caught, writing("/out"):
        raise OSError(errno.EIO, "x")
    assert not isinstance(caught.value, WriteError)


def test_locations_are_absolute_for_workers_in_other_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("a/b/") == str(tmp_path / "a" / "b")
    assert absolute("file:///a/b") == "/a/b"
    assert absolute("s3://bucket/a/") == "s3://bucket/a"


def test_an_unknown_kind_of_store_is_one_line():
    pytest.importorskip("obstore")
    with pytest.raises(VolumeError, match="s3://bucket/prefix"):
        open_folder("nonsense://x/y").keys()
