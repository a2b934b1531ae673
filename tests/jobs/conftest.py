"""Runs without a runtime, and what the tests of jobs need: volumes, networks, whole-volume inference, slabs."""

import copy
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import register_scene
import torch
import yaml
from scipy import ndimage
from warp_scene import POSES, SIZE_UM, SMALL, bent, cut, pose_of
from warp_scene import SERIAL as ONE_THREAD

from volpipe import WarpJob
from volpipe.geometry import Box
from volpipe.jobs.apply import ApplyJob
from volpipe.jobs.field_store import store_field
from volpipe.jobs.transforms import Slab, Transforms
from volpipe.models import load_model, resolve_model
from volpipe.models.architecture import build_random
from volpipe.models.checkpoint import save_checkpoint
from volpipe.models.normalisation import Normalisation
from volpipe.plan import Budget
from volpipe.runtime.run import run
from volpipe.runtime.settings import RunSettings
from volpipe.volume import Layout, create_product, open_product, open_source

VOXEL_SIZE_UM = (0.008, 0.004, 0.004)
SERIAL = RunSettings(serial=True, threads=1, memory_per_worker="4GiB")
EXACT = {"precision": "fp64", "output_dtype": "float64"}  # a correct tiling in fp32 differs by more than some faults


def serially(job, budget=None, *, replace=False):
    """Plan, begin, do every task after its needs, finish; returns the plan and the receipts."""
    plan = job.plan(budget or Budget(worker_bytes=4 * 2**30))
    for first in plan.first:
        serially(first, budget, replace=replace)
    if plan.first:
        plan = job.plan(budget or Budget(worker_bytes=4 * 2**30))
    job.begin(plan, fresh=True, replace=replace)
    receipts, value = {}, None
    for task in plan.tasks():
        assert all(need in receipts for need in task.needs)
        receipts[task.name] = receipt = plan.works[task.work](task.item)
        if plan.reduce is not None:
            value = receipt.value if value is None else plan.reduce(value, receipt.value)
    assert len(receipts) == plan.count
    job.finish(plan, value)
    return plan, receipts


@pytest.fixture
def run_serially():
    """`run_serially(job, budget) -> (plan, receipts by task name)`."""
    return serially


@pytest.fixture
def volume(tmp_path):
    """`volume(voxels) -> location`: (z, y, x) or (c, z, y, x) stored as OME-Zarr, sharded as nobody's blocks are."""

    def store(voxels, name="in.ome.zarr", voxel_size_um=VOXEL_SIZE_UM, translation_um=(0.0, 0.0, 0.0)):
        voxels = voxels if voxels.ndim == 4 else voxels[None]
        place = {"voxel_size_um": voxel_size_um, "translation_um": translation_um}
        layout = Layout(voxels.shape[1:], len(voxels), voxels.dtype, **place, chunk=(12, 12, 12), shard=(24, 24, 48))
        product = create_product(str(tmp_path / name), layout, {})
        for block in product.grid():
            product.write(block.core, voxels[:, *block.core.slices])
        product.publish(())
        product.update(state="complete")
        return product.location

    return store


@pytest.fixture(scope="session")
def noise():
    """`noise(shape, dtype)`: the same every time."""

    def make(shape, dtype="float32", seed=0):
        random = np.random.default_rng(seed)
        if np.dtype(dtype).kind == "f":
            return random.standard_normal(shape).astype(dtype)
        return random.integers(0, 256, shape).astype(dtype)

    return make


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """`network(architecture, normalisation, voxel_size_um) -> path`: a checkpoint with random weights."""

    def store(architecture, normalisation=None, voxel_size_um=None, name="net.safetensors"):
        path = tmp_path_factory.mktemp("network") / name
        save_checkpoint(
            path,
            build_random(architecture, seed=1),
            architecture,
            normalisation or Normalisation.identity(architecture.in_channels),
            voxel_size_um,
            [f"class {i}" for i in range(architecture.out_channels)],
            {},
        )
        return str(path)

    return store


@pytest.fixture
def applied(tmp_path):
    """`applied(source, model, **options) -> (product's location, its voxels)`; serial and in float64 unless asked."""
    numbers = itertools.count()

    def go(source, model, settings=SERIAL, **options):
        output = options.pop("output", None) or str(tmp_path / f"out{next(numbers)}.ome.zarr")
        job = ApplyJob(input=source, output=output, model=model, **EXACT | options)
        run(job, settings, progress=None)
        made = open_source(output)
        return output, made.read(Box.from_shape(made.shape))

    return go


@pytest.fixture
def whole():
    """`whole(model, voxels, axis)`: the network on the whole volume in float64, (c, z, y, x) in and out.

    The volume is padded at its end, by its last voxels, to a length that the network takes; what that adds is cut off.
    With an axis a 2D network sees the planes across it.
    """

    def infer(location, voxels, axis=None):
        model = load_model(resolve_model(location))
        net = copy.deepcopy(model.network).double()
        voxels = np.asarray(voxels if voxels.ndim == 4 else voxels[None], np.float64)
        planes = voxels[None] if axis is None else np.moveaxis(voxels, 1 + axis, 0)
        lengths = planes.shape[2:]
        more = [(0, a.admissible(n) - n) for a, n in zip(model.footprint.axes, lengths, strict=True)]
        shape = (1, -1) + (1,) * len(lengths)
        scale, offset = (np.reshape(side, shape) for side in (model.normalisation.scale, model.normalisation.offset))
        with torch.inference_mode():
            padded = np.pad(planes * scale + offset, [(0, 0), (0, 0), *more], mode="edge")
            values = net(torch.from_numpy(padded)).numpy()
        values = values[(..., *(slice(n - a.lost) for a, n in zip(model.footprint.axes, lengths, strict=True)))]
        return values[0] if axis is None else np.moveaxis(values, 0, 1 + axis)

    return infer


@pytest.fixture
def error():
    """`error(product, whole)`: the largest difference, in standard deviations of the whole result."""
    return lambda made, expected: float(np.abs(made - expected).max() / expected.std())


# ---------------------------------------------------------------------- slabs, for `warp`


@pytest.fixture
def stack(volume, tmp_path):
    """`stack(entries, name) -> path`: a transforms file of slabs given as (voxels or None, fields of `Slab`)."""

    def make(entries, name="transforms.json", size_um=SIZE_UM):
        slabs = []
        for number, (voxels, more) in enumerate(entries):
            place = f"{name}{number}.ome.zarr"
            if voxels is not None:
                volume(voxels, name=place, voxel_size_um=size_um)
            slabs.append(Slab(volume=None if voxels is None else place, **more))
        path = tmp_path / name
        Transforms(version=1, voxel_size_um=size_um, slabs=slabs).store(path)
        return str(path)

    return make


@pytest.fixture
def tissue(stack, tmp_path):
    """A transforms file of three slabs of the scene with two gaps; the second one has a field.

    Layers: slab 0 has 0..3, lost 4 and 5, slab 1 has 6..8, lost 9, slab 2 has 10..14.
    """

    def make(dtype="float32", name="transforms.json"):
        field = bent(POSES[1], (30, 44))
        store_field(str(tmp_path / "bent.field.zarr"), field)
        cuts = [cut(POSES[0], 0, 4), cut(field.push, 6, 3), cut(POSES[2], 10, 5)]
        more = [{"gap_layers": 2}, {"gap_layers": 1, "field": "bent.field.zarr"}, {}]
        poses = ({"pose": pose_of(pose)} for pose in POSES)
        entries = [(voxels.astype(dtype), one | pose) for voxels, one, pose in zip(cuts, more, poses, strict=True)]
        return stack(entries, name)

    return make


@pytest.fixture
def rendered(tmp_path):
    """`rendered(transforms, **options) -> (voxels, product)`."""
    count = Counter()

    def make(transforms, settings=ONE_THREAD, **options):
        count["out"] += 1
        out = str(tmp_path / f"out{count['out']}.ome.zarr")
        run(WarpJob(transforms=transforms, output=out, **SMALL | options), settings, progress=None)
        product = open_product(out)
        return product.read(product.layout.grid.region)[0], product

    return make


# ---------------------------------------------------------------------- slabs, for `register`


@pytest.fixture(scope="module")
def cuts():
    """The slabs, and the tissue that they are of: each voxel holds what lies where its slab's pose puts it."""
    layers, step = register_scene.LAYERS, register_scene.LAYERS + register_scene.GAP
    noise = np.random.default_rng(3).standard_normal((len(register_scene.POSES) * step, 130, 110))
    tissue = ndimage.gaussian_filter(noise, (5.0, 2.5, 2.0), mode="wrap")  # which changes slowly with depth
    tissue = 128 + 40 * tissue / tissue.std()
    laid = zip(register_scene.POSES, register_scene.SHAPES, strict=True)
    return [register_scene.cut(tissue[n * step :][:layers], *slab) for n, slab in enumerate(laid)]


@pytest.fixture(scope="module")
def store(write_as, tmp_path_factory):
    """`store(voxels, size_um) -> location`."""
    return lambda voxels, size_um=register_scene.SIZE_UM: write_as(
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
        path.write_text(yaml.safe_dump({"slabs": entries, "gap_layers": register_scene.GAP, **fields}))
        return str(path)

    return make


@pytest.fixture
def two(slabs_file, tmp_path):
    """`two(**fields) -> a slabs file of the first two`."""

    def make(**fields):
        path = slabs_file(**fields)
        content = yaml.safe_load(Path(path).read_text())
        Path(path).write_text(yaml.safe_dump(content | {"slabs": content["slabs"][:2]}))
        return path

    return make
