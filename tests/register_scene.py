"""Slabs cut out of one tissue, each with its own pose and extent: what the tests of `register` put together again."""

import numpy as np
from scipy import ndimage

from volpipe import RegisterJob, RunSettings, run
from volpipe.geometry import Raster, Rigid
from volpipe.jobs.transforms import load_transforms
from volpipe.plan import Budget

SIZE_UM = (0.5, 0.2, 0.25)  # voxels that are no squares
PLENTY = Budget(worker_bytes=2**40)
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


def cut(layers, pose, shape):
    raster = Raster.centred(shape, SIZE_UM[1:])
    places = Raster.centred(layers.shape[1:], SIZE_UM[1:]).places(pose(raster.points(raster.box)))
    moved = [ndimage.map_coordinates(layer, np.moveaxis(places, -1, 0)) for layer in layers]
    return np.clip(np.round(moved), 0, 255).astype(np.uint8)


def register(slabs, output, settings=SERIAL, *, restart=False, **options):
    """(what the transforms file says, summary)."""
    job = RegisterJob(slabs=str(slabs), output=str(output), **{"window": 48} | options)
    summary = run(job, settings, restart=restart, progress=None)
    return load_transforms(f"{output}/{FOUND}"), summary


def off(pose, truth):
    """How far two poses put the corners of a slab from each other, at most, in voxels."""
    corners = Raster.centred(SHAPES[0], SIZE_UM[1:]).outline_um
    return float((np.abs(pose(corners) - truth(corners)) / SIZE_UM[1:]).max())


def poses_of(transforms):
    return [slab.pose.rigid for slab in transforms.slabs]
