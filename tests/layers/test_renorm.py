"""Batch renormalization: the paper's formula, its schedule, and batch norm's state dicts."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import normwise as nw

RANKS = {1: (5, 4, 6), 2: (5, 4, 3, 2), 3: (5, 4, 2, 3, 2)}
OPEN = {"hold_steps": 0, "r_steps": 0, "d_steps": 0}


def formula(x, mean, var, running_mean, running_var, r_limit, d_limit, eps=1e-5):
    """The paper's algorithm for one batch, channel by channel; x (N, C, …)."""
    y, r_all = np.zeros_like(x), []
    for c in range(x.shape[1]):
        sigma_batch, sigma = np.sqrt(var[c] + eps), np.sqrt(running_var[c] + eps)
        r = min(max(sigma_batch / sigma, 1 / r_limit), r_limit)
        d = min(max((mean[c] - running_mean[c]) / sigma, -d_limit), d_limit)
        y[:, c] = (x[:, c] - mean[c]) / sigma_batch * r + d
        r_all.append(r)
    return y, np.array(r_all)


def batch_moments(x):
    axes = (0, *range(2, x.ndim))
    return x.mean(axes), x.var(axes)


def opened(dim=1, size=4, **keywords):
    return getattr(nw, f"BatchRenorm{dim}d")(size, **{**OPEN, **keywords})


@pytest.mark.parametrize("dim", RANKS)
@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (9.0, 0.3), (0.1, -40.0)])
def test_training_follows_the_paper(dim, scale, offset):
    norm = opened(dim).double()
    torch.nn.init.uniform_(norm.weight)
    torch.nn.init.uniform_(norm.bias)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    x = torch.randn(RANKS[dim], dtype=torch.float64) * scale + offset
    mean, var = batch_moments(x.numpy())
    expected, _ = formula(
        x.numpy(), mean, var, norm.running_mean.numpy(), norm.running_var.numpy(), 3.0, 5.0
    )
    shape = (-1, *[1] * dim)
    expected = torch.from_numpy(expected) * norm.weight.view(shape) + norm.bias.view(shape)
    torch.testing.assert_close(norm(x), expected)


@given(
    samples=st.integers(2, 5),
    size=st.integers(1, 6),
    spread=st.floats(0.5, 1.5),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=30, deadline=None)
def test_unclipped_training_is_evaluation(samples, size, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 3, size, dtype=torch.float64, generator=generator)
    norm = opened(size=3, r_max=1e6, d_max=1e6).double()
    norm.running_var.fill_(spread)
    evaluated = copy.deepcopy(norm).eval()
    torch.testing.assert_close(norm(x), evaluated(x))


def test_statistics_are_remembered_as_batch_norm_does():
    x = torch.randn(6, 4, 9) * 3 + 2
    ours, plain = opened(), torch.nn.BatchNorm1d(4)
    for _ in range(3):
        ours(x), plain(x)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(getattr(ours, name), buffer)
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x))


@pytest.mark.parametrize(
    ("step", "r_limit", "d_limit"),
    [(0, 1, 0), (10, 1, 0), (20, 1.5, 2.5), (30, 2, 5), (50, 3, 5), (900, 3, 5)],
)
def test_limits_open_evenly(step, r_limit, d_limit):
    norm = nw.BatchRenorm1d(2, hold_steps=10, r_steps=50, d_steps=30)
    norm.num_batches_tracked.fill_(step)
    r, d = norm.limits()
    assert (r.item(), d.item()) == pytest.approx((r_limit, d_limit))


@pytest.mark.parametrize(
    ("step", "r_limit", "d_limit"), [(5_000, 1, 0), (25_000, 1 + 8 / 7, 5), (40_000, 3, 5)]
)
def test_limits_open_as_in_the_paper_if_nothing_else_is_said(step, r_limit, d_limit):
    norm = nw.BatchRenorm1d(2)
    norm.num_batches_tracked.fill_(step)
    r, d = norm.limits()
    assert (r.item(), d.item()) == pytest.approx((r_limit, d_limit))


def test_while_the_limits_are_shut_it_is_batch_norm():
    x = torch.randn(6, 4, 9) * 3 + 2
    norm, plain = nw.BatchRenorm1d(4, hold_steps=2, r_steps=3, d_steps=3), nw.BatchNorm1d(4)
    for _ in range(3):
        torch.testing.assert_close(norm(x), plain(x))
    assert not torch.allclose(norm(x), plain(x))


def test_the_schedule_survives_a_checkpoint():
    norm = nw.BatchRenorm1d(4, hold_steps=1, r_steps=9, d_steps=9)
    for _ in range(5):
        norm(torch.randn(6, 4, 9))
    resumed = nw.BatchRenorm1d(4, hold_steps=1, r_steps=9, d_steps=9)
    resumed.load_state_dict(norm.state_dict())
    assert resumed.limits() == norm.limits()
    assert resumed.limits()[0] > 1


def test_state_dicts_move_to_batch_norm_and_back():
    norm, plain = opened(), torch.nn.BatchNorm1d(4)
    norm(torch.randn(6, 4, 9))
    plain.load_state_dict(norm.state_dict())
    x = torch.randn(3, 4, 5)
    torch.testing.assert_close(plain.eval()(x), norm.eval()(x))
    opened().load_state_dict(plain.state_dict())
    lazy = nw.BatchRenorm1d()
    lazy.load_state_dict(plain.state_dict())
    torch.testing.assert_close(lazy.eval()(x), norm(x))
    assert isinstance(norm, torch.nn.BatchNorm1d)


def test_masked_positions_count_for_nothing():
    x = torch.randn(3, 4, 7, dtype=torch.float64)
    mask = nw.lengths_to_mask([7, 3, 5])
    real = x.transpose(0, 1)[:, mask].T  # (positions, C)
    kept = [opened().double() for _ in range(2)]
    y = kept[0](x.masked_fill(~mask[:, None], 1e9), mask)
    alone = kept[1](real)
    torch.testing.assert_close(y.transpose(0, 1)[:, mask].T, alone)
    torch.testing.assert_close(kept[0].running_var, kept[1].running_var)
    assert (y.transpose(0, 1)[:, ~mask] == 0).all()
    with nw.padding([7, 3, 5]):
        torch.testing.assert_close(opened().double()(x), y)


def test_gradient_takes_r_and_d_as_constants():
    norm = opened(r_max=1.2, d_max=0.1).double()
    x = torch.randn(4, 4, 3, dtype=torch.float64, requires_grad=True)
    mean, var = batch_moments(x.detach().numpy())
    zeros, ones = np.zeros(4), np.ones(4)
    _, r = formula(x.detach().numpy(), mean, var, zeros, ones, 1.2, 0.1)
    upstream = torch.randn_like(x)
    (got,) = torch.autograd.grad((norm(x) * upstream).sum(), x)
    plain = nw.BatchNorm1d(4, affine=False).double()
    (through_batch_norm,) = torch.autograd.grad((plain(x) * upstream).sum(), x)
    torch.testing.assert_close(got, through_batch_norm * torch.from_numpy(r)[:, None])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype):
    norm = opened(r_max=1.5)
    x = (torch.randn(8, 4, 16) * 3 + 100).to(dtype)
    y = norm(x)
    wide = opened(r_max=1.5).double()(x.double())
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), wide, atol=8 * torch.finfo(dtype).eps, rtol=1e-2)


def test_compiles_without_a_break_and_travels():
    norm = nw.BatchRenorm1d(4, hold_steps=0, r_steps=2, d_steps=2)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(norm)))
    compiled = torch.compile(twin, fullgraph=True, backend="eager")
    for _ in range(4):
        x = torch.randn(6, 4, 9) + 3
        torch.testing.assert_close(compiled(x), norm(x))
    assert twin.num_batches_tracked == 4


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        (
            {"r_max": 0.5},
            "BatchRenorm1d takes r_max of at least 1 and d_max of at least 0, received r_max=0.5 "
            "and d_max=5.0; 1 and 0 are plain batch norm",
        ),
        (
            {"hold_steps": 9, "r_steps": 8},
            "BatchRenorm1d opens its limits from step hold_steps=9 to step r_steps=8; "
            "write 0 <= hold_steps <= r_steps",
        ),
    ],
)
def test_what_can_never_be_valid_is_refused(keywords, sentence):
    with pytest.raises(nw.NormError) as error:
        nw.BatchRenorm1d(4, **keywords)
    assert str(error.value) == sentence


def test_one_element_is_refused_and_changes_nothing():
    norm = opened()
    with pytest.raises(nw.NormError, match="BatchRenorm1d would average over one element"):
        norm(torch.randn(1, 4, 1))
    assert norm.num_batches_tracked == 0


def test_candidate_takes_over_a_batch_norm():
    model = torch.nn.Sequential(torch.nn.Conv1d(2, 4, 3), torch.nn.BatchNorm1d(4))
    model(torch.randn(5, 2, 9))
    swapped = nw.swap(model, "renorm:r_steps=10,d_steps=10,hold_steps=0")
    assert isinstance(swapped[1], nw.BatchRenorm1d)
    assert (nw.find(swapped)[0].kind, swapped[1].r_steps) == ("renorm", 10)
    assert nw.find(model)[0].kind == "batch"
    torch.testing.assert_close(swapped[1].running_mean, model[1].running_mean)
