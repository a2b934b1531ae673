"""What fails after writing has begun is never taken for done, and says what happened in one line."""

import os
import re
import subprocess

import numpy as np
import pytest
import zarr
import zarr.storage._local


@pytest.fixture
def stopped(apply, volpipe, output):
    """`stopped(*words, code) -> its line`: the product stays unfinished, and nobody takes it for done."""

    def go(*words, code, **places):
        product = places.get("output", output)
        answer = apply("--block", "8,8,8", *words, **places)
        assert answer.code == code
        assert "Traceback" not in answer.err
        assert "state            running" in volpipe("info", product).out
        assert "has not finished" in volpipe("validate", product).out
        assert "not finished" in apply(input=product, output=f"{product}.next").refusal
        return answer.err.splitlines()[-1]

    return go


def test_nan_in_one_place_costs_the_blocks_that_see_it(stopped, write_as, voxels, tmp_path, apply):
    holed = voxels.astype("float32")
    holed[-1, -1, -1] = np.nan
    path = tmp_path / "holed.zarr"
    zarr.create_array(path, data=holed, chunks=(8, 8, 8))
    line = stopped(code=3, input=path)
    assert re.search(r"BlocksFailed: \d+ of \d+ tasks are not done.* 1 voxels that are NaN.*--nan VALUE", line)
    changed = apply("--block", "8,8,8", "--nan", 0, input=path).refusal
    assert "was begun with something else (settings.nan: None -> 0.0)" in changed


def test_nan_everywhere_stops_the_run(stopped, tmp_path):
    path = tmp_path / "nan.zarr"
    zarr.create_array(path, data=np.full((16, 24, 40), np.nan, "float32"), chunks=(8, 8, 8))
    assert "RunError: the first 8 blocks all failed" in stopped(code=1, input=path)


def test_a_chunk_that_cannot_be_decoded(stopped, apply, volpipe, source, output):
    chunk = next(path for path in sorted((output.parents[1] / "data").rglob("c/0/0/0/0/1")))
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    tiles = ("--stitching", "tile", "--tile", "8,8,8")  # so that some blocks do not see it
    assert re.search(r"BlocksFailed: .*volume0.5.ome.zarr.* the chunk at .* cannot be read", stopped(*tiles, code=3))
    chunk.write_bytes(whole)
    assert apply("--block", "8,8,8", *tiles).code == 0
    assert volpipe("validate", "--deep", output).code == 0


def test_a_full_disk(stopped, apply, volpipe, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        product = disk / "out.ome.zarr"
        line = stopped(code=1, output=product)
        assert re.search("the disk is full; make room and give the same command again", line)
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        assert apply("--block", "8,8,8", output=product).code == 0
        assert volpipe("validate", "--deep", product).code == 0
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_disk_that_fills_up_during_the_run(stopped, apply, volpipe, output, monkeypatch):
    """The same without a disk of its own: every shard after the fifth finds no space."""
    write, count = zarr.storage._local._put, iter(range(10**6))

    def put(path, *arguments, **options):
        if "/c/" in str(path) and next(count) >= 5:
            raise OSError(28, os.strerror(28))
        return write(path, *arguments, **options)

    with monkeypatch.context() as full:
        full.setattr(zarr.storage._local, "_put", put)
        assert "the disk is full" in stopped(code=1)
    assert apply("--block", "8,8,8").code == 0
    assert volpipe("validate", "--deep", output).code == 0
