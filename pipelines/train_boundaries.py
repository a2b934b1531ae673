"""Train the demo's network: a small 3D U-Net that finds the boundaries between neurons, on a CPU in minutes.

    x    0 ......... 160 .. 184 ....... 250
         |  trained   | gap |  held out  |       the gap is the network's halo: no scored voxel saw a trained one

A voxel is boundary if its label differs from a face neighbour's or if it has none (16 in a million), dilated once to
its face neighbours: four voxels across, 40 nm, about as thick as two membranes and the cleft between them.

    python pipelines/train_boundaries.py            from the repository's root; writes pipelines/weights/
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from volpipe import Box, open_source, save_checkpoint
from volpipe.models import Normalisation, UNetArchitecture
from volpipe.runtime.allocator import keep_memory_in_this_process

HERE = Path(__file__).parent
RAW, NEURONS = HERE / "data" / "medulla.ome.zarr", HERE / "data" / "medulla_neurons.ome.zarr"
WEIGHTS = HERE / "weights" / "medulla_boundaries.safetensors"

ARCHITECTURE = UNetArchitecture(ndim=3, levels=3, width=8, upsampling="nearest", activation="sigmoid")
TRAINED_X = slice(0, 160)
HELD_OUT_X = slice(184, 250)
SEED = 7
STEPS = 350
BATCH = 2
CROP = 64
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 1e-4
GAIN, SHIFT, NOISE = 0.15, 0.15, 0.1  # of the intensity jitter, in standard deviations of the trained region
THRESHOLDS = np.arange(0.05, 1.0, 0.05)
SAY_EVERY = 25

Volume = NDArray[np.float32]


def read(path: Path) -> NDArray[Any]:
    """All voxels (z, y, x) of a one-channel volume."""
    source = open_source(path)
    voxels: NDArray[Any] = source.read(Box.from_shape(source.shape))[0]
    return voxels


def boundaries(labels: NDArray[Any]) -> Volume:
    """1 at boundaries between neurons, 0 inside; see the head of this file."""
    faces = ndimage.generate_binary_structure(3, 1)
    lowest = ndimage.minimum_filter(labels, footprint=faces)
    highest = ndimage.maximum_filter(labels, footprint=faces)
    found = (lowest != highest) | (labels == 0)
    return np.asarray(ndimage.binary_dilation(found, faces), dtype=np.float32)


def batches(image: Volume, target: Volume, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches (n, 1, z, y, x) of random crops, turned and flipped: at 10 nm on every axis none is special."""
    while True:
        pairs = [_crop(image, target, rng) for _ in range(BATCH)]
        inputs, targets = (torch.from_numpy(np.stack(side)[:, None]) for side in zip(*pairs, strict=True))
        yield inputs.contiguous(memory_format=torch.channels_last_3d), targets


def _crop(image: Volume, target: Volume, rng: np.random.Generator) -> tuple[Volume, Volume]:
    start = [int(rng.integers(n - CROP + 1)) for n in image.shape]
    box = tuple(slice(a, a + CROP) for a in start)
    axes = rng.permutation(3)
    flips = tuple(np.flatnonzero(rng.random(3) < 0.5).tolist())
    seen, wanted = (np.flip(volume[box].transpose(axes), flips) for volume in (image, target))
    gain, shift = 1 + rng.uniform(-GAIN, GAIN), rng.uniform(-SHIFT, SHIFT)
    noise = rng.standard_normal(seen.shape, dtype=np.float32) * np.float32(NOISE * rng.random())
    return seen * np.float32(gain) + np.float32(shift) + noise, wanted.copy()


def loss_of(predicted: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy, plus one minus Dice: boundaries are a fifth of all voxels."""
    dice = 2 * (predicted * target).sum() / (predicted.sum() + target.sum())
    return functional.binary_cross_entropy(predicted, target) + 1 - dice


def train(image: Volume, target: Volume, steps: int) -> nn.Module:
    """The trained network, in eval mode."""
    torch.manual_seed(SEED)
    network: nn.Module = ARCHITECTURE.build().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    source = batches(image, target, np.random.default_rng(SEED))
    smoothed, began = 0.0, time.monotonic()
    for step, (inputs, wanted) in zip(range(1, steps + 1), source, strict=False):
        optimiser.zero_grad()
        loss = loss_of(network(inputs), wanted)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        smoothed = loss.item() if step == 1 else 0.95 * smoothed + 0.05 * loss.item()
        if step % SAY_EVERY == 0:
            print(f"step {step}/{steps}  loss {smoothed:.4f}  {time.monotonic() - began:.0f} s", flush=True)
    return network.eval()


def predict_held_out(network: nn.Module, image: Volume) -> Volume:
    """Probabilities (z, y, x) of the held-out part, its context from the gap alone."""
    seen = image[:, :, TRAINED_X.stop :]
    period = ARCHITECTURE.footprint().period
    padding = [(0, -n % p) for n, p in zip(seen.shape, period, strict=True)]
    padded = torch.from_numpy(np.pad(seen, padding, mode="edge")[None, None])
    with torch.inference_mode():
        output: Volume = network(padded.contiguous(memory_format=torch.channels_last_3d))[0, 0].numpy()
    z, y, x = seen.shape
    return output[:z, :y, HELD_OUT_X.start - TRAINED_X.stop : x]


def scores(predicted: Volume, target: Volume) -> dict[str, float]:
    """Precision, recall and F1 at 0.5, and the threshold with the largest F1 (chosen on what it is scored on)."""
    at = {round(float(t), 2): _precision_recall_f1(predicted >= t, target > 0) for t in THRESHOLDS}
    best = max(at, key=lambda t: at[t][2])
    precision, recall, f1 = at[0.5]
    everything = _precision_recall_f1(np.ones(target.shape, bool), target > 0)[2]
    return {
        "f1": round(f1, 4), "precision": round(precision, 4), "recall": round(recall, 4),
        "best_threshold": best, "best_f1": round(at[best][2], 4), "f1_of_everything_is_boundary": round(everything, 4),
    }  # fmt: skip


def _precision_recall_f1(found: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> tuple[float, float, float]:
    hits = int((found & wanted).sum())
    precision, recall = hits / max(1, int(found.sum())), hits / max(1, int(wanted.sum()))
    return precision, recall, 2 * precision * recall / max(1e-9, precision + recall)


def provenance(held_out: dict[str, float], options: argparse.Namespace, wall_s: float) -> dict[str, object]:
    """What the checkpoint says of where it comes from."""
    return {
        "data": "FIB-SEM of the Drosophila medulla (FlyEM), 10 nm; pipelines/data/README.md",
        "source": "https://github.com/janelia-flyem/neuroproof_examples, training_sample2, z 0:125 of 250",
        "licence": "data: Creative Commons Attribution (CC-BY), FlyEM project, HHMI Janelia; weights: BSD-3-Clause",
        "target": "label differs from a face neighbour's, dilated once",
        "trained": f"x {TRAINED_X.start}:{TRAINED_X.stop}",
        "held_out": {"region": f"x {HELD_OUT_X.start}:{HELD_OUT_X.stop}", **held_out},
        "command": f"python pipelines/train_boundaries.py --steps {options.steps} --threads {options.threads}",
        "seed": SEED,
        "seconds": {"wall": round(wall_s), "cpu": round(time.process_time())},
        "machine": f"{options.threads} threads, {os.cpu_count()} {platform.machine()} cores, torch {torch.__version__}",
    }


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    return parser.parse_args()


def main() -> None:
    """Train, score on what was held out, write the checkpoint."""
    options, began = parse(), time.monotonic()
    keep_memory_in_this_process()
    torch.set_num_threads(options.threads)
    stored, target = read(RAW).astype(np.float32), boundaries(read(NEURONS))
    part = stored[:, :, TRAINED_X]
    normalisation = Normalisation.from_mean_std(float(part.mean()), float(part.std()))
    image = stored * np.float32(normalisation.scale[0]) + np.float32(normalisation.offset[0])
    network = train(image[:, :, TRAINED_X], target[:, :, TRAINED_X], options.steps)
    held_out = scores(predict_held_out(network, image), target[:, :, HELD_OUT_X])
    origin = provenance(held_out, options, time.monotonic() - began)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(options.out, network, ARCHITECTURE, normalisation, (0.01,) * 3, ("boundary",), origin)
    print(f"held out: {held_out}\nseconds: {origin['seconds']}\n{options.out}: {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
