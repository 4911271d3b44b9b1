"""What follows every norm: a residual and an activation."""

import copy
import pickle

import pytest
import torch
from conformance import (
    CASES,
    FIRST_OF_EACH,
    RANKS,
    assert_same_state,
    each,
    each_class,
    gradients,
    in_training_and_evaluation,
    with_and_without_mask,
)

import normwise as nw
import oracle
from normwise.reference import ACTIVATIONS
from tolerances import TOLERANCES, assert_close

# The classes whose constructor takes an activation.
FUSING = [
    *(f"{kind}{rank}" for kind in ("GroupNorm", "LayerNorm", "RMSNorm") for rank in ("", *RANKS)),
    *(f"{kind}{rank}" for kind in ("BatchNorm", "InstanceNorm") for rank in RANKS),
    *("SyncBatchNorm", "Norm", *(f"FrozenBatchNorm{rank}" for rank in RANKS)),
]
FUSING = [*FUSING, *(f"Lazy{name}" for name in FUSING), "Identity"]


each_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


def followed_by(layer, activation):
    layer.activation = activation
    return layer


@each
@in_training_and_evaluation
@with_and_without_mask
def test_a_residual_is_added_before_the_activation(case, training, masked):
    layer = followed_by(case.make().train(training), "silu")
    x, residual, mask = case.x(), case.x(seed=4), case.mask() if masked else None
    truth = case.truth(layer, x, mask, residual)
    assert_close(layer(x, mask, residual=residual), truth)


@each_class
@each_activation
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_each_activation_in_every_dtype(case, activation, dtype):
    layer, x = followed_by(case.make(dtype), activation), case.x(dtype)
    residual = case.x(torch.float64, seed=4) - 5
    truth = case.truth(layer, x, case.mask(), residual)
    y = layer(x, case.mask(), residual=residual)
    assert y.dtype == dtype
    assert_close(y, truth)
    assert (truth <= 0).any()
    assert (truth > 0).any()


@each
@in_training_and_evaluation
@each_activation
def test_padding_of_x_and_residual_reaches_nothing(case, training, activation):
    mask = case.mask()
    real = case.real(mask)
    x, residual, cotangent = case.x(), case.x(seed=4), case.x(seed=3)
    results = []
    for padding in (torch.nan, 0.0):
        layer = followed_by(case.make().train(training), activation)
        padded = (torch.where(real, tensor, padding) for tensor in (x, residual))
        y, found = gradients(layer, next(padded), cotangent, mask, residual=next(padded))
        results.append((y, found))
        assert not y[~real.expand_as(y)].any()
        assert not found["residual"][~real.expand_as(y)].any()
    (y, found), (wanted_y, wanted) = results
    assert torch.equal(y, wanted_y)
    for name, gradient in wanted.items():
        assert torch.equal(found[name], gradient), name


@pytest.mark.parametrize("case", [c for c in CASES if c.layer is nw.InstanceNorm1d], ids=str)
def test_a_residual_without_n(case):
    layer, x, residual = case.make().eval(), case.x(), case.x(seed=4)
    assert torch.equal(layer(x[0], residual=residual[0]), layer(x, residual=residual)[0])


@pytest.mark.parametrize("name", FUSING)
@each_activation
def test_an_activation_is_named_when_the_layer_is_made(name, activation):
    case = {case.name: case for case in CASES}[name.removeprefix("Lazy")]
    if name.startswith("Lazy"):
        arguments, keywords = case.unsized
    else:
        arguments, keywords = case.arguments, case.keywords
    plain = getattr(nw, name)(*arguments, **keywords)
    layer = getattr(nw, name)(*arguments, **keywords, activation=activation)
    assert repr(layer) == repr(plain)[:-1] + f", activation={activation!r})"
    x = case.x()
    assert_close(layer(x), oracle.activated(plain(x), activation))
    assert_same_state(layer, plain)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(again.eval()(x), layer.eval()(x))


@each_class
def test_a_layer_pickled_before_there_were_activations_runs(case):
    layer, x = case.make().eval(), case.x()
    y = layer(x)
    vars(layer).pop("activation", None)
    assert torch.equal(layer(x), y)
    assert "activation" not in repr(layer)


@pytest.mark.parametrize(
    "case", [c for c in FIRST_OF_EACH if c.name in FUSING and len(c.shape) == 3], ids=str
)
def test_activation_and_residual_compile_into_one_graph(case):
    torch._dynamo.reset()
    arguments = (case.x(), case.x(seed=3), case.mask())
    found, wanted = (
        gradients(wrapped(layer), *arguments, residual=case.x(seed=4))
        for wrapped in (lambda m: torch.compile(m, fullgraph=True, backend="eager"), lambda m: m)
        for layer in [followed_by(case.make(), "gelu")]
    )
    assert_close(found[0], wanted[0].double())
    for name, gradient in wanted[1].items():
        assert_close(found[1][name], gradient, backward=True)
