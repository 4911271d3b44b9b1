"""Cumulative layer norm: the past and nothing else, in one piece or in chunks, at any offset."""

import copy
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import normwise as nw


def formula(norm, x, mask=None):
    """Each position from all real ones up to it, in numpy float64."""
    x = x.double().numpy()
    y = np.zeros_like(x)
    for n in range(len(x)):
        real = np.ones(x.shape[2], dtype=bool) if mask is None else mask[n].numpy()
        for t in np.flatnonzero(real):
            past = x[n][:, : t + 1][:, real[: t + 1]]
            y[n, :, t] = (x[n, :, t] - past.mean()) / np.sqrt(past.var() + norm.eps)
            if norm.weight is not None:
                weight, bias = norm.weight.detach().double(), norm.bias.detach().double()
                y[n, :, t] = y[n, :, t] * weight.numpy() + bias.numpy()
    return torch.from_numpy(y)


def made(channels=3):
    norm = nw.CausalNorm1d(channels).double()
    for parameter in norm.parameters():
        torch.nn.init.uniform_(parameter, -1, 1)
    return norm


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(0, 8)),
    offset=st.sampled_from([0.0, -30.0, 1e4]),
    masked=st.booleans(),
    cuts=st.lists(st.integers(0, 8), max_size=4),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=60, deadline=None)
def test_formula_whole_and_in_chunks(shape, offset, masked, cuts, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, dtype=torch.float64, generator=generator) + offset
    mask = torch.rand(shape[0], shape[2], generator=generator) < 0.6 if masked else None
    norm = made(shape[1])
    whole = norm(x if mask is None else x.masked_fill(~mask[:, None], 1e9), mask)
    torch.testing.assert_close(whole, formula(norm, x, mask), rtol=1e-7, atol=1e-7)

    edges = [0, *sorted(min(cut, shape[2]) for cut in cuts), shape[2]]
    parts, state = [], None
    for start, end in pairwise(edges):
        chunk_mask = None if mask is None else mask[:, start:end]
        y, state = norm.stream(x[..., start:end], state, chunk_mask)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=1e-9, atol=1e-9)
    counted = torch.full((shape[0],), shape[2]) if mask is None else mask.sum(1)
    assert state.elements.flatten().tolist() == (counted * shape[1]).tolist()


def test_the_future_is_without_effect():
    norm, x = made(), torch.randn(2, 3, 9, dtype=torch.float64)
    changed = x.clone()
    changed[..., 5:] = 1e6
    torch.testing.assert_close(norm(changed)[..., :5], norm(x)[..., :5], rtol=0, atol=0)


@pytest.mark.parametrize("jump", [0.0, 1e4])
@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4, 1e6])
def test_float32_at_an_offset_is_within_rounding(offset, jump):
    x = torch.randn(2, 8, 500) + offset
    x[..., :50] += jump
    norm = nw.CausalNorm1d(8)
    exact = formula(norm, x)
    # eps of float32 about the largest output there is, twice for the two roundings it takes.
    bound = 4 * torch.finfo(torch.float32).eps * exact.abs().max().item()
    torch.testing.assert_close(norm(x).double(), exact, rtol=0, atol=bound)


def test_padded_series_are_as_alone():
    norm, x = made(), torch.randn(2, 3, 8, dtype=torch.float64)
    with nw.padding([8, 3]):
        y = norm(x)
        streamed, _ = norm.stream(x)
    torch.testing.assert_close(y[1:, :, :3], norm(x[1:, :, :3]))
    assert (y[1, :, 3:] == 0).all()
    torch.testing.assert_close(streamed, norm(x))  # `padding` speaks of whole series


def test_nan_in_the_padding_of_a_chunk_reaches_neither_values_nor_gradients():
    norm, x, mask = made(), torch.randn(2, 3, 6, dtype=torch.float64), nw.lengths_to_mask([6, 2])
    clean, _ = norm.stream(x, mask=mask)
    spoiled = x.masked_fill(~mask[:, None], torch.nan).requires_grad_()
    y, state = norm.stream(spoiled, mask=mask)
    y.square().sum().backward()
    torch.testing.assert_close(y, clean)
    assert spoiled.grad.isfinite().all()
    assert norm.weight.grad.isfinite().all()
    assert all(part.isfinite().all() for part in state)


def test_gradcheck():
    norm = made()
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    mask = nw.lengths_to_mask([4, 2])
    assert torch.autograd.gradcheck(norm, x)
    assert torch.autograd.gradcheck(lambda x: norm(x, mask), x)

    def in_two(x):
        first, state = norm.stream(x[..., :2])
        return torch.cat([first, norm.stream(x[..., 2:], state)[0]], 2)

    assert torch.autograd.gradcheck(in_two, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    x = (torch.randn(2, 3, 60) + 20).to(dtype)
    norm = nw.CausalNorm1d(3)
    assert norm(x).dtype == dtype
    torch.testing.assert_close(norm(x), formula(norm, x).to(dtype))
    assert norm.to(dtype)(x).isfinite().all()


def test_compiles_without_a_break_and_travels():
    norm = nw.CausalNorm1d(3)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(norm)))
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(torch.compile(twin, fullgraph=True, backend="eager")(x), norm(x))
    stream = torch.compile(twin.stream, fullgraph=True, backend="eager")
    _, state = stream(x[..., :5])
    torch.testing.assert_close(stream(x[..., 5:], state)[0], norm(x)[..., 5:])


def test_size_is_inferred_from_an_input_and_not_from_a_stream():
    lazy = nw.CausalNorm1d()
    with pytest.raises(nw.NormError) as error:
        lazy.stream(torch.randn(2, 5, 8))
    assert str(error.value) == (
        "LazyCausalNorm1d cannot learn its size from a stream; make it with num_features=5"
    )
    lazy(torch.randn(2, 5, 8))
    assert (type(lazy), lazy.num_features) == (nw.CausalNorm1d, 5)


def test_a_state_of_other_series_is_refused():
    norm = nw.CausalNorm1d(3)
    _, state = norm.stream(torch.randn(2, 3, 4))
    with pytest.raises(nw.NormError) as error:
        norm.stream(torch.randn(4, 3, 4), state)
    assert str(error.value) == (
        "the state is of 2 series, and x has 4: received (4, 3, 4); a stream keeps its series"
    )


def test_candidate():
    swapped = nw.swap(torch.nn.Sequential(torch.nn.BatchNorm1d(4)), "causal:eps=1e-3")
    assert isinstance(swapped[0], nw.CausalNorm1d)
    assert (nw.find(swapped)[0].kind, swapped[0].eps) == ("causal", 1e-3)
