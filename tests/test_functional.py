"""The norms as functions: like torch's without a mask, like our layers with one."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

import normwise as nw
from normwise import functional as F
from tolerances import assert_close

X = torch.randn(4, 6, 10, generator=torch.Generator().manual_seed(0)) * 3 + 2
WEIGHT = torch.linspace(0.5, 1.5, 6)
BIAS = torch.linspace(-1, 1, 6)
LAST = (torch.linspace(0.5, 1.5, 10), torch.linspace(-1, 1, 10))
MASK = nw.lengths_to_mask([10, 7, 1, 0])

# function, its arguments after x, and the layer that does the same
CASES: list[tuple[str, tuple[Any, ...], Callable[[], torch.nn.Module]]] = [
    ("batch_norm", (None, None, WEIGHT, BIAS, True), lambda: nw.BatchNorm1d(6)),
    ("instance_norm", (None, None, WEIGHT, BIAS), lambda: nw.InstanceNorm1d(6, affine=True)),
    ("group_norm", (3, WEIGHT, BIAS), lambda: nw.GroupNorm(3, 6)),
    ("layer_norm", ((10,), *LAST), lambda: nw.LayerNorm(10)),
    ("layer_norm", ((6, 10), X[0], X[1]), lambda: nw.LayerNorm((6, 10))),
    ("rms_norm", ((10,), LAST[0]), lambda: nw.RMSNorm(10)),
]
NAMES = sorted(F.__all__)
IDS = [f"{name}-{len(arguments)}" for name, arguments, _ in CASES]


def with_tensors(layer: torch.nn.Module, arguments: tuple[Any, ...]) -> torch.nn.Module:
    tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
    for parameter, value in zip(layer.parameters(), tensors, strict=True):
        parameter.data = value
    return layer


def mask_for(layer: torch.nn.Module) -> torch.Tensor:
    if isinstance(layer, (nw.LayerNorm, nw.RMSNorm)):
        return MASK[:, 0] if len(layer.normalized_shape) == 2 else MASK[:, :6]
    return MASK


@pytest.mark.parametrize(("name", "arguments", "layer"), CASES, ids=IDS)
def test_without_a_mask_equals_torch(name, arguments, layer):
    assert_close(getattr(F, name)(X, *arguments), getattr(torch.nn.functional, name)(X, *arguments))


@pytest.mark.parametrize(("name", "arguments", "layer"), CASES, ids=IDS)
def test_with_a_mask_equals_the_layer(name, arguments, layer):
    layer = with_tensors(layer(), arguments)
    mask = mask_for(layer)
    assert torch.equal(getattr(F, name)(X, *arguments, mask=mask), layer(X, mask))


@pytest.mark.parametrize(("name", "arguments", "layer"), CASES, ids=IDS)
def test_with_activation_and_residual_equals_the_layer(name, arguments, layer):
    layer = with_tensors(layer(), arguments)
    layer.activation = "gelu"
    mask, more = mask_for(layer), {"residual": X.flip(0)}
    y = getattr(F, name)(X, *arguments, mask=mask, activation="gelu", **more)
    assert torch.equal(y, layer(X, mask, **more))


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_those_of_torch_and_then_ours(name):
    ours = inspect.signature(getattr(F, name)).parameters
    theirs = inspect.signature(getattr(torch.nn.functional, name)).parameters
    assert next(iter(ours)) == "x"
    assert list(ours)[1:-3] == list(theirs)[1:]
    assert list(ours)[-3:] == ["mask", "activation", "residual"]
    for parameter in list(theirs)[1:]:
        assert ours[parameter].default == theirs[parameter].default


@pytest.mark.parametrize("name", ["batch_norm", "instance_norm"])
def test_running_statistics_are_updated_in_place_as_torch_does(name):
    ours, theirs = ([torch.zeros(6), torch.ones(6)] for _ in range(2))
    for x in (X, X.flip(0) * 2):
        getattr(F, name)(x, *ours, None, None, True, 0.3)
        getattr(torch.nn.functional, name)(x, *theirs, None, None, True, 0.3)
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine, other)


@pytest.mark.parametrize("name", ["batch_norm", "instance_norm"])
def test_running_statistics_are_used_and_kept_in_inference(name):
    mean, var = BIAS.clone(), WEIGHT.clone()
    y = getattr(F, name)(X, mean, var, WEIGHT, BIAS, False)
    assert_close(y, torch.nn.functional.batch_norm(X, mean, var, WEIGHT, BIAS, False))
    assert torch.equal(mean, BIAS)
    assert torch.equal(var, WEIGHT)


def test_a_batch_without_a_real_position_changes_nothing():
    mean, var = BIAS.clone(), WEIGHT.clone()
    y = F.batch_norm(X, mean, var, training=True, mask=torch.zeros(4, 10, dtype=torch.bool))
    assert not y.any()
    assert torch.equal(mean, BIAS)
    assert torch.equal(var, WEIGHT)


def test_functions_do_not_hear_of_padding():
    with nw.padding([10, 7, 1, 1]):
        y = F.instance_norm(X)
    assert torch.equal(y, F.instance_norm(X))


def test_second_derivatives():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(4, dtype=torch.float64, generator=generator, requires_grad=True)
    mask = nw.lengths_to_mask([3, 2])
    for function in (
        lambda x, w: F.batch_norm(x, None, None, w, training=True, mask=mask),
        lambda x, w: F.group_norm(x, 2, w, mask=mask),
        lambda x, w: F.rms_norm(x.mT, 4, w, mask=mask),
    ):
        assert torch.autograd.gradcheck(function, (x, weight))
        assert torch.autograd.gradgradcheck(function, (x, weight))


NOT_KNOWN = "write one of 'relu', 'leaky_relu', 'gelu', 'silu', or None"

# what is written, and the sentence it is answered with
REFUSED = [
    (
        lambda: F.batch_norm(X, None, None),
        "batch_norm has no running statistics to use; give running_mean and running_var, or "
        "training=True",
    ),
    (
        lambda: F.instance_norm(X, use_input_stats=False),
        "instance_norm has no running statistics to use; give running_mean and running_var, or "
        "use_input_stats=True",
    ),
    (
        lambda: F.batch_norm(X, torch.zeros(6), None, training=True),
        "batch_norm needs running_mean and running_var, or neither",
    ),
    (
        lambda: F.batch_norm(X, torch.zeros(5), torch.ones(5)),
        "the running_mean of batch_norm must be of (6,), as x has it; received (5,) float32 on cpu "
        "for x (4, 6, 10)",
    ),
    (
        lambda: F.batch_norm(X, torch.zeros(6), torch.ones(6), momentum=None),
        "Running(momentum=None): must lie between 0 and 1; for the plain average write "
        "average='cumulative'",
    ),
    (
        lambda: F.group_norm(X, 4),
        "4 groups do not divide 6 channels; these do: 1, 2, 3, 6",
    ),
    (
        lambda: F.group_norm(X, 0),
        "num_groups must be a whole number above 0, received 0",
    ),
    (
        lambda: F.group_norm(X[0, 0], 2),
        "group_norm takes x of (N, C, …), received (10,) float32 on cpu",
    ),
    (
        lambda: F.instance_norm(X.long()),
        "instance_norm takes a floating tensor, received (4, 6, 10) int64 on cpu",
    ),
    (
        lambda: F.layer_norm(X, 6),
        "layer_norm over (6,) takes x that ends in these sizes, received (4, 6, 10) float32 on cpu",
    ),
    (
        lambda: F.rms_norm(X, ()),
        "rms_norm over () takes x that ends in these sizes, received (4, 6, 10) float32 on cpu",
    ),
    (
        lambda: F.layer_norm(X, 10, WEIGHT),
        "the weight of layer_norm must be of (10,), as x has it; received (6,) float32 on cpu "
        "for x (4, 6, 10)",
    ),
    (
        lambda: F.layer_norm(X[..., :1], 1),
        "layer_norm would average over one element, ... [c], which erases the signal: received "
        "(4, 6, 1) float32 on cpu; give it more samples or positions, or take another norm",
    ),
    (
        lambda: F.layer_norm(X, 10, activation="GELU"),
        f"layer_norm has no activation 'GELU'; {NOT_KNOWN}",
    ),
    (
        lambda: F.batch_norm(X, None, None, training=True, activation=torch.nn.ReLU()),
        f"batch_norm has no activation ReLU(); {NOT_KNOWN}",
    ),
    (
        lambda: F.rms_norm(X, 10, residual=X[:2]),
        "the residual of rms_norm must be floating, of x's shape and on its device; received "
        "(2, 6, 10) float32 on cpu for x (4, 6, 10) float32 on cpu",
    ),
    (
        lambda: F.instance_norm(X, mask=torch.ones(4, 9, dtype=torch.bool)),
        "the mask of instance_norm must be bool and fit x without its features, (4, 10): True "
        "where x is real; received (4, 9) bool on cpu for x (4, 6, 10)",
    ),
]


@pytest.mark.parametrize(("call", "sentence"), REFUSED, ids=[s[:40] for _, s in REFUSED])
def test_what_cannot_be_is_refused(call, sentence):
    with pytest.raises(nw.NormError) as caught:
        call()
    assert str(caught.value) == sentence


def test_a_refused_call_changes_nothing():
    mean, var = torch.zeros(6), torch.ones(6)
    with pytest.raises(nw.NormError, match="one element"):
        F.batch_norm(X[:1, :, :1], mean, var, training=True)
    assert not mean.any()
    assert torch.equal(var, torch.ones(6))
