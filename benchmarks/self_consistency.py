"""Whether the spread of a registration over shifted windows tells its true error, by layers lost between the slabs.

    python benchmarks/self_consistency.py VOLUME OUTPUT --gaps 0,1,2,4 --trials 20 --offsets 5

A volume is .npz (under the key vol) or whatever volpipe opens. It is `volpipe evaluate self-consistency` in this
process, one thread: OUTPUT holds answers and pictures, results/ the tables. Killed, the same command goes on.
The gap of --far is run by itself: tissue tells nothing across it, so that no registration is right there, and a spread
that is small all the same is not to be relied on.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from machine import RESULTS, save

from volpipe import RunSettings, SelfConsistencyJob, run
from volpipe.report.self_consistency import report


def main() -> None:
    """Run the near gaps together and the far one by itself; print and store their tables."""
    given = _given()
    given.output.mkdir(exist_ok=True)
    volume = opened(given.volume, given.output)
    told = []
    for name, gaps in (("near", given.gaps), ("far", given.far)):
        if gaps:
            told.append({"gaps": name, **measured(volume, given.output / name, gaps, given)})
    print(save(f"self-consistency-{given.name}", {"volume": given.volume.name, "runs": told}))


def _given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--gaps", type=_whole_numbers, default=(0, 1, 2, 4))
    parser.add_argument("--far", type=_whole_numbers, default=(20,), help="'' for none")
    parser.add_argument("--trials", type=int, default=20, help="for each gap")
    parser.add_argument("--offsets", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="cpu", help=f"of the result in {RESULTS.name}/")
    return parser.parse_args()


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in filter(None, text.split(",")))


def opened(path: Path, folder: Path) -> Path:
    """The volume as volpipe opens it; of .npz a copy in `folder`."""
    if path.suffix != ".npz":
        return path
    copy = folder / f"{path.stem}.tif"
    if not copy.exists():  # its time of change is part of what a run goes on with
        part = copy.with_suffix(".part")
        tifffile.imwrite(part, np.load(path)["vol"])
        os.replace(part, copy)
    return copy


def measured(volume: Path, output: Path, gaps: tuple[int, ...], given: argparse.Namespace) -> dict[str, Any]:
    """Settings and table of one run."""
    job = SelfConsistencyJob(
        volume=str(volume), output=str(output), gaps=gaps, trials=given.trials, offsets=given.offsets, seed=given.seed
    )
    run(job, RunSettings(serial=True, threads=1, memory_per_worker="4GiB"))
    text, _ = report(job.place)
    print(f"{volume.name}\n{text}\n", flush=True)
    found = json.loads(Path(job.place).read_text())
    settings = {name: value for name, value in found["settings"].items() if name not in ("volume", "output")}
    return {"settings": settings, "offsets_vox": found["offsets_vox"], "table": found["table"]}


if __name__ == "__main__":
    main()
