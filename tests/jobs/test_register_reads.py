"""What a node of the tree reads of zarr: as many voxels at every level, however wide the node is."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import yaml
import zarr

from volpipe import RegisterJob
from volpipe.geometry import Box, Rigid
from volpipe.jobs.register_stack import FOUND as STACK
from volpipe.jobs.register_stack import get, put, told_solution
from volpipe.jobs.register_tree import batch_key
from volpipe.plan import Budget
from volpipe.registration.estimate import PairEstimate
from volpipe.registration.solve import Edge, StackSolution
from volpipe.volume.formats import zarr_arrays

WIDTH, WINDOW, LAYERS = 4096, 64, 2
LEVELS = 7  # the coarsest is 64 voxels wide: one node, without room for its margin
SIDE = 84  # of a crop: the window and 0.15 of it all around
SEEN = Rigid(0.05, (40.0, -70.0))  # of the two slabs


def pyramid(path):
    """OME-Zarr of noise, each level its own: nothing here looks at it."""
    noise = np.random.default_rng(0).integers(0, 256, (LAYERS, 128, 128), np.uint8)
    group = zarr.create_group(path, zarr_format=3)
    datasets = []
    for level in range(LEVELS):
        width = WIDTH >> level
        sides = {"chunks": (LAYERS, 128, 128), "shards": (LAYERS, 2048, 2048)}
        array = group.create_array(str(level), shape=(LAYERS, width, width), dtype="uint8", **sides)
        array[:] = np.tile(noise, (1, -(-width // 128), -(-width // 128)))[:, :width, :width]
        scale = {"type": "scale", "scale": [1.0, 2.0**level, 2.0**level]}
        datasets.append({"path": str(level), "coordinateTransformations": [scale]})
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    return str(path)


@pytest.fixture
def counted(monkeypatch):
    """Boxes that were asked of zarr, by level."""
    asked, opened = defaultdict(list), zarr_arrays._open

    def counting(array):
        read = opened(array)

        def reader(index):
            asked[array.level].append(Box(*zip(*((part.start, part.stop) for part in index), strict=True)))
            return read(index)

        return reader

    monkeypatch.setattr(zarr_arrays, "_open", counting)
    return asked


def test_a_node_reads_as_many_voxels_of_zarr_at_every_level(tmp_path, counted, monkeypatch):
    """Pairs answer their prior; slabs are 4096 x 4096; the nodes are those of some batches, down to the finest."""
    answer = lambda upper, lower, *, around, **_: PairEstimate(around, 0.95, True)  # noqa: E731
    monkeypatch.setattr("volpipe.jobs.register_tree.register_pair", answer)
    work = work_over(pyramid(tmp_path / "slab.ome.zarr"), tmp_path)
    grid, said, nodes, bytes_read = work.trees.grid(1), Counter(), Counter(), 0
    for root in some_batches(grid):
        bytes_read += work(work.trees.name(1, root)[1]).bytes_read
        for found in get(work.trees.stage.folder, batch_key(1, grid.number(root)))["nodes"]:
            nodes[found["node"][0]] += 1
            said[found["node"][0]] += found["voxels_read"]
    read = {level: sum(box.size for box in boxes) for level, boxes in counted.items()}
    assert read == said
    assert bytes_read == 4 * sum(read.values())
    assert list(nodes) == list(range(LEVELS))[::-1]
    mean = {level: read[level] / nodes[level] for level in nodes}
    assert mean.pop(LEVELS - 1) == 2 * LAYERS * 64**2  # the root: all that there is
    assert max(mean.values()) == 2 * LAYERS * SIDE**2
    assert min(mean.values()) > max(mean.values()) / 1.1


def some_batches(grid):
    """That of the root, and of those below it four corners of the slab and one within."""
    top, *below = grid.batches()
    last = below[-1].row
    return [top] + [root for root in below if {root.row, root.column} <= {0, last} or root.row == root.column == 3]


def work_over(location, folder):
    path = folder / "slabs.yaml"
    path.write_text(yaml.safe_dump({"slabs": [location, location], "gap_layers": 1}))
    job = RegisterJob(slabs=str(path), output=str(folder / "out"), tree_window=WINDOW)
    work = job.plan(Budget(worker_bytes=2**40)).works["nodes"]
    edge = Edge(0, 1, layers=2, estimate=PairEstimate(SEEN, 0.95, True))
    put(work.trees.stage.folder, STACK, told_solution([edge], StackSolution((Rigid(), SEEN), {(0, 1): 1.0}, ()), {}))
    return work
