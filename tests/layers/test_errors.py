"""What the layers refuse, in whole sentences."""

import numpy as np
import pytest
import torch

import normwise as nw

F32 = "float32 on cpu"
SIZE = "takes its number of features as a whole number above 0, received"
INFER = "leave it out to have it inferred"
ONE = "would average over one element"
ERASES = (
    "which erases the signal: received {}; give it more samples or positions, or take another norm"
)

CONSTRUCTORS = [
    (lambda: nw.BatchNorm1d(0), f"BatchNorm1d {SIZE} 0; {INFER}"),
    (lambda: nw.RMSNorm2d(-3), f"RMSNorm2d {SIZE} -3; {INFER}"),
    (lambda: nw.InstanceNorm1d("8"), f"InstanceNorm1d {SIZE} '8'; {INFER}"),
    (lambda: nw.DynamicTanh(True), f"DynamicTanh {SIZE} True; {INFER}"),
    (
        lambda: nw.LazyBatchNorm1d(1e-3),
        f"LazyBatchNorm1d {SIZE} 0.001; {INFER}; eps has to be named: eps=…",
    ),
    (lambda: nw.DynamicTanh(np.True_), f"DynamicTanh {SIZE} np.True_; {INFER}"),
    (lambda: nw.LayerNorm((4, 0)), f"LayerNorm {SIZE} 0; {INFER}"),
    (lambda: nw.LayerNorm(()), "LayerNorm needs at least one dimension, received ()"),
    (lambda: nw.GroupNorm(3, 8), "3 groups do not divide 8 channels; these do: 1, 2, 4, 8"),
    (lambda: nw.GroupNorm1d(0, 8), "num_groups must be a whole number above 0, received 0"),
    (lambda: nw.GroupNorm(2.0, 8), "num_groups must be a whole number above 0, received 2.0"),
    (lambda: nw.BatchNorm2d(8, eps=0), "BatchNorm2d needs an eps above 0, received 0"),
    (lambda: nw.BatchNorm1d(8, momentum=2), "Running(momentum=2): must lie between 0 and 1"),
]

NO_TANH = "has no activation 'tanh'; write one of 'relu', 'leaky_relu', 'gelu', 'silu', or None"
CONSTRUCTORS += [
    (lambda layer=layer, a=arguments: layer(*a, activation="tanh"), f"{layer.__name__} {NO_TANH}")
    for layer, arguments in [
        *((nw.BatchNorm1d, (3,)), (nw.LazyBatchNorm2d, ()), (nw.SyncBatchNorm, (3,))),
        *((nw.InstanceNorm3d, (3,)), (nw.GroupNorm, (1, 3)), (nw.LayerNorm, (3,))),
        *((nw.LayerNorm1d, (3,)), (nw.RMSNorm, (3,)), (nw.RMSNorm2d, (3,))),
        *((nw.FrozenBatchNorm1d, (3,)), (nw.Norm, ("n c [t]",)), (nw.Identity, (3,))),
    ]
]

BATCH, INSTANCE, GROUP = nw.BatchNorm1d(3), nw.InstanceNorm1d(3), nw.GroupNorm(3, 3)
LAYER, CHANNELS = nw.LayerNorm((2, 3)), nw.LayerNorm1d(3)
FEATURES = "was made for 3 features, and x has 4: received"
MAKE = "make it with 4, or without a number to have it inferred"

CALLS = [
    # layer, shape of x, sentence with the shape left open
    (BATCH, (2, 4, 5), f"BatchNorm1d {FEATURES} {{}}; {MAKE}"),
    (INSTANCE, (4, 5), f"InstanceNorm1d {FEATURES} {{}}; {MAKE}"),
    (nw.RMSNorm(3), (2, 5, 4), f"RMSNorm {FEATURES} {{}}; {MAKE}"),
    (
        *(LAYER, (2, 2, 4)),
        "LayerNorm was made for (2, 3) features, and x has (2, 4): received {}; "
        "make it with (2, 4), or without a number to have it inferred",
    ),
    (
        *(BATCH, (2, 3, 4, 5)),
        "BatchNorm1d takes x of (N, C, T) or (N, C), received {}; that is for BatchNorm2d",
    ),
    (
        *(INSTANCE, (2, 3, 4, 5)),
        "InstanceNorm1d takes x of (N, C, T) or (C, T), received {}; that is for InstanceNorm2d",
    ),
    (
        *(nw.GroupNorm3d(1, 3), (2, 3, 4)),
        "GroupNorm3d takes x of (N, C, D, H, W), received {}; that is for GroupNorm1d",
    ),
    (CHANNELS, (3,), "LayerNorm1d takes x of (N, C, T) or (N, C), received {}"),
    (BATCH, (1, 3, 1), f"BatchNorm1d {ONE}, [n] c [...], {ERASES}"),
    (INSTANCE, (2, 3, 1), f"InstanceNorm1d {ONE}, n c [...], {ERASES}"),
    (GROUP, (2, 3), f"GroupNorm {ONE}, n (g [c]) [...], {ERASES}"),
    (nw.LayerNorm1d(1), (2, 1, 5), f"LayerNorm1d {ONE}, n [c] ..., {ERASES}"),
    (nw.LazyGroupNorm1d(2), (2, 3, 5), "2 groups do not divide 3 channels; these do: 1, 3"),
]

X = torch.ones(2, 3, 5)
MASKS = [
    # layer, x, mask; what has to fit, what was received
    (BATCH, X, torch.ones(2, 5), "(2, 5)", f"(2, 5) {F32}"),
    (BATCH, X, torch.ones(2, 3, 5) > 0, "(2, 5)", "(2, 3, 5) bool on cpu"),
    (CHANNELS, X, torch.ones(2, 4) > 0, "(2, 5)", "(2, 4) bool on cpu"),
    (nw.LayerNorm(5), X, torch.ones(2, 5) > 0, "(2, 3)", "(2, 5) bool on cpu"),
    (nw.Identity(3), X, [True], "(2, 5)", "list [True]"),
    (INSTANCE, X[:1], [True], "(1, 5)", "list [True]"),
]

RESIDUALS = [
    # layer, residual, what was received
    (BATCH, torch.ones(2, 3, 4), f"(2, 3, 4) {F32}"),
    (LAYER, torch.ones(1, 3, 5), f"(1, 3, 5) {F32}"),
    (INSTANCE, X.long(), "(2, 3, 5) int64 on cpu"),
    (CHANNELS, X.to("meta"), "(2, 3, 5) float32 on meta"),
    (nw.DynamicTanh(3), 1.0, "float 1.0"),
    (nw.Identity(3), torch.ones(3, 5), f"(3, 5) {F32}"),
]


def refusal(call):
    with pytest.raises(nw.NormError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(("construct", "sentence"), CONSTRUCTORS)
def test_what_can_never_be_valid_is_refused_at_once(construct, sentence):
    assert refusal(construct) == sentence


@pytest.mark.parametrize("whole", [np.int64, np.uint8])
def test_whole_numbers_may_come_from_elsewhere(whole):
    for layer, same in [
        (nw.BatchNorm1d(whole(8)), nw.BatchNorm1d(8)),
        (nw.InstanceNorm1d(num_features=whole(8)), nw.InstanceNorm1d(8)),
        (nw.GroupNorm(whole(4), whole(8)), nw.GroupNorm(4, 8)),
        (nw.LayerNorm(whole(8)), nw.LayerNorm(8)),
        (nw.RMSNorm([whole(2), 8]), nw.RMSNorm((2, 8))),
        (nw.Norm("n c [t]", c=whole(8)), nw.Norm("n c [t]", c=8)),
        (nw.GhostBatchNorm1d(whole(4), whole(8)), nw.GhostBatchNorm1d(4, 8)),
        (nw.EvoNormS01d(whole(8), whole(4)), nw.EvoNormS01d(8, 4)),
        (nw.ConditionalInstanceNorm1d(whole(3), 8), nw.ConditionalInstanceNorm1d(3, 8)),
    ]:
        assert repr(layer) == repr(same)
        assert layer.is_sized
    x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(nw.functional.layer_norm(x, whole(8)), nw.functional.layer_norm(x, 8))
    assert torch.equal(nw.functional.group_norm(x, whole(2)), nw.functional.group_norm(x, 2))


@pytest.mark.parametrize(("layer", "shape", "sentence"), CALLS)
def test_an_input_that_does_not_fit_is_refused_and_changes_nothing(layer, shape, sentence):
    before = {name: tensor.clone() for name, tensor in layer.named_buffers()}
    kind = type(layer)
    assert refusal(lambda: layer(torch.ones(shape))) == sentence.format(f"{shape} {F32}")
    assert type(layer) is kind
    for name, tensor in before.items():
        assert torch.equal(layer.get_buffer(name), tensor)


@pytest.mark.parametrize(("layer", "x", "mask", "plain", "received"), MASKS)
def test_a_mask_that_does_not_fit_is_refused(layer, x, mask, plain, received):
    assert refusal(lambda: layer(x, mask)) == (
        f"the mask of {type(layer).__name__} must be bool and fit x without its features, {plain}: "
        f"True where x is real; received {received} for x {tuple(x.shape)}"
    )


@pytest.mark.parametrize(("layer", "residual", "received"), RESIDUALS)
def test_a_residual_that_does_not_fit_is_refused_and_changes_nothing(layer, residual, received):
    before = {name: tensor.clone() for name, tensor in layer.named_buffers()}
    x = torch.ones(2, 2, 3) if layer is LAYER else X
    assert refusal(lambda: layer(x, residual=residual)) == (
        f"the residual of {type(layer).__name__} must be floating, of x's shape and on its device; "
        f"received {received} for x {tuple(x.shape)} {F32}"
    )
    for name, tensor in before.items():
        assert torch.equal(layer.get_buffer(name), tensor)


@pytest.mark.parametrize(
    ("layer", "arguments"),
    [
        (nw.AdaptiveInstanceNorm1d(), (X, X)),
        (nw.ConditionalInstanceNorm1d(2, 3), (X, torch.tensor([0, 1]))),
        (nw.ReversibleInstanceNorm(3), (X,)),
    ],
)
def test_a_layer_that_takes_no_residual_refuses_it(layer, arguments):
    with pytest.raises(TypeError, match="residual"):
        layer(*arguments, residual=X)


def test_a_mask_without_n_that_is_none_is_refused():
    with pytest.raises(nw.NormError, match="the mask of InstanceNorm1d must be bool"):
        INSTANCE(X[0], [True])


@pytest.mark.parametrize(
    "layer", [BATCH, INSTANCE, GROUP, CHANNELS, nw.DynamicTanh(3), nw.RMSNorm(5)]
)
def test_only_floating_tensors_are_taken(layer):
    for x, received in [
        (X.long(), "(2, 3, 5) int64 on cpu"),
        (X.to(torch.complex64), "(2, 3, 5) complex64 on cpu"),
        ([1.0], "list [1.0]"),
        (None, "NoneType None"),
    ]:
        sentence = f"{type(layer).__name__} takes a floating tensor, received {received}"
        assert refusal(lambda x=x: layer(x)) == sentence


@pytest.mark.parametrize(
    ("layer", "shape", "names"),
    [(GROUP, (3,), 2), (nw.DynamicTanh(3), (3,), 2), (LAYER, (3,), 2), (nw.RMSNorm(3), (), 1)],
)
def test_too_few_dimensions_are_refused_by_the_layer(layer, shape, names):
    assert refusal(lambda: layer(torch.ones(shape))) == (
        f"{type(layer).__name__}: pattern {str(layer.scheme.pattern)!r} names at least {names} "
        f"dimensions, and x has {len(shape)}; give x one dimension for each name; "
        f"received {shape} {F32}"
    )


def test_one_element_is_taken_in_evaluation_and_in_masks():
    layer = nw.BatchNorm1d(3).eval()
    assert layer(torch.ones(1, 3)).shape == (1, 3)
    y = nw.InstanceNorm1d(3)(X, torch.arange(5) < 1)
    assert not y.any()


class Loud(nw.BatchNorm1d):
    def forward(self, x, mask=None):
        return 2 * super().forward(x, mask)


class LazyLoud(Loud, nw.Lazy):
    pass


class Quiet(nw.BatchNorm1d):
    pass


def test_a_class_of_the_users_is_lazy_if_it_has_a_lazy_class():
    x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    layer = Loud()
    assert torch.equal(layer(x), 2 * nw.BatchNorm1d(3)(x))
    assert type(layer) is Loud
    assert refusal(Quiet) == (
        "Quiet needs its number of features, as it has no lazy class; give the number, "
        "or write class LazyQuiet(Quiet, nw.Lazy)"
    )
    assert type(Quiet(3)) is Quiet
