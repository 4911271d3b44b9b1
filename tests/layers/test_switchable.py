"""Switchable norm: the mix of three statistics, in training and in evaluation."""

import copy
import pickle

import numpy as np
import pytest
import torch

import normwise as nw

SHAPES = {1: (3, 4, 6), 2: (3, 4, 3, 2), 3: (3, 4, 2, 3, 2)}


def formula(norm, x, mask=None, running=False):
    """One sample and channel at a time; x (N, C, …), mask (N, …)."""
    x = x.double().detach().numpy()
    real = np.ones((len(x), *x.shape[2:]), dtype=bool) if mask is None else mask.numpy()
    of_mean, of_var = (
        np.exp(w) / np.exp(w).sum()
        for w in (norm.mean_weight.detach().double().numpy(), norm.var_weight.detach().numpy())
    )
    y = np.zeros_like(x)
    for n, c in np.ndindex(x.shape[:2]):
        everyone = np.moveaxis(x, 1, 0)[c][real]
        values = [x[n, c][real[n]], x[n][:, real[n]], everyone]
        means, variances = ([f(v) for v in values] for f in (np.mean, np.var))
        if running:
            means[2], variances[2] = norm.running_mean[c].item(), norm.running_var[c].item()
        standard = (x[n, c] - of_mean @ means) / np.sqrt(of_var @ variances + norm.eps)
        standard = standard * norm.weight[c].item() + norm.bias[c].item()
        y[n, c] = np.where(real[n], standard, 0)
    return torch.from_numpy(y)


def made(dim=1):
    norm = getattr(nw, f"SwitchableNorm{dim}d")(4).double()
    for parameter in norm.parameters():
        torch.nn.init.uniform_(parameter, -1, 1)
    return norm


@pytest.mark.parametrize("dim", SHAPES)
def test_formula_in_training_and_evaluation(dim):
    norm, x = made(dim), torch.randn(SHAPES[dim], dtype=torch.float64) * 3 + 2
    torch.testing.assert_close(norm(x), formula(norm, x))
    norm.eval()
    torch.testing.assert_close(norm(x), formula(norm, x, running=True))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_each_of_the_three_alone(which):
    norm, x = nw.SwitchableNorm1d(4).double(), torch.randn(3, 4, 6, dtype=torch.float64)
    for weight in (norm.mean_weight, norm.var_weight):
        torch.nn.init.constant_(weight, -1e3)
        weight.data[which] = 0
    alone = [nw.InstanceNorm1d(4), nw.GroupNorm(1, 4), nw.BatchNorm1d(4)][which].double()
    torch.testing.assert_close(norm(x), alone(x))


def test_statistics_are_remembered_as_batch_norm_does():
    norm, plain = nw.SwitchableNorm1d(4), nw.BatchNorm1d(4)
    for _ in range(3):
        x = torch.randn(3, 4, 6) + 2
        norm(x), plain(x)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(getattr(norm, name), buffer)


def test_masks():
    norm, x = made(), torch.randn(3, 4, 6, dtype=torch.float64)
    mask = nw.lengths_to_mask([6, 2, 4])
    y = norm(x.masked_fill(~mask[:, None], 1e8), mask)
    torch.testing.assert_close(y, formula(norm, x, mask))
    with nw.padding([6, 2, 4]):
        torch.testing.assert_close(norm(x), y)
        norm.eval()
        y = norm(x)
    torch.testing.assert_close(y, formula(norm, x, mask, running=True))
    torch.testing.assert_close(y[1:2, :, :2], norm(x[1:2, :, :2]))


def test_gradcheck():
    norm = made()
    norm.track_running_stats = False
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in norm.named_parameters()]

    def of_everything(x, *values):
        return torch.func.functional_call(norm, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(of_everything, (x, *norm.parameters()))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_float32_at_an_offset(offset):
    norm = nw.SwitchableNorm1d(4)
    x = torch.randn(3, 4, 50) + offset
    bound = 16 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(norm(x).double(), formula(norm, x), rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    norm = nw.SwitchableNorm1d(4).to(dtype)
    x = torch.randn(3, 4, 50).to(dtype)
    assert norm(x).dtype == dtype
    torch.testing.assert_close(
        norm(x).double(), formula(norm.double(), x), atol=8 * torch.finfo(dtype).eps, rtol=0
    )


def test_compiles_without_a_break_and_travels():
    norm = made()
    twin = pickle.loads(pickle.dumps(copy.deepcopy(norm)))
    compiled = torch.compile(twin, fullgraph=True, backend="eager")
    for _ in range(2):
        x = torch.randn(3, 4, 6, dtype=torch.float64)
        torch.testing.assert_close(compiled(x), norm(x))
    torch.testing.assert_close(twin.running_mean, norm.running_mean)


def test_size_is_inferred_and_loaded_past_the_three_weights():
    lazy = nw.SwitchableNorm1d(affine=False, track_running_stats=False)
    assert isinstance(lazy, nw.LazySwitchableNorm1d)
    lazy(torch.randn(2, 5, 3))
    assert (type(lazy), lazy.num_features) == (nw.SwitchableNorm1d, 5)
    torch.testing.assert_close(lazy.mean_weight, torch.nn.Parameter(torch.ones(3)))
    loaded, norm = nw.SwitchableNorm1d().double(), made()
    loaded.load_state_dict(norm.state_dict())
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(loaded(x), norm(x))


def test_one_element_is_refused_and_changes_nothing():
    norm = nw.SwitchableNorm1d(4)
    with pytest.raises(nw.NormError, match="SwitchableNorm1d would average over one element"):
        norm(torch.randn(1, 4, 1))
    assert norm.num_batches_tracked == 0


def test_candidate():
    swapped = nw.swap(torch.nn.Sequential(torch.nn.BatchNorm1d(4)), "switchable:momentum=0.5")
    assert isinstance(swapped[0], nw.SwitchableNorm1d)
    assert (nw.find(swapped)[0].kind, swapped[0].momentum) == ("switchable", 0.5)
