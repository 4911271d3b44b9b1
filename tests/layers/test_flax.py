"""flax.nnx has norms with masks, too: its results in float64 are what ours come to.

flax takes features last and a mask of x's rank, and leaves what it computes at masked
positions in; where a statistic has no real position, that is NaN. So results are
compared where they are real. `use_fast_variance=False` asks it for two passes: its
default, E[x²] - E[x]², loses the digits that are compared here.
"""

import numpy as np
import pytest
import torch

import normwise as nw
from tolerances import assert_close

pytestmark = pytest.mark.slow

C = 6
EPS = 1e-3
SPACES = {1: (9,), 2: (4, 3)}


MADE_WITH = {  # by the name that both have: what ours takes, what flax's takes beside C and eps
    "BatchNorm": ((C, EPS), {}),
    "InstanceNorm": ((C, EPS, 0.1, True), {}),
    "GroupNorm": ((3, C, EPS), {"num_groups": 3}),
    "LayerNorm": ((C, EPS), {}),
    "RMSNorm": ((C, EPS), {}),
}
each_name = pytest.mark.parametrize("name", MADE_WITH)
each_space = pytest.mark.parametrize("dim", SPACES, ids=lambda dim: f"{dim}d")
each_mask = pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])


@pytest.fixture(scope="module")
def nnx():
    """flax.nnx, computing in float64."""
    reason = "compares with flax.nnx, which `make test-all` installs (Python 3.11 or newer)"
    jax = pytest.importorskip("jax", reason=reason)
    nnx = pytest.importorskip("flax.nnx", reason=reason)
    with jax.enable_x64(True):
        yield nnx


def made(name, dim, nnx):
    """Our layer in float64, and flax's with the same parameters."""
    import jax

    arguments, keywords = MADE_WITH[name]
    ours = getattr(nw, f"{name}{dim}d")(*arguments).double()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=draw) + 0.5)
    keywords = {**keywords, "epsilon": EPS, "use_fast_variance": False, "param_dtype": "float64"}
    theirs = getattr(nnx, name)(C, **keywords, rngs=nnx.Rngs(0))
    for key, parameter in ours.named_parameters():
        getattr(theirs, {"weight": "scale"}.get(key, key))[...] = parameter.detach().numpy()
    if name == "BatchNorm":  # what it remembers is float32, whatever it is asked for
        theirs.mean, theirs.var = (
            nnx.BatchStat(jax.numpy.array(start)) for start in (np.zeros(C), np.ones(C))
        )
    return ours, theirs


def drawn(dim, masked, offset=3.0):
    """x (N, C, …) and a mask (N, …) that leaves every sample a few real positions."""
    draw = torch.Generator().manual_seed(1)
    x = 2 * torch.randn(4, C, *SPACES[dim], generator=draw).double() + offset
    mask = torch.rand(4, *SPACES[dim], generator=draw) < (0.6 if masked else 2)
    mask[:, ..., :2] = True
    return x, mask


def last(x):
    """Features last, as flax has them."""
    return x.detach().movedim(1, -1).numpy()


def broad(mask):
    """A mask of x's shape, features last: flax's group norm splits its features, too."""
    return np.repeat(mask[..., None].numpy(), C, axis=-1)


def first(y):
    """What flax returned, with features where torch has them."""
    return torch.from_numpy(np.array(y)).movedim(-1, 1)


def real(y, mask):
    """The results at real positions, (positions, C)."""
    return y.movedim(1, -1)[mask]


@each_name
@each_space
@each_mask
@pytest.mark.parametrize(
    ("dtype", "offset"),
    [(torch.float64, 3.0), (torch.float32, 3.0), (torch.float32, 1e4)],
    ids=["float64", "float32", "float32-far-from-0"],
)
def test_outputs_are_flaxs(name, dim, masked, dtype, offset, nnx):
    ours, theirs = made(name, dim, nnx)
    x, mask = drawn(dim, masked, offset)
    x = x.to(dtype)  # rounded for both
    y = ours.to(dtype)(x, mask if masked else None)
    truth = first(theirs(last(x.double()), mask=broad(mask) if masked else None))
    assert y.dtype == dtype
    assert_close(real(y, mask), real(truth, mask))
    assert real(y, ~mask).eq(0).all()


@each_name
@each_space
@each_mask
def test_gradients_are_flaxs(name, dim, masked, nnx):
    import jax

    ours, _ = made(name, dim, nnx)
    x, mask = drawn(dim, masked)
    cotangent = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).reshape(x.shape)
    cotangent = cotangent * mask[:, None]
    where = broad(mask) if masked else None

    def through_theirs(x):  # made inside, because what it remembers cannot change from outside
        return made(name, dim, nnx)[1](x, mask=where)

    _, backward = jax.vjp(through_theirs, last(x))
    (truth,) = backward(last(cotangent))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(ours(x, mask if masked else None), x, cotangent)
    assert_close(real(gradient, mask), real(first(truth), mask), backward=True)
    assert real(gradient, ~mask).eq(0).all()


@each_space
@each_mask
def test_batch_norm_remembers_what_flax_does_but_for_the_unbiased_variance(dim, masked, nnx):
    ours, theirs = made("BatchNorm", dim, nnx)
    theirs.momentum = 1 - ours.momentum  # the share of the old there, of the new here
    x, mask = drawn(dim, masked)
    ours(x, mask if masked else None)
    theirs(last(x), mask=broad(mask) if masked else None)
    torch.testing.assert_close(ours.running_mean, torch.from_numpy(np.array(theirs.mean[...])))
    count, kept = int(mask.sum()), 1 - ours.momentum  # of the 1 that both started with
    biased = kept + (ours.running_var - kept) * (count - 1) / count
    torch.testing.assert_close(biased, torch.from_numpy(np.array(theirs.var[...])))
