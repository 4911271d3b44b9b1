"""Norms that are one another: every pair is one line of the table read in two ways."""

import pytest
import torch

import normwise as nw
from tolerances import assert_close

C = 6
X = 2 * torch.randn(4, C, 8, generator=torch.Generator().manual_seed(0)).double() + 3
PIXELS = X.reshape(4, C, 2, 4)
MASK = torch.arange(8) < torch.tensor([8, 5, 2, 0])[:, None]


def through(layer):
    return lambda x, mask: layer.double()(x, mask)


def channels_last(layer):
    return lambda x, mask: layer.double()(x.movedim(1, -1), mask).movedim(-1, 1)


def flattened(layer):
    """Over the flattened sample: real positions are features of it, so there is no mask."""
    return lambda x, mask: layer.double()(x.flatten(1)).reshape(x.shape)


def one_by_one(layer):
    """Each sample as a batch of its own."""

    def apply(x, mask):
        masks = [None] * len(x) if mask is None else mask.split(1)
        return torch.cat([layer.double()(*pair) for pair in zip(x.split(1), masks, strict=True)])

    return apply


def series_by_series(layer):
    """Without N."""

    def apply(x, mask):
        masks = [None] * len(x) if mask is None else mask
        return torch.stack([layer.double()(*pair) for pair in zip(x, masks, strict=True)])

    return apply


def channels_as_samples(layer):
    def apply(x, mask):
        mask = None if mask is None else mask.repeat_interleave(C, dim=0)
        return layer.double()(x.reshape(-1, 1, *x.shape[2:]), mask).reshape(x.shape)

    return apply


IDENTITIES = {
    "instance = group with C groups": (through(nw.InstanceNorm1d(C)), through(nw.GroupNorm(C, C))),
    "GroupNorm1d = GroupNorm": (through(nw.GroupNorm1d(3, C)), through(nw.GroupNorm(3, C))),
    "LayerNorm1d = LayerNorm with C last": (
        through(nw.LayerNorm1d(C)),
        channels_last(nw.LayerNorm(C)),
    ),
    "RMSNorm1d = RMSNorm with C last": (through(nw.RMSNorm1d(C)), channels_last(nw.RMSNorm(C))),
    "batch norm in training of N = 1 = instance norm": (
        one_by_one(nw.BatchNorm1d(C)),
        through(nw.InstanceNorm1d(C)),
    ),
    "instance norm without N = with N": (
        series_by_series(nw.InstanceNorm1d(C)),
        through(nw.InstanceNorm1d(C)),
    ),
    "instance norm = group norm of single channels": (
        through(nw.InstanceNorm1d(C)),
        channels_as_samples(nw.GroupNorm(1, 1)),
    ),
}


@pytest.mark.parametrize(("one", "other"), IDENTITIES.values(), ids=IDENTITIES)
@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
def test_two_norms_that_are_one(one, other, mask):
    assert_close(one(X, mask), other(X, mask))


@pytest.mark.parametrize(
    ("group", "layer"),
    [(nw.GroupNorm(1, C), nw.LayerNorm(C * 8)), (nw.GroupNorm1d(1, C), nw.LayerNorm((C, 8)))],
    ids=["flattened", "both dimensions"],
)
def test_group_norm_with_one_group_is_layer_norm_of_the_sample(group, layer):
    as_features = layer.double()(X.reshape(4, *layer.normalized_shape)).reshape(X.shape)
    assert_close(group.double()(X), as_features)


@pytest.mark.parametrize("name", ["BatchNorm", "InstanceNorm", "LayerNorm", "RMSNorm"])
def test_an_image_is_a_signal_of_its_pixels(name):
    signal, image = (getattr(nw, f"{name}{dim}d")(C).double() for dim in (1, 2))
    mask = MASK.reshape(4, 2, 4)
    assert_close(image(PIXELS, mask).flatten(2), signal(X, MASK))
    volume = getattr(nw, f"{name}3d")(C).double()
    assert_close(volume(PIXELS[..., None], mask[..., None]).flatten(2), signal(X, MASK))


@pytest.mark.parametrize("name", ["BatchNorm1d", "LayerNorm1d", "RMSNorm1d"])
def test_features_without_time_are_a_signal_of_one_sample(name):
    flat, signal = (getattr(nw, name)(C).double() for _ in range(2))
    x = X[:, :, 0]
    assert_close(flat(x), signal(x[:, :, None])[:, :, 0])


def test_norms_undo_level_and_loudness():
    for layer in (nw.InstanceNorm1d(C, eps=0.0), nw.GroupNorm(3, C, eps=0.0)):
        assert_close(layer.double()(7 * X + 100), layer.double()(X))


def test_rms_norm_undoes_loudness_and_keeps_level():
    layer = nw.RMSNorm1d(C, eps=0.0).double()
    assert_close(layer(7 * X), layer(X))
    assert not torch.allclose(layer(X + 100), layer(X), atol=0.1)
