"""`fuse=True`: an activation that follows a norm goes into it."""

import pytest
import torch
import torch.nn.functional as F
from foreign import Residual
from torch import nn

import normwise as nw

ACTIVATIONS = [
    (nn.ReLU(), "relu"),
    (nn.ReLU(inplace=True), "relu"),
    (nn.LeakyReLU(), "leaky_relu"),
    (nn.GELU(), "gelu"),
    (nn.SiLU(), "silu"),
]
OTHERS = [nn.LeakyReLU(0.2), nn.GELU(approximate="tanh"), nn.Tanh(), nn.PReLU()]
CANDIDATES = ["same", "batch", "instance", "group:2", "layer", "rms", "none"]


def x_of():
    return torch.randn(4, 6, 9, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("activation", "name"), ACTIVATIONS)
@pytest.mark.parametrize("candidate", CANDIDATES)
@pytest.mark.parametrize("inplace", [False, True])
def test_the_activation_goes_into_the_norm(activation, name, candidate, inplace):
    model = nn.Sequential(nn.Conv1d(6, 6, 1), nn.BatchNorm1d(6), activation).eval()
    wanted = nw.swap(model, candidate)(x_of())
    plan = nw.plan(model, candidate, fuse=True)
    swapped = nw.swap(model, candidate, fuse=True, inplace=inplace)
    assert nw.receipt(swapped) == plan
    assert swapped[1].activation == name
    assert type(swapped[2]) is nn.Identity
    torch.testing.assert_close(swapped(x_of()), wanted)
    assert f"takes in 2, {type(activation).__name__}" in str(plan)
    back = nw.undo(swapped)
    assert [type(m) for m in back] == [nn.Conv1d, nn.BatchNorm1d, type(activation)]
    torch.testing.assert_close(back(x_of()), nn.Sequential(*back)(x_of()))


@pytest.mark.parametrize("activation", OTHERS, ids=lambda a: type(a).__name__)
def test_what_our_layers_cannot_apply_stays(activation):
    model = nn.Sequential(nn.Conv1d(6, 6, 1), nn.BatchNorm1d(6), activation)
    swapped = nw.swap(model, "same", fuse=True)
    assert swapped[1].activation is None
    assert type(swapped[2]) is type(activation)


def test_our_own_norms_take_activations_in_too():
    model = nw.swap(nn.Sequential(nn.BatchNorm1d(6), nn.ReLU(), nn.LayerNorm(9)), "same")
    fused = nw.swap(model, "same", fuse=True)
    assert [type(m) for m in fused] == [nw.BatchNorm1d, nn.Identity, nw.LayerNorm]
    assert model[0].activation is None
    assert [path for path, _ in nw.receipt(fused).skipped] == ["2"]
    torch.testing.assert_close(fused(x_of()), model(x_of()))
    again = nw.swap(fused, "same", fuse=True)
    assert again[0].activation == "relu"


class Shared(nn.Module):
    """One ReLU after two norms, and after nothing else."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.act = nn.BatchNorm1d(6), nn.GroupNorm(2, 6), nn.ReLU()

    def forward(self, x):
        return self.act(self.second(self.act(self.first(x))))


class TwoWays(nn.Module):
    """The norm's output goes past the activation, too."""

    def __init__(self):
        super().__init__()
        self.norm, self.act = nn.BatchNorm1d(6), nn.ReLU()

    def forward(self, x):
        y = self.norm(x)
        return y + self.act(y)


class Untraced(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.act = nn.BatchNorm1d(6), nn.ReLU()

    def forward(self, x):
        return self.act(self.norm(x)) if x.sum() > 0 else x


class Function(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x):
        return F.relu(self.norm(x))


def hooked():
    model = nn.Sequential(nn.BatchNorm1d(6), nn.ReLU())
    model[0].register_forward_hook(lambda *_: None)
    return model


def test_an_activation_that_several_norms_share_goes_into_all_of_them():
    model = Shared().eval()
    swapped = nw.swap(model, "same", fuse=True)
    assert (swapped.first.activation, swapped.second.activation) == ("relu", "relu")
    assert type(swapped.act) is nn.Identity
    torch.testing.assert_close(swapped(x_of()), model(x_of()))
    half = nw.swap(model, "same", "first", fuse=True)
    assert half.first.activation is None
    assert type(half.act) is nn.ReLU


@pytest.mark.parametrize("model", [Residual(), TwoWays(), Untraced(), Function(), hooked()])
def test_where_it_would_be_wrong_nothing_is_fused(model):
    model.eval()
    swapped = nw.swap(model, "same", fuse=True)
    assert all(site.module.activation is None for site in nw.find(swapped))
    torch.testing.assert_close(swapped(x_of()), model(x_of()))


# -- norms with an activation of their own -----------------------------------------------

ACTIVATING = ["evonorm-s0", "evonorm-b0", "filter-response"]


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh(), nn.Hardswish()], ids=str)
@pytest.mark.parametrize("candidate", ACTIVATING)
def test_a_norm_that_activates_takes_the_place_of_any_activation(activation, candidate):
    model = nn.Sequential(nn.Conv1d(6, 6, 1), nn.BatchNorm1d(6), activation)
    stays = nw.swap(model, candidate)
    assert stays[2] is not activation
    assert type(stays[2]) is type(activation)
    assert "it activates, and 2 stays behind it: fuse=True takes that out" in str(nw.receipt(stays))
    fused = nw.swap(model, candidate, fuse=True)
    assert f"takes the place of 2, {type(activation).__name__}" in str(nw.receipt(fused))
    assert type(fused[2]) is nn.Identity
    assert fused[1].activation is None
    torch.testing.assert_close(fused(x_of()), stays[:2](x_of()))
    assert [type(m) for m in nw.undo(fused)] == [type(m) for m in model]


def test_an_activation_that_went_into_the_norm_before_goes_with_it():
    model = nn.Sequential(nw.BatchNorm1d(6, activation="relu"))
    assert nw.swap(model, "evonorm-s0")[0].activation == "relu"
    assert "it activates, and relu stays behind it" in str(nw.plan(model, "evonorm-s0"))
    assert nw.swap(model, "evonorm-s0", fuse=True)[0].activation is None


def test_an_activation_that_learns_stays():
    model = nn.Sequential(nn.BatchNorm1d(6), nn.PReLU())
    assert type(nw.swap(model, "evonorm-s0", fuse=True)[1]) is nn.PReLU


def test_where_nothing_follows_nothing_is_said():
    plan = nw.plan(nn.Sequential(nn.Conv1d(6, 6, 1), nn.BatchNorm1d(6)), "filter-response")
    assert plan.changes[0].notes == ()
