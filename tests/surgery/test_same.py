"""`swap(model, "same")`: every norm becomes normwise's, and no number changes."""

import copy

import pytest
import torch
from foreign import (
    ChannelsLast,
    ChannelsSecond,
    FromOne,
    Frozen,
    RootMeanSquare,
    WholeSample,
    WithActivation,
)
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

import normwise as nw
from tolerances import error

SHAPES = {0: (4, 5, 6), 1: (4, 6, 9), 2: (4, 6, 5, 3), 3: (4, 6, 3, 4, 2)}


def x_of(dim, dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    return (3 * torch.randn(SHAPES[dim], generator=draw) + 1).to(dtype)


def used(norm, x):
    """A norm with weights and statistics of its own."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(0.5 + torch.rand(parameter.shape, generator=draw))
    norm.train()(x)
    return norm


# the norm, and the dimensions after N and C of what it is given
TORCH = [
    *((getattr(nn, f"BatchNorm{d}d")(6), d) for d in (1, 2, 3)),
    (nn.BatchNorm1d(6, eps=1e-3, momentum=0.3), 1),
    (nn.BatchNorm1d(6, momentum=None), 1),
    (nn.BatchNorm1d(6, affine=False), 1),
    (nn.BatchNorm1d(6, track_running_stats=False), 1),
    (nn.BatchNorm1d(6, bias=False), 1),
    (nn.SyncBatchNorm(6, momentum=0.2), 2),
    *((getattr(nn, f"InstanceNorm{d}d")(6), d) for d in (1, 2, 3)),
    (nn.InstanceNorm1d(6, affine=True, track_running_stats=True, momentum=0.4), 1),
    (nn.InstanceNorm2d(6, eps=1e-2, affine=True), 2),
    *((nn.GroupNorm(3, 6, eps=1e-2), d) for d in (1, 2, 3)),
    (nn.GroupNorm(2, 6, affine=False), 1),
    (nn.LayerNorm(6), 0),
    (nn.LayerNorm((5, 6), eps=1e-2, bias=False), 0),
    (nn.LayerNorm(6, elementwise_affine=False), 0),
    (nn.RMSNorm(6), 0),
    (nn.RMSNorm((5, 6), eps=1e-2), 0),
    (nn.RMSNorm(6, elementwise_affine=False), 0),
    (type("Mine", (nn.GroupNorm,), {})(2, 6), 1),
]
FOREIGN = [
    (ChannelsLast(), 0),
    (ChannelsSecond(6), 2),
    (RootMeanSquare(), 0),
    (WholeSample(), 1),
    (Frozen(), 2),
    (WithActivation(), 2),
]
TORCH = [(used(norm, x_of(dim)), dim) for norm, dim in TORCH]
FOREIGN = [(used(norm, x_of(dim)), dim) for norm, dim in FOREIGN]
LAZY = [
    *((getattr(nn, f"LazyBatchNorm{d}d"), d) for d in (1, 2, 3)),
    *((getattr(nn, f"LazyInstanceNorm{d}d"), d) for d in (1, 2, 3)),
]
named = {"ids": lambda thing: type(thing).__name__ if isinstance(thing, nn.Module) else None}


@pytest.mark.parametrize(("norm", "dim"), TORCH + FOREIGN, **named)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_numbers_stay(norm, dim, training, dtype):
    model = nn.Sequential(nn.Identity(), copy.deepcopy(norm)).to(dtype).train(training)
    x = x_of(dim, dtype)
    swapped = nw.swap(model, "same")
    results = []
    for each in (model, swapped):
        inputs = x.clone().requires_grad_()
        y = each(inputs)
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
        (y.double() * weights).sum().backward()
        results.append((y, inputs.grad, *(p.grad for p in each.parameters())))
    allowed = {torch.float32: 2e-6, torch.float64: 1e-12, torch.bfloat16: 2e-2}[dtype]
    if isinstance(norm, RootMeanSquare):
        allowed = max(allowed, 2e-6)  # it computes in float32 whatever it is given
    for theirs, ours in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        assert error(ours, theirs.double()) <= allowed
    for (_, theirs), (_, ours) in zip(model.named_buffers(), swapped.named_buffers(), strict=True):
        assert error(ours.double(), theirs.double()) <= allowed


@pytest.mark.parametrize(("norm", "dim"), TORCH, **named)
def test_the_twin_is_the_class_of_the_same_name_and_holds_the_same(norm, dim):
    model = nn.Sequential(copy.deepcopy(norm)).eval()
    old = model[0]
    name = "GroupNorm" if type(old).__name__ == "Mine" else type(old).__name__
    parameters, buffers = dict(old.named_parameters()), dict(old.named_buffers())
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    assert nw.swap(model, "same", inplace=True) is model
    assert type(model[0]) is getattr(nw, name)
    assert dict(model[0].named_parameters()).keys() == parameters.keys()
    assert all(p is parameters[n] for n, p in model[0].named_parameters())
    assert all(b is buffers[n] for n, b in model[0].named_buffers())
    assert not model[0].training
    for attribute in ("eps", "momentum", "affine", "track_running_stats", "num_groups"):
        if hasattr(old, attribute):
            assert getattr(model[0], attribute) == getattr(old, attribute)


@pytest.mark.parametrize(("lazy", "dim"), LAZY, ids=lambda v: getattr(v, "__name__", None))
@pytest.mark.parametrize("affine", [True, False])
def test_a_lazy_norm_stays_lazy(lazy, dim, affine):
    model = nn.Sequential(lazy(eps=1e-3, momentum=0.2, affine=affine, dtype=torch.float64))
    swapped = nw.swap(model, "same")
    assert type(swapped[0]) is getattr(nw, lazy.__name__)
    x = x_of(dim, torch.float64)
    torch.testing.assert_close(swapped(x), model(x))
    torch.testing.assert_close(swapped.eval()(x), model.eval()(x))
    assert swapped.state_dict().keys() == model.state_dict().keys()
    assert {t.dtype for t in swapped.parameters()} <= {torch.float64}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_are_wide_in_a_half_model(dtype):
    model = nn.Sequential(nn.BatchNorm1d(6)).to(dtype)
    swapped = nw.swap(model, "same")
    assert swapped[0].running_mean.dtype == torch.float32
    assert swapped[0].weight.dtype == dtype


def test_on_the_device_it_was_on():
    swapped = nw.swap(nn.Sequential(nn.BatchNorm1d(6), RootMeanSquare()).to("meta"), "same")
    assert {t.device.type for t in swapped.state_dict().values()} == {"meta"}
    assert [type(m) for m in swapped] == [nw.BatchNorm1d, nw.RMSNorm]


def test_an_activation_within_stays_and_an_attribute_can_still_be_read():
    norm = WithActivation(6, nn.SiLU)
    norm.layer_scale = 0.5
    swapped = nw.swap(nn.Sequential(norm), "same")
    assert [name for name, _ in swapped[0].named_children()] == ["norm", "act"]
    assert swapped[0].norm.layer_scale == 0.5
    assert str(nw.receipt(swapped)) == "0: WithActivation(6) → BatchNorm2d(6) + SiLU()"
    again = nw.swap(swapped, "group:2")
    assert [type(m) for m in again[0]] == [nw.GroupNorm2d, nn.SiLU]
    assert [site.path for site in nw.find(again)] == ["0.norm"]


KEPT = [
    (nw.GroupNorm(2, 6), "it is normwise's already"),
    (FromOne(), "no layer of normwise computes what FromOne does"),
    (nn.BatchNorm1d(6, momentum=2.0), "Running(momentum=2.0): must lie between 0 and 1"),
    (nn.BatchNorm1d(6, eps=0.0), "BatchNorm1d needs an eps above 0, received 0.0"),
    (
        parametrizations.weight_norm(nn.LayerNorm(6)),
        "its weight is parametrized; torch.nn.utils.parametrize.remove_parametrizations "
        "makes it plain",
    ),
]


@pytest.mark.parametrize(("norm", "reason"), KEPT, **named)
def test_what_has_no_twin_stays_and_the_plan_says_why(norm, reason):
    model = nn.Sequential(norm)
    plan, swapped = nw.plan(model, "same"), nw.swap(model, "same")
    assert plan == nw.receipt(swapped)
    assert plan.skipped == (("0", reason),)
    assert type(swapped[0]) is type(norm)


def test_a_weight_that_a_hook_computes_is_left_alone():
    norm = nn.LayerNorm((3, 6))
    model = nn.Sequential(spectral_norm(norm))
    ((_, reason),) = nw.plan(model, "same").skipped
    assert reason == "its weight is computed by a hook, SpectralNorm; remove that first"


def test_a_subclass_that_computes_something_else_stays():
    class Doubled(nn.LayerNorm):
        def forward(self, x):
            return 2 * super().forward(x)

    ((_, reason),) = nw.plan(nn.Sequential(Doubled(6)), "same").skipped
    assert reason == "Doubled computes something else than LayerNorm(6)"


def test_twice_is_once():
    model = nn.Sequential(nn.Conv1d(6, 6, 1), nn.BatchNorm1d(6), nn.LayerNorm(9))
    once = nw.swap(model, "same")
    twice = nw.swap(once, "same")
    assert nw.receipt(twice).changes == ()
    assert [type(m) for m in twice] == [type(m) for m in once]
    assert torch.equal(once(x_of(1)), twice(x_of(1)))


def test_a_transformer_gives_the_same():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 2).eval()
    swapped = nw.swap(model, "same")
    torch.testing.assert_close(swapped(x_of(0)), model(x_of(0)))
    assert [type(s.module) for s in nw.find(swapped)] == [nw.LayerNorm] * 4
