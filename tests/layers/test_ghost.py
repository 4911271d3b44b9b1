"""Ghost batch norm: each part of the batch as a batch of its own, whatever the last part's size."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import normwise as nw

SHAPES = {1: (7, 3, 5), 2: (7, 3, 2, 3), 3: (7, 3, 2, 2, 2)}


def one_by_one(norm, x, mask=None):
    """torch.nn's batch norm on each ghost's real positions; the statistics of each, too."""
    out, statistics = torch.zeros_like(x), []
    for start in range(0, len(x), norm.ghost_size):
        part = x[start : start + norm.ghost_size].transpose(0, 1)  # (C, n, …)
        real = torch.ones(part.shape[1:], dtype=torch.bool)
        if mask is not None:
            real = mask[start : start + norm.ghost_size]
        if not real.any():
            continue
        columns = part[:, real]  # (C, positions)
        plain = torch.nn.functional.batch_norm(
            columns.T, None, None, norm.weight, norm.bias, training=True, eps=norm.eps
        )
        filled = torch.zeros_like(part)
        filled[:, real] = plain.T
        out[start : start + norm.ghost_size] = filled.transpose(0, 1)
        statistics.append((columns.mean(1), columns.var(1)))
    means, variances = (torch.stack(s).mean(0) for s in zip(*statistics, strict=True))
    return out, 0.1 * means, 0.9 + 0.1 * variances


def made(ghost_size, dim=1, **keywords):
    norm = getattr(nw, f"GhostBatchNorm{dim}d")(ghost_size, 3, **keywords).double()
    torch.nn.init.uniform_(norm.weight)
    torch.nn.init.uniform_(norm.bias)
    return norm


@pytest.mark.parametrize("dim", SHAPES)
@pytest.mark.parametrize("ghost_size", [1, 2, 3, 7, 100])
def test_each_ghost_is_a_batch_of_its_own(dim, ghost_size):
    norm, x = made(ghost_size, dim), torch.randn(SHAPES[dim], dtype=torch.float64) * 3 + 5
    expected, mean, var = one_by_one(norm, x)
    torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)
    assert norm.num_batches_tracked == 1


@given(
    samples=st.integers(1, 9),
    ghost_size=st.integers(1, 10),
    size=st.integers(2, 5),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_masks(samples, ghost_size, size, data):
    lengths = data.draw(st.lists(st.integers(2, size), min_size=samples, max_size=samples))
    x = torch.randn(samples, 3, size, dtype=torch.float64)
    mask = nw.lengths_to_mask(lengths, size)
    norm = made(ghost_size)
    expected, mean, var = one_by_one(norm, x, mask)
    torch.testing.assert_close(norm(x.masked_fill(~mask[:, None], 1e8), mask), expected)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)


def test_a_ghost_of_padding_counts_for_nothing():
    norm, x = made(2), torch.randn(6, 3, 4, dtype=torch.float64)
    mask = nw.lengths_to_mask([4, 3, 0, 0, 2, 4])
    expected, mean, var = one_by_one(norm, x, mask)
    torch.testing.assert_close(norm(x, mask), expected)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)
    before = copy.deepcopy(norm.state_dict())
    assert (norm(x, torch.zeros(6, 4, dtype=torch.bool)) == 0).all()
    assert all(torch.equal(buffer, before[name]) for name, buffer in norm.state_dict().items())


def test_a_mask_over_time_alone_is_shared_by_all_samples():
    norm, x = made(2), torch.randn(5, 3, 4, dtype=torch.float64)
    mask = torch.tensor([True, True, False, True])
    expected, _, _ = one_by_one(norm, x, mask.expand(5, 4))
    torch.testing.assert_close(norm(x, mask), expected)


def test_padding_reaches_it():
    norm, x = made(2), torch.randn(5, 3, 4, dtype=torch.float64)
    lengths = [4, 2, 3, 1, 4]
    with nw.padding(lengths):
        y = norm(x)
    torch.testing.assert_close(y, norm(x, nw.lengths_to_mask(lengths)))


def test_evaluation_is_batch_norm_and_state_dicts_move():
    norm, x = made(2), torch.randn(5, 3, 4, dtype=torch.float64)
    norm(x)
    plain = torch.nn.BatchNorm1d(3).double()
    plain.load_state_dict(norm.state_dict())
    torch.testing.assert_close(norm.eval()(x), plain.eval()(x))
    assert isinstance(norm, torch.nn.BatchNorm1d)


def test_gradcheck():
    norm = made(2, track_running_stats=False)
    x = torch.randn(5, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_at_an_offset(dtype):
    x = (torch.randn(7, 3, 40) + 100).to(dtype)
    y = nw.GhostBatchNorm1d(2, 3)(x)
    expected, _, _ = one_by_one(nw.GhostBatchNorm1d(2, 3).double(), x.double())
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected, atol=10 * torch.finfo(dtype).eps, rtol=0)


@pytest.mark.parametrize("samples", [4, 5])
def test_compiles_without_a_break_and_travels(samples):
    norm = nw.GhostBatchNorm1d(2, 3)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(norm)))
    x = torch.randn(samples, 3, 4)
    compiled = torch.compile(twin, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), norm(x))
    torch.testing.assert_close(twin.running_var, norm.running_var)


def test_size_is_inferred():
    lazy = nw.make("ghost:4", dim=2)
    assert isinstance(lazy, nw.LazyGhostBatchNorm2d)
    lazy(torch.randn(6, 5, 3, 3))
    assert (type(lazy), lazy.num_features, lazy.ghost_size) == (nw.GhostBatchNorm2d, 5, 4)
    assert repr(lazy).startswith("GhostBatchNorm2d(4, 5, eps=")


def test_a_last_ghost_of_one_element_is_refused_and_changes_nothing():
    norm = made(2)
    with pytest.raises(nw.NormError) as error:
        norm(torch.randn(5, 3, dtype=torch.float64))
    assert str(error.value) == (
        "GhostBatchNorm1d would average over one element, [n] c [...], which erases the signal: "
        "received (5, 3) float64 on cpu; give it more samples or positions, or take another norm"
    )
    assert norm.num_batches_tracked == 0


@pytest.mark.parametrize("ghost_size", [0, 2.0, True])
def test_sizes_that_can_never_be_valid(ghost_size):
    with pytest.raises(nw.NormError) as error:
        nw.GhostBatchNorm1d(ghost_size, 3)
    assert str(error.value) == (
        "GhostBatchNorm1d takes ghost_size, in samples, as a whole number above 0, "
        f"received {ghost_size!r}"
    )


def test_candidate_takes_over_a_batch_norm():
    swapped = nw.swap(torch.nn.Sequential(torch.nn.BatchNorm1d(4)), "ghost:2,momentum=0.5")
    assert isinstance(swapped[0], nw.GhostBatchNorm1d)
    assert (swapped[0].ghost_size, swapped[0].momentum) == (2, 0.5)
    assert nw.find(swapped)[0].kind == "ghost"
