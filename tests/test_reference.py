import math
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from normwise.axes import SCHEMES, Scheme, parse
from normwise.reference import (
    ACTIVATIONS,
    Moments,
    deviation,
    measure,
    normalize,
    scale,
    split,
    standardise,
    wide,
)
from tolerances import TOLERANCES, assert_close, error


@dataclass(frozen=True)
class Row:
    """One row of the table, and the key by which the oracle knows it."""

    name: str
    scheme: Scheme
    key: oracle.Key
    sizes: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


ROWS = [
    Row("batch", SCHEMES["batch"], oracle.batch),
    Row("instance", SCHEMES["instance"], oracle.instance),
    Row("group", SCHEMES["group"], oracle.group(channels_per_group=2), {"c": 2}),
    Row("layer", SCHEMES["layer"], oracle.channels),
    Row("rms", SCHEMES["rms"], oracle.channels),
    Row("whole sample", Scheme(parse("n [c ...]")), lambda n, *rest: n),
    Row("batch groups", Scheme(parse("[n] (g [c]) [...]")), lambda n, c, *t: c // 2, {"c": 2}),
    Row("ghosts", Scheme(parse("(ghost [n]) c [...]")), lambda n, c, *t: (n // 2, c), {"n": 2}),
]
EACH_ROW = pytest.mark.parametrize("row", ROWS, ids=str)


def expected(row, x, mask=None, **affine):
    along = {name: tensor.reshape(1, -1, *[1] * (x.dim() - 2)) for name, tensor in affine.items()}
    return oracle.normalized(x, row.key, real=mask, centres=row.scheme.centres, **along)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def contiguous(x):
    return x.contiguous()


def channels_last(x):
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def reversed_dimensions(x):
    return x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim())))


def every_second(x):
    return torch.stack([x, torch.full_like(x, math.nan)], dim=-1).flatten(-2)[..., ::2]


LAYOUTS = [contiguous, channels_last, reversed_dimensions, every_second]


@st.composite
def inputs(draw, dtypes=(torch.float32,), offsets=(0.0,)):
    """x (N, C, …) in any layout, with any offset, and a mask or None."""
    space = draw(st.lists(st.integers(1, 4), max_size=2))
    shape = (2 * draw(st.integers(1, 2)), 2 * draw(st.integers(1, 3)), *space)
    random = generator(draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from([1e-2, 1.0, 1e2]))
    offset = draw(st.sampled_from(offsets)) * spread
    x = torch.randn(shape, generator=random, dtype=torch.float64) * spread + offset
    x = draw(st.sampled_from(LAYOUTS))(x.to(draw(st.sampled_from(dtypes))))
    fill = draw(st.sampled_from([None, 0.0, 0.3, 0.8, 1.0]))
    mask = None
    if fill is not None:
        mask = torch.rand((shape[0], 1, *space), generator=random) < fill
    return x, mask


@EACH_ROW
@given(drawn=inputs(dtypes=tuple(TOLERANCES)))
def test_the_formula_in_every_dtype_and_layout(row, drawn):
    x, mask = drawn
    y, _ = normalize(x, row.scheme, mask=mask, sizes=row.sizes)
    assert y.dtype == x.dtype
    truth = expected(row, x, mask)
    assert_close(y, truth)


@EACH_ROW
@given(drawn=inputs(offsets=(1.0, 1e3, 1e4, -1e6, 1e6)))
def test_an_offset_of_any_size_costs_no_digits(row, drawn):
    x, mask = drawn
    y, moments = normalize(x, row.scheme, mask=mask, sizes=row.sizes)
    assert_close(y, expected(row, x, mask))
    assert moments.shift.dtype == moments.var.dtype == torch.float32


@EACH_ROW
@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_gradients_in_every_dtype_are_those_of_float64(row, dtype, offset):
    x = (torch.randn(4, 6, 8, generator=generator(0)) + offset).to(dtype)
    mask = torch.rand(4, 1, 8, generator=generator(1)) < 0.8
    cotangent = torch.randn(4, 6, 8, generator=generator(2)).to(dtype)

    def gradient(x):
        x = x.detach().requires_grad_()
        y, _ = normalize(x, row.scheme, mask=mask, sizes=row.sizes)
        return torch.autograd.grad(y, x, cotangent.to(x.dtype))[0]

    assert_close(gradient(x), gradient(x.double()), backward=True)


@EACH_ROW
def test_weight_and_bias_run_along_the_features(row):
    x = torch.randn(4, 6, 3, generator=generator(0))
    weight, bias = torch.randn(2, 6, generator=generator(1))
    y, _ = normalize(x, row.scheme, weight=weight, bias=bias, sizes=row.sizes)
    assert_close(y, expected(row, x, weight=weight, bias=bias))


@pytest.mark.parametrize("count", [1, 2])
def test_trailing_dimensions(count):
    x = torch.randn(3, 4, 5, generator=generator(0))
    weight, bias = torch.randn(2, *x.shape[-count:], generator=generator(1))
    names = "c" if count == 1 else "c1 c2"
    y, _ = normalize(x, Scheme(parse(f"... [{names}]")), weight=weight, bias=bias)
    assert_close(y, oracle.normalized(x, oracle.trailing(count), weight=weight, bias=bias))


MASKS = {
    "none": None,
    "full": torch.ones(4, 1, 3, dtype=torch.bool),
    "empty": torch.zeros(4, 1, 3, dtype=torch.bool),
    "ragged": torch.tensor([3, 1, 0, 2])[:, None, None] > torch.arange(3),
    "of one series for all": torch.tensor([[[True, False, True]]]),
}


@EACH_ROW
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_first_and_second_derivatives(row, mask):
    x = torch.randn(4, 4, 3, dtype=torch.float64, generator=generator(0), requires_grad=True)
    weight, bias = torch.randn(2, 4, dtype=torch.float64, generator=generator(1)).requires_grad_()

    def y(x, weight, bias):
        # eps is large, so that a variance of 0 leaves a derivative that differences can see.
        return normalize(
            x, row.scheme, weight=weight, bias=bias, mask=mask, sizes=row.sizes, eps=0.1
        )[0]

    assert torch.autograd.gradcheck(y, (x, weight, bias))
    assert torch.autograd.gradgradcheck(y, (x, weight, bias))


@EACH_ROW
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_derivatives_with_residual_and_activation(row, activation, masked):
    x, residual = torch.randn(2, 4, 4, 3, dtype=torch.float64, generator=generator(0))
    weight, bias = torch.randn(2, 4, dtype=torch.float64, generator=generator(1))
    arguments = [tensor.requires_grad_() for tensor in (x, residual, weight, bias)]
    mask = MASKS["ragged"] if masked else None

    def y(x, residual, weight, bias):
        affine = {"weight": weight, "bias": bias, "residual": residual}
        settings = {"mask": mask, "sizes": row.sizes, "eps": 0.1, "activation": activation}
        return normalize(x, row.scheme, **affine, **settings)[0]

    assert torch.autograd.gradcheck(y, arguments)
    assert torch.autograd.gradgradcheck(y, arguments)


def test_an_activation_leaves_0_as_it_is():
    for activation in ACTIVATIONS.values():  # so masking before it is masking after it
        assert not activation(torch.zeros(1)).any()


@EACH_ROW
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e38])
def test_what_is_masked_leaks_nowhere(row, junk):
    mask = MASKS["ragged"]
    clean = torch.randn(4, 4, 3, generator=generator(0))
    cotangent = torch.randn(4, 4, 3, generator=generator(1))

    def results(x):
        x = x.requires_grad_()
        weight, bias = torch.full((2, 4), 0.5).requires_grad_()
        y, moments = normalize(x, row.scheme, weight=weight, bias=bias, mask=mask, sizes=row.sizes)
        return y, *moments, *torch.autograd.grad(y, (x, weight, bias), cotangent)

    dirty = torch.where(mask, clean, junk)
    for found, wanted in zip(results(dirty), results(torch.where(mask, clean, 0)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    y, *_, x_gradient, _, _ = results(dirty)
    assert not y[~mask.expand_as(y)].any()
    assert not x_gradient[~mask.expand_as(y)].any()


@EACH_ROW
def test_nothing_real_has_mean_0_and_variance_1(row):
    x = torch.full((4, 4, 3), math.nan)
    y, moments = normalize(x, row.scheme, bias=torch.ones(4), mask=MASKS["empty"], sizes=row.sizes)
    assert not y.any()
    assert not moments.mean.any()
    assert (moments.var == 1).all()
    assert not moments.elements.any()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 4, 0), (0, 4, 0)])
@EACH_ROW
def test_an_empty_tensor_gives_an_empty_tensor(row, shape, masked):
    x = torch.empty(shape, requires_grad=True)
    mask = torch.ones(shape[0], 1, shape[2], dtype=torch.bool) if masked else None
    y, moments = normalize(x, row.scheme, mask=mask, sizes=row.sizes)
    y.sum().backward()
    assert y.shape == x.grad.shape == shape
    assert not moments.mean.any()
    assert (moments.var == 1).all()


@EACH_ROW
def test_a_full_mask_is_no_mask(row):
    x = torch.randn(4, 4, 3, generator=generator(0))
    masked, _ = normalize(x, row.scheme, mask=MASKS["full"], sizes=row.sizes)
    plain, _ = normalize(x, row.scheme, sizes=row.sizes)
    assert error(masked, plain) <= TOLERANCES[torch.float32].forward


@EACH_ROW
def test_the_moments_are_those_of_the_real_positions(row):
    x, mask = torch.randn(4, 4, 3, generator=generator(0)) + 7, MASKS["ragged"]
    _, moments = normalize(x, row.scheme, mask=mask, sizes=row.sizes)
    wanted = oracle.statistics(
        x.double().numpy(), row.key, mask.expand_as(x).numpy(), centres=row.scheme.centres
    )
    fitted = row.scheme.pattern.fit(3)
    like = split(x, fitted, row.sizes)
    found = torch.stack([m.expand_as(like).reshape(x.shape) for m in (moments.mean, moments.var)])
    for index in mask.expand_as(x).nonzero().tolist():
        mean, variance, _ = wanted[row.key(*index)]
        # One float32 holds the mean, and the variance is a sum of a few float32.
        assert found[(0, *index)] == pytest.approx(mean, rel=1e-6)
        assert found[(1, *index)] == pytest.approx(variance, rel=1e-6, abs=1e-12)


def test_moments_that_are_given_are_used_and_returned():
    x = torch.randn(2, 4, 3, generator=generator(0))
    foreign = Moments(torch.tensor(2.0), torch.tensor(0.5), torch.tensor(4.0), 0)
    y, used = normalize(x, SCHEMES["instance"], given=foreign, eps=0.0)
    assert used is foreign
    assert_close(y, (x.double() - 2.5) / 2)


def test_the_mean_is_taken_off_in_two_steps():
    x = torch.tensor([1e8, 1e8 + 8, 1e8 + 16])
    moments = measure(x, (0,))
    y = standardise(deviation(x, moments), moments.var, eps=0.0)
    assert_close(y, torch.tensor([-1.0, 0.0, 1.0]).double() * math.sqrt(1.5))


def test_split_takes_a_mask_of_size_1_apart_into_ones():
    fitted = parse("n (g [c]) t").fit(3)
    mask = torch.ones(2, 1, 5, dtype=torch.bool)
    assert split(mask, fitted, {"g": 2}).shape == (2, 1, 1, 5)
    assert split(torch.ones(2, 6, 5), fitted, {"g": 2}).shape == (2, 2, 3, 5)


@pytest.mark.parametrize(
    ("dtype", "accumulated"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_moments_are_accumulated_wide(dtype, accumulated):
    assert wide(torch.ones(2, dtype=dtype)).dtype == accumulated
    _, moments = normalize(torch.randn(2, 3, 4).to(dtype), SCHEMES["instance"])
    assert moments.mean.dtype == moments.var.dtype == accumulated


def test_scale_without_weight_and_bias_is_nothing():
    x = torch.randn(2, 3, generator=generator(0))
    assert scale(x, (1,), None, None) is x
