"""The command line in this process: `volpipe("apply", ...)` gives its exit status, its lines, and what it wrote."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from volpipe.cli import main

SHAPE = (16, 24, 40)
MODEL = "preset:unet3d_l3_w2"


@dataclass(frozen=True)
class Answer:
    """What a command said; `refusal` is its one line on stderr."""

    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        assert "not foreseen" not in self.err
        return lines[0]


@pytest.fixture
def volpipe(capsys):
    """`volpipe("info", path) -> Answer`."""

    def go(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Answer(stop.value.code, out, err)

    return go


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(0, 255, SHAPE).astype("uint8")


@pytest.fixture
def source(write_as, voxels, tmp_path):
    """A small volume, alone in its folder."""
    return write_as("ome-zarr-0.5", voxels, tmp_path / "data")


@pytest.fixture
def output(tmp_path):
    return tmp_path / "made" / "out.ome.zarr"


@pytest.fixture
def apply(volpipe, source, output):
    """`apply(input=, output=, model=, serial=, **options)`: one small run."""

    def go(*words, input=source, output=output, model=MODEL, serial=("--serial", "--threads", 1)):
        return volpipe("apply", input, output, "--model", model, *serial, *words)

    return go


@pytest.fixture
def tree(tmp_path):
    """Every file below the test's folder with its bytes."""

    def look(folder=tmp_path):
        return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}

    return look
