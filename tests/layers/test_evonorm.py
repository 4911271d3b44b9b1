"""EvoNorm S0 and B0: the formulas the search found, one sample and channel at a time."""

import copy
import pickle

import numpy as np
import pytest
import torch

import normwise as nw

SHAPES = {1: (3, 4, 6), 2: (3, 4, 3, 2)}


def formula(norm, x, mask=None):
    """x (N, C, …), mask (N, …); running_var in evaluation."""
    x = x.double().detach().numpy()
    real = np.ones((len(x), *x.shape[2:]), dtype=bool) if mask is None else mask.numpy()
    weight, bias, slope = (
        p.detach().double().numpy() for p in (norm.weight, norm.bias, norm.slope)
    )
    y = np.zeros_like(x)
    for n, c in np.ndindex(x.shape[:2]):
        values = x[n, c][real[n]]
        if hasattr(norm, "running_var"):
            batch_var = np.moveaxis(x, 1, 0)[c][real].var()
            if not norm.training:
                batch_var = norm.running_var[c].item()
            own = np.sqrt(values.var() + norm.eps)
            divisor = np.maximum(np.sqrt(batch_var + norm.eps), slope[c] * values + own)
            values = values / divisor
        else:
            width = x.shape[1] // (norm.num_groups or x.shape[1])  # up to 32 channels
            group = x[n, c // width * width :][:width][:, real[n]]
            gate = 1 / (1 + np.exp(-slope[c] * values))
            values = values * gate / np.sqrt(group.var() + norm.eps)
        y[n, c][real[n]] = values * weight[c] + bias[c]
    return torch.from_numpy(y)


def made(kind, dim=1, **keywords):
    norm = getattr(nw, f"EvoNorm{kind}{dim}d")(4, **keywords).double()
    for parameter in norm.parameters():
        torch.nn.init.uniform_(parameter, -1, 1)
    return norm


KINDS = [("S0", {}), ("S0", {"num_groups": 2}), ("B0", {})]


@pytest.mark.parametrize("dim", SHAPES)
@pytest.mark.parametrize(("kind", "keywords"), KINDS)
def test_formula_in_training_and_evaluation(kind, keywords, dim):
    norm = made(kind, dim, **keywords)
    x = torch.randn(SHAPES[dim], dtype=torch.float64) * 3 + 1
    torch.testing.assert_close(norm(x), formula(norm, x))
    norm.eval()
    torch.testing.assert_close(norm(x), formula(norm, x))


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 24), (31, 31), (33, 11), (37, 1)])
def test_s0_takes_as_many_groups_as_the_authors_do(channels, groups):
    x = torch.randn(2, channels, 6)
    usual, explicit = nw.EvoNormS01d(channels), nw.EvoNormS01d(channels, num_groups=groups)
    assert torch.equal(usual(x), explicit(x))


@pytest.mark.parametrize("norm", [nw.EvoNormS01d(4), nw.EvoNormB01d(4)])
def test_starts_as_in_the_authors_code(norm):
    assert norm.eps == 1e-5
    assert norm.weight.eq(1).all()
    assert norm.slope.eq(1).all()
    assert norm.bias.eq(0).all()
    if hasattr(norm, "running_var"):
        assert (norm.momentum, norm.running_var.tolist()) == (0.1, [1] * 4)


@pytest.mark.parametrize("momentum", [0.1, 0.4, None])
def test_b0_remembers_the_variance_batch_norm_does(momentum):
    norm, plain = nw.EvoNormB01d(4, momentum=momentum), nw.BatchNorm1d(4, momentum=momentum)
    for _ in range(3):
        x = torch.randn(3, 4, 6) * 3
        norm(x), plain(x)
    torch.testing.assert_close(norm.running_var, plain.running_var)
    assert norm.num_batches_tracked == 3
    assert list(norm.state_dict()) == [
        "weight", "bias", "slope", "running_var", "num_batches_tracked"
    ]  # fmt: skip


@pytest.mark.parametrize(("kind", "keywords"), KINDS)
def test_masks(kind, keywords):
    norm, x = made(kind, **keywords), torch.randn(3, 4, 6, dtype=torch.float64)
    mask = nw.lengths_to_mask([6, 2, 4])
    y = norm(x.masked_fill(~mask[:, None], 1e3), mask)
    torch.testing.assert_close(y, formula(norm, x, mask))
    norm.eval()
    with nw.padding([6, 2, 4]):
        y = norm(x)
    torch.testing.assert_close(y[1:2, :, :2], norm(x[1:2, :, :2]))
    assert (y[1, :, 2:] == 0).all()


@pytest.mark.parametrize(("kind", "keywords"), KINDS)
def test_gradcheck(kind, keywords):
    norm = made(kind, **keywords)
    if kind == "B0":
        norm.eval()
        norm.running_var.uniform_(0.5, 1.5)
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in norm.named_parameters()]

    def of_everything(x, *values):
        return torch.func.functional_call(norm, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(of_everything, (x, *norm.parameters()))


def test_b0_gradient_passes_through_the_batch_variance():
    norm = made("B0")
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: copy.deepcopy(norm)(x), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("kind", "keywords"), KINDS)
def test_half_precision(kind, keywords, dtype):
    norm, x = made(kind, **keywords).to(dtype), torch.randn(3, 4, 50).to(dtype)
    assert norm(x).dtype == dtype
    torch.testing.assert_close(
        norm(x).double(), formula(norm, x), atol=4 * torch.finfo(dtype).eps, rtol=1e-2
    )


@pytest.mark.parametrize(("kind", "keywords"), KINDS)
def test_compiles_without_a_break_and_travels(kind, keywords):
    norm, x = made(kind, **keywords), torch.randn(3, 4, 6, dtype=torch.float64)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(norm)))
    compiled = torch.compile(twin, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), norm(x))


@pytest.mark.parametrize(
    ("candidate", "kind"), [("evonorm-s0:num_groups=2", "S0"), ("evonorm-b0:momentum=0.5", "B0")]
)
def test_candidates_and_sizes_inferred(candidate, kind):
    lazy = nw.make(candidate, dim=2)
    assert type(lazy).__name__ == f"LazyEvoNorm{kind}2d"
    lazy(torch.randn(2, 6, 3, 3))
    assert (type(lazy).__name__, lazy.slope.shape) == (f"EvoNorm{kind}2d", (6,))
    loaded = nw.make(candidate, dim=2)
    loaded.load_state_dict(lazy.state_dict())
    x = torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(loaded.eval()(x), lazy.eval()(x))
    swapped = nw.swap(torch.nn.Sequential(torch.nn.BatchNorm1d(4)), candidate)
    assert nw.find(swapped)[0].kind == candidate.partition(":")[0]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: nw.EvoNormS01d(4, num_groups=3),
            "3 groups do not divide 4 channels; these do: 1, 2, 4",
        ),
        (
            lambda: nw.EvoNormS01d(num_groups=3)(torch.randn(2, 4, 5)),
            "3 groups do not divide 4 channels; these do: 1, 2, 4",
        ),
        (
            lambda: nw.EvoNormB01d(4, momentum=2),
            "Running(momentum=2): must lie between 0 and 1",
        ),
        (
            lambda: nw.EvoNormB01d(4)(torch.randn(1, 4, 1)),
            "EvoNormB01d would average over one element, [n] c [...], which erases the signal: "
            "received (1, 4, 1) float32 on cpu; give it more samples or positions, or take "
            "another norm",
        ),
    ],
)
def test_says_what_does_not_fit(call, sentence):
    with pytest.raises(nw.NormError) as error:
        call()
    assert str(error.value) == sentence


def test_b0_starts_anew():
    norm, new = nw.EvoNormB01d(4), nw.EvoNormB01d(4)
    norm(torch.randn(3, 4, 5))
    norm.reset_parameters()
    for name, tensor in new.state_dict().items():
        assert torch.equal(norm.state_dict()[name], tensor), name
