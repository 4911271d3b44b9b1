"""Reversible instance norm: there and back again, past gaps, padding and constant series."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import normwise as nw


def formula(x, keywords, mask=None):
    """One series at a time, in numpy, of the values that are there. Returns y, centre, scale."""
    y, centres, scales = np.zeros_like(x), *np.zeros((2, *x.shape[:2], 1))
    for n, c in np.ndindex(x.shape[:2]):
        real = ~np.isnan(x[n, c]) & (True if mask is None else mask[n])
        values = x[n, c, real]
        centre, spread = 0.0, 1.0
        if len(values) and keywords.get("statistics") == "median-mad":
            centre = np.median(values)
            spread = 1.4826022185056018 * np.median(np.abs(values - centre))
        elif len(values):
            centre, spread = values.mean(), values.std()
        elif keywords.get("statistics") == "median-mad":
            spread = 0.0
        if len(values) and keywords.get("subtract_last"):
            centre = values[-1]
        scale = np.sqrt(spread**2 + keywords.get("eps", 1e-5)) or 1.0
        y[n, c, real] = (values - centre) / scale
        centres[n, c], scales[n, c] = centre, scale
    return y, centres, scales


KINDS = [
    {},
    {"eps": 0.0},
    {"statistics": "median-mad"},
    {"statistics": "median-mad", "eps": 0.0, "subtract_last": True},
    {"subtract_last": True},
]


@st.composite
def gappy_series(draw):
    shape = draw(st.tuples(st.integers(1, 3), st.just(2), st.integers(1, 6)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    x = x * draw(st.sampled_from([0.0, 1.0, 1e-3])) + draw(st.sampled_from([0.0, 50.0, -1e4]))
    gaps = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    mask = torch.rand(shape[0], shape[2], generator=generator) < 0.8
    return x.masked_fill(gaps, torch.nan), draw(st.sampled_from([None, mask]))


@pytest.mark.parametrize("keywords", KINDS)
@given(series=gappy_series())
@settings(max_examples=40, deadline=None)
def test_formula_and_the_way_back(keywords, series):
    x, mask = series
    norm = nw.ReversibleInstanceNorm(2, **keywords).double()
    torch.nn.init.uniform_(norm.log_weight, -2, 2)
    torch.nn.init.uniform_(norm.bias)
    y, stats = norm(x, mask)
    expected, centre, scale = formula(x.numpy(), keywords, None if mask is None else mask.numpy())
    real = ~x.isnan() if mask is None else ~x.isnan() & mask[:, None]
    expected = torch.from_numpy(expected) * norm.log_weight.exp()[:, None] + norm.bias[:, None]
    torch.testing.assert_close(y, torch.where(real, expected, 0), rtol=1e-7, atol=1e-6)
    torch.testing.assert_close(stats.shift + stats.offset, torch.from_numpy(centre))
    torch.testing.assert_close(stats.scale, torch.from_numpy(scale), rtol=1e-7, atol=1e-9)
    back = norm.inverse(y, stats)
    torch.testing.assert_close(back[real], x[real], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4, 1e6])
def test_float32_comes_back_to_the_last_digit_at_any_offset(offset):
    x = torch.randn(4, 3, 200) + offset
    norm = nw.ReversibleInstanceNorm(3)
    y, stats = norm(x)
    exact, _ = copy.deepcopy(norm).double()(x.double())
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=3e-6)
    # The spacing of float32 near x, and the rounding of y, scaled back.
    spacing = torch.finfo(torch.float32).eps * (offset + 8)
    torch.testing.assert_close(norm.inverse(y, stats), x, rtol=0, atol=spacing)


def test_a_forecast_may_be_longer_and_have_other_channels():
    x = torch.randn(4, 3, 10, dtype=torch.float64) * 3 + 7
    norm = nw.ReversibleInstanceNorm(3).double()
    torch.nn.init.uniform_(norm.log_weight)
    torch.nn.init.uniform_(norm.bias)
    _, stats = norm(x)
    forecast = torch.randn(4, 3, 25, dtype=torch.float64)
    whole = norm.inverse(forecast, stats)
    assert whole.shape == (4, 3, 25)
    for channels in ([2], [2, 0], (0, -1)):
        part = norm.inverse(forecast[:, list(channels)], stats, channels=channels)
        torch.testing.assert_close(part, whole[:, list(channels)])
    mask = nw.lengths_to_mask([25, 3, 0, 9])
    masked = norm.inverse(forecast, stats, mask=mask)
    torch.testing.assert_close(masked, whole * mask[:, None])


def test_two_series_in_turn_do_not_meet():
    norm = nw.ReversibleInstanceNorm(3, affine=False)
    first, second = torch.randn(2, 3, 8), torch.randn(5, 3, 9) * 100 + 3
    y_first, stats_first = norm(first)
    y_second, stats_second = norm(second)
    torch.testing.assert_close(norm.inverse(y_first, stats_first), first)
    torch.testing.assert_close(norm.inverse(y_second, stats_second), second)
    assert norm.state_dict() == {}


def test_one_outlier_moves_the_mean_and_not_the_median():
    x = torch.randn(1, 1, 101)
    spoiled = x.clone()
    spoiled[..., 50] = 1e6
    for kind, moves in (("mean-std", True), ("median-mad", False)):
        norm = nw.ReversibleInstanceNorm(1, statistics=kind)
        clean, after = norm(x)[1], norm(spoiled)[1]
        assert (after.scale > 2 * clean.scale).item() is moves


@pytest.mark.parametrize("keywords", KINDS)
def test_gaps_and_constants_leave_gradients_finite(keywords):
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    x[0, 0] = torch.nan
    x[0, 1] = 4.0
    x[1, :, 3] = torch.nan
    x.requires_grad_()
    norm = nw.ReversibleInstanceNorm(3, **keywords).double()
    y, stats = norm(x)
    (y.square().sum() + norm.inverse(y, stats).square().sum()).backward()
    assert x.grad.isfinite().all()
    assert norm.log_weight.grad.isfinite().all()


@pytest.mark.parametrize("statistics", ["mean-std", "median-mad"])
def test_gradcheck(statistics):
    norm = nw.ReversibleInstanceNorm(2, statistics=statistics).double()
    x = torch.randn(2, 2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: norm(x)[0], x)
    y, stats = norm(x.detach())
    assert torch.autograd.gradcheck(lambda y: norm.inverse(y, stats), y.detach().requires_grad_())


def test_padded_series_are_as_alone():
    x = torch.randn(2, 3, 9)
    norm = nw.ReversibleInstanceNorm(3)
    with nw.padding([9, 4]):
        y, stats = norm(x)
    alone, stats_alone = norm(x[1:, :, :4])
    torch.testing.assert_close(y[1:, :, :4], alone)
    torch.testing.assert_close(stats.scale[1:], stats_alone.scale)
    assert (y[1, :, 4:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_wide_statistics(dtype):
    x = (torch.randn(2, 3, 50) + 30).to(dtype)
    norm = nw.ReversibleInstanceNorm(3).to(dtype)
    y, stats = norm(x)
    exact, _ = copy.deepcopy(norm).double()(x.double())
    assert (y.dtype, stats.scale.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=4 * torch.finfo(dtype).eps)
    torch.testing.assert_close(norm.inverse(y, stats), x, rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_size_is_inferred():
    norm = nw.ReversibleInstanceNorm(eps=0.0)
    assert isinstance(norm, nw.LazyReversibleInstanceNorm)
    x = torch.randn(2, 5, 8)
    y, stats = norm(x, mask=None)
    assert (type(norm), norm.log_weight.shape) == (nw.ReversibleInstanceNorm, (5,))
    torch.testing.assert_close(norm.inverse(y, stats), x)


@pytest.mark.parametrize("keywords", KINDS)
def test_compiles_without_a_break_and_travels(keywords):
    norm = nw.ReversibleInstanceNorm(3, **keywords)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(norm)))

    @torch.compile(fullgraph=True, backend="eager")
    def there_and_back(x):
        y, stats = twin(x)
        return twin.inverse(y[:, 1:], stats, channels=[1, 2])

    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(there_and_back(x), x[:, 1:])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: nw.ReversibleInstanceNorm(3, statistics="mode"),
            "ReversibleInstanceNorm(statistics='mode') is not known; "
            "write one of 'mean-std', 'median-mad'",
        ),
        (
            lambda: nw.ReversibleInstanceNorm(3, eps=-1.0),
            "ReversibleInstanceNorm(eps=-1.0): must not be below 0",
        ),
        (
            lambda: nw.ReversibleInstanceNorm(3)(torch.randn(2, 3, 0)),
            "ReversibleInstanceNorm needs at least one position, received (2, 3, 0) float32 on cpu",
        ),
        (
            lambda: inverse_of(torch.randn(2, 1, 5)),
            "ReversibleInstanceNorm.inverse takes y of 2 series and 3 channels, (N, C, T), "
            "received (2, 1, 5) float32 on cpu; where y has some of the channels only, say which: "
            "channels=[…]",
        ),
        (
            lambda: inverse_of(torch.randn(2, 1, 5), channels=[3]),
            "channels=[3] are not all among the 3 of stats",
        ),
        (
            lambda: inverse_of(torch.randn(2, 3, 5), norm=nw.ReversibleInstanceNorm(4)),
            "stats of 3 channels do not come from this ReversibleInstanceNorm of 4",
        ),
    ],
)
def test_says_what_does_not_fit(call, sentence):
    with pytest.raises(nw.NormError) as error:
        call()
    assert str(error.value) == sentence


def inverse_of(y, channels=None, norm=None):
    made = nw.ReversibleInstanceNorm(3)
    _, stats = made(torch.randn(2, 3, 4))
    return (norm or made).inverse(y, stats, channels)


@pytest.mark.parametrize(("length", "mask"), [(5, torch.ones(2, 6) > 0), (0, None)])
def test_it_stays_lazy_if_its_first_call_is_refused(length, mask):
    for norm in (nw.ReversibleInstanceNorm(), nw.LazyReversibleInstanceNorm()):
        with pytest.raises(nw.NormError):
            norm(torch.randn(2, 4, length), mask)
        assert type(norm) is nw.LazyReversibleInstanceNorm
        assert not norm.is_sized
        assert norm(torch.randn(2, 4, 5))[0].shape == (2, 4, 5)
