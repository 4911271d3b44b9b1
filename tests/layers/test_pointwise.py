"""Dynamic tanh and dynamic erf: the formula, value by value."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

import normwise as nw


def formula(norm, x):
    """One Python number at a time."""
    alpha, weight, bias = norm.alpha.item(), norm.weight.tolist(), norm.bias.tolist()
    out = np.empty(x.shape)
    for index, value in np.ndenumerate(x.numpy()):
        if isinstance(norm, nw.DynamicTanh):
            squashed = math.tanh(alpha * value)
        else:
            squashed = math.erf(alpha * value + norm.shift.item())
        out[index] = squashed * weight[index[1]] + bias[index[1]]
    return torch.from_numpy(out)


@pytest.fixture(params=[nw.DynamicTanh, nw.DynamicErf])
def norm(request):
    made = request.param(3, alpha=0.7).double()
    for parameter in (made.weight, made.bias, *([made.shift] if hasattr(made, "shift") else [])):
        torch.nn.init.uniform_(parameter, -1, 1)
    return made


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (2, 3, 2, 2)])
def test_formula(norm, shape):
    x = torch.randn(shape, dtype=torch.float64) * 3
    torch.testing.assert_close(norm(x), formula(norm, x))


def test_starts_as_in_the_papers():
    assert nw.DynamicTanh(2).alpha == nw.DynamicErf(2).alpha == 0.5
    assert nw.DynamicErf(2).shift == 0


def test_gradcheck(norm):
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, x)
    names = list(dict(norm.named_parameters()))

    def of_parameters(*values):
        return torch.func.functional_call(norm, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(of_parameters, tuple(norm.parameters()))


def test_padded_series_are_as_alone(norm):
    x, mask = torch.randn(2, 3, 6, dtype=torch.float64), nw.lengths_to_mask([6, 2])
    y = norm(x, mask)
    torch.testing.assert_close(y[1:, :, :2], norm(x[1:, :, :2]))
    assert (y[1, :, 2:] == 0).all()


def test_size_is_inferred_and_scalars_keep_their_start():
    lazy = nw.DynamicErf(alpha=0.3)
    assert isinstance(lazy, nw.LazyDynamicErf)
    assert lazy(torch.randn(2, 5, 4)).shape == (2, 5, 4)
    assert (type(lazy), lazy.weight.shape) == (nw.DynamicErf, (5,))
    assert lazy.alpha.item() == pytest.approx(0.3)


def test_lazy_loads_its_size_past_the_scalars(norm):
    lazy = type(norm)().double()
    lazy.load_state_dict(norm.state_dict())
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(lazy(x), norm(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(norm, dtype):
    x = torch.randn(2, 3, 5).to(dtype)
    torch.testing.assert_close(norm(x).double(), norm(x.double()), atol=1e-2, rtol=1e-2)
    assert norm(x).dtype == dtype


def test_compiles_without_a_break_and_travels(norm):
    twin = pickle.loads(pickle.dumps(copy.deepcopy(norm)))
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    compiled = torch.compile(twin, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), norm(x))


def test_says_what_does_not_fit(norm):
    with pytest.raises(nw.NormError) as error:
        norm(torch.randn(2, 4, 5))
    name = type(norm).__name__
    assert str(error.value) == (
        f"{name} was made for 3 features, and x has 4: received (2, 4, 5) float32 on cpu; "
        "make it with 4, or without a number to have it inferred"
    )


@pytest.mark.parametrize(("candidate", "kind"), [("tanh", nw.DynamicTanh), ("erf", nw.DynamicErf)])
def test_candidates(candidate, kind):
    model = torch.nn.Sequential(torch.nn.Conv1d(2, 4, 3), torch.nn.BatchNorm1d(4))
    swapped = nw.swap(model, f"{candidate}:alpha=0.25")
    assert isinstance(swapped[1], kind)
    assert nw.find(swapped)[0].kind == candidate
    assert swapped[1].alpha == 0.25
