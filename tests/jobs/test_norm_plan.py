"""Norms over the volume: what the plan says of their passes, and what is refused (laws: test_norm.py)."""

import numpy as np
import pytest

from volpipe.errors import BudgetError, ConfigError, ModelError
from volpipe.jobs.apply import ApplyJob
from volpipe.models.generator import GeneratorArchitecture
from volpipe.models.unet import UNetArchitecture
from volpipe.plan import Budget
from volpipe.runtime.calibrate import dry_run
from volpipe.runtime.run import run
from volpipe.runtime.settings import RunSettings
from volpipe.volume import open_product
from volpipe.volume.ledger import Ledger

SERIAL = RunSettings(serial=True, threads=1, memory_per_worker="4GiB")
BUDGET = Budget(4 * 2**30)
BLOCK = {"block": (16, 16, 16), "pyramid": False}


@pytest.fixture
def source(volume, noise):
    return volume(noise((13, 18, 41)))


@pytest.fixture
def small(network):
    return network(UNetArchitecture(3, levels=2, width=2, norm="instance"))


def test_the_plan_tells_the_passes_and_their_price(source, small, tmp_path):
    def plan(norm, model=small):
        return ApplyJob(input=source, output=str(tmp_path / norm), model=model, norm=norm, **BLOCK).plan(BUDGET)

    exact, pooled = plan("exact"), plan("pooled")
    assert dict(exact.facts)["norm"].startswith("exact: 6 pass(es) over the volume first, ")
    assert dict(pooled.facts)["norm"].startswith("pooled: 1 pass(es) over the volume first, ")
    assert exact.price.flops > 1.5 * pooled.price.flops
    assert "pooled takes two" not in dict(exact.facts)["norm"]  # a small volume
    passes = [each.plan(BUDGET) for each in exact.first]
    assert [each.title.partition("statistics of ")[2] for each in passes][::5] == [
        "down.0.first.norm",
        "up.0.second.norm",
    ]
    assert passes[0].price.flops < passes[-1].price.flops
    assert not plan("exact", model="preset:unet3d_l3_w2").first  # a network without norms


def test_many_passes_over_a_large_volume_name_the_other_way(source, network, tmp_path, monkeypatch):
    monkeypatch.setattr("volpipe.jobs.apply_plan.LARGE", 1)
    model = network(GeneratorArchitecture(3, blocks=3, width=1, norm="instance"))
    job = ApplyJob(input=source, output=str(tmp_path / "out"), model=model, norm="exact", **BLOCK)
    assert "11 pass(es) over the volume first" in (fact := dict(job.plan(BUDGET).facts)["norm"])
    assert fact.endswith("; --norm pooled takes two, its blocks included, and is inexact")


def test_a_pass_keeps_to_the_memory_of_a_worker(source, small, tmp_path):
    job = ApplyJob(input=source, output=str(tmp_path / "out"), model=small, norm="exact", block=(48, 48, 48))
    first = job.plan(BUDGET).first[0]
    roomy = first.plan(BUDGET)
    tight = first.plan(Budget(roomy.price.worker_bytes - 1))
    assert tight.price.worker_bytes < roomy.price.worker_bytes
    assert tight.count > roomy.count
    with pytest.raises(BudgetError, match=r"norm exact: a pass over blocks of .* in a worker, it has 100.00 MiB; give"):
        first.plan(Budget(100 * 2**20))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"norm": "exactly"}, "norm: give refuse, exact, pooled, frozen:FILE or per-tile"),
        ({"norm": "frozen"}, "norm: give refuse, exact, pooled, frozen:FILE or per-tile"),
        ({"norm": "exact:now"}, "norm: give"),
        ({"stitching": "overlap"}, "norm exact: runs a network by intervals; leave --stitching overlap out"),
        ({"stitching": "tile", "norm": "pooled"}, "norm pooled: .* leave --stitching tile out"),
        ({"blend": "hann"}, "norm exact: .* leave --stitching overlap and --blend out"),
        ({"batch": 2}, "norm exact: runs every tile alone; leave --batch 2 out"),
    ],
)
def test_what_cannot_be_is_one_line(source, small, tmp_path, options, text):
    with pytest.raises(ConfigError, match=text):
        ApplyJob(input=source, output=str(tmp_path / "out"), model=small, **{"norm": "exact"} | options).plan(BUDGET)


def test_intervals_without_statistics_are_refused(source, small, tmp_path):
    job = ApplyJob(input=source, output=str(tmp_path / "out"), model=small, norm="per-tile", stitching="exact")
    with pytest.raises(
        ModelError, match=r"module down.0.first.norm sees the whole volume, of which --norm exact finds"
    ):
        job.plan(BUDGET)


def test_blocks_behind_passes_are_not_calibrated(source, small, tmp_path):
    job = ApplyJob(input=source, output=str(tmp_path / "out"), model=small, norm="exact", **BLOCK)
    assert dry_run(job, SERIAL, calibrate=False)[1] is None
    with pytest.raises(ConfigError, match="passes over the volume come before its blocks; give --dry-run alone"):
        dry_run(job, SERIAL, calibrate=True)


def test_a_restart_keeps_no_block_or_tile_of_the_run_that_it_throws_away(source, network, tmp_path):
    """`pooled` depends on the blocks of its pass: what the same command makes must not follow from what was there."""

    wide = network(UNetArchitecture(3, levels=2, width=16, norm="instance"))

    def job(place):
        return ApplyJob(input=source, output=str(tmp_path / place), model=wide, norm="pooled", block=(48, 48, 48))

    def receipts(place):
        return len(list(Ledger(f"{tmp_path / place}.norm/0").receipts()))

    run(job("out"), SERIAL, progress=None)
    begun = job("out").plan(BUDGET).first[0]
    roomy = begun.plan(BUDGET).price.worker_bytes
    tight = RunSettings(serial=True, threads=1, memory_per_worker=f"{(roomy - 1) / 2**30:.9f}GiB")
    with pytest.raises(BudgetError, match="or --restart for smaller ones"):
        begun.plan(tight.local_budget())  # it would go on with what it began with
    dry_run(job("out"), tight, calibrate=False, restart=True)
    run(job("out"), tight, restart=True, progress=None)
    run(job("other"), tight, progress=None)
    assert receipts("out") == receipts("other") > 1
    one, other = (open_product(str(tmp_path / place)) for place in ("out", "other"))
    np.testing.assert_array_equal(one.read(one.grid().region), other.read(other.grid().region))
