"""Frozen batch norm: what it was given stays, whoever trains; state dicts come from batch norm."""

import copy
import pickle

import pytest
import torch

import normwise as nw

SHAPES = {1: (5, 4, 6), 2: (5, 4, 3, 2), 3: (5, 4, 2, 3, 2)}


def trained(dim=1, **keywords):
    norm = getattr(torch.nn, f"BatchNorm{dim}d")(4, **keywords)
    for parameter in norm.parameters():
        torch.nn.init.uniform_(parameter)
    for _ in range(3):
        norm(torch.randn(SHAPES[dim]) * 2 + 1)
    return norm


@pytest.mark.parametrize("dim", SHAPES)
@pytest.mark.parametrize("keywords", [{}, {"affine": False}, {"eps": 0.1}])
def test_frozen_is_batch_norm_in_evaluation(dim, keywords):
    norm = trained(dim, **keywords).double()
    frozen = getattr(nw, f"FrozenBatchNorm{dim}d").from_batch_norm(norm)
    x = torch.randn(SHAPES[dim], dtype=torch.float64)
    torch.testing.assert_close(frozen.train()(x), norm.eval()(x))


def test_nothing_in_it_is_ever_updated():
    frozen = nw.FrozenBatchNorm1d.from_batch_norm(trained()).train()
    before = copy.deepcopy(frozen.state_dict())
    x = torch.randn(5, 4, 6, requires_grad=True)
    frozen(x).square().sum().backward()
    assert list(frozen.parameters()) == []
    assert x.grad is not None
    for name, buffer in frozen.state_dict().items():
        torch.testing.assert_close(buffer, before[name])


def test_names_are_those_of_torchvision():
    assert list(nw.FrozenBatchNorm2d(3).state_dict()) == [
        "weight", "bias", "running_mean", "running_var"
    ]  # fmt: skip


@pytest.mark.parametrize("size", [4, None])
def test_loads_the_state_dict_of_a_batch_norm_inside_a_model(size):
    norm = trained()
    model = torch.nn.Sequential(nw.FrozenBatchNorm1d(size))
    state = torch.nn.Sequential(norm).state_dict()
    model.load_state_dict(state)
    assert "0.num_batches_tracked" in state
    x = torch.randn(5, 4, 6)
    torch.testing.assert_close(model(x), norm.eval()(x))


def test_copies_and_does_not_share():
    norm = trained()
    frozen = nw.FrozenBatchNorm1d.from_batch_norm(norm)
    kept = frozen.running_mean.clone()
    norm(torch.randn(5, 4, 6) + 9)
    torch.testing.assert_close(frozen.running_mean, kept)


def test_takes_over_the_activation():
    norm, x = nw.BatchNorm1d(4, activation="gelu").eval(), torch.randn(5, 4, 6)
    frozen = nw.FrozenBatchNorm1d.from_batch_norm(norm)
    assert torch.equal(frozen(x, residual=2 * x), norm(x, residual=2 * x))


def test_gradcheck():
    frozen = nw.FrozenBatchNorm1d.from_batch_norm(trained().double())
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(frozen, x)


def test_padded_series_are_as_alone():
    frozen = nw.FrozenBatchNorm1d.from_batch_norm(trained())
    x, mask = torch.randn(2, 4, 6), nw.lengths_to_mask([6, 2])
    y = frozen(x, mask)
    torch.testing.assert_close(y[1, :, :2], frozen(x[1:, :, :2])[0])
    assert (y[1, :, 2:] == 0).all()
    with nw.padding([6, 2]):
        torch.testing.assert_close(frozen(x), y)


def test_compiles_without_a_break_and_travels():
    frozen = pickle.loads(pickle.dumps(nw.FrozenBatchNorm1d.from_batch_norm(trained())))
    x = torch.randn(5, 4, 6)
    compiled = torch.compile(frozen, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), frozen(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    frozen = nw.FrozenBatchNorm1d.from_batch_norm(trained())
    x = torch.randn(5, 4, 6).to(dtype)
    assert frozen(x).dtype == dtype
    torch.testing.assert_close(frozen(x), frozen(x.float()).to(dtype))
    assert frozen.to(dtype)(x).isfinite().all()


@pytest.mark.parametrize(
    "norm",
    [
        torch.nn.BatchNorm2d(4),
        torch.nn.BatchNorm1d(4, track_running_stats=False),
        torch.nn.Linear(2, 2),
    ],
)
def test_what_cannot_be_frozen_is_refused(norm):
    with pytest.raises(nw.NormError) as error:
        nw.FrozenBatchNorm1d.from_batch_norm(norm)
    assert str(error.value) == (
        "FrozenBatchNorm1d.from_batch_norm takes a BatchNorm1d with running statistics, "
        f"received {norm!r}"
    )


def test_surgery_sees_a_batch_norm():
    frozen = nw.FrozenBatchNorm2d.from_batch_norm(trained(2))
    model = torch.nn.Sequential(frozen)
    assert (nw.find(model)[0].kind, nw.find(model)[0].dim) == ("batch", 2)
    thawed = nw.swap(model, "batch")[0]
    x = torch.randn(SHAPES[2])
    torch.testing.assert_close(thawed.eval()(x), frozen(x))
    assert thawed.weight.requires_grad
