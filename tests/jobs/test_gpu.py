"""The laws and promises of `apply` on a GPU worker, for real: `make test-gpu`, where an NVIDIA GPU is."""

import itertools

import numpy as np
import pytest
import torch

from volpipe.errors import ConfigError, RunError
from volpipe.geometry import Box
from volpipe.inference.precision import Precision
from volpipe.inference.predictor import Predictor
from volpipe.inference.price import forward_price
from volpipe.jobs.apply import ApplyJob
from volpipe.jobs.memory import BlockMemory, device_bytes
from volpipe.models import load_model, resolve_model
from volpipe.models.generator import GeneratorArchitecture
from volpipe.models.unet import UNetArchitecture
from volpipe.runtime.run import run
from volpipe.runtime.settings import RunSettings
from volpipe.volume import open_product

pytestmark = pytest.mark.gpu

GPU = RunSettings(cluster="cuda", memory_per_worker="8GiB", retries=0)
NETWORKS = {
    "exact unet 3d": (UNetArchitecture(3, levels=3, width=4), {"stitching": "exact"}),
    "exact resnet 3d": (GeneratorArchitecture(3, blocks=1, width=4, norm="batch"), {"stitching": "exact"}),
    "exact unet 2d": (UNetArchitecture(2, levels=4, width=4), {"stitching": "exact", "assembly": "orthoslice"}),
    "norms over the volume": (UNetArchitecture(3, levels=3, width=4, norm="instance"), {"norm": "exact"}),
    "overlap unet 3d": (UNetArchitecture(3, levels=3, width=4), {"stitching": "overlap"}),
    "overlap unet 2d": (UNetArchitecture(2, levels=4, width=4), {"stitching": "overlap", "assembly": "orthoslice"}),
    "valid unet 3d": (UNetArchitecture(3, levels=2, width=4, padding="valid"), {"faces": "reflect"}),
}
DIFFERS = {"fp32": 1e-5, "bf16": 0.2, "fp16": 0.02}  # from float64, of its standard deviation; TF32 would be at 1e-3


@pytest.fixture
def made(volume, network, tmp_path):
    """`made(voxels, architecture, **options) -> (attributes, voxels, summary)`, on the GPU."""

    numbers = itertools.count()

    def go(voxels, architecture, **options):
        number = next(numbers)
        settings = options.pop("settings", GPU)
        job = ApplyJob(
            input=volume(voxels, f"in{number}.ome.zarr"), output=str(tmp_path / f"out{number}.ome.zarr"),
            model=network(architecture), pyramid=False, **options,
        )  # fmt: skip
        summary = run(job, settings, progress=None)
        product = open_product(job.output)
        return product.attributes, product.read(Box.from_shape(product.layout.shape)), summary

    return go


def of_std(values, reference):
    return float(np.abs(values - reference).max() / reference.std())


@pytest.mark.parametrize("engine", ["blocks", "map-overlap"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_product_is_the_network_on_the_whole_volume(name, engine, noise, made, network, whole):
    architecture, options = NETWORKS[name]
    voxels = noise((52, 60, 72))
    settings = GPU.model_copy(update={"engine": engine})
    told, values, _ = made(
        voxels, architecture, block=(32, 32, 32), tile=(16, 16, 16), precision="fp64", output_dtype="float64",
        settings=settings, **options,
    )  # fmt: skip
    model = network(architecture)
    if name.startswith("valid"):
        lost = load_model(resolve_model(model)).footprint.axes[0].lost
        voxels = np.pad(voxels, lost // 2, mode="reflect")
    planes = (0, 1, 2) if "assembly" in options else (None,)
    reference = sum(whole(model, voxels, axis) for axis in planes) / len(planes)
    assert told["exact"]
    assert of_std(values, reference) <= 1e-12


@pytest.mark.parametrize("precision", DIFFERS)
def test_precisions_are_what_they_say(precision, noise, made, network, whole):
    voxels, architecture = noise((48, 48, 48)), NETWORKS["exact unet 3d"][0]
    told, values, _ = made(voxels, architecture, precision=precision, block=(32, 32, 32), tile=(16, 16, 16))
    reference = whole(network(architecture), voxels)
    assert told["exact"]
    assert of_std(values, reference) <= DIFFERS[precision]


def test_two_runs_and_two_cuts_into_blocks_give_the_same_bits(noise, made):
    voxels, architecture = noise((64, 64, 96)), NETWORKS["exact unet 3d"][0]
    found = [
        made(voxels, architecture, block=(block,) * 3, tile=(16, 16, 16))[1] for block in (16, 32, 16, 32)
    ]  # fmt: skip
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


@pytest.mark.parametrize("stitching", ["exact", "overlap"])
def test_the_promise_of_gpu_memory_is_kept(stitching, noise, made):
    voxels, network = noise((96, 96, 192)), UNetArchitecture(3, levels=4, width=16)
    _, _, summary = made(voxels, network, stitching=stitching, tile=(96, 96, 96), audit=0)
    assert 0 < summary.device_peak_bytes <= summary.plan.price.device_bytes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("ndim", "levels", "width", "edge"), [(3, 4, 16, 128), (3, 4, 32, 160), (3, 3, 32, 64), (2, 5, 32, 2048)]
)
def test_what_a_forward_pass_is_promised_is_enough(ndim, levels, width, edge, precision, network):
    """For tiles of any size, cuDNN's scratch included."""
    model = load_model(resolve_model(network(UNetArchitecture(ndim, levels=levels, width=width))))
    price = forward_price(model, (edge,) * ndim, 1, Precision(precision))
    promised = device_bytes(BlockMemory(0, 0, price.peak_bytes), price.weight_bytes)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    predict = Predictor(model, model.normalisation, "cuda", Precision(precision))
    predict(np.zeros((1, 1, *(edge,) * ndim), "float32"))
    used = torch.cuda.max_memory_reserved()
    print(f"{ndim}D L{levels} w{width} {edge} {precision}: {used / 2**20:.0f} of {promised / 2**20:.0f} MiB promised")
    assert used <= promised


def test_a_gpu_that_is_full_halves_the_batch_and_says_when_one_tile_is_too_much(network):
    model = load_model(resolve_model(network(UNetArchitecture(3, levels=2, width=16))))
    predict = Predictor(model, model.normalisation, "cuda", Precision("fp32"))
    stored = np.random.default_rng(0).random((4, 1, 96, 96, 96), "float32")
    alone = np.concatenate([predict(stored[i : i + 1]) for i in range(4)])
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    predict(stored[:1])
    one, total = torch.cuda.max_memory_reserved(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    try:
        torch.cuda.set_per_process_memory_fraction(1.6 * one / total)
        np.testing.assert_allclose(predict(stored), alone, atol=1e-5 * alone.std())
        torch.cuda.set_per_process_memory_fraction(0.3 * one / total)
        torch.cuda.empty_cache()
        with pytest.raises(RunError, match=r"cuda: one tile of \(96, 96, 96\) voxels does not fit into its memory"):
            predict(stored)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_more_workers_than_gpus_are_refused(made, noise):
    settings = GPU.model_copy(update={"workers": torch.cuda.device_count() + 1})
    with pytest.raises(ConfigError, match=rf"but there are {torch.cuda.device_count()} GPU\(s\); give fewer"):
        made(noise((16, 16, 16)), NETWORKS["exact unet 3d"][0], settings=settings)
