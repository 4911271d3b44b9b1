"""The general form: every named norm is the `Norm` of its pattern, to the bit."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import normwise as nw
from normwise.axes import parse
from normwise.reference import Moments
from normwise.running import Remembered
from tolerances import assert_close

SHAPES = {0: (4, 6), 1: (4, 6, 9), 2: (4, 6, 3, 5), 3: (4, 6, 3, 2, 4)}


@dataclass(frozen=True)
class Identity:
    """A named norm, and the pattern it is said to be."""

    named: str
    make: Callable[[], torch.nn.Module]
    pattern: Callable[[], nw.Norm]
    shape: tuple[int, ...]
    mask_shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.named} {list(self.shape)}"


def identities() -> list[Identity]:
    def add(named: str, make, pattern, shape, features=(1,)) -> None:
        mask_shape = tuple(size for i, size in enumerate(shape) if i not in features)
        found.append(Identity(named, make, pattern, shape, mask_shape))

    found: list[Identity] = []
    remember = nw.Running(momentum=0.3)
    for dim in (1, 2, 3):
        for name, pattern, norm_words, words in (
            ("BatchNorm", "[n] c [...]", {"running": remember}, {"momentum": 0.3}),
            ("BatchNorm", "[n] c [...]", {}, {"track_running_stats": False}),
            ("InstanceNorm", "n c [...]", {}, {"affine": True}),
            ("InstanceNorm", "n c [...]", {"affine": False}, {}),
            (
                "InstanceNorm",
                "n c [...]",
                {"running": remember},
                {"affine": True, "track_running_stats": True, "momentum": 0.3},
            ),
            ("LayerNorm", "n [c] ...", {}, {}),
            ("LayerNorm", "n [c] ...", {"bias": False}, {"bias": False}),
            ("RMSNorm", "n [c] ...", {"centres": False, "bias": False, "eps": None}, {}),
        ):
            layer = getattr(nw, f"{name}{dim}d")
            add(
                f"{name}{dim}d {words}",
                lambda layer=layer, words=words: layer(6, **words),
                lambda p=pattern, words=norm_words: nw.Norm(p, c=6, **words),
                SHAPES[dim],
            )
        group = getattr(nw, f"GroupNorm{dim}d")
        add(
            f"GroupNorm{dim}d",
            lambda group=group: group(3, 6),
            lambda: nw.Norm("n (g [c]) [...]", g=3, c=2),
            SHAPES[dim],
        )
    batch, remembering = nw.BatchNorm1d, nw.Norm("[n] c", running=nw.Running(), c=6)
    add("BatchNorm1d", lambda: batch(6), lambda: copy.deepcopy(remembering), SHAPES[0])
    plain = "n [c1 c2]"
    add("LayerNorm", lambda: nw.LayerNorm(9), lambda: nw.Norm("... [c]", c=9), SHAPES[1], (2,))
    add(
        "LayerNorm of two",
        lambda: nw.LayerNorm((6, 9)),
        lambda: nw.Norm(plain, c1=6, c2=9),
        SHAPES[1],
        (1, 2),
    )
    add(
        "RMSNorm",
        lambda: nw.RMSNorm(9, eps=1e-3),
        lambda: nw.Norm("... [c]", centres=False, bias=False, eps=1e-3, c=9),
        SHAPES[1],
        (2,),
    )
    add(
        "GroupNorm",
        lambda: nw.GroupNorm(2, 6, bias=False),
        lambda: nw.Norm("n (g [c]) [...]", g=2, c=3, bias=False),
        SHAPES[2],
    )
    return found


IDENTITIES = identities()
EACH = pytest.mark.parametrize("identity", IDENTITIES, ids=str)


def randomised(layer: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


def batches(shape: tuple[int, ...], count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(shape, generator=generator) * 2 + 5 for _ in range(count)]


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@EACH
def test_named_norm_is_the_norm_of_its_pattern(identity, masked):
    named, general = randomised(identity.make()), randomised(identity.pattern())
    generator = torch.Generator().manual_seed(5)
    mask = torch.rand(identity.mask_shape, generator=generator) < 0.7 if masked else None
    for x in batches(identity.shape):
        gradients = []
        for layer in (named, general):
            leaf = x.clone().requires_grad_()
            y = layer(leaf, mask)
            tensors = [leaf, *layer.parameters()]
            gradients.append((y, *torch.autograd.grad(y.square().sum(), tensors)))
        for one, other in zip(*gradients, strict=True):
            assert torch.equal(one, other)
    for name, buffer in general.named_buffers():
        if not (name == "num_batches_tracked" and "Instance" in identity.named):
            assert torch.equal(buffer, named.get_buffer(name)), name
    named.eval(), general.eval()
    x = batches(identity.shape)[0]
    assert torch.equal(named(x, mask), general(x, mask))


@EACH
def test_with_padding_as_well(identity):
    named, general = identity.make(), identity.pattern()
    x = batches(identity.shape)[0]
    with nw.padding([1, 2, 3, 3], size=x.shape[-1]):
        assert torch.equal(named(x), general(x))


# -- sizes ---------------------------------------------------------------------

# the norm, the shape of its first input, then the shapes of its parameters and buffers
LEARNED = [
    (lambda: nw.Norm("n c [t]"), (2, 6, 5), {"weight": (6,), "bias": (6,)}),
    (lambda: nw.Norm("n (g [c]) [t]", g=3), (2, 6, 5), {"weight": (6,), "bias": (6,)}),
    (lambda: nw.Norm("n (g [c]) [t]", c=3), (2, 6, 5), {"weight": (6,), "bias": (6,)}),
    (lambda: nw.Norm("... [c1 c2]"), (2, 6, 5), {"weight": (6, 5), "bias": (6, 5)}),
    (
        lambda: nw.Norm("[n] (g [c]) [t]", c=3, running=nw.Running(), affine=False),
        (2, 6, 5),
        {"running_mean": (2,), "running_var": (2,), "num_batches_tracked": ()},
    ),
    (
        lambda: nw.Norm("n [c] t", running=nw.Running(), centres=False, bias=False, c=6),
        (2, 6, 5),
        {"weight": (6,), "running_var": (5,), "num_batches_tracked": ()},
    ),
    (
        lambda: nw.Norm("n [c t]", running=nw.Running()),
        (2, 6, 5),
        {
            "weight": (6,),
            "bias": (6,),
            "running_mean": (),
            "running_var": (),
            "num_batches_tracked": (),
        },
    ),
]


@pytest.mark.parametrize(("make", "shape", "learned"), LEARNED, ids=[str(x[0]()) for x in LEARNED])
class TestSizes:
    def test_are_learned_from_the_first_input(self, make, shape, learned):
        layer = make()
        assert isinstance(layer, nw.LazyNorm)
        x = batches(shape)[0]
        y = layer(x)
        assert type(layer) is nw.Norm
        assert y.shape == shape
        assert {name: tuple(t.shape) for name, t in layer.state_dict().items()} == learned
        layer.eval()
        assert layer(x[:1]).shape == (1, *shape[1:])

    def test_are_learned_from_a_state_dict(self, make, shape, learned):
        trained, fresh = make(), make()
        for x in batches(shape):
            trained(x)
        fresh.load_state_dict(trained.state_dict())
        trained.eval(), fresh.eval()
        assert torch.equal(fresh(x), trained(x))

    def test_survive_pickle_and_deepcopy(self, make, shape, learned):
        x = batches(shape)[0]
        assert torch.equal(copy.deepcopy(make())(x), make()(x))
        layer = make()
        y = layer(x)
        again = pickle.loads(pickle.dumps(layer))
        assert torch.equal(again(x), y)
        assert repr(again) == repr(layer)


def test_sizes_that_are_given_are_not_learned():
    assert type(nw.Norm("n (g [c]) [t]", g=2, c=3)) is nw.Norm
    assert type(nw.Norm("n c [t]", affine=False)) is nw.Norm
    assert nw.Norm("n c [t]", c=7).weight.shape == (7,)


def test_sizes_that_nothing_needs_stay_free():
    layer = nw.Norm("n c [t]")
    layer(torch.randn(2, 6, 5))
    assert layer.sizes == {"c": 6}
    assert layer(torch.randn(3, 6, 8)).shape == (3, 6, 8)


# -- what is remembered ---------------------------------------------------------


@pytest.mark.parametrize("average", ["ema", "cumulative"])
@pytest.mark.parametrize("start", ["unit", "first-batch"])
@pytest.mark.parametrize("inference", ["running", "batch", "blend"])
def test_evaluation_uses_what_the_policy_says(average, start, inference):
    policy = nw.Running(average, 0.2, start, inference, running_weight=0.25)
    layer = nw.Norm("[n] c [t]", running=policy, c=6)
    mean, var = torch.zeros(6), torch.ones(6)
    for number, x in enumerate(batches((4, 6, 9)), start=1):
        layer(x)
        factor = 1 / number if average == "cumulative" else 0.2
        if start == "first-batch" and number == 1:
            factor = 1.0
        mean = mean + (x.mean((0, 2)) - mean) * factor
        var = var + (x.var((0, 2)) - var) * factor
    assert_close(layer.running_mean, mean)
    assert_close(layer.running_var, var)
    assert int(layer.num_batches_tracked) == 3

    layer.eval()
    x = batches((2, 6, 7))[0] * 3
    share = {"running": 1.0, "batch": 0.0, "blend": 0.25}[inference]
    used_mean = share * mean + (1 - share) * x.mean((0, 2))
    used_var = share * var + (1 - share) * x.var((0, 2), correction=0)
    truth = (x - used_mean[:, None]) / (used_var[:, None] + 1e-5).sqrt()
    assert_close(layer(x).detach(), truth)
    assert_close(layer.running_mean, mean)


def test_statistics_are_remembered_along_every_kept_axis():
    layer = nw.Norm("n c f [t]", running=nw.Running(momentum=1.0))
    x = torch.randn(4, 2, 3, 50, generator=torch.Generator().manual_seed(6))
    layer(x)
    assert_close(layer.running_mean, x.mean(3).mean(0))
    assert_close(layer.running_var, x.var(3).mean(0))


def test_a_mean_square_is_remembered_as_it_is():
    layer = nw.Norm("[n] c [t]", running=nw.Running(momentum=1.0), centres=False, bias=False)
    x = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(7))
    layer(x)
    assert_close(layer.running_var, x.square().mean((0, 2)))
    layer.eval()
    assert_close(layer(x).detach(), x / (x.square().mean((0, 2))[:, None] + 1e-5).sqrt())


def test_a_blend_loses_no_digits_to_an_offset():
    policy = nw.Running(inference="blend", running_weight=0.5)
    moments = Moments(torch.tensor([1e6]), torch.tensor([0.03]), torch.tensor([1.0]), 10)
    remembered = Remembered(torch.tensor([1e6]), torch.tensor([1.0]), None)
    blended = policy.infer(remembered, moments, parse("[n] c").fit(2))
    assert blended.offset.item() == pytest.approx(0.015)


# -- words ----------------------------------------------------------------------

REPRS = [
    (nw.Norm("n c [t]", c=6), "Norm('n c [t]', c=6, eps=1e-05, affine=True)"),
    (nw.Norm("n (g [c]) [t]", g=3), "LazyNorm('n (g [c]) [t]', g=3, eps=1e-05, affine=True)"),
    (
        nw.Norm("n [c] t", c=6, eps=None, bias=False, centres=False),
        "Norm('n [c] t', c=6, eps=None, affine=True, bias=False, centres=False)",
    ),
    (
        nw.Norm("[n] c [t]", affine=False, running=nw.Running(momentum=0.5), c=2),
        "Norm('[n] c [t]', c=2, eps=1e-05, affine=False, running="
        + repr(nw.Running(momentum=0.5))
        + ")",
    ),
]


@pytest.mark.parametrize(("layer", "text"), REPRS, ids=[text for _, text in REPRS])
def test_repr_shows_the_pattern(layer, text):
    assert repr(layer) == text


X = torch.zeros(2, 6, 5)
REFUSED = [
    (
        lambda: nw.Norm("n c [t"),
        "pattern 'n c [t': '[' is never closed\n    n c [t\n        ^",
    ),
    (
        lambda: nw.Norm("n c [t]", k=1),
        "pattern 'n c [t]' has no axis 'k' to be of size 1; it has n, c, t",
    ),
    (
        lambda: nw.Norm("n c [t]", c=0),
        "the size c=0 must be a whole number above 0",
    ),
    (
        lambda: nw.Norm("n (g [c]) [t]"),
        "pattern 'n (g [c]) [t]' takes a dimension apart and needs a size for all but one of its "
        "parts: write Norm('n (g [c]) [t]', g=…)",
    ),
    (
        lambda: nw.Norm("n [t]"),
        "pattern 'n [t]' names no features, c or c1, c2, …, for a weight to run along; name them, "
        "or write affine=False",
    ),
    (
        lambda: nw.Norm("[n] c ...", running=nw.Running()),
        "pattern '[n] c ...' keeps ..., and what is remembered needs a fixed shape; name these "
        "dimensions, average over them, [...], or leave out running",
    ),
    (
        lambda: nw.Norm("n c [t]", c=64)(X),
        "Norm('n c [t]'): (c) with c=64 does not fit a dimension of 6; received (2, 6, 5) float32 "
        "on cpu",
    ),
    (
        lambda: nw.Norm("n (g [c]) [t]", g=4)(X),
        "Norm('n (g [c]) [t]'): (g c) with g=4 does not fit a dimension of 6; received (2, 6, 5) "
        "float32 on cpu",
    ),
    (
        lambda: nw.Norm("n c [t]")(X[0]),
        "Norm('n c [t]'): pattern 'n c [t]' names 3 dimensions, and x has 2; give x one dimension "
        "for each name; received (6, 5) float32 on cpu",
    ),
    (
        lambda: nw.Norm("n c [t]", affine=False)(X[..., :1]),
        "Norm would average over one element, n c [t], which erases the signal: received (2, 6, 1) "
        "float32 on cpu; give it more samples or positions, or take another norm",
    ),
    (
        lambda: nw.Norm("n c [t]", c=6)(X.long()),
        "Norm takes a floating tensor, received (2, 6, 5) int64 on cpu",
    ),
]


@pytest.mark.parametrize(("call", "sentence"), REFUSED, ids=[s[:60] for _, s in REFUSED])
def test_what_cannot_be_is_refused(call, sentence):
    with pytest.raises(nw.NormError) as caught:
        call()
    assert str(caught.value) == sentence


def test_a_refused_input_teaches_nothing():
    layer = nw.Norm("n (g [c]) [t]", g=4)
    with pytest.raises(nw.NormError):
        layer(X)
    assert isinstance(layer, nw.LazyNorm)
    assert layer(torch.randn(2, 8, 5)).shape == (2, 8, 5)
