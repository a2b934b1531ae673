"""The audit: right products are called exact, planted faults are found, and what cannot be judged is refused."""

import itertools
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from volpipe.errors import ProductError, RunError, VolumeError
from volpipe.geometry import AxisFootprint, Box, Footprint
from volpipe.inference.predictor import Predictor
from volpipe.jobs import audit as auditing
from volpipe.jobs.apply import ApplyJob
from volpipe.jobs.audit import AuditJob, AuditWork, outcome
from volpipe.jobs.importing import ImportJob
from volpipe.models.mae import MAEArchitecture
from volpipe.models.unet import UNetArchitecture
from volpipe.plan import Budget
from volpipe.runtime.run import run
from volpipe.runtime.settings import RunSettings
from volpipe.stitching import audit
from volpipe.stitching.tile_and_stitch import TileAndStitch
from volpipe.stitching.windows import Windows
from volpipe.volume import open_product
from volpipe.volume.ledger import Ledger

UNET, RESNET = "preset:unet3d_l3_w3", "preset:resnet6_3d_w2"
SHAPE = (64, 16, 16)  # of blocks of 16: the only faces are across z
BLOCK = (16, 16, 16)
SERIAL = RunSettings(serial=True, threads=1, memory_per_worker="4GiB")
BUDGET = Budget(worker_bytes=4 * 2**30)
FLOAT32 = {"precision": "fp32", "output_dtype": "float32"}
UINT8 = {"precision": "fp32", "output_dtype": "uint8", "output_range": (-4.0, 4.0)}


@pytest.fixture(scope="session")
def small(network):
    """A network of two levels: for what does not depend on how far one sees."""
    return network(UNetArchitecture(3, levels=2, width=3))


@pytest.fixture
def made(volume, noise, applied, small):
    """`made(model, shape, **options) -> product's location`."""

    numbers = itertools.count()

    def go(model=small, shape=SHAPE, **options):
        source = volume(noise(shape), name=f"in{next(numbers)}.ome.zarr")
        return applied(source, model, **{"block": BLOCK, "pyramid": False} | options)[0]

    return go


def audited(place, **options):
    """The product's attributes after an audit."""
    run(AuditJob(volume=place, **options), SERIAL, progress=None)
    return open_product(place).attributes


def change(place, number, change_it):
    """Rewrite one block of a product."""
    product = open_product(place)
    core = product.grid()[number].core
    product.write(core, change_it(product.read(core)))


@pytest.mark.parametrize("model", [UNET, RESNET])
@pytest.mark.parametrize("options", [{}, FLOAT32, UINT8])
def test_a_right_product_is_exact(made, model, options):
    place = made(model, (24, 30, 37), audit=6, **options)
    attributes = open_product(place).attributes
    assert attributes["exact"] is True
    assert attributes["exact_reason"] == ""
    assert attributes["audit"]["boxes"] == 6
    attributes = audited(place, boxes=10)
    assert (attributes["exact"], attributes["audit"]["boxes"]) == (True, 10)


@pytest.mark.parametrize("step", [1e-4, 1e-3, 1e-2, 5e-2])
@pytest.mark.parametrize(("options", "smallest"), [(FLOAT32, 1e-4), (UINT8, 1e-2)])
def test_a_step_at_one_face_is_found(made, step, options, smallest):
    place = made(**options)
    change(place, 1, lambda voxels: (voxels * (1 + step)).astype(voxels.dtype))
    attributes = audited(place, boxes=8)
    assert attributes["exact"] is not (step >= smallest)
    if step >= smallest:
        assert attributes["audit"]["step"] > attributes["audit"]["smallest_step_seen"]
        assert "differ from what the network gives" in attributes["exact_reason"]


def short(footprint):
    """One period less of halo on every axis."""
    axes = (AxisFootprint(a.need_before - a.period, a.need_after - a.period, a.period) for a in footprint.axes)
    return Footprint(tuple(axes))


@pytest.mark.parametrize("model", [UNET, RESNET])
@pytest.mark.parametrize("options", [FLOAT32, UINT8])
def test_a_halo_one_period_short_is_found(volume, noise, tmp_path, model, options):
    """By the audit of a run that believes in its halo: boxes are computed inside larger tiles."""
    job = ApplyJob(input=volume(noise((96, 16, 16))), output=str(tmp_path / "o.ome.zarr"), model=model, block=BLOCK,
                   stitching="overlap", pyramid=False, audit=8, **options)  # fmt: skip
    plan = job.plan(BUDGET)
    job.begin(plan, fresh=True, replace=False)
    work = plan.works["apply"]
    for item in range(len(work.grid)):
        replace(work, inference=replace(work.inference, footprint=short(work.inference.footprint)))(item)
    found = outcome(job._setup, plan.works["audit"], findings(replace(plan.works["audit"], apply=work)))
    assert found[0]["exact"] is (model == RESNET and options is UINT8)  # its 1e-3 std is less than a level of uint8


@pytest.fixture
def far(tmp_path, monkeypatch):
    """`far(reach, share) -> model`: one convolution along z; all but the centre of its kernel has the weight `share`.

    The probe is told to fail, so that a halo by hand is taken on trust: by the run and by its audit.
    """

    def fails(*_, **__):
        raise MemoryError("no room")

    monkeypatch.setattr("volpipe.models.probe.Trial", fails)

    def make(reach, share):
        conv = nn.Conv3d(1, 1, (2 * reach + 1, 1, 1), padding=(reach, 0, 0), bias=False).eval()
        with torch.no_grad():
            conv.weight.fill_(share)[0, 0, reach] = 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.trace(conv, torch.rand(1, 1, 8, 8, 8)).save(tmp_path / "far.pt")
        return str(tmp_path / "far.pt")

    return make


def test_a_halo_by_hand_whose_shortness_is_faint_is_found(made, far):
    """By boxes inside larger tiles, which a short halo spoils outside the box: 8 voxels short, by 1e-3 of the values.

    A margin of the period, one voxel, would leave it in both computations, where it passes for the rounding of fp32.
    """
    options = {"block": (64, 16, 16), "halo": (4, 0, 0), "period": (1, 1, 1), "audit": 8, **FLOAT32}
    attributes = open_product(made(far(12, 3e-4), (128, 16, 16), **options)).attributes
    assert attributes["exact"] is False
    assert "is the halo given by hand too small?" in attributes["exact_reason"]
    enough = open_product(made(far(4, 3e-4), (128, 16, 16), **options)).attributes
    assert (enough["audit"]["boxes"], enough["audit"]["seams"]) == (8, [])
    assert enough["exact_reason"].startswith("halo and period are taken on trust")


@pytest.mark.parametrize("precision", audit.ROUNDING)
def test_a_halo_short_for_the_audit_too_does_not_hide_itself(made, far, precision):
    """By more than boxes are grown: what its two computations differ by is more than rounding can be."""
    options = {"block": (64, 16, 16), "halo": (2, 0, 0), "period": (1, 1, 1), "audit": 8, "precision": precision}
    attributes = open_product(made(far(30, 0.3), (128, 16, 16), **options)).attributes
    assert attributes["exact"] is False
    assert "is the halo given by hand too small?" in attributes["exact_reason"]


def test_rounding_that_depends_on_a_tiles_shape_is_no_seam(made, monkeypatch):
    """As where a device takes another kernel for another shape: more than the least that is allowed for in fp32."""
    right = Predictor._forward

    def rounded(self, stored, plan, dtype):
        values = right(self, stored, plan, dtype)
        noise = np.random.default_rng(stored.shape[2:]).uniform(-1e-4, 1e-4, values.shape)
        return values + (noise * np.abs(values).max()).astype(values.dtype)

    monkeypatch.setattr(Predictor, "_forward", rounded)
    place = made(shape=(128, 16, 16), audit=8, **FLOAT32)  # no read reaches from face to face
    attributes = open_product(place).attributes
    assert attributes["exact"] is True
    assert attributes["audit"]["largest"] > audit.ROUNDING["fp32"][0] * largest(place)


def largest(place):
    product = open_product(place)
    return np.abs(product.read(Box.from_shape(product.layout.shape))).max()


def findings(work: AuditWork):
    return [found for item in range(len(work.spots)) for found in work(item).value]


@pytest.mark.parametrize("model", [UNET, RESNET])
@pytest.mark.parametrize("options", [FLOAT32, UINT8])
def test_a_read_off_by_one_voxel_is_found(made, model, options):
    place = made(model, **options)
    change(place, 2, lambda voxels: np.roll(voxels, 1, axis=3))
    attributes = audited(place, boxes=8)
    assert attributes["exact"] is False
    assert attributes["audit"]["seams"]


def test_labels_that_moved_are_found(volume, noise, applied, network):
    from volpipe.models.unet import UNetArchitecture

    model = network(UNetArchitecture(3, levels=2, width=2, out_channels=3))
    place, _ = applied(volume(noise(SHAPE)), model, block=BLOCK, pyramid=False, precision="fp32", output_dtype="labels")
    assert open_product(place).attributes["exact"] is True
    change(place, 1, lambda voxels: np.roll(voxels, 1, axis=1))
    assert audited(place, boxes=6)["exact"] is False


def test_tiles_that_see_nothing_of_each_other_are_told_how_much_they_differ(made):
    place = made(stitching="tile")
    attributes = open_product(place).attributes
    assert attributes["exact"] is False
    assert "see nothing of each other" in attributes["exact_reason"]
    assert attributes["audit"]["largest"] > 0.01


def test_fail_above(made):
    exact, inexact = made(), made(stitching="tile")
    run(AuditJob(volume=exact, fail_above=1e-9), SERIAL, progress=None)
    with pytest.raises(RunError, match=r"differs by .* more than --fail-above 1e-09"):
        run(AuditJob(volume=inexact, fail_above=1e-9), SERIAL, progress=None)


def test_an_audit_left_out_is_told(made):
    attributes = open_product(made(audit=0)).attributes
    assert (attributes["exact"], attributes["exact_reason"]) == (False, "not audited")


def test_one_tile_has_nothing_to_audit(made):
    attributes = open_product(made(shape=(12, 14, 16))).attributes
    assert (attributes["exact"], attributes["audit"]["boxes"]) == (True, 0)


def test_a_finished_run_has_nothing_to_do_whatever_the_audit(volume, noise, applied, small):
    source = volume(noise(SHAPE))
    place, _ = applied(source, small, block=BLOCK, pyramid=False, audit=2)
    before = len(list(Ledger(place).receipts()))
    applied(source, small, block=BLOCK, pyramid=False, audit=2, output=place)
    assert len(list(Ledger(place).receipts())) == before
    applied(source, small, block=BLOCK, pyramid=False, audit=5, output=place)
    assert len(list(Ledger(place).receipts())) == before + 3
    assert open_product(place).attributes["audit"]["boxes"] == 5


def test_an_audit_that_looked_at_more_is_kept(volume, noise, applied, small):
    """What `volpipe audit` found is not undone by the run's own few boxes, when the same command is given again."""
    source = volume(noise(SHAPE))
    place, _ = applied(source, small, block=BLOCK, pyramid=False, audit=2, **FLOAT32)
    change(place, 1, lambda voxels: voxels * np.float32(1.05))
    assert audited(place, boxes=9)["exact"] is False
    applied(source, small, block=BLOCK, pyramid=False, audit=2, output=place, **FLOAT32)
    attributes = open_product(place).attributes
    assert (attributes["exact"], attributes["audit"]["boxes"]) == (False, 9)


def test_a_seam_once_found_is_not_forgotten(made):
    place = made(**FLOAT32)
    change(place, 1, lambda voxels: voxels * np.float32(1.05))
    found = audited(place, boxes=9)
    assert audited(place, boxes=1, seed=7) == found
    assert audited(place, boxes=16, seed=3)["exact"] is False


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_sides_are_those_of_the_face(axis):
    """Up on one side and down on the other: over both, or over other halves, the mean is zero."""
    far = np.arange(8).reshape([-1 if a == axis else 1 for a in range(3)]) >= 4
    right = np.ones((1, 8, 8, 8))
    finding = audit.judge(
        audit.Spot(Box((0, 0, 0), (8, 8, 8)), axis, 4), right + np.where(far, 0.5, -0.5), right, right, "", "fp32"
    )
    assert finding.step == 0.5


@pytest.mark.parametrize("axis", [1, 2])
def test_a_step_across_y_or_x_is_found(made, axis):
    shape = [16, 16, 16]
    shape[axis] = 64
    place = made(shape=tuple(shape), **FLOAT32)
    change(place, 1, lambda voxels: voxels * np.float32(1.0001))
    assert audited(place, boxes=8)["exact"] is False


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_stored_as_no_number_is_a_seam(made, bad):
    place = made(**FLOAT32)
    change(place, 1, lambda voxels: np.full_like(voxels, bad))
    attributes = audited(place, boxes=8)
    assert attributes["exact"] is False
    json.loads(json.dumps(attributes, allow_nan=False))


@pytest.mark.parametrize("mode", ["tile", "overlap"])
@pytest.mark.parametrize("shape", [(45, 22, 37), (19, 50, 18)])
def test_boxes_anywhere_in_a_ragged_product_can_be_judged(made, mode, shape):
    attributes = audited(made(shape=shape, stitching=mode, audit=0), boxes=12)
    assert attributes["audit"]["boxes"] == 12
    assert attributes["exact"] is (mode == "overlap")


def test_masked_blocks_are_left_out(volume, noise, applied, small):
    mask = np.ones(SHAPE, "uint8")
    mask[:16] = 0
    source, mask = volume(noise(SHAPE)), volume(mask, name="mask.ome.zarr")
    place, _ = applied(source, small, block=BLOCK, pyramid=False, mask=mask, audit=8)
    attributes = open_product(place).attributes
    assert (attributes["exact"], attributes["audit"]["boxes"]) == (True, 8)


def test_a_mask_that_leaves_one_block_leaves_nothing_to_audit(volume, noise, applied, small):
    mask = np.zeros(SHAPE, "uint8")
    mask[:16] = 1
    source, mask = volume(noise(SHAPE)), volume(mask, name="mask.ome.zarr")
    place, _ = applied(source, small, block=BLOCK, pyramid=False, mask=mask)
    attributes = open_product(place).attributes
    assert (attributes["exact_reason"], attributes["audit"]["boxes"]) == ("not audited", 0)


def test_planes_are_not_compared_across_their_own_axis(made):
    place = made("preset:unet2d_l4_w3", (8, 40, 40), assembly="2d", block=(8, 16, 16), audit=8)
    assert open_product(place).attributes["exact"] is True


def test_the_same_boxes_first():
    region, faces = Box((0, 0, 0), (100, 100, 100)), [[32, 64], [], [50]]
    few, many = (audit.spots(region, faces, (16, 16, 16), count, seed=3) for count in (4, 9))
    assert many[:4] == few
    assert {spot.axis for spot in many} == {0, 2}
    assert all(spot.box.start[spot.axis] < spot.face < spot.box.stop[spot.axis] for spot in many)
    assert audit.spots(region, faces, (16, 16, 16), 4, seed=4) != few
    assert audit.spots(region, [[], [], []], (16, 16, 16), 4, seed=4) == []


def test_what_cannot_be_judged_is_refused(made, volume, noise, tmp_path):
    with pytest.raises(ProductError, match="does not tell what network made it"):
        AuditJob(volume=volume(noise(SHAPE))).plan(BUDGET)
    imported = str(tmp_path / "imported.ome.zarr")
    run(ImportJob(input=volume(noise((8, 8, 8)), name="raw.ome.zarr"), output=imported), SERIAL, progress=None)
    with pytest.raises(ProductError, match="does not tell what network made it"):
        AuditJob(volume=imported).plan(BUDGET)
    place = made()
    open_product(place).update(state="running")
    with pytest.raises(ProductError, match="is not finished"):
        AuditJob(volume=place).plan(BUDGET)
    open_product(place).update(state="complete")
    other = volume(noise((64, 16, 17)), name="other.ome.zarr")
    with pytest.raises(ProductError, match=r"was made from something else .*input\.metadata"):
        AuditJob(volume=place, input=other).plan(BUDGET)


def test_an_input_that_was_moved_is_named(made, tmp_path):
    place = made()
    (tmp_path / "in0.ome.zarr").rename(tmp_path / "moved.ome.zarr")
    with pytest.raises(VolumeError, match=r"in0\.ome\.zarr: no such file.*was it moved\? --input and --mask say where"):
        audited(place)
    assert audited(place, input=str(tmp_path / "moved.ome.zarr"))["exact"] is True


def test_a_mask_that_was_moved_is_named_and_must_be_the_same(volume, noise, applied, tmp_path, small):
    on = np.ones(SHAPE, "uint8")
    on[:16] = 0
    mask = volume(on, name="mask.ome.zarr")
    other = volume(on[::2, ::2, ::2], name="other.ome.zarr", voxel_size_um=(0.016, 0.008, 0.008))
    source = volume(noise(SHAPE))
    place, _ = applied(source, small, block=BLOCK, pyramid=False, mask=mask)
    (tmp_path / "mask.ome.zarr").rename(tmp_path / "moved.ome.zarr")
    with pytest.raises(VolumeError, match=r"mask\.ome\.zarr: no such file.*was it moved"):
        audited(place)
    assert audited(place, mask=str(tmp_path / "moved.ome.zarr"))["exact"] is True
    with pytest.raises(ProductError, match=r"from something else \(mask\.metadata.*--mask where they lie now"):
        audited(place, mask=other)
    bare, _ = applied(source, small, block=BLOCK, pyramid=False)
    with pytest.raises(ProductError, match=r"from something else \(mask\.metadata"):
        audited(bare, mask=other)


def test_windows_of_two_tokens_are_audited_anywhere(made, network):
    model = network(MAEArchitecture(3, 16, patch=8, width=12, depth=1, decoder_depth=1))
    attributes = open_product(made(model, (24, 37, 40), audit=20)).attributes
    assert attributes["audit"]["boxes"] == 20
    assert attributes["audit"]["largest"] > 0.01


@pytest.mark.parametrize("mode", [TileAndStitch(), Windows()])
@pytest.mark.parametrize("length", [64, 70, 75])
@pytest.mark.parametrize("period", [4, 16])
def test_the_other_tiles_of_an_inexact_mode_hold_every_box(mode, length, period):
    """At a ragged end too, and in a window of two tokens, on whose lattice few windows lie."""
    axis = AxisFootprint(period=period, window=32) if mode.name == "windows" else AxisFootprint(6, 6, period)
    for start in range(length - 15):
        for which in (0, 1):
            around = auditing._same_tile_around(start, start + 16, 32, period, length, which)
            read = mode.alone(Box((around[0],), (around[1],)), (length,), Footprint((axis,))).read
            assert read.contains(Box((start,), (start + 16,)))
            assert read.shape[0] % period == 0
