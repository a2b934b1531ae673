"""The masked autoencoder and the Siamese heads on it: what they see, give and refuse."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch.nn import functional

from volpipe.errors import ModelError
from volpipe.models import preset
from volpipe.models.architecture import build_random
from volpipe.models.mae import Block, MAEArchitecture, joined, patches_of, picked, positions, random_kept
from volpipe.models.siamese import SiameseArchitecture

MAE = MAEArchitecture(3, window=8, patch=4, width=12, depth=2, decoder_depth=1)
SIAMESE = SiameseArchitecture(window=8, patch=4, width=12, depth=1)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(architecture):
    return build_random(architecture, seed=1).double().eval()


@pytest.mark.parametrize(
    ("architecture", "channels", "result"),
    [
        (MAE, 1, (1, 8, 8, 8)),
        (replace(MAE, in_channels=2), 2, (2, 8, 8, 8)),
        (replace(MAE, output="embedding"), 1, (12, 2, 2, 2)),
        (replace(MAE, ndim=2, patch=2), 1, (1, 8, 8)),
        (SIAMESE, 2, (1, 1, 2, 2)),
        (replace(SIAMESE, output="upper"), 1, (12, 1, 2, 2)),
        (replace(SIAMESE, output="lower"), 1, (12, 1, 2, 2)),
    ],
)
def test_a_window_gives_what_the_architecture_says(architecture, channels, result):
    assert architecture.in_channels == channels
    out = network(architecture)(noise(3, channels, *(8,) * architecture.ndim))
    assert out.shape == (3, *result)
    assert out.shape[1] == architecture.out_channels
    axes = architecture.footprint().axes
    assert tuple(axis.window for axis in axes) == (8,) * architecture.ndim
    assert tuple(axis.window * axis.scale for axis in axes) == result[1:]


def test_the_presets_have_the_windows_and_patches_of_the_manuscript():
    assert (preset("mae3d_p4").window, preset("mae3d_p4").patch, preset("mae3d_p8").patch) == (32, 4, 8)
    assert [axis.scale for axis in preset("mae3d_p4_embedding").footprint().axes] == [Fraction(1, 4)] * 3
    assert [axis.scale for axis in preset("siamese3d_similarity").footprint().axes] == [
        Fraction(1, 32),
        Fraction(1, 4),
        Fraction(1, 4),
    ]


def test_patches_are_cut_and_joined_where_they_lie():
    for architecture in (replace(MAE, in_channels=2), replace(MAE, ndim=2, patch=2)):
        image = noise(2, architecture.in_channels, *(8,) * architecture.ndim)
        patches = patches_of(image, architecture)
        assert torch.equal(joined(patches, architecture), image)
        first = image[(slice(None), slice(None), *(slice(architecture.patch),) * architecture.ndim)]
        assert torch.equal(patches[:, 0].sort().values, first.flatten(1).sort().values)


def test_tokens_stand_where_their_patches_do():
    """A change of one patch of the image changes its own token most, if every token sees little of the others."""
    net = network(replace(MAE, output="embedding"))
    image = noise(1, 1, 8, 8, 8)
    changed = image.clone()
    changed[..., 4:, :4, 4:] += 5
    difference = (net(changed) - net(image)).abs().sum(1)[0]
    assert difference.argmax() == 1 * 4 + 0 * 2 + 1


def test_attention_is_the_softmax_of_products():
    block = Block(64).double()
    tokens = noise(2, 5, 64)
    q, k, v = block.query_key_value(tokens).reshape(2, 5, 3, 2, 32).permute(2, 0, 3, 1, 4)
    by_hand = ((q @ k.mT) / 32**0.5).softmax(-1) @ v
    expected = block.join(by_hand.transpose(1, 2).reshape(2, 5, 64))
    assert torch.allclose(block.attend(tokens), expected, atol=1e-12)


def test_every_token_sees_the_whole_window():
    net, image = network(MAE), noise(1, 1, 8, 8, 8)
    image[..., 7, 7, 7] = torch.nan
    assert torch.isnan(net(image)).all()


def test_masked_patches_are_not_seen():
    net, image = network(MAE), noise(2, 1, 8, 8, 8)
    kept = torch.tensor([[0, 3, 5], [7, 1, 2]])
    seen = net.decode(net.encode(image, kept), kept)
    hidden = torch.ones(2, 8, dtype=torch.bool).scatter(1, kept, torch.zeros_like(kept, dtype=torch.bool))
    patches = patches_of(image, MAE)
    patches[hidden] = torch.nan
    changed = joined(torch.where(hidden[..., None], noise(*patches.shape, seed=9), patches), MAE)
    assert torch.equal(net.decode(net.encode(changed, kept), kept), seen)
    assert not torch.allclose(net(changed), net(image))


def test_the_order_of_kept_tokens_does_not_matter():
    net, image = network(MAE), noise(1, 1, 8, 8, 8)
    one, two = torch.tensor([[0, 3, 5]]), torch.tensor([[5, 0, 3]])
    results = [net.decode(net.encode(image, kept), kept) for kept in (one, two)]
    assert torch.allclose(*results, atol=1e-12)
    everything = torch.arange(8)[None]
    assert torch.allclose(net.decode(net.encode(image, everything), everything), net(image), atol=1e-12)


def test_a_random_choice_keeps_its_share_and_no_token_twice():
    kept = random_kept(5, 64, 0.25, torch.Generator().manual_seed(0))
    assert kept.shape == (5, 16)
    assert all(len(set(row.tolist())) == 16 for row in kept)
    assert len({tuple(row.tolist()) for row in kept}) == 5


def test_no_two_places_have_the_same_position():
    found = positions((4, 3, 5), 24, torch.empty(0, dtype=torch.float64))
    assert found.shape == (60, 24)
    distances = torch.cdist(found, found) + 10 * torch.eye(60)
    assert distances.min() > 0.1
    assert torch.equal(picked(found[None], torch.tensor([[3]]))[0, 0], found[3])


def test_surfaces_are_those_that_face_the_gap():
    net = network(SIAMESE)
    window = noise(1, 1, 8, 8, 8)
    tokens = net.encoder(window)
    assert torch.allclose(net.upper(window)[0, :, 0, 1, 0], net.linear_u(tokens[0, :, -1, 1, 0]))
    assert torch.allclose(net.lower(window)[0, :, 0, 1, 0], net.linear_l(tokens[0, :, 0, 1, 0]))
    other = noise(1, 1, 8, 8, 8, seed=1)
    cosine = functional.cosine_similarity(net.upper(window), net.lower(other), dim=1)
    assert torch.equal(net(torch.cat([window, other], 1))[:, 0], cosine)


@pytest.mark.parametrize(
    ("make", "say"),
    [
        (lambda: network(MAE)(noise(1, 1, 8, 8, 12)), r"\(8, 8, 12\) voxels; give windows of 8"),
        (lambda: replace(MAE, patch=3), "window 8 with patches of 3"),
        (lambda: replace(MAE, width=100), "width 100; give a multiple of 64"),
        (lambda: replace(MAE, width=10), "from 12 on"),
        (lambda: replace(MAE, output="labels"), "output 'labels'; give one of image, embedding"),
        (lambda: replace(SIAMESE, window=9), "window 9 with patches of 4"),
    ],
)
def test_what_cannot_be_is_refused(make, say):
    with pytest.raises(ModelError, match=say):
        make()
