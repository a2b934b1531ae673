"""Register: poses of slabs cut from one tissue are found again, whoever does the tasks and whenever it is killed."""

import pickle
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from register_scene import FOUND, GAP, LAYERS, PLENTY, POSES, SERIAL, SIZE_UM, cut, off, poses_of, register
from scipy import ndimage

from volpipe import RegisterJob, RunSettings, WarpJob, run
from volpipe.errors import ProductError
from volpipe.geometry import Box, Raster, Rigid
from volpipe.jobs.field_store import content_of, load_field
from volpipe.jobs.register_stack import FOUND as STACK
from volpipe.jobs.register_stack import PairWork, SolveWork, get, put, told, told_solution
from volpipe.jobs.register_tree import FieldWork, NodesWork, batch_key, field_key
from volpipe.jobs.transforms import load_transforms
from volpipe.registration.estimate import PairEstimate
from volpipe.registration.solve import Edge, StackSolution
from volpipe.volume import open_source


@pytest.fixture(scope="module")
def found(slabs, tmp_path_factory):
    """Folder of what was found of all six, and the summary."""
    folder = tmp_path_factory.mktemp("found")
    path = folder / "slabs.yaml"
    path.write_text(yaml.safe_dump({"slabs": slabs, "gap_layers": GAP}))
    _, summary = register(path, folder / "out")
    return folder / "out", summary


# ---------------------------------------------------------------------- what is found


def test_poses_are_found_within_a_voxel(found, slabs):
    out, _ = found
    transforms = load_transforms(out / FOUND)
    assert max(off(pose, truth) for pose, truth in zip(poses_of(transforms), POSES, strict=True)) < 1
    assert poses_of(transforms)[0] == Rigid()
    assert [slab.volume for slab in transforms.slabs] == slabs
    assert {(slab.layers, slab.gap_layers) for slab in transforms.slabs[:-1]} == {((0, LAYERS), GAP)}
    assert transforms.voxel_size_um == SIZE_UM


def test_a_missing_slab_is_bridged_and_those_below_it_are_found(slabs_file, tmp_path):
    transforms, summary = register(slabs_file({2: {"layers": LAYERS}}), tmp_path / "out")
    poses = poses_of(transforms)
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
    assert voxels_off(field.push, bent(1)) < 0.6 * voxels_off(field.pose, bent(1))


def test_a_field_stands_on_that_of_the_slab_above(slabs_file, tmp_path):
    """Nodes that say the truth of two bent slabs, though the pair saw a slant that the solve took off."""
    slant = Rigid(0.02, (0.4, -0.3))  # of the tissue, between slabs 1 and 2
    poses, job = POSES[:3], RegisterJob(slabs=slabs_file(), output=str(tmp_path / "out"), window=48, tree_window=16)
    work = job.plan(PLENTY).works["field"]
    stage = work.trees.stage
    seen = {(0, 1): poses[0].inverse @ poses[1], (1, 2): slant @ poses[1].inverse @ poses[2]}
    estimates = {pair: PairEstimate(motion, 0.95, True) for pair, motion in seen.items()}
    edges = [Edge(*pair, 2, estimate) for pair, estimate in estimates.items()]
    put(stage.folder, STACK, told_solution(edges, StackSolution(tuple(poses), dict.fromkeys(seen, 0.95), ()), {}))
    places = [Rigid(), bent(1), bent(2)]
    for slab in (1, 2):
        grid = work.trees.grid(slab)
        for root in grid.batches(work.trees.depth):
            nodes = [node_seen(grid, node, places[slab], places[slab - 1], (Rigid(), slant)[slab - 1])
                     for node in grid.batch(root, work.trees.depth)]  # fmt: skip
            put(stage.folder, batch_key(slab, grid.number(root)), {"nodes": nodes})
        work(slab)
        field = load_field(f"{stage.folder.location}/slab00{slab}.field.zarr")
        assert voxels_off(field.push, places[slab], (6.0, 6.0)) < 0.1
        assert voxels_off(field.pose, places[slab], (6.0, 6.0)) > 1


@pytest.mark.parametrize(("sure", "told"), [([3], 0), ([3, 4], 2)])
def test_a_field_rests_on_no_single_node(slabs_file, tmp_path, sure, told):
    """Which found something where all others that were looked at did not."""
    job = RegisterJob(slabs=slabs_file(), output=str(tmp_path / "out"), window=48, tree_window=16)
    work = job.plan(PLENTY).works["field"]
    stage, grid = work.trees.stage, work.trees.grid(1)
    edges = [Edge(0, 1, 2, PairEstimate(POSES[1], 0.95, True))]
    put(stage.folder, STACK, told_solution(edges, StackSolution(tuple(POSES[:2]), {(0, 1): 0.95}, ()), {}))
    for root in grid.batches(work.trees.depth):
        nodes = [node_seen(grid, node, bent(1), Rigid(), Rigid()) for node in grid.batch(root, work.trees.depth)]
        for place, node in enumerate(nodes):
            level, row, column = node["node"]
            if level == grid.finest and not (row == 2 and column in sure):
                nodes[place] = node | {"confidence": 0.3, "missed": 2}
        put(stage.folder, batch_key(1, grid.number(root)), {"nodes": nodes})
    work(1)
    said = get(stage.folder, field_key(1))
    assert (said["trusted"], said["field"] is None) == (told, not told)
    assert said["nodes"] == grid.count(grid.finest)


def node_seen(grid, node, place, place_above, slant):
    """As it is stored: into the slab from the one above, of a node around whose centre the map is nearly rigid."""
    centre = np.array(grid.centre_um(node))
    around = centre + np.array([(0.0, 0.0), (0.0, 0.1), (0.0, -0.1)])
    above = slant(inverse_of(place_above, place(around)))
    along_x = above[1] - above[2]
    angle = float(np.arctan2(*along_x))
    motion = Rigid(angle, tuple((above[0] - Rigid(angle)(centre)).tolist())).inverse
    return {"node": [node.level, node.row, node.column], "confidence": 1.0, "missed": 0, "voxels_read": 0} | told(
        motion
    )


def inverse_of(place, points):
    """By iteration: the maps are nearly the identity."""
    found = points.copy()
    for _ in range(60):
        found = found - (place(found) - points)
    return found


def test_pairs_are_shown_the_layers_that_face_the_gap_and_nodes_the_same_upside_down(store, tmp_path, monkeypatch):
    """Each layer holds its number, and each slab is told by its tens."""
    numbers = np.arange(12)[:, None, None] + np.tile(np.arange(40) // 4 % 2 * 100, (40, 1))
    shown = []

    def spy(is_node, upper, lower, *, gap_layers, score, carry, **_):
        assert carry != is_node
        layers = [tuple(np.nanmin(slab, (1, 2)).astype(int).tolist()) for slab in (upper, lower)]
        numbers = (tuple(layer % 20 for layer in slab) for slab in layers)
        shown.append((score, *numbers, layers[0][0] < 20, gap_layers, is_node))
        return PairEstimate(Rigid(), 0.95, True)

    for module in ("register_stack", "register_tree"):
        monkeypatch.setattr(f"volpipe.jobs.{module}.register_pair", partial(spy, module == "register_tree"))
    path = tmp_path / "slabs.yaml"
    slabs = [store((numbers + add).astype(np.uint8)) for add in (0, 20)]
    path.write_text(yaml.safe_dump({"slabs": slabs, "gap_layers": 3}))
    register(path, tmp_path / "out", window=20, tree_window=20)
    first, last = tuple(range(8)), tuple(range(4, 12))
    assert shown[0] == ("likelihood", last, first, True, 3, False)
    nodes = [one for one in shown if one[-1]]
    assert set(nodes) == {("likelihood", first[::-1], last[::-1], False, 3, True)}
    assert len(nodes) == 1 + 4
    assert len(shown) == 1 + len(nodes)


# ---------------------------------------------------------------------- tasks: killed, elsewhere, again


def same(out, other):
    """Two products are the same to the last bit."""
    assert (Path(out) / FOUND).read_bytes() == (Path(other) / FOUND).read_bytes()
    for slab, twin in zip(
        load_transforms(f"{out}/{FOUND}").slabs, load_transforms(f"{other}/{FOUND}").slabs, strict=True
    ):
        assert (slab.field is None) == (twin.field is None)
        if slab.field is not None:
            assert content_of(load_field(slab.field)) == content_of(load_field(twin.field))


def test_killed_in_every_stage_and_resumed_it_finds_the_same(bent_slab, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr("volpipe.jobs.register_plan.DEPTH", 2)  # batches below others, which changes no answer
    for work in (PairWork, SolveWork, NodesWork, FieldWork):
        monkeypatch.setattr(work, "__call__", watched(work.__call__, work.__name__, done))
    for name in ("PairWork", "SolveWork", "NodesWork", "NodesWork", "FieldWork"):
        done.append(("kill", name))
        with pytest.raises(KeyboardInterrupt):
            register(bent_slab.parent / "slabs.yaml", tmp_path / "out", window=80)
        assert not (tmp_path / "out" / FOUND).exists()
    register(bent_slab.parent / "slabs.yaml", tmp_path / "out", window=80)
    same(tmp_path / "out", bent_slab)
    assert max(done.count(one) for one in done if one[0] in ("SolveWork", "NodesWork", "FieldWork")) == 1
    assert len(done) <= len(set(done)) + 2  # of a batch of small ones, what was done with it in hand


def watched(call, name, done):
    """`call` that writes down what it did, and dies once at a work that is to be killed, of nodes at the second."""

    def go(self, item):
        if ("kill", name) in done and (name != "NodesWork" or any(d[0] == name for d in done)):
            done.remove(("kill", name))
            raise KeyboardInterrupt
        receipt = call(self, item)
        done.append((name, item))
        return receipt

    return go


def test_two_workers_find_the_same_as_one_process(bent_slab, tmp_path):
    settings = RunSettings(workers=2, threads=1, memory_per_worker="2GiB")
    register(bent_slab.parent / "slabs.yaml", tmp_path / "out", settings, window=80)
    same(tmp_path / "out", bent_slab)


def test_the_same_again_does_nothing_and_another_score_or_slab_or_prior_is_refused(found, slabs, slabs_file):
    out, _ = found
    before = (out / FOUND).stat().st_mtime_ns
    _, summary = register(slabs_file(), out)
    assert summary.text().startswith("nothing to do")
    assert (out / FOUND).stat().st_mtime_ns == before
    with pytest.raises(ProductError, match=r"settings.score: likelihood -> ncc"):
        register(slabs_file(), out, score="ncc")
    with pytest.raises(ProductError, match=r"settings.max_shift: 0.1 -> 0.2"):
        register(slabs_file(max_shift=0.2), out)
    with pytest.raises(ProductError, match=r"input.slab 2.*slabs? 2|input\.slab 2"):
        register(slabs_file({2: slabs[3]}), out)


def test_restart_makes_it_anew_with_other_settings(two, tmp_path):
    out = tmp_path / "out"
    register(two(), out, window=40)
    assert load_transforms(out / FOUND).slabs[1].field is not None
    transforms, summary = register(two(), out, window=48, slant=False, tree=False, restart=True)
    assert transforms.slabs[1].field is None
    assert summary.before == 0
    assert not list(out.glob("nodes/**/*.json")) + list(out.glob("*.field.zarr"))


def test_works_are_small_enough_to_be_sent(bent_slab, tmp_path):
    job = RegisterJob(slabs=str(bent_slab.parent / "slabs.yaml"), output=str(tmp_path / "out"), window=80)
    assert all(len(pickle.dumps(work)) < 20_000 for work in job.plan(PLENTY).works.values())


def test_a_batch_of_nodes_waits_for_that_of_its_parent_alone_and_a_field_for_that_above(volume, tmp_path):
    path = tmp_path / "slabs.yaml"
    blank = volume(np.zeros((LAYERS, 512, 300), np.uint8))
    path.write_text(yaml.safe_dump({"slabs": [blank, blank, {"layers": 2}, blank], "gap_layers": 0}))
    plan = RegisterJob(slabs=str(path), output=str(tmp_path / "out"), window=99, tree_window=16).plan(PLENTY)
    trees, tasks = plan.works["nodes"].trees, list(plan.tasks())
    assert len({task.name for task in tasks}) == len(tasks) == plan.count
    before = set()
    for task in tasks:
        assert before.issuperset(task.needs)
        before.add(task.name)
    lower = [task for task in tasks if task.work == "nodes" and task.needs != (("solve", 0),)]
    assert len(lower) == 2 * 4 * 3  # of 128 voxels, over 512 x 300
    for task in lower:
        (need,) = task.needs
        slab, number = divmod(task.item, trees.stride)
        grid = trees.grid(slab)
        assert grid[number].parent in set(grid.batch(grid[need[1] - slab * trees.stride], trees.depth))
    nodes = [[task.name for task in tasks if task.work == "nodes" and task.item // trees.stride == n] for n in (1, 3)]
    fields = {task.item: task.needs for task in tasks if task.work == "field"}
    assert fields == {1: tuple(nodes[0]), 3: (*nodes[1], ("field", 1))}


def test_what_is_registered_is_rendered_as_the_tissue_was(found, cuts, tmp_path):
    out, _ = found
    made = str(tmp_path / "made.ome.zarr")
    run(WarpJob(transforms=str(out / FOUND), output=made, shard=64, chunk=64, pyramid=False), SERIAL, progress=None)
    source = open_source(made)
    voxels = source.read(Box.from_shape(source.shape))[0].astype(float)
    y, x = (round(-place / size) for place, size in zip(source.translation_um[1:], SIZE_UM[1:], strict=True))
    middle = voxels[:, y - 25 : y + 25, x - 25 : x + 25]
    alike = [
        np.corrcoef(middle[n + LAYERS - 1].ravel(), middle[n + LAYERS + GAP].ravel())[0, 1] for n in range(0, 25, 5)
    ]
    raw = [
        np.corrcoef(one[-1, 20:70, 15:65].ravel(), two[0, 20:70, 15:65].ravel())[0, 1] for one, two in pairwise(cuts)
    ]
    assert min(alike) > 0.8 > 0.3 > max(raw)
    assert not middle[LAYERS].any()
