"""What every layer computes: the formula, and its derivatives, in every dtype and layout."""

import inspect

import pytest
import torch
from conformance import (
    CASES,
    LAZY,
    clone_state,
    each,
    each_class,
    gradients,
    in_training_and_evaluation,
    with_and_without_mask,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import normwise as nw
from tolerances import TOLERANCES, assert_close

# Layers that are not called as layer(x, mask), and where their promises are tested.
ELSEWHERE = {
    "AdaptiveInstanceNorm1d": "takes a style beside x: test_style.py",
    "AdaptiveInstanceNorm2d": "takes a style beside x: test_style.py",
    "ConditionalInstanceNorm1d": "takes the number of a style beside x: test_style.py",
    "ConditionalInstanceNorm2d": "takes the number of a style beside x: test_style.py",
    "Reversible": "is a model around a model: tests/surgery/test_swap.py",
    "ReversibleInstanceNorm": "returns what it took off beside y: test_reversible.py",
}


def test_every_layer_has_a_case():
    public = {getattr(nw, name) for name in nw.layers.__all__} - {nw.Normalization, nw.Lazy}
    layers = {thing for thing in public if inspect.isclass(thing)}
    layers = {layer for layer in layers if issubclass(layer, torch.nn.Module)}
    lazies = {layer.__name__ for layer in layers if issubclass(layer, nw.Lazy)}
    names = {layer.__name__ for layer in layers} - lazies
    assert {case.name for case in CASES} == names - set(ELSEWHERE)
    assert {case.lazy.__name__ for case in LAZY} == lazies - {f"Lazy{name}" for name in ELSEWHERE}


@each
@in_training_and_evaluation
@with_and_without_mask
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_the_formula_in_every_dtype(case, training, masked, dtype):
    layer, x = case.make(dtype).train(training), case.x(dtype)
    mask = case.mask() if masked else None
    truth = case.truth(layer, x, mask)
    y = layer(x, mask)
    assert y.dtype == dtype
    assert_close(y, truth)


@each
@with_and_without_mask
def test_an_offset_costs_no_digits(case, masked):
    layer, x = case.make(), case.x() + case.offset
    mask = case.mask() if masked else None
    assert_close(layer(x, mask), case.truth(layer, x, mask))


@each
@in_training_and_evaluation
@with_and_without_mask
def test_first_derivatives(case, training, masked):
    layer, mask = case.make(torch.float64).train(training), case.mask() if masked else None
    names = list(dict(layer.named_parameters()))

    def y(x, *parameters):
        return torch.func.functional_call(
            layer, dict(zip(names, parameters, strict=True)), (x, mask)
        )

    x = case.x(torch.float64).requires_grad_()
    # The formula behind it is checked entry by entry where it is defined; here along random lines.
    assert torch.autograd.gradcheck(y, (x, *layer.parameters()), fast_mode=True)


@each_class
def test_second_derivatives(case):
    layer = case.make(torch.float64)
    names = list(dict(layer.named_parameters()))

    def y(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    x = case.x(torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(y, (x, *layer.parameters()), fast_mode=True)


def moved(x):
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def transposed(x):
    return x.mT.contiguous().mT


def every_second(x):
    return torch.stack([x, torch.full_like(x, torch.nan)], dim=-1).flatten(-2)[..., ::2]


def expanded(x):
    return x[:1].expand(x.shape)


@each
@in_training_and_evaluation
@pytest.mark.parametrize("layout", [moved, transposed, every_second, expanded])
def test_every_memory_layout(case, training, layout):
    x = layout(case.x(torch.float64))
    cotangent = case.x(torch.float64, seed=3)
    y, found = gradients(case.make(torch.float64).train(training), x, cotangent)
    wanted_y, wanted = gradients(
        case.make(torch.float64).train(training), x.contiguous(), cotangent
    )
    assert_close(y, wanted_y)
    for name, gradient in wanted.items():
        assert_close(found[name], gradient, backward=True)


@each
@in_training_and_evaluation
def test_an_empty_batch_gives_an_empty_result_and_changes_nothing(case, training):
    layer = case.make().train(training)
    before = clone_state(layer)
    x = torch.empty(0, *case.shape[1:])
    assert layer(x).shape == layer(x, case.mask()[:0]).shape == x.shape
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@each
def test_the_input_is_left_as_it_was(case):
    layer, x, mask = case.make(), case.x(), case.mask()
    layer(x, mask)
    assert torch.equal(x, case.x())
    assert torch.equal(mask, case.mask())


@each_class
@settings(max_examples=12)
@given(data=st.data())
def test_any_size_layout_mask_and_offset(case, data):
    sizes = {i: data.draw(st.integers(2, 5), f"size {i}") for i in range(len(case.shape))}
    shape = [n if i in case.features else sizes[i] for i, n in enumerate(case.shape)]
    order = data.draw(st.permutations(range(len(shape))), "order in memory")
    steps = [data.draw(st.integers(1, 2), f"step {i}") for i in range(len(shape))]
    offset = data.draw(st.sampled_from([0.0, -3.0, case.offset]), "offset")
    seed = data.draw(st.integers(0, 99), "seed")
    draw = torch.Generator().manual_seed(seed)

    laid = torch.full([shape[i] * steps[i] for i in order], torch.nan)
    x = laid.permute([order.index(i) for i in range(len(shape))])
    x = x[tuple(slice(None, None, step) for step in steps)]
    x.copy_(torch.randn(shape, generator=draw) + offset)
    mask = None
    if data.draw(st.booleans(), "masked"):
        plain = [n for i, n in enumerate(shape) if i not in case.features]
        mask = torch.rand(plain, generator=draw) < 0.7
        mask[..., :2] = True  # so that no statistic is of one element
    layer = case.make().train(data.draw(st.booleans(), "training"))
    assert_close(layer(x, mask), case.truth(layer, x, mask))
