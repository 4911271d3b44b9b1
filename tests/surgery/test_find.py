"""Norms are found by what they are, wherever they come from, and by what surrounds them."""

import random

import pytest
import torch
import torch.nn.functional as F
from foreign import (
    ChannelsLast,
    ChannelsSecond,
    FromOne,
    Frozen,
    Residual,
    RootMeanSquare,
    WholeSample,
    WithActivation,
)
from torch import nn

import normwise as nw
from normwise.surgery import recognition


class LayerScale(nn.Module):
    def __init__(self, size=6):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return x * self.gamma


FOREIGN = [
    (ChannelsLast(), "layer", 0, (6,)),
    (ChannelsSecond(6), "layer", 2, 6),
    (RootMeanSquare(), "rms", 0, (6,)),
    (FromOne(), "rms", 0, (6,)),
    (WholeSample(), "group", 1, 6),
    (Frozen(), "batch", 2, 6),
    (WithActivation(), "batch", 2, 6),
    (type("Mine", (nn.BatchNorm1d,), {})(6), "batch", 1, 6),
    (RootMeanSquare().to("meta"), "rms", 0, (6,)),
    (RootMeanSquare().bfloat16(), "rms", 0, (6,)),
]
PATTERNS = [
    ("[n] c [t]", {"running": nw.Running()}, "batch", 1),
    ("n c [t]", {}, "instance", 1),
    ("n c [h w]", {}, "instance", 2),
    ("n (g [c]) [t]", {"g": 2}, "group", 1),
    ("n [c t]", {}, "group", 1),
    ("n [c] t", {}, "layer", 1),
    ("n [c] t", {"centres": False}, "rms", 1),
    ("n t [c]", {}, "layer", 0),
    ("n c [...]", {}, "instance", None),
    ("n c f [t]", {}, "norm", 2),
]


@pytest.mark.parametrize(("pattern", "options", "kind", "dim"), PATTERNS)
@pytest.mark.parametrize("size", [{}, {"c": 3}])
def test_the_general_form_is_known_by_its_brackets(pattern, options, kind, dim, size):
    norm = nw.Norm(pattern, **options, **size)
    (site,) = nw.find(norm)
    assert (site.kind, site.dim) == (kind, dim)
    features = 3 * options.get("g", 1) if size else None
    assert site.num_features == ((features,) if size and dim == 0 else features)
    assert site.state == ("training" if size else "lazy")


NO_NORMS = [LayerScale(), nn.PReLU(6), nn.Linear(6, 6), nn.Embedding(6, 6), nn.Conv1d(6, 6, 1)]


@pytest.mark.parametrize(("norm", "kind", "dim", "size"), FOREIGN)
def test_a_norm_is_known_by_what_it_does(norm, kind, dim, size):
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    (site,) = nw.find(nn.Sequential(nn.ReLU(), norm))
    assert (site.module, site.kind, site.dim, site.num_features) == (norm, kind, dim, size)
    for name, tensor in norm.state_dict().items():
        assert tensor is norm.state_dict()[name] or tensor.shape == before[name].shape
        assert tensor.is_meta or torch.equal(tensor, before[name])


@pytest.mark.parametrize("module", NO_NORMS, ids=lambda m: type(m).__name__)
def test_what_normalizes_nothing_is_no_norm(module):
    assert nw.find(nn.Sequential(module)) == []


class Odd(nn.Module):
    """A norm without tensors, which no probe could tell."""

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:])


@pytest.mark.parametrize("name", [Odd, "Odd"])
def test_users_register_what_cannot_be_told(name, monkeypatch):
    monkeypatch.setattr(recognition, "_REGISTERED", dict(recognition._REGISTERED))
    model = nn.Sequential(Odd(), type("Odder", (Odd,), {})())
    assert nw.find(model) == []
    nw.register(name, "layer", dim=0)
    assert [(s.path, s.kind, s.dim, s.num_features) for s in nw.find(model)] == [
        ("0", "layer", 0, None),
        ("1", "layer", 0, None),
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((Odd, "layr"), "kind 'layr' is not in the catalogue: none, batch, "),
        ((Odd(), "layer"), "a class of modules or its name is registered, not Odd Odd()"),
        ((int, "layer"), "a class of modules or its name is registered, not type <class 'int'>"),
    ],
)
def test_a_registration_that_means_nothing_is_refused(arguments, sentence):
    with pytest.raises(nw.NormError) as caught:
        nw.register(*arguments)
    assert str(caught.value).startswith(sentence)
    with pytest.raises(nw.NormError, match="dim=4 must be 0, 1, 2, 3 or None"):
        nw.register(Odd, "layer", dim=4)


# -- what surrounds a norm ---------------------------------------------------------


class Asks(nn.Module):
    """A forward that cannot be traced: it asks for values."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()
        self.conv, self.norm = nn.Conv1d(6, 6, 1), nn.BatchNorm1d(6)
        self.inner = nn.Sequential(nn.Conv1d(6, 6, 1), nn.Identity(), nn.GroupNorm(2, 6), nn.GELU())
        self.residual = Residual()

    def forward(self, x):
        if x.sum() > 0:
            x = self.norm(self.conv(x))
        return self.residual(self.inner(self.act(x)))


class Backwards(nn.Module):
    """Lists its layers in another order than it calls them in."""

    def __init__(self):
        super().__init__()
        self.act, self.norm, self.linear = nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, 6)
        self.register_buffer("calls", torch.zeros(()))
        self.seen = []

    def forward(self, x):
        self.calls.add_(1)
        self.seen.append(x)
        self.last = x
        if random.random() < 0.5:
            torch.rand(())
        return self.act(self.norm(self.linear(x)))


SURROUNDINGS = [
    (
        Residual(),
        {"norm": ("conv", "act", True), "norm2": ("last", "gelu()", True)},
    ),
    (
        Asks(),
        {
            "norm": ("conv", None, False),
            "inner.2": ("inner.0", "inner.3", True),
            "residual.norm": ("residual.conv", "residual.act", True),
            "residual.norm2": ("residual.last", "gelu()", True),
        },
    ),
    (Backwards(), {"norm": ("linear", "act", True)}),
    (nn.Sequential(nn.Conv2d(3, 6, 1), WithActivation()), {"1": ("0", "1.act", True)}),
    (nn.ModuleList([nn.Conv1d(6, 6, 1), nn.BatchNorm1d(6)]), {"1": (None, None, False)}),
    (nn.BatchNorm1d(6), {"": (None, None, False)}),
    (
        nn.TransformerEncoderLayer(6, 1, 6),
        {"norm1": (None, None, False), "norm2": (None, None, False)},
    ),
]


@pytest.mark.parametrize(("model", "expected"), SURROUNDINGS, ids=lambda m: type(m).__name__)
def test_what_feeds_a_norm_and_what_follows(model, expected):
    found = {s.path: (s.fed_by, s.activation, s.traced) for s in nw.find(model)}
    assert found == expected


def test_looking_at_a_model_changes_nothing():
    model = Backwards()
    torch.manual_seed(0), random.seed(0)
    wanted = torch.rand(()), random.random()
    torch.manual_seed(0), random.seed(0)
    nw.find(model)
    assert (torch.rand(()), random.random()) == wanted
    assert model.calls == 0
    assert model.seen == []
    assert not hasattr(model, "last")


def test_a_model_that_cannot_be_copied_is_read_by_its_order():
    model = nn.Sequential(nn.Conv1d(3, 6, 1), nn.LazyBatchNorm1d(), nn.ReLU())
    (site,) = nw.find(model)
    assert (site.fed_by, site.activation, site.state) == ("0", "2", "lazy")


STATES = [
    (nn.BatchNorm1d(6), "training"),
    (nn.BatchNorm1d(6).eval(), "evaluation"),
    (nw.FrozenBatchNorm1d(6), "frozen"),
    (nw.GroupNorm1d(2), "lazy"),
]


@pytest.mark.parametrize(("norm", "state"), STATES)
def test_the_state_of_a_norm(norm, state):
    assert nw.find(norm)[0].state == state


def test_a_site_reads_as_a_line():
    model = nn.Sequential(nn.Conv1d(3, 6, 1), nn.BatchNorm1d(6), nn.ReLU(), nn.LayerNorm((2, 6)))
    assert [str(site) for site in nw.find(model)] == [
        "1: BatchNorm1d, batch of 6, training, after 0, before 2",
        "3: LayerNorm, layer of 2, 6, training",
    ]
