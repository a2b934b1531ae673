"""A scene, slabs cut from it each with its own pose, and a field: what the tests of `warp` render."""

import numpy as np

from volpipe import RunSettings
from volpipe.geometry import Raster, Rigid
from volpipe.jobs.transforms import Pose
from volpipe.plan import Budget
from volpipe.registration.field import Field

SIZE_UM = (0.5, 0.2, 0.1)
SERIAL = RunSettings(serial=True, threads=1, memory_per_worker="4GiB")
SMALL = {"chunk": (4, 24, 32), "shard": (8, 24, 32), "pyramid": False}
PLENTY = Budget(worker_bytes=2**40)


def scene(z_um, points):
    """What the tissue looks like at points (..., 2) of the reconstruction; another one in each layer."""
    y, x = np.moveaxis(points, -1, 0)
    return 100 + 60 * np.sin(y / 0.9 + z_um) * np.cos(x / 0.7) + 10 * z_um


def bent(pose, shape):
    """A field over a slab that turns and stretches by some percent."""
    raster = Raster.centred((7, 7), (1.5, 1.5))
    y, x = np.moveaxis(raster.points(raster.box), -1, 0)
    displacement = np.stack([0.2 * np.sin(x / 1.7), 0.15 * np.cos(y / 2.1)]).astype(np.float32)
    return Field(pose, displacement, raster.origin_um, raster.spacing_um, np.ones((7, 7), np.float32))


def cut(push, first_layer, layers, shape=(30, 44)):
    """A slab as it was cut from the scene: each of its voxels is what lies where it belongs."""
    raster = Raster.centred(shape, SIZE_UM[1:])
    points = push(raster.points(raster.box))
    return np.stack([scene((first_layer + z) * SIZE_UM[0], points) for z in range(layers)])


POSES = (Rigid(), Rigid(0.2, (0.3, -0.4)), Rigid(-0.15, (-0.7, 0.5)))


def pose_of(rigid):
    return Pose(angle_rad=rigid.angle_rad, shift_um=rigid.shift)
