"""Filter and global response norm: formulas over space, one sample and channel at a time."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import normwise as nw

SHAPES = {1: (3, 4, 6), 2: (3, 4, 3, 2)}


def filter_response(norm, x):
    out = np.zeros(x.shape)
    extra = abs(norm.extra_eps.item()) if norm.extra_eps is not None else 0
    for n, c in np.ndindex(x.shape[:2]):
        mean_square = (x[n, c].numpy() ** 2).mean()
        y = x[n, c].numpy() / np.sqrt(mean_square + norm.eps + extra)
        y = y * norm.weight[c].item() + norm.bias[c].item()
        out[n, c] = y if norm.tau is None else np.maximum(y, norm.tau[c].item())
    return torch.from_numpy(out)


def shuffled(norm):
    for parameter in norm.double().parameters():
        torch.nn.init.uniform_(parameter, -1, 1)
    return norm


def filter_norm(dim=1, **keywords):
    return shuffled(getattr(nw, f"FilterResponseNorm{dim}d")(4, **keywords))


@pytest.mark.parametrize("dim", SHAPES)
@pytest.mark.parametrize("keywords", [{}, {"learn_eps": True}, {"threshold": False}, {"eps": 0.5}])
def test_filter_response_formula(dim, keywords):
    norm = filter_norm(dim, **keywords)
    x = torch.randn(SHAPES[dim], dtype=torch.float64) * 2 + 1
    torch.testing.assert_close(norm(x), filter_response(norm, x))


def test_filter_response_starts_as_in_the_paper():
    norm = nw.FilterResponseNorm1d(4, learn_eps=True)
    assert norm.eps == 1e-6
    assert norm.extra_eps.item() == pytest.approx(1e-4)
    assert norm.tau.eq(0).all()
    assert (norm(torch.randn(2, 4, 9)) >= 0).all()


@pytest.mark.parametrize("keywords", [{}, {"learn_eps": True}])
def test_filter_response_gradcheck(keywords):
    norm = filter_norm(**keywords)
    torch.nn.init.constant_(norm.tau, -0.05)
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in norm.named_parameters()]

    def of_everything(x, *values):
        return torch.func.functional_call(norm, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(of_everything, (x, *norm.parameters()))


def global_response(norm, x):
    out = np.zeros(x.shape)
    for n in range(len(x)):
        norms = [np.sqrt((channel.numpy() ** 2).sum()) for channel in x[n]]
        for c, of_channel in enumerate(norms):
            relative = of_channel / (np.mean(norms) + norm.eps)
            values = x[n, c].numpy()
            out[n, c] = values * relative * norm.weight[c].item() + norm.bias[c].item() + values
    return torch.from_numpy(out)


def global_norm(dim=1, **keywords):
    return shuffled(getattr(nw, f"GlobalResponseNorm{dim}d")(4, **keywords))


@pytest.mark.parametrize("dim", SHAPES)
@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_global_response_formula(dim, eps):
    norm = global_norm(dim, eps=eps)
    x = torch.randn(SHAPES[dim], dtype=torch.float64) * 2 + 1
    torch.testing.assert_close(norm(x), global_response(norm, x))


def test_global_response_starts_as_identity():
    x = torch.randn(2, 4, 9)
    assert torch.equal(nw.GlobalResponseNorm1d(4)(x), x)


def test_global_response_gradcheck():
    norm = global_norm()
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in norm.named_parameters()]

    def of_everything(x, *values):
        return torch.func.functional_call(norm, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(of_everything, (x, *norm.parameters()))


def made():
    return [filter_norm(), filter_norm(learn_eps=True, threshold=False), global_norm()]


@given(lengths=st.lists(st.integers(1, 7), min_size=2, max_size=2))
@settings(max_examples=20, deadline=None)
def test_padded_series_are_as_alone(lengths):
    x, mask = torch.randn(2, 4, 7, dtype=torch.float64), nw.lengths_to_mask(lengths, 7)
    for norm in made():
        y = norm(x.masked_fill(~mask[:, None], 1e8), mask)
        for n, length in enumerate(lengths):
            alone = norm(x[n : n + 1, :, :length])
            torch.testing.assert_close(y[n : n + 1, :, :length], alone)
            assert (y[n, :, length:] == 0).all()
        with nw.padding(lengths, 7):
            torch.testing.assert_close(norm(x), y)


def test_a_series_of_padding_gives_zero_and_finite_gradients():
    x = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    for norm in made():
        y = norm(x, nw.lengths_to_mask([5, 0]))
        assert (y[1] == 0).all()
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        assert gradient.isfinite().all()
        assert (gradient[1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_neither_overflows_nor_loses_its_scale(dtype):
    x = (torch.randn(2, 4, 50) * 1000).to(dtype)  # squares above float16's 65504
    for norm in made():
        norm = norm.to(dtype)
        y, exact = norm(x), copy.deepcopy(norm).double()(x.double())
        assert y.dtype == dtype
        torch.testing.assert_close(y.double(), exact, atol=4 * torch.finfo(dtype).eps, rtol=1e-2)


def test_compile_without_a_break_and_travel():
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    for norm in made():
        twin = pickle.loads(pickle.dumps(copy.deepcopy(norm)))
        compiled = torch.compile(twin, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), norm(x))


def test_size_is_inferred_and_loaded():
    lazy = nw.make("filter-response:learn_eps=true", dim=2)
    assert isinstance(lazy, nw.LazyFilterResponseNorm2d)
    lazy(torch.randn(2, 5, 3, 3))
    assert lazy.tau.shape == (5,)
    loaded = nw.FilterResponseNorm2d(learn_eps=True)
    loaded.load_state_dict(lazy.state_dict())
    assert loaded.num_features == 5


@pytest.mark.parametrize(
    ("shape", "hint"),
    [((2, 4, 5, 5), "; that is for FilterResponseNorm2d"), ((2, 4, 5, 5, 5), "")],
)
def test_says_what_does_not_fit(shape, hint):
    with pytest.raises(nw.NormError) as error:
        nw.FilterResponseNorm1d(4)(torch.randn(shape))
    assert str(error.value) == (
        f"FilterResponseNorm1d takes x of (N, C, T), received {shape} float32 on cpu{hint}"
    )


def test_filter_response_as_a_candidate():
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(4))
    torch.nn.init.uniform_(model[0].weight)
    swapped = nw.swap(model, "filter-response")
    assert isinstance(swapped[0], nw.FilterResponseNorm2d)
    assert nw.find(swapped)[0].kind == "filter-response"
    torch.testing.assert_close(swapped[0].weight, model[0].weight)


def test_global_response_as_a_candidate_keeps_its_own_start():
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(4))
    swapped = nw.swap(model, "global-response")
    assert nw.find(swapped)[0].kind == "global-response"
    assert swapped[0].weight.eq(0).all()
    assert nw.receipt(swapped).changes[0].left[:2] == ("weight", "bias")
    back = nw.swap(swapped, "batch")
    assert back[0].weight.eq(1).all()
