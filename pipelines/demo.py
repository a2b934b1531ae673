"""The demo: networks over a volume in four stitching modes, and how far each is from whole-volume inference.

    python pipelines/demo.py [--out demo-out]       from the repository's root; about two minutes on two cores

It runs the jobs of pipelines/demo.yaml on a local cluster, computes the whole volume in one forward pass of plain
torch, once by each network, prints a table, and leaves four OME-Zarr products and a picture. Local workers import this
file again, so what they do not need (torch, matplotlib) is imported where it is used: their memory is what the table
shows.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from volpipe import ApplyJob, Box, load_pipeline, open_product, open_source, run

if TYPE_CHECKING:
    from volpipe.models import Checkpoint
    from volpipe.report import Faces, Output

ROOT = Path(__file__).resolve().parent.parent
PIPELINE = "pipelines/demo.yaml"
PLANE = 34  # z, 30 voxels from the next face along z, out of its reach (the padded network needs 22)
DETAIL = Box((92, 136), (156, 200))  # y, x: around a corner of four tiles of either network

Volume = NDArray[np.floating]
HEADER = (
    f"{'':<14}{'million':>10}{'peak memory,':>15}{'largest difference to':>24}   audit: exact,\n"
    f"{'mode':<14}{'voxels/s':>10}{'GiB':>15}{'whole volume, in std':>24}   largest difference"
)


@dataclass(frozen=True)
class Row:
    """One line of the table: what made a product, what it holds and where, how quickly, with how much memory.

    Attributes:
        name: the stitching mode.
        voxels: (z, y, x) values.
        box: the voxels of the volume that they belong to.
        seconds, peak_bytes: of the run; the peak is that of the largest worker.
        audit: what the product says of itself.
    """

    name: str
    voxels: Volume
    box: Box
    seconds: float
    peak_bytes: int
    audit: str = "-"

    def text(self, reference: Volume) -> str:
        """The line, against the same network's values for the same box."""
        difference = float(np.abs(self.voxels.astype(np.float64) - reference).max()) / float(reference.std())
        rate, memory = self.voxels.size / self.seconds / 1e6, self.peak_bytes / 2**30
        return f"{self.name:<14}{rate:>10.2f}{memory:>15.2f}{difference:>24.2g}   {self.audit}"


def read(location: str) -> NDArray[Any]:
    """All voxels (z, y, x) of a one-channel volume."""
    source = open_source(location)
    voxels: NDArray[Any] = source.read(Box.from_shape(source.shape))[0]
    return voxels


def apply(job: ApplyJob) -> Row:
    """Run one job on local workers."""
    print(f"\n{job.stitching}: {job.output}", flush=True)
    summary = run(job, restart=True)
    print(f"{summary.text()}\n{summary.result}", flush=True)
    told = open_product(job.output).attributes
    box, peak = Box.parse(told["provenance"]["geometry"]["bbox"]), max(summary.peak_bytes.values())
    return Row(job.stitching, read(job.output), box, summary.wall_s, peak, audit_text(told))


def audit_text(told: Mapping[str, Any]) -> str:
    """What a product's attributes say: is it exact, and the largest difference that its audit found."""
    return f"{'yes' if told['exact'] else 'no'}, {told['audit']['largest']:.2g}"


def forward(checkpoint: Checkpoint, raw: NDArray[Any]) -> Volume:
    """The reference: one forward pass over everything, padded at its end to what the network takes.

    Returns:
        (z, y, x) values; a valid network's lie half of what it loses inside the volume.
    """
    import torch

    model, axes = checkpoint.model(), checkpoint.architecture.footprint().axes
    padding = [(0, axis.admissible(n) - n) for axis, n in zip(axes, raw.shape, strict=True)]
    padded = torch.from_numpy(np.pad(raw, padding, mode="edge")[None, None]).to(torch.float32)
    with torch.inference_mode():
        seen = padded * model.normalisation.scale[0] + model.normalisation.offset[0]
        output: Volume = model.network(seen.contiguous(memory_format=torch.channels_last_3d))[0, 0].numpy()
    z, y, x = (n - axis.lost for axis, n in zip(axes, raw.shape, strict=True))
    return output[:z, :y, :x]


def whole_volume(checkpoint: Checkpoint, raw: NDArray[Any]) -> Row:
    """A padded network's reference as a line of the table; before any other, because the peak is this process's."""
    began = time.monotonic()
    voxels = forward(checkpoint, raw)
    seconds, peak = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Row("whole volume", voxels, Box.from_shape(raw.shape), seconds, peak * 1024)  # Linux counts in KiB


def draw(path: Path, raw: NDArray[Any], rows: list[Row], references: list[Volume], jobs: list[ApplyJob]) -> None:
    """The picture of one plane."""
    from volpipe.report import comparison

    comparison(
        path,
        raw[PLANE],
        [_output(*made) for made in zip(rows, references, jobs, strict=True)],
        pixel_size_um=(0.01, 0.01),
        detail=DETAIL,
        title=f"Neuron boundaries in FIB-SEM of the fly's medulla (FlyEM, CC-BY), plane z = {PLANE}, by 3D U-Nets",
        output_label="boundary probability",
    )


def _output(row: Row, reference: Volume, job: ApplyJob) -> Output:
    from volpipe.report import Output

    z = PLANE - row.box.start[0]
    faces = (_faces(row.box, cell or row.box.shape) for cell in (job.block, job.tile))
    place = Box(row.box.start[1:], row.box.stop[1:])
    network = "unpadded network" if job.stitching == "valid" else "padded network"
    return Output(row.name, row.voxels[z], reference[z], *faces, box=place, network=network)


def _faces(box: Box, cell: tuple[int, ...]) -> Faces:
    """Where cells meet that are counted from a product's first voxel, in voxels of the volume."""
    from volpipe.report import Faces

    return Faces(*(range(box.start[a] + cell[a], box.stop[a], cell[a]) for a in (1, 2)))


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

    print("\nwhole volume: one forward pass of each network", flush=True)
    raw, networks = read(jobs[0].input), {job.model: load_checkpoint(job.model) for job in jobs}
    padded, *others = networks  # of the first job: the rows of its network are told against the table's last one
    whole = whole_volume(networks[padded], raw)
    wholes = {padded: whole.voxels} | {model: forward(networks[model], raw) for model in others}
    references = [wholes[job.model] for job in jobs]
    for model, checkpoint in networks.items():
        held_out = checkpoint.provenance["held_out"]
        print(f"{Path(model).name}: F1 {held_out['f1']:.3f} at 0.5 on held-out {held_out['region']}")
    print(f"\n{HEADER}")
    for row, reference in zip((*rows, whole), (*references, whole.voxels), strict=True):
        print(row.text(reference))
    draw(out / "demo.png", raw, rows, references, jobs)
    print("\n" + "\n".join(str(path) for path in (*(job.output for job in jobs), out / "demo.png")))


if __name__ == "__main__":
    main()
