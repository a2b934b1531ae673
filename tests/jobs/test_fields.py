"""Laws of the fields of a job: one number stands for all axes wherever it is given, and what is wrong is one line."""

import json

import pytest
import yaml

from volpipe import ApplyJob, ImportJob, PyramidJob, RunSettings, StatisticsJob, load_pipeline
from volpipe.errors import ConfigError
from volpipe.runtime.pipeline import Pipeline

PLACES = {"input": "a.zarr", "output": "b.zarr", "model": "m.pt2"}
ONE_NUMBER = {
    "halo": (6, (6,)),
    "period": (8, (8,)),
    "block": (64, (64, 64, 64)),
    "tile": (32, (32, 32, 32)),
    "voxel_size_um": (0.5, (0.5, 0.5, 0.5)),
}


@pytest.mark.parametrize("name", ONE_NUMBER)
def test_one_number_stands_for_all_axes(name, tmp_path):
    given, meant = ONE_NUMBER[name]
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump({"jobs": [{"apply": {**PLACES, name: given}}]}))
    one, written_out = ApplyJob(**PLACES, **{name: given}), ApplyJob(**PLACES, **{name: meant})
    assert getattr(one, name) == meant
    assert load_pipeline(path).job_list == [one] == [written_out]
    assert one.settings() == written_out.settings()  # of the ledger's key


def test_one_number_stands_for_all_axes_of_an_import():
    job = ImportJob(input="a.tif", output="b.zarr", chunk=32, shard=128, voxel_size=8, unit="nanometer")
    assert (job.chunk, job.shard, job.voxel_size) == ((32,) * 3, (128,) * 3, (8.0,) * 3)


def test_the_schema_that_editors_read_knows_one_number():
    jobs = Pipeline.model_json_schema()["$defs"]
    fields = [jobs["ApplyJob"]["properties"][name] for name in ONE_NUMBER]
    fields += [jobs["ImportJob"]["properties"][name] for name in ("chunk", "shard", "voxel_size")]
    for field in fields:
        assert {"integer", "number"} & {arm["type"] for arm in field["anyOf"]}
        assert "description" in field


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: ApplyJob(**PLACES, halo="six"), "halo: must be a list (given: 'six')"),
        (lambda: ApplyJob(**PLACES, halo=True), "halo: must be a list (given: True)"),
        (lambda: ApplyJob(**PLACES, batch=0), "batch: must be greater than or equal to 1 (given: 0)"),
        (lambda: ApplyJob(input="a.zarr", output="b.zarr"), "model: missing; give it"),
        (
            lambda: ImportJob(input="a", output="b", colour="red"),
            "colour: no such setting (given: 'red')",
        ),
        (lambda: PyramidJob(), "volume: missing; give it"),
        (lambda: StatisticsJob(volume="a", level=-1), "level: must be greater than or equal to 0 (given: -1)"),
        (lambda: RunSettings(retries="some"), "retries: must be a valid integer, unable to parse"),
    ],
)
def test_a_wrong_field_is_one_line_of_volpipes_own_error(make, line):
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_a_long_value_is_cut():
    with pytest.raises(ConfigError) as error:
        ApplyJob(**PLACES, batch=list(range(1000)))
    assert len(str(error.value)) < 200


def test_a_job_goes_through_json_and_back():
    job = ApplyJob(**PLACES, halo=6, period=8)
    assert ApplyJob(**json.loads(job.model_dump_json())) == job
