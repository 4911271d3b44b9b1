"""Adaptive and conditional instance norm: each sample in the style it is told to take."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import normwise as nw

SHAPES = {1: (3, 4, 6), 2: (3, 4, 3, 2)}


def moments(values):
    return values.mean(), values.var()


def adapted(x, style, mask, style_mask, eps=1e-5):
    y = np.zeros_like(x)
    for n, c in np.ndindex(x.shape[:2]):
        mean, var = moments(x[n, c][mask[n]])
        m = n if len(style) > 1 else 0
        new_mean, new_var = moments(style[m, c][style_mask[m]])
        standard = (x[n, c][mask[n]] - mean) / np.sqrt(var + eps)
        y[n, c][mask[n]] = standard * np.sqrt(new_var + eps) + new_mean
    return torch.from_numpy(y)


def everywhere(x):
    return np.ones((len(x), *x.shape[2:]), dtype=bool)


@pytest.mark.parametrize("dim", SHAPES)
@pytest.mark.parametrize("styles", [1, 3])
def test_adaptive_takes_on_the_statistics_of_the_style(dim, styles):
    norm = getattr(nw, f"AdaptiveInstanceNorm{dim}d")()
    x = torch.randn(SHAPES[dim], dtype=torch.float64) * 3 + 2
    style = torch.randn(styles, 4, *[9] * dim, dtype=torch.float64) * 0.2 - 5
    y = norm(x, style)
    expected = adapted(x.numpy(), style.numpy(), everywhere(x), everywhere(style))
    torch.testing.assert_close(y, expected)


@given(
    lengths=st.lists(st.integers(2, 7), min_size=2, max_size=2),
    style_lengths=st.lists(st.integers(2, 5), min_size=2, max_size=2),
)
@settings(max_examples=25, deadline=None)
def test_adaptive_masks_both(lengths, style_lengths):
    norm = nw.AdaptiveInstanceNorm1d()
    x = torch.randn(2, 4, 7, dtype=torch.float64)
    style = torch.randn(2, 4, 5, dtype=torch.float64) * 4 + 1
    mask, style_mask = nw.lengths_to_mask(lengths, 7), nw.lengths_to_mask(style_lengths, 5)
    expected = adapted(x.numpy(), style.numpy(), mask.numpy(), style_mask.numpy())
    x, style = x.masked_fill(~mask[:, None], 1e8), style.masked_fill(~style_mask[:, None], 1e8)
    torch.testing.assert_close(norm(x, style, mask, style_mask), expected)
    with nw.padding(lengths, 7):
        torch.testing.assert_close(norm(x, style, style_mask=style_mask), expected)


def test_adaptive_gives_a_signal_back_in_its_own_style():
    x = torch.randn(3, 4, 50) + 1e4
    exact = x.double()
    y = nw.AdaptiveInstanceNorm1d()(x, x)
    torch.testing.assert_close(y.double(), exact, rtol=2e-7, atol=0)


def test_adaptive_gradcheck():
    norm = nw.AdaptiveInstanceNorm1d()
    x, style = (torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(norm, (x, style))


@pytest.mark.parametrize("dim", SHAPES)
def test_conditional_is_instance_norm_with_the_style_s_parameters(dim):
    norm = conditional(dim)
    x = torch.randn(SHAPES[dim], dtype=torch.float64) * 3 + 2
    index = torch.tensor([4, 0, 4])
    y = norm(x, index)
    for n, style in enumerate(index):
        expected = torch.nn.functional.instance_norm(
            x[n : n + 1], weight=norm.weight[style], bias=norm.bias[style]
        )
        torch.testing.assert_close(y[n : n + 1], expected)


def conditional(dim=1):
    norm = getattr(nw, f"ConditionalInstanceNorm{dim}d")(5, 4).double()
    torch.nn.init.uniform_(norm.weight)
    torch.nn.init.uniform_(norm.bias)
    return norm


def test_conditional_blends_styles():
    norm, x = conditional(), torch.randn(3, 4, 6, dtype=torch.float64)
    one_hot = torch.eye(5, dtype=torch.float64)[[2, 1, 0]]
    torch.testing.assert_close(norm(x, one_hot), norm(x, torch.tensor([2, 1, 0])))
    half = torch.tensor([[0.5, 0, 0, 0.5, 0]]).expand(3, 5)
    first, last = (norm(x, torch.full((3,), style)) for style in (0, 3))
    torch.testing.assert_close(norm(x, half), (first + last) / 2)


def test_conditional_of_an_empty_batch():
    y = conditional()(torch.zeros(0, 4, 6, dtype=torch.float64), torch.zeros(0, dtype=torch.long))
    assert y.shape == (0, 4, 6)


def test_conditional_tells_scale_and_shift():
    norm = conditional()
    weight, bias = norm.in_style(torch.tensor([[0.25, 0, 0, 0.75, 0]]), 1)
    torch.testing.assert_close(weight[0], norm.weight[0] / 4 + norm.weight[3] * 3 / 4)
    torch.testing.assert_close(bias[0], norm.bias[0] / 4 + norm.bias[3] * 3 / 4)


def test_conditional_padded_series_are_as_alone():
    norm, x = conditional(), torch.randn(2, 4, 6, dtype=torch.float64)
    index, mask = torch.tensor([1, 3]), nw.lengths_to_mask([6, 3])
    y = norm(x, index, mask)
    torch.testing.assert_close(y[1:, :, :3], norm(x[1:, :, :3], index[1:]))
    assert (y[1, :, 3:] == 0).all()
    with nw.padding([6, 3]):
        torch.testing.assert_close(norm(x, index), y)


def test_conditional_gradcheck():
    norm = conditional()
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    shares = torch.rand(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x, shares))
    norm(x, torch.tensor([1, 3])).square().sum().backward()
    assert norm.weight.grad[[0, 2, 4]].eq(0).all()
    assert norm.weight.grad[[1, 3]].ne(0).any(1).all()


def test_conditional_infers_its_size_from_input_and_state_dict():
    index = torch.tensor([0, 1])
    lazy = nw.ConditionalInstanceNorm1d(5)
    assert isinstance(lazy, nw.LazyConditionalInstanceNorm1d)
    lazy(torch.randn(2, 3, 6), index=index)
    assert (type(lazy), lazy.weight.shape) == (nw.ConditionalInstanceNorm1d, (5, 3))
    loaded = nw.ConditionalInstanceNorm1d(5)
    loaded.load_state_dict(lazy.state_dict())
    assert loaded.num_features == 3
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(loaded(x, index), lazy(x, index))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    x, style, index = torch.randn(2, 4, 6), torch.randn(2, 4, 6), torch.tensor([1, 2])
    norm, adaptive = conditional().to(dtype), nw.AdaptiveInstanceNorm1d()
    for y, exact in (
        (norm(x.to(dtype), index), copy.deepcopy(norm).double()(x.to(dtype).double(), index)),
        (adaptive(x.to(dtype), style), adaptive(x.to(dtype).double(), style.double())),
    ):
        assert y.dtype == dtype
        torch.testing.assert_close(y.double(), exact, atol=4 * torch.finfo(dtype).eps, rtol=1e-2)


def test_compile_without_a_break_and_travel():
    x, style, index = torch.randn(3, 4, 6), torch.randn(3, 4, 9), torch.tensor([1, 2, 0])
    shares = torch.rand(3, 5)
    for norm, by in (
        (nw.ConditionalInstanceNorm1d(5, 4), index),
        (nw.ConditionalInstanceNorm1d(5, 4), shares),
        (nw.AdaptiveInstanceNorm1d(), style),
    ):
        twin = pickle.loads(pickle.dumps(copy.deepcopy(norm)))
        compiled = torch.compile(twin, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x, by), norm(x, by))


X = torch.zeros(3, 4, 6)
STYLE_WANTED = (
    "ConditionalInstanceNorm1d takes the style of each sample as whole numbers below 5, (3,), "
    "or as shares, floating (3, 5); received {}"
)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: nw.AdaptiveInstanceNorm1d()(X, torch.randn(2, 4, 6)),
            "the style of AdaptiveInstanceNorm1d needs the channels of x, and as many samples or "
            "one: received (2, 4, 6) float32 on cpu for x (3, 4, 6)",
        ),
        (
            lambda: nw.AdaptiveInstanceNorm1d()(X, torch.randn(3, 4, 1)),
            "AdaptiveInstanceNorm1d would average over one element, n c [...], which erases the "
            "signal: received (3, 4, 1) float32 on cpu; give it more samples or positions, or "
            "take another norm",
        ),
        (
            lambda: nw.ConditionalInstanceNorm1d(5, 4)(X, torch.tensor([1, 5, 0])),
            STYLE_WANTED.format("(3,) int64 on cpu"),
        ),
        (
            lambda: nw.ConditionalInstanceNorm1d(5, 4)(X, torch.rand(3, 4)),
            STYLE_WANTED.format("(3, 4) float32 on cpu"),
        ),
        (
            lambda: nw.ConditionalInstanceNorm1d(5, 4)(X, 2),
            STYLE_WANTED.format("int 2"),
        ),
        (
            lambda: nw.ConditionalInstanceNorm1d(0, 4),
            "ConditionalInstanceNorm1d takes num_styles as a whole number above 0, received 0",
        ),
    ],
)
def test_says_what_does_not_fit(call, sentence):
    with pytest.raises(nw.NormError) as error:
        call()
    assert str(error.value) == sentence


def test_surgery_leaves_layers_of_two_inputs_alone():
    model = torch.nn.ModuleList([nw.AdaptiveInstanceNorm1d(), nw.ConditionalInstanceNorm1d(5, 4)])
    assert nw.find(model) == []


@pytest.mark.parametrize(
    ("index", "mask"),
    [
        (torch.tensor([0, 3]), None),
        (torch.tensor([0.5, 0.5]), None),
        (torch.tensor([0, 2]), torch.ones(2, 6) > 0),
    ],
)
def test_conditional_stays_lazy_if_its_first_call_is_refused(index, mask):
    for norm in (nw.ConditionalInstanceNorm1d(3), nw.LazyConditionalInstanceNorm1d(3)):
        with pytest.raises(nw.NormError):
            norm(torch.randn(2, 4, 5), index, mask)
        assert type(norm) is nw.LazyConditionalInstanceNorm1d
        assert not norm.is_sized
        assert norm(torch.randn(2, 4, 5), torch.tensor([0, 2])).shape == (2, 4, 5)
