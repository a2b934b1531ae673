"""Laws of dask arrays in and out: what `lazy.apply` gives is the whole-volume result, for any chunks."""

import warnings
from itertools import pairwise

import dask.array as da
import numpy as np
import pytest
import torch

from volpipe.errors import ConfigError, ModelError, ReadError, VolumeError
from volpipe.inference.block import BlockInference
from volpipe.models import load_model, resolve_model
from volpipe.runtime import lazy

EXACT = {"precision": "fp64", "output_dtype": "float64"}
UNET, UNET_2D, VALID = "preset:unet3d_l3_w2", "preset:unet2d_l4_w2", "preset:unet3d_l3_valid_w2"
RESNET, MAE = "preset:resnet6_3d_w2", "preset:mae3d_p4_embedding_w12"


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def network_of(model):
    net = load_model(resolve_model(model)).network.double()

    def run(voxels):
        with torch.inference_mode():
            return net(torch.from_numpy(np.ascontiguousarray(voxels))).numpy()

    return run


def whole(model, volume, period):
    """The network on the whole volume, padded at its end."""
    padded = np.pad(volume, [(0, -n % period) for n in volume.shape], mode="edge")
    return network_of(model)(padded[None, None])[0, 0][tuple(map(slice, volume.shape))]


def applied(volume, chunks, model, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", da.PerformanceWarning)
        made = lazy.apply(da.from_array(volume, chunks=chunks), model, **EXACT | options)
    values = made.compute(scheduler="synchronous")
    assert values.shape == made.shape
    assert values.dtype == made.dtype
    return values


def error(made, expected):
    return np.abs(made - expected).max() / expected.std()


CHUNKS = [(16, 16, 16), (7, 30, 33), (20, 21, 130), (5, 5, 5)]


@pytest.mark.parametrize("chunks", CHUNKS)
def test_a_padded_network_gives_the_whole_volume(chunks):
    volume = noise(20, 21, 130)
    assert error(applied(volume, chunks, UNET), whole(UNET, volume, 4)) < 1e-12


def test_needs_that_differ_before_and_after_and_reach_past_a_chunk():
    volume = noise(9, 14, 330)  # 58 before, 59 after
    assert error(applied(volume, (9, 14, 24), RESNET), whole(RESNET, volume, 4)) < 1e-12


@pytest.mark.parametrize("axis", "zyx")
def test_planes_across_any_axis(axis):
    volume, number = noise(6, 6, 6), "zyx".index(axis)
    shape = [110] * 3
    shape[number] = 3
    volume = noise(*shape)
    made = applied(volume, (32, 32, 32), UNET_2D, assembly="2d", axis=axis)
    planes = np.moveaxis(volume, number, 0)
    expected = np.moveaxis(np.stack([whole(UNET_2D, plane, 8) for plane in planes]), 0, number)
    assert error(made, expected) < 1e-12


def test_an_orthoslice():
    volume = noise(7, 30, 101)
    made = applied(volume, (16, 16, 16), UNET_2D, assembly="orthoslice")
    axes = [np.moveaxis([whole(UNET_2D, p, 8) for p in np.moveaxis(volume, i, 0)], 0, i) for i in range(3)]
    assert error(made, sum(axes) / 3) < 1e-12


@pytest.mark.parametrize("chunks", [(44, 52, 32), (20, 20, 20)])
def test_networks_without_padding(chunks):
    volume = noise(44, 52, 140)
    expected = network_of(VALID)(volume[None, None])[0, 0]
    assert error(applied(volume, chunks, VALID), expected) < 1e-12
    mirrored = np.pad(volume, 20, mode="reflect")
    expected = network_of(VALID)(mirrored[None, None])[0, 0]
    assert error(applied(volume, chunks, VALID, faces="reflect"), expected) < 1e-12


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (UNET, {"stitching": "tile", "tile": 16}),
        (UNET, {"blend": "hann", "tile": 16}),
        (MAE, {}),
        (MAE, {"tile": 4}),
    ],
    ids=["tile", "blend", "windows", "windows at half a stride"],
)
def test_inexact_modes_do_not_depend_on_chunks(model, options):
    volume = noise(32, 36, 70)
    products = [applied(volume, chunks, model, **options) for chunks in ((32, 36, 70), (32, 32, 32), (11, 36, 37))]
    for product in products[1:]:
        np.testing.assert_allclose(product, products[0], atol=1e-12)


def test_channels_in_and_out():
    volume = noise(2, 16, 16, 80)
    run = network_of("preset:siamese3d_similarity_w12")
    assert applied(noise(2, 32, 32, 64), (1, 32, 32, 32), "preset:siamese3d_similarity_w12").shape == (1, 1, 8, 16)
    with pytest.raises(ModelError, match="takes 1 channels, the dask array has 2"):
        applied(volume, (1, 16, 16, 16), UNET)
    both = noise(2, 32, 32, 32)
    np.testing.assert_allclose(applied(both, 32, "preset:siamese3d_similarity_w12"), run(both[None])[0], atol=1e-12)
    with pytest.raises(ModelError, match="one output channel, and labels"):
        applied(noise(16, 16, 16), 8, UNET, output_dtype="labels")


def test_chunks_that_fit_are_kept_and_others_changed_with_a_word():
    volume = da.from_array(noise(64, 64, 128), chunks=(32, 32, 64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = lazy.apply(volume, UNET)
    assert made.chunks == volume.chunks
    said = r"chunks of \(1, 10, 64, 128\) were cut into \(1, 36, 64, 128\): multiples of the network's period"
    with pytest.warns(da.PerformanceWarning, match=said):
        made = lazy.apply(volume.rechunk((10, 64, 128)), UNET)
    assert made.chunks[0] == (28, 36)


def test_nothing_is_computed_before_it_is_asked_for_and_then_only_what_is_needed():
    read = []

    def chunk(block_id):
        read.append(block_id)
        return np.zeros((32, 32, 32))

    volume = da.map_blocks(chunk, chunks=((32,) * 2, (32,) * 2, (32,) * 8), dtype=float, meta=np.empty((0, 0, 0)))
    made = lazy.apply(volume, UNET)
    assert read == []
    made[:4, :4, 100:104].compute(scheduler="synchronous")
    assert {block[2] for block in read} == {2, 3, 4}


def test_the_graph_has_one_inference_a_chunk():
    volume = da.zeros((64, 64, 256), chunks=32)
    made = lazy.apply(volume, UNET)
    names = [str(key) for key in made.__dask_graph__() if str(key).startswith("('_infer")]
    assert len(names) == 2 * 2 * 8


def test_the_input_is_left_as_it_is():
    volume = noise(16, 16, 40).astype("float32")
    volume[3, 4, 5] = np.nan
    array = da.from_array(volume.copy(), chunks=(16, 16, 20))
    with pytest.raises(ReadError, match=r"the dask array: chunk \(0, 0, \d\) holds 0:16,0:16,0:40 and finds 1 voxels"):
        lazy.apply(array, UNET).compute(scheduler="synchronous")
    made = lazy.apply(array, UNET, nan=0.0).compute(scheduler="synchronous")
    assert np.isfinite(made).all()
    np.testing.assert_array_equal(array.compute(), volume)


@pytest.mark.parametrize(
    ("shape", "options", "kind", "say"),
    [
        ((16, 16), {}, VolumeError, r"shape \(16, 16\): give \(z, y, x\)"),
        ((16, 16, 16), {"normalise": "percentiles:1,99"}, ConfigError, "a dask array has no statistics; give range"),
        ((16, 16, 16), {"colour": 1}, ConfigError, "colour: no such setting"),
        ((16, 16, 16), {"stitching": "valid"}, ModelError, "loses no voxels"),
        ((16, 0, 16), {}, VolumeError, r"shape \(16, 0, 16\): holds no voxel"),
        ((0, 16, 16, 16), {}, VolumeError, r"shape \(0, 16, 16, 16\): holds no voxel"),
        ((16, 16, 16), {"threads": 0}, ConfigError, "threads 0: .* give a whole number above 0"),
        ((16, 16, 16), {"threads": 1.5}, ConfigError, "threads 1.5: .* give a whole number above 0"),
        ((16, 16, 16), {"device": "tpu"}, ConfigError, "device 'tpu': networks run on 'cpu', 'cuda'"),
        ((16, 16, 16), {"device": None}, ConfigError, "device None: networks run on 'cpu', 'cuda'"),
    ],
)
def test_what_does_not_fit_is_one_line(shape, options, kind, say):
    with pytest.raises(kind, match=say):
        lazy.apply(da.zeros(shape, chunks=16), UNET, **options)


@pytest.mark.parametrize("dtype", ["complex64", "longdouble", "object", "U3", "datetime64[ns]", "V4"])
def test_what_no_network_takes_is_refused_before_a_chunk_is_computed(dtype):
    volume = da.map_blocks(pytest.fail, chunks=((16,),) * 3, dtype=dtype, meta=np.empty((0,) * 3, dtype))
    with pytest.raises(VolumeError, match=r"a dask array of dtype .*: give real numbers of up to 64 bits"):
        lazy.apply(volume, UNET)


@pytest.mark.parametrize("dtype", ["bool", "int64", "uint16", "float16", ">f4"])
def test_any_real_numbers_are_taken(dtype):
    volume = np.random.default_rng(0).integers(0, 2, (16, 16, 20)).astype(dtype)
    assert error(applied(volume, 16, UNET), whole(UNET, volume.astype(float), 4)) < 1e-12


def test_an_array_that_is_not_dasks_is_refused():
    with pytest.raises(VolumeError, match=r"volume of type ndarray: give a dask array; dask\.array\.from_array"):
        lazy.apply(noise(16, 16, 16), UNET)


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_whether_workers_have_a_gpu_is_not_asked_here(device):
    assert lazy.apply(da.zeros((16, 16, 16), chunks=16), UNET, device=device).shape == (16, 16, 16)


@pytest.mark.parametrize(
    ("model", "options", "tiles"),
    [(UNET, {"stitching": "tile", "tile": 16}, 2 * 3 * 7), (MAE, {"tile": 4}, 2 * 3 * 7)],
    ids=["tile", "windows"],
)
def test_no_tile_of_an_inexact_mode_is_computed_twice_because_chunks_cut_it(model, options, tiles, monkeypatch):
    """Chunks are cut where tiles meet: a tile that is cut is computed whole by each chunk that has a part of it."""
    seen, network = [], BlockInference.network

    def counted(inference):
        run = network(inference)
        return lambda stored, *where: (seen.append(len(stored)), run(stored, *where))[1]

    monkeypatch.setattr(BlockInference, "network", counted)
    applied(noise(32, 40, 100), (11, 40, 37), model, **options)
    assert sum(seen) == tiles


@pytest.mark.parametrize("region", [(0, 200), (37, 200), (64, 130), (0, 31)])
@pytest.mark.parametrize("core", [8, 32, 56])
def test_a_cut_covers_the_region_and_shares_no_more_than_a_chunk(region, core):
    fit = lazy.Fit(lazy.NetworkOptions(model=UNET), (200,) * 3, 1, "here", lazy._no_statistics)
    inference = fit.inference((16,) * 3, lazy.Budget(2**40), 2**40)
    read = lazy._read_of(inference, 0, region)
    inputs, outputs, depth = lazy._cut_axis(inference, 0, region, read, core, 8)
    assert (outputs[0], outputs[-1]) == region
    assert (inputs[0], inputs[-1]) == read
    assert all((b - a) % 8 == 0 for a, b in pairwise(outputs[:-1]))
    assert len(outputs) == 2 or max(depth) <= min(b - a for a, b in pairwise(inputs))
    for i, ends in enumerate(pairwise(outputs)):
        low, high = lazy._read_of(inference, 0, ends)
        assert max(read[0], inputs[i] - depth[0]) <= low
        assert min(read[1], inputs[i + 1] + depth[1]) >= high
