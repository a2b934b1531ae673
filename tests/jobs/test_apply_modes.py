"""The stitching modes under `apply`: what each makes, says of itself and refuses."""

import numpy as np
import pytest
import torch
import zarr
from torch import nn

from volpipe.errors import ConfigError, GeometryError, ModelError
from volpipe.models import load_model, resolve_model
from volpipe.volume import open_product

EXACT = 1e-12
UNET, VALID = "preset:unet3d_l3_w3", "preset:unet3d_l3_valid_w2"
MAE, EMBEDDING, SIMILARITY = "preset:mae3d_p4_w12", "preset:mae3d_p4_embedding_w12", "preset:siamese3d_similarity_w12"
SIZE_UM = (0.008, 0.004, 0.004)


def network_of(model):
    net = load_model(resolve_model(model)).network.double()

    def run(voxels):
        with torch.inference_mode():
            return net(torch.from_numpy(np.ascontiguousarray(voxels, np.float64))).numpy()

    return run


def by_windows(voxels, run, token, scale):
    """Every window of the volume, the last of an axis moved back into it, pasted where it lies."""
    shape = voxels.shape[1:]
    ends = [max(32, -(-n // token) * token) for n in shape]
    padded = np.pad(voxels, [(0, 0), *((0, end - n) for end, n in zip(ends, shape, strict=True))], mode="edge")
    starts = [sorted({min(a, end - 32) for a in range(0, n, 32)}) for n, end in zip(shape, ends, strict=True)]
    out = None
    for z in starts[0]:
        for y in starts[1]:
            for x in starts[2]:
                (values,) = run(padded[None, :, z : z + 32, y : y + 32, x : x + 32])
                if out is None:
                    out = np.zeros((len(values), *(int(end * s) for end, s in zip(ends, scale, strict=True))))
                place = [int(a * s) for a, s in zip((z, y, x), scale, strict=True)]
                # the earlier window keeps what both cover: cells of 32
                done = [
                    int(min(a // 32 * 32 + 32 if a % 32 else a, a + 32) * s)
                    for a, s in zip((z, y, x), scale, strict=True)
                ]
                cut = [slice(d - p, None) for d, p in zip(done, place, strict=True)]
                there = tuple(slice(d, p + n) for d, p, n in zip(done, place, values.shape[1:], strict=True))
                out[(slice(None), *there)] = values[(slice(None), *cut)]
    return out[(slice(None), *(slice(int(np.ceil(n * s))) for n, s in zip(shape, scale, strict=True)))]


WINDOWED = {
    "image": (MAE, 1, (36, 32, 41), (1, 1, 1)),
    "embedding": (EMBEDDING, 1, (32, 33, 70), (1 / 4, 1 / 4, 1 / 4)),
    "thinner than a window": (EMBEDDING, 1, (9, 36, 33), (1 / 4, 1 / 4, 1 / 4)),
    "similarity of two slabs": (SIMILARITY, 2, (32, 36, 70), (1 / 32, 1 / 4, 1 / 4)),
}


@pytest.mark.parametrize("name", WINDOWED)
def test_fixed_windows_lie_on_the_volumes_lattice_whatever_the_blocks(volume, noise, applied, name):
    model, channels, shape, scale = WINDOWED[name]
    voxels = noise((channels, *shape))
    source = volume(voxels)
    expected = by_windows(voxels, network_of(model), 4, scale)
    place, made = applied(source, model, block=(16, 16, 16))
    assert made.shape == expected.shape
    np.testing.assert_allclose(made, expected, atol=1e-12)
    np.testing.assert_array_equal(applied(source, model, block=(5, 32, 7))[1], made)
    attributes = open_product(place).attributes
    assert attributes["stitching"]["mode"] == "windows"
    assert attributes["exact"] is False
    assert attributes["exact_reason"].startswith("fixed window")


def test_an_embedding_has_its_own_voxel_size_and_place(volume, noise, applied):
    source = volume(noise((32, 32, 64)), translation_um=(1.0, 2.0, 3.0))
    place, made = applied(source, EMBEDDING, block=(8, 8, 8))
    assert made.shape == (12, 8, 8, 16)
    (dataset, *_) = zarr.open(place).attrs["ome"]["multiscales"][0]["datasets"]
    scale, translation = (t[t["type"]][1:] for t in dataset["coordinateTransformations"])
    assert scale == pytest.approx([4 * s for s in SIZE_UM])
    assert translation == pytest.approx([t + 1.5 * s for t, s in zip((1, 2, 3), SIZE_UM, strict=True)])


def test_a_stride_is_a_tile_and_its_middle_is_kept(volume, noise, applied):
    voxels = noise((32, 32, 64))
    source, run = volume(voxels), network_of(MAE)
    _, made = applied(source, MAE, tile=(32, 32, 16), block=(32, 32, 24))
    for first, own in ((0, slice(0, 16)), (8, slice(16, 32)), (24, slice(32, 48)), (32, slice(48, 64))):
        (window,) = run(voxels[None, None, :, :, first : first + 32])
        np.testing.assert_allclose(made[..., own], window[..., own.start - first : own.stop - first], atol=1e-12)


def test_a_blended_product_says_that_it_is_not_exact_and_how_far_off(volume, noise, applied, whole):
    voxels = noise((12, 20, 80))
    source, reference = volume(voxels), whole(UNET, voxels)
    options = {"blend": "hann", "tile": (16, 16, 16), "audit": 4}
    place, made = applied(source, UNET, block=(16, 16, 16), **options)
    _, other = applied(source, UNET, block=(12, 20, 23), **options)
    np.testing.assert_allclose(made, other, atol=1e-13)
    attributes = open_product(place).attributes
    assert attributes["exact"] is False
    assert attributes["exact_reason"] == "blend hann: the rims of tiles, which see too little, count"
    assert 1e-3 * reference.std() < attributes["audit"]["largest"] <= 1.01 * np.abs(made - reference).max()


def test_a_halo_by_hand_is_the_rim_of_a_blend(volume, noise, applied, whole, error):
    voxels = noise((12, 20, 80))
    source, reference = volume(voxels), whole(UNET, voxels)
    options = {"tile": (16, 16, 16), "blend": "gaussian", "block": (16, 20, 40), "period": 4}
    errors = [error(applied(source, UNET, halo=halo, **options)[1], reference) for halo in (4, 24)]
    assert errors[1] < errors[0] / 2


@pytest.fixture
def patch_gan(tmp_path):
    """A discriminator: 8 voxels in, 1 out, without its last layer's padding."""
    torch.manual_seed(0)
    convs = [nn.Conv2d(1 if i == 0 else 3, 1 if i == 4 else 3, 4, 2 if i < 3 else 1, 1) for i in range(5)]
    network = nn.Sequential(*(part for conv in convs for part in (conv, nn.LeakyReLU(0.2)))).eval()
    torch.jit.script(network).save(tmp_path / "gan.pt")
    return str(tmp_path / "gan.pt"), network.double()


def test_a_network_that_changes_the_resolution(volume, noise, applied, patch_gan):
    model, network = patch_gan
    voxels = noise((3, 96, 203))
    source = volume(voxels, translation_um=(0.5, 0.25, 0.125))
    options = {"assembly": "2d", "block": (2, 4, 4), "tile": (1, 4, 4)}
    place, made = applied(source, model, audit=4, **options)
    with torch.inference_mode():
        padded = np.pad(voxels.astype(float), [(0, 0), (0, 0), (0, 5)], mode="edge")[:, None]
        expected = network(torch.from_numpy(padded)).numpy()[:, 0]
    assert expected.shape == (3, 10, 24)  # 12 x 26 less one on each side
    assert np.abs(made[0] - expected).max() < EXACT * expected.std()
    assert open_product(place).attributes["exact"] is True
    (dataset, *_) = zarr.open(place).attrs["ome"]["multiscales"][0]["datasets"]
    scale, translation = (t[t["type"]] for t in dataset["coordinateTransformations"])
    assert scale == pytest.approx([0.008, 0.032, 0.032])
    assert translation == pytest.approx([0.5, 0.25 + 11.5 * 0.004, 0.125 + 11.5 * 0.004])
    _, part = applied(source, model, bbox="1:3,16:48,40:200", **options)
    np.testing.assert_allclose(part[0], expected[1:3, 1:5, 4:24], atol=1e-12)
    with pytest.raises(GeometryError, match=r"covers \(1, 8, 8\) voxels; give multiples"):
        applied(source, model, bbox="1:3,12:48,40:200", **options)


REFUSED = [
    (UNET, {"blend": "hann", "stitching": "tile"}, ConfigError, "blend hann: stitching tile has no rims"),
    (VALID, {"blend": "hann"}, ConfigError, "blend hann: stitching valid has no rims"),
    (UNET, {"faces": "reflect"}, ConfigError, "faces reflect: stitching overlap pads as its network does"),
    (UNET, {"stitching": "windows"}, ModelError, "takes images of many lengths; give --stitching overlap"),
    (UNET, {"stitching": "valid"}, ModelError, "loses no voxels at its faces; give --stitching overlap"),
    (VALID, {"stitching": "overlap"}, ModelError, "valid convolutions lose 40 voxels; give --stitching valid"),
    (MAE, {"stitching": "overlap"}, ModelError, "takes one length only, 32 voxels; give --stitching windows"),
    (MAE, {"stitching": "tile"}, ModelError, "takes one length only, 32 voxels; give --stitching windows"),
    (MAE, {"tile": (32, 32, 36)}, GeometryError, r"at most the network's window; give \(32, 32, 32\) or less"),
    (MAE, {"tile": (32, 32, 6)}, GeometryError, r"multiple of the period \(4, 4, 4\); give \(32, 32, 8\)"),
]


@pytest.mark.parametrize(("model", "options", "kind", "say"), REFUSED, ids=[say[:40] for *_, say in REFUSED])
def test_what_does_not_fit_is_refused_before_anything_is_written(
    volume, noise, applied, tmp_path, model, options, kind, say
):
    source = volume(noise((48, 48, 64)))
    with pytest.raises(kind, match=say):
        applied(source, model, **options)
    assert not list(tmp_path.glob("out*"))


def test_a_users_network_with_a_fixed_input_is_found_to_be_one(volume, noise, applied, tmp_path):
    class Fixed(nn.Module):
        """A linear layer over all tokens of a window of 16."""

        def __init__(self):
            super().__init__()
            self.embed, self.mix, self.shuffle = nn.Conv2d(1, 16, 4, stride=4), nn.Linear(16, 16), nn.PixelShuffle(4)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            tokens = self.embed(image)
            return self.shuffle(self.mix(tokens.flatten(2)).reshape(tokens.shape))

    torch.manual_seed(0)
    torch.jit.trace(Fixed().eval(), torch.zeros(1, 1, 16, 16)).save(tmp_path / "fixed.pt")
    network, voxels = torch.jit.load(tmp_path / "fixed.pt").double(), noise((2, 32, 48))
    place, made = applied(volume(voxels), str(tmp_path / "fixed.pt"), assembly="2d", block=(1, 16, 24))
    assert open_product(place).attributes["exact_reason"].startswith("fixed window")
    with torch.inference_mode():
        corner = network(torch.from_numpy(voxels[1, 16:, 16:32].astype(float))[None, None])[0, 0].numpy()
    np.testing.assert_allclose(made[0, 1, 16:, 16:32], corner, atol=1e-12)
