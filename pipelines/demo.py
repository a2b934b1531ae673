"""The demo: a network over a volume in both stitching modes, and how far each is from whole-volume inference.

    python pipelines/demo.py [--out demo-out]       from the repository's root; about a minute on two cores

It runs the jobs of pipelines/demo.yaml on a local cluster, computes the whole volume in one forward pass of plain
torch, prints a table, and leaves two OME-Zarr products and a picture. Local workers import this file again, so what
they do not need (torch, matplotlib) is imported where it is used: their memory is what the table shows.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from volpipe import ApplyJob, Box, load_pipeline, open_source, run

if TYPE_CHECKING:
    from volpipe.models import Checkpoint
    from volpipe.report import Faces

ROOT = Path(__file__).resolve().parent.parent
PIPELINE = "pipelines/demo.yaml"
PLANE = 34  # z, 30 voxels from the next face along z, out of its reach (the network needs 22)
DETAIL = Box((92, 136), (156, 200))  # y, x: around a corner of four tiles

Volume = NDArray[np.floating]


@dataclass(frozen=True)
class Row:
    """One line of the table: what made a product, how quickly, with how much memory, and the product."""

    name: str
    voxels: Volume
    seconds: float
    peak_bytes: int

    def text(self, reference: Volume) -> str:
        """The line."""
        difference = float(np.abs(self.voxels.astype(np.float64) - reference).max())
        rate = self.voxels.size / self.seconds / 1e6
        memory = self.peak_bytes / 2**30
        in_std = difference / float(reference.std())
        return f"{self.name:<14}{rate:>12.2f}{memory:>16.2f}{difference:>16.2g}{in_std:>12.2g}"


HEADER = (
    f"{'':<14}{'million':>12}{'peak memory,':>16}{'largest difference to':>28}\n"
    f"{'mode':<14}{'voxels/s':>12}{'GiB':>16}{'whole volume':>16}{'in std':>12}"
)


def read(location: str) -> NDArray[Any]:
    """All voxels (z, y, x) of a one-channel volume."""
    source = open_source(location)
    voxels: NDArray[Any] = source.read(Box.from_shape(source.shape))[0]
    return voxels


def apply(job: ApplyJob) -> Row:
    """Run one job on local workers; the peak is that of the largest worker."""
    print(f"\n{job.stitching}: {job.output}", flush=True)
    summary = run(job, restart=True)
    print(summary.text(), flush=True)
    voxels = read(job.output)
    return Row(job.stitching, voxels, summary.wall_s, max(summary.peak_bytes.values()))


def whole_volume(checkpoint: Checkpoint, raw: NDArray[Any]) -> Row:
    """The reference: one forward pass over everything, padded at its end to what the network takes."""
    import torch

    print("\nwhole volume: one forward pass", flush=True)
    model, began = checkpoint.model(), time.monotonic()
    axes = checkpoint.architecture.footprint().axes
    padding = [(0, axis.admissible(n) - n) for axis, n in zip(axes, raw.shape, strict=True)]
    padded = torch.from_numpy(np.pad(raw, padding, mode="edge")[None, None]).to(torch.float32)
    with torch.inference_mode():
        seen = padded * model.normalisation.scale[0] + model.normalisation.offset[0]
        output = model.network(seen.contiguous(memory_format=torch.channels_last_3d))[0, 0].numpy()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    z, y, x = raw.shape
    return Row("whole volume", output[:z, :y, :x], time.monotonic() - began, peak)


def draw(path: Path, raw: NDArray[Any], rows: list[Row], reference: Volume, job: ApplyJob) -> None:
    """The picture of one plane."""
    from volpipe.report import comparison

    comparison(
        path,
        raw[PLANE],
        {row.name: row.voxels[PLANE] for row in rows},
        reference[PLANE],
        _faces(raw.shape, job.block or raw.shape),
        tile_faces=_faces(raw.shape, job.tile or raw.shape),
        pixel_size_um=(0.01, 0.01),
        detail=DETAIL,
        title=f"Neuron boundaries in FIB-SEM of the fly's medulla (FlyEM, CC-BY), plane z = {PLANE}, by a 3D U-Net",
        output_label="boundary probability",
    )


def _faces(shape: tuple[int, ...], cell: tuple[int, ...]) -> Faces:
    from volpipe.report import Faces

    return Faces(range(cell[1], shape[1], cell[1]), range(cell[2], shape[2], cell[2]))


def jobs_into(out: Path) -> list[ApplyJob]:
    """The pipeline's jobs, their products in `out`."""
    jobs = [job for job in load_pipeline(PIPELINE).job_list if isinstance(job, ApplyJob)]
    return [job.model_copy(update={"output": str(out / Path(job.output).name)}) for job in jobs]


def main() -> None:
    """Run the jobs, compare, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder of the products and the picture")
    out = parser.parse_args().out.resolve()
    os.chdir(ROOT)  # the pipeline's paths start here
    out.mkdir(parents=True, exist_ok=True)
    jobs = jobs_into(out)
    rows = [apply(job) for job in jobs]

    from volpipe import load_checkpoint

    raw, checkpoint = read(jobs[0].input), load_checkpoint(jobs[0].model)
    whole = whole_volume(checkpoint, raw)
    held_out = checkpoint.provenance["held_out"]
    print(f"\n{jobs[0].model}: F1 {held_out['f1']:.3f} at 0.5 on held-out {held_out['region']}\n\n{HEADER}")
    for row in (*rows, whole):
        print(row.text(whole.voxels))
    draw(out / "demo.png", raw, rows, whole.voxels, jobs[0])
    print("\n" + "\n".join(str(path) for path in (*(job.output for job in jobs), out / "demo.png")))


if __name__ == "__main__":
    main()
