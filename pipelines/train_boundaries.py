"""Train the demo's networks: small 3D U-Nets that find the boundaries between neurons, on a CPU in minutes.

    x    0 ......... 160 .. 184 ....... 250
         |  trained   | gap |  held out  |       the gap is the network's halo: no scored voxel saw a trained one

A voxel is boundary if its label differs from a face neighbour's or if it has none (16 in a million), dilated once to
its face neighbours: four voxels across, 40 nm, about as thick as two membranes and the cleft between them.

Padded and valid networks are trained alike: the same data, steps and seed, and as many voxels of output per step. A
valid network reads larger crops for it, and has no output near the faces of the volume: it is scored on the part of
the held-out voxels that it gives, and the padded one is scored there again, to compare.

    python pipelines/train_boundaries.py                        from the repository's root; writes pipelines/weights/
    python pipelines/train_boundaries.py --padding valid        after the first
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

from volpipe import Box, load_checkpoint, open_source, save_checkpoint
from volpipe.models import Normalisation, UNetArchitecture
from volpipe.models.unet import Padding
from volpipe.runtime.allocator import keep_memory_in_this_process

HERE = Path(__file__).parent
RAW, NEURONS = HERE / "data" / "medulla.ome.zarr", HERE / "data" / "medulla_neurons.ome.zarr"
WEIGHTS: dict[Padding, Path] = {
    "same": HERE / "weights" / "medulla_boundaries.safetensors",
    "valid": HERE / "weights" / "medulla_boundaries_valid.safetensors",
}

TRAINED_X = slice(0, 160)
HELD_OUT_X = slice(184, 250)
SEED = 7
STEPS = 350
BATCH = 2
CROP = 64  # voxels of output along an axis; a valid network reads what it loses besides
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 1e-4
GAIN, SHIFT, NOISE = 0.15, 0.15, 0.1  # of the intensity jitter, in standard deviations of the trained region
THRESHOLDS = np.arange(0.05, 1.0, 0.05)
SAY_EVERY = 25

Volume = NDArray[np.float32]


def architecture(padding: Padding) -> UNetArchitecture:
    """The network's numbers: but for its padding, both are the same."""
    return UNetArchitecture(ndim=3, levels=3, width=8, padding=padding, upsampling="nearest", activation="sigmoid")


def margin(of: UNetArchitecture) -> int:
    """Voxels at each face of its input that a network has no output for; the same on every axis."""
    return of.footprint().axes[0].lost // 2


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


def batches(image: Volume, target: Volume, rng: np.random.Generator, lost: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of random crops, turned and flipped: at 10 nm on every axis none is special.

    Args:
        image, target: (z, y, x).
        rng: draws all that is random.
        lost: voxels at each face of a crop that the network has no output for.

    Yields:
        inputs (n, 1, CROP + 2 lost on every axis), targets (n, 1, CROP on every axis): the middle of the inputs.
    """
    while True:
        pairs = [_crop(image, target, rng, lost) for _ in range(BATCH)]
        inputs, targets = (torch.from_numpy(np.stack(side)[:, None]) for side in zip(*pairs, strict=True))
        yield inputs.contiguous(memory_format=torch.channels_last_3d), targets


def _crop(image: Volume, target: Volume, rng: np.random.Generator, lost: int) -> tuple[Volume, Volume]:
    size = CROP + 2 * lost
    start = [int(rng.integers(n - size + 1)) for n in image.shape]
    box = tuple(slice(a, a + size) for a in start)
    middle = tuple(slice(a + lost, a + lost + CROP) for a in start)
    axes = rng.permutation(3)
    flips = tuple(np.flatnonzero(rng.random(3) < 0.5).tolist())
    seen, wanted = (np.flip(part.transpose(axes), flips) for part in (image[box], target[middle]))
    gain, shift = 1 + rng.uniform(-GAIN, GAIN), rng.uniform(-SHIFT, SHIFT)
    noise = rng.standard_normal(seen.shape, dtype=np.float32) * np.float32(NOISE * rng.random())
    return seen * np.float32(gain) + np.float32(shift) + noise, wanted.copy()


def loss_of(predicted: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy, plus one minus Dice: boundaries are a fifth of all voxels."""
    dice = 2 * (predicted * target).sum() / (predicted.sum() + target.sum())
    return functional.binary_cross_entropy(predicted, target) + 1 - dice


def train(numbers: UNetArchitecture, image: Volume, target: Volume, steps: int) -> nn.Module:
    """The trained network, in eval mode."""
    torch.manual_seed(SEED)
    network: nn.Module = numbers.build().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    source = batches(image, target, np.random.default_rng(SEED), margin(numbers))
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


def held_out_box(shape: tuple[int, ...], of: UNetArchitecture) -> Box:
    """The held-out voxels of a volume that a network has outputs for."""
    lost = margin(of)
    inside = Box((lost,) * 3, tuple(n - lost for n in shape))
    z, y, _ = shape
    return inside.intersect(Box((0, 0, HELD_OUT_X.start), (z, y, HELD_OUT_X.stop)))


def predict(network: nn.Module, of: UNetArchitecture, image: Volume, box: Box) -> Volume:
    """Probabilities (z, y, x) of held-out voxels, their context from beyond the trained part alone.

    Args:
        network: in eval mode.
        of: its numbers.
        image: (z, y, x), the whole volume.
        box: voxels inside `held_out_box`.
    """
    first = TRAINED_X.stop
    seen = image[:, :, first:]
    padding = [(0, axis.admissible(n) - n) for axis, n in zip(of.footprint().axes, seen.shape, strict=True)]
    padded = torch.from_numpy(np.pad(seen, padding, mode="edge")[None, None])
    with torch.inference_mode():
        output: Volume = network(padded.contiguous(memory_format=torch.channels_last_3d))[0, 0].numpy()
    lost = margin(of)
    return output[box.relative_to((lost, lost, first + lost)).slices]


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


def score(network: nn.Module, of: UNetArchitecture, image: Volume, target: Volume) -> dict[str, object]:
    """How good a network is on held-out voxels; a valid one beside the padded one on the voxels that both give."""
    box = held_out_box(image.shape, of)
    wanted = target[box.slices]
    region = ", ".join(f"{axis} {a}:{b}" for axis, a, b in zip("zyx", box.start, box.stop, strict=True))
    found: dict[str, object] = {"region": region, **scores(predict(network, of, image, box), wanted)}
    if of.padding == "valid":
        padded = load_checkpoint(WEIGHTS["same"])
        there = predict(padded.network.eval(), architecture("same"), image, box)
        found["f1_of_the_padded_network_there"] = scores(there, wanted)["f1"]
    return found


def provenance(held_out: dict[str, object], options: argparse.Namespace, wall_s: float) -> dict[str, object]:
    """What the checkpoint says of where it comes from."""
    padding = "" if options.padding == "same" else f"--padding {options.padding} "
    return {
        "data": "FIB-SEM of the Drosophila medulla (FlyEM), 10 nm; pipelines/data/README.md",
        "source": "https://github.com/janelia-flyem/neuroproof_examples, training_sample2, z 0:125 of 250",
        "licence": "data: Creative Commons Attribution (CC-BY), FlyEM project, HHMI Janelia; weights: BSD-3-Clause",
        "target": "label differs from a face neighbour's, dilated once",
        "trained": f"x {TRAINED_X.start}:{TRAINED_X.stop}",
        "held_out": held_out,
        "command": f"python pipelines/train_boundaries.py {padding}--steps {options.steps} --threads {options.threads}",
        "seed": SEED,
        "seconds": {"wall": round(wall_s), "cpu": round(time.process_time())},
        "machine": f"{options.threads} threads, {os.cpu_count()} {platform.machine()} cores, torch {torch.__version__}",
    }


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--padding", choices=tuple(WEIGHTS), default="same", help="of the convolutions")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="the checkpoint; by default that of the padding in pipelines/weights/")
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
    numbers, out = architecture(options.padding), options.out or WEIGHTS[options.padding]
    network = train(numbers, image[:, :, TRAINED_X], target[:, :, TRAINED_X], options.steps)
    held_out = score(network, numbers, image, target)
    origin = provenance(held_out, options, time.monotonic() - began)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(out, network, numbers, normalisation, (0.01,) * 3, ("boundary",), origin)
    print(f"held out: {held_out}\nseconds: {origin['seconds']}\n{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
