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
from volpipe.jobs.field_store import load_field
from volpipe.jobs.pyramid import PyramidJob
from volpipe.jobs.register_stack import PairWork
from volpipe.jobs.slab_reader import SlabReader
from volpipe.jobs.slabs import load_slabs
from volpipe.jobs.transforms import load_transforms
from volpipe.plan import Budget
from volpipe.volume import open_source

SIZE_UM = (0.5, 0.2, 0.25)  # voxels that are no squares
SERIAL = RunSettings(serial=True, threads=1, memory_per_worker="4GiB")
LAYERS, GAP = 4, 1
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
def cuts():
    """The slabs, and the tissue that they are of: each voxel holds what lies where its slab's pose puts it."""
    noise = np.random.default_rng(3).standard_normal((len(POSES) * (LAYERS + GAP), 130, 110))
    tissue = ndimage.gaussian_filter(noise, (5.0, 2.5, 2.0), mode="wrap")  # which changes slowly with depth
    tissue = 128 + 40 * tissue / tissue.std()
    return [cut(tissue[n * (LAYERS + GAP) :][:LAYERS], *slab) for n, slab in enumerate(zip(POSES, SHAPES, strict=True))]


def cut(layers, pose, shape):
    raster = Raster.centred(shape, SIZE_UM[1:])
    places = Raster.centred(layers.shape[1:], SIZE_UM[1:]).places(pose(raster.points(raster.box)))
    moved = [ndimage.map_coordinates(layer, np.moveaxis(places, -1, 0)) for layer in layers]
    return np.clip(np.round(moved), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def store(write_as, tmp_path_factory):
    """`store(voxels, size_um) -> location`."""
    return lambda voxels, size_um=SIZE_UM: write_as(
        "ome-zarr-0.5", voxels, tmp_path_factory.mktemp("slab"), tuple(1000 * size for size in size_um)
    )


@pytest.fixture(scope="module")
def slabs(store, cuts):
    """Their locations."""
    return [store(voxels) for voxels in cuts]


@pytest.fixture
def slabs_file(slabs, tmp_path):
    """`slabs_file(changed, **fields) -> path`: of the six slabs, those in `changed` being other entries."""

    def make(changed=None, **fields):
        entries = [(changed or {}).get(number, slab) for number, slab in enumerate(slabs)]
        path = tmp_path / "slabs.yaml"
        path.write_text(yaml.safe_dump({"slabs": entries, "gap_layers": GAP, **fields}))
        return str(path)

    return make


def register(slabs, output, settings=SERIAL, *, restart=False, **options):
    """(what the transforms file says, summary)."""
    job = RegisterJob(slabs=str(slabs), output=str(output), **{"window": 48} | options)
    summary = run(job, settings, restart=restart, progress=None)
    return load_transforms(f"{output}/{FOUND}"), summary


@pytest.fixture(scope="module")
def found(slabs, tmp_path_factory):
    """Folder of what was found of all six, and the summary."""
    folder = tmp_path_factory.mktemp("found")
    path = folder / "slabs.yaml"
    path.write_text(yaml.safe_dump({"slabs": slabs, "gap_layers": GAP}))
    _, summary = register(path, folder / "out")
    return folder / "out", summary


def off(pose, truth):
    """How far two poses put the corners of a slab from each other, at most, in voxels."""
    corners = Raster.centred(SHAPES[0], SIZE_UM[1:]).outline_um
    return float((np.abs(pose(corners) - truth(corners)) / SIZE_UM[1:]).max())


def poses_of(transforms):
    return [slab.pose.rigid for slab in transforms.slabs]


# ---------------------------------------------------------------------- what is found


def test_poses_are_found_within_a_voxel(found, slabs):
    out, summary = found
    transforms = load_transforms(out / FOUND)
    print([off(pose, truth) for pose, truth in zip(poses_of(transforms), POSES, strict=True)], summary.result)
    assert max(off(pose, truth) for pose, truth in zip(poses_of(transforms), POSES, strict=True)) < 1
    assert poses_of(transforms)[0] == Rigid()
    assert [slab.volume for slab in transforms.slabs] == slabs
    assert {(slab.layers, slab.gap_layers) for slab in transforms.slabs[:-1]} == {((0, LAYERS), GAP)}
    assert transforms.voxel_size_um == SIZE_UM


def test_a_missing_slab_is_bridged_and_those_below_it_are_found(slabs_file, tmp_path):
    transforms, summary = register(slabs_file({2: {"layers": LAYERS}}), tmp_path / "out")
    poses = poses_of(transforms)
    print([off(pose, truth) for pose, truth in zip(poses, POSES, strict=True)], summary.result)
    assert all(off(poses[n], POSES[n]) < 1 for n in (1, 3, 4, 5))
    assert summary.result.endswith("; bridged: slabs 2")
    assert transforms.slabs[2].volume is None
    assert transforms.slabs[2].layers == (0, LAYERS)


# ---------------------------------------------------------------------- bent slabs


def bent(number):
    """Where the tissue of a bent slab belongs: pulled by up to 2.5 voxels, strained by up to 5 %."""

    def place(points):
        y, x = np.moveaxis(points, -1, 0)
        phase = 2.1 * number
        return POSES[number](points + np.stack([0.4 * np.sin(x / 9 + phase), 0.5 * np.sin(y / 9 - phase)], axis=-1))

    return place


@pytest.fixture(scope="module")
def bent_slab(store, tmp_path_factory):
    """A slab and a bent one below it, registered: the folder."""
    noise = np.random.default_rng(4).standard_normal((2 * LAYERS + GAP, 230, 200))
    tissue = ndimage.gaussian_filter(noise, (5.0, 2.0, 1.6), mode="wrap")
    tissue = 128 + 40 * tissue / tissue.std()
    upper, lower = (cut(tissue[first:][:LAYERS], place, (192, 160)) for first, place in ((0, Rigid()), (5, bent(1))))
    folder = tmp_path_factory.mktemp("bent")
    (folder / "slabs.yaml").write_text(yaml.safe_dump({"slabs": [store(upper), store(lower)], "gap_layers": GAP}))
    register(folder / "slabs.yaml", folder / "out", window=80)
    return folder / "out"


def voxels_off(way, truth, extent_um=(12.0, 12.0)):
    """How far two ways put points of the middle of a slab from each other, on average, in voxels."""
    raster = Raster.centred((9, 9), tuple(2 * part / 9 for part in extent_um))
    points = raster.points(raster.box)
    return float(np.linalg.norm((way(points) - truth(points)) / SIZE_UM[1:], axis=-1).mean())


def test_a_field_puts_the_points_of_a_bent_slab_where_they_belong(bent_slab):
    slab = load_transforms(bent_slab / FOUND).slabs[1]
    field = load_field(slab.field)
    assert field.pose == slab.pose.rigid
    print(voxels_off(field.pose, bent(1)), voxels_off(field.push, bent(1)))
    assert voxels_off(field.push, bent(1)) < 0.5 < 1.2 < voxels_off(field.pose, bent(1))
