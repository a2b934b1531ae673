"""Register: poses of slabs cut from one tissue are found again, whoever does the tasks and whenever it is killed."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import yaml
from scipy import ndimage

from volpipe import RegisterJob, RunSettings, WarpJob, run
from volpipe.errors import BlocksFailed, BudgetError, ConfigError, GeometryError, ProductError, VolumeError
from volpipe.geometry import Box, Raster, Rigid, SlabFrame
from volpipe.jobs.pyramid import PyramidJob
from volpipe.jobs.register_stack import PairWork
from volpipe.jobs.slab_reader import SlabReader
from volpipe.jobs.slabs import load_slabs
from volpipe.jobs.transforms import load_transforms
from volpipe.plan import Budget
from volpipe.volume import open_source

SIZE_UM = (0.5, 0.2, 0.25)  # voxels that are no squares
SERIAL = RunSettings(serial=True, threads=1, memory_per_worker="4GiB")
LAYERS, GAP = 8, 1
SHAPES = [(96, 80), (90, 84), (96, 81), (95, 80), (97, 77), (96, 80)]  # none the centre of another
POSES = [
    Rigid(),
    Rigid(0.05, (0.7, -0.9)),
    Rigid(-0.04, (-0.6, 0.3)),
    Rigid(0.02, (1.1, 0.8)),
    Rigid(0.06, (-0.2, -1.0)),
    Rigid(-0.03, (0.5, 0.6)),
]
FOUND = "transforms.json"


@pytest.fixture(scope="module")
def tissue():
    """One volume whose layers change slowly: 6 slabs and the layers lost between them, about its middle."""
    noise = np.random.default_rng(3).standard_normal((6 * (LAYERS + GAP), 160, 140))
    smooth = ndimage.gaussian_filter(noise, (3.0, 2.5, 2.0), mode="wrap")
    return 128 + 40 * smooth / smooth.std()


@pytest.fixture(scope="module")
def cuts(tissue):
    """The slabs: each voxel holds the tissue of where its pose puts it."""
    slabs = []
    for number, (pose, shape) in enumerate(zip(POSES, SHAPES, strict=True)):
        raster = Raster.centred(shape, SIZE_UM[1:])
        places = Raster.centred(tissue.shape[1:], SIZE_UM[1:]).places(pose(raster.points(raster.box)))
        first = number * (LAYERS + GAP)
        layers = [ndimage.map_coordinates(layer, np.moveaxis(places, -1, 0)) for layer in tissue[first:][:LAYERS]]
        slabs.append(np.clip(np.round(layers), 0, 255).astype(np.uint8))
    return slabs


@pytest.fixture
def slabs_file(volume, cuts, tmp_path):
    """`slabs_file(changed, **fields) -> path`: the six slabs; those in `changed` are other voxels, or None: missing."""

    def make(changed=None, name="slabs.yaml", sizes_um=None, **fields):
        entries = []
        for number, voxels in enumerate(cuts):
            stored = (changed or {}).get(number, voxels)
            if stored is not None:
                size_um = (sizes_um or {}).get(number, SIZE_UM)
                volume(stored, name=f"slab{number}.ome.zarr", voxel_size_um=size_um)
            entries.append({"layers": LAYERS} if stored is None else f"slab{number}.ome.zarr")
        path = tmp_path / name
        path.write_text(yaml.safe_dump({"slabs": entries, "gap_layers": GAP, **fields}))
        return str(path)

    return make


@pytest.fixture
def registered(tmp_path):
    """`registered(slabs file, **options) -> (transforms, summary)`."""

    def make(slabs, settings=SERIAL, name="out", restart=False, **options):
        out = str(tmp_path / name)
        options = {"window": 48} | options
        summary = run(RegisterJob(slabs=slabs, output=out, **options), settings, restart=restart, progress=None)
        return load_transforms(f"{out}/{FOUND}"), summary

    return make


def farthest_voxels(pose, truth, shape=(96, 80)):
    """How far two poses put the corners of a slab from each other, at most, in voxels."""
    corners = Raster.centred(shape, SIZE_UM[1:]).outline_um
    return float((np.abs(pose(corners) - truth(corners)) / SIZE_UM[1:]).max())


def poses_of(transforms):
    return [slab.pose.rigid for slab in transforms.slabs]


def test_poses_are_found_within_a_voxel(slabs_file, registered):
    found, summary = registered(slabs_file())
    for n,(pose, truth) in enumerate(zip(poses_of(found), POSES, strict=True)):
        print(n, farthest_voxels(pose, truth))
    print(summary.text(), summary.result)
    assert all(farthest_voxels(pose, truth) < 1 for pose, truth in zip(poses_of(found), POSES, strict=True))
