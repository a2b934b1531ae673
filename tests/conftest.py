"""The same array written as every format that is read: `write_as(format_name, array, folder, voxel_size_nm)`;
an object store: `bucket`."""

import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


def pytest_collection_modifyitems(items):
    """Tests that start processes of their own come first: they take longest, and at the end one would run alone. Laws
    of one cell stand together: they share its products, which each of the processes that test would make for itself."""
    items.sort(key=lambda item: "runtime" not in item.path.parts)
    first = {}
    for number, item in enumerate(items):
        first.setdefault(_cell(item), number)
    items.sort(key=lambda item: first[_cell(item)])


def _cell(item):
    params = item.callspec.params if hasattr(item, "callspec") else {}
    mode, assembly = params.get("mode"), params.get("assembly")
    return (item.path, mode, assembly) if isinstance(mode, str) and isinstance(assembly, str) else item.nodeid


CHUNK = (16, 20, 24)  # divides none of the test volumes


def _tiff(array, folder, voxel_size_nm):
    import tifffile

    path = folder / "volume.ome.tif"
    stated = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", voxel_size_nm, strict=True)}
    stated |= {f"PhysicalSize{axis}Unit": "nm" for axis in "ZYX"}
    tifffile.imwrite(path, array, compression="zlib", rowsperstrip=16, metadata={"axes": "ZYX", **stated})
    return path


def _tiff_folder(array, folder, voxel_size_nm):
    import tifffile

    pages = folder / "pages"
    pages.mkdir()
    for number, plane in enumerate(array):
        tifffile.imwrite(pages / f"plane{number}.tif", plane)
    return pages


def _hdf5(array, folder, voxel_size_nm):
    import h5py

    path = folder / "volume.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("volumes/raw", data=array, chunks=CHUNK, compression="gzip")
        dataset.attrs["resolution"] = voxel_size_nm
    return f"{path}:/volumes/raw"


def _n5(array, folder, voxel_size_nm):
    import tensorstore as ts

    path = folder / "volume.n5" / "raw"
    metadata = {
        "dimensions": array.shape[::-1],
        "blockSize": CHUNK[::-1],
        "dataType": array.dtype.name,
        "compression": {"type": "gzip"},
        "pixelResolution": {"dimensions": voxel_size_nm[::-1], "unit": "nm"},
    }
    kvstore = {"driver": "file", "path": f"{path}/"}
    store = ts.open({"driver": "n5", "kvstore": kvstore, "metadata": metadata}, create=True).result()
    store.write(array.T).result()
    return path


def _precomputed(array, folder, voxel_size_nm):
    import tensorstore as ts

    path = folder / "precomputed"
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{path}/"},
        "multiscale_metadata": {"type": "image", "data_type": array.dtype.name, "num_channels": 1},
        "scale_metadata": {
            "size": array.shape[::-1],
            "resolution": voxel_size_nm[::-1],
            "chunk_size": CHUNK[::-1],
            "encoding": "raw",
        },
    }
    ts.open(spec, create=True).result().write(array.T[..., None]).result()
    return f"precomputed://{path}"


def _zarr2(array, folder, voxel_size_nm):
    import zarr
    from numcodecs import Blosc

    path = folder / "volume2.zarr"
    zarr.create_array(path, data=array, chunks=CHUNK, zarr_format=2, compressors=Blosc(cname="lz4"))
    return path


def _zarr3(array, folder, voxel_size_nm):
    import zarr.codecs

    path = folder / "volume3.zarr"
    zarr.create_array(
        path,
        data=array,
        chunks=CHUNK,
        shards=tuple(2 * n for n in CHUNK),
        compressors=[zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()],
        dimension_names=("z", "y", "x"),
    )
    return path


def _ome(version: str, zarr_format: int):
    def write(array, folder, voxel_size_nm):
        import zarr

        path = folder / f"volume{version}.ome.zarr"
        group = zarr.create_group(path, zarr_format=zarr_format)
        separator = {"name": "v2", "separator": "/"} if zarr_format == 2 else None
        group.create_array("0", data=array[None, None], chunks=(1, 1, *CHUNK), chunk_key_encoding=separator)
        axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
        axes += [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
        scale = [{"type": "scale", "scale": [1, 1, *voxel_size_nm]}]
        multiscale = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
        if version == "0.4":
            group.attrs.update({"multiscales": [{"version": version, **multiscale}]})
        else:
            group.attrs.update({"ome": {"version": version, "multiscales": [multiscale]}})
        return path

    return write


WRITERS = {
    "tiff": _tiff,
    "tiff-folder": _tiff_folder,
    "hdf5": _hdf5,
    "n5": _n5,
    "precomputed": _precomputed,
    "zarr2": _zarr2,
    "zarr3": _zarr3,
    "ome-zarr-0.4": _ome("0.4", 2),
    "ome-zarr-0.5": _ome("0.5", 3),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Footprints are remembered for one test, not for the person who runs it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def bucket():
    """URL of an empty bucket on an object store of this machine."""
    pytest.importorskip("obstore")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true", **keys}.items():
            patch.setenv(name, value)
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bucket", method="PUT")).close()
        yield "s3://bucket"
    server.stop()


@pytest.fixture(scope="session")
def write_as() -> Callable[[str, np.ndarray, Path, tuple[float, float, float]], str]:
    """Write a (z, y, x) array in a format by name and return the location to open.

    A bare zarr array and a folder of TIFFs state no voxel size.
    """

    def write(format_name, array, folder, voxel_size_nm=(8.0, 4.0, 4.0)):
        folder.mkdir(parents=True, exist_ok=True)
        return str(WRITERS[format_name](array, folder, tuple(map(float, voxel_size_nm))))

    return write
