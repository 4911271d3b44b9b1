"""What every layer promises. A new one joins by a line in CASES."""

import copy
import inspect
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import normwise as nw
import oracle
from normwise.reference import ACTIVATIONS
from tolerances import TOLERANCES, assert_close


@dataclass(frozen=True)
class Case:
    """One layer: how it is made, what it takes, what it computes.

    layer      the class
    arguments  what it is made with; the number of features comes last
    shape      of an input
    formula    (layer, x, features, real) → y in float64; `real` and what `features` makes
               of a parameter have x's rank
    last       how many dimensions at the end are features; 0 where dimension 1 is
    mixes      whether, in training, a sample's result depends on the others in its batch
    offset     how far from 0 x may lie: anywhere, unless the formula itself is flat there
    """

    layer: type[torch.nn.Module]
    arguments: tuple[Any, ...]
    shape: tuple[int, ...]
    formula: Callable[..., Tensor]
    last: int = 0
    mixes: bool = False
    offset: float = 1e6
    keywords: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.layer.__name__

    @property
    def twin(self) -> Callable[..., torch.nn.Module] | None:
        """torch's class of the same name; its Identity takes anything and keeps nothing."""
        return None if self.layer is nw.Identity else getattr(torch.nn, self.name, None)

    @property
    def lazy(self) -> Callable[..., torch.nn.Module] | None:
        """The lazy class, if the size can be told from the input."""
        several = isinstance(self.arguments[-1], tuple) and len(self.arguments[-1]) > 1
        return None if several else getattr(nw, f"Lazy{self.name}", None)

    @property
    def unsized(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments without the number of features: the last one, or c."""
        if "c" in self.keywords:
            return self.arguments, {k: v for k, v in self.keywords.items() if k != "c"}
        return self.arguments[:-1], self.keywords

    @property
    def defaults(self) -> dict[str, Any]:
        """The layer's own, where its lazy class has others, as torch's has."""
        ours, lazys = (inspect.signature(c).parameters for c in (self.layer, self.lazy))
        return {n: p.default for n, p in ours.items() if p.default != lazys[n].default}

    def make_unsized(self, layer: Callable[..., torch.nn.Module], **more: Any) -> torch.nn.Module:
        arguments, keywords = self.unsized
        return layer(*arguments, **{**self.defaults, **keywords, **more})

    @property
    def features(self) -> tuple[int, ...]:
        return tuple(range(len(self.shape)))[-self.last :] if self.last else (1,)

    @property
    def time(self) -> int | None:
        """The dimension that padding runs along."""
        return max((i for i in range(1, len(self.shape)) if i not in self.features), default=None)

    def is_by_sample(self, training: bool) -> bool:
        """Whether a sample's result is independent of the others in its batch."""
        remembers = getattr(self.make(), "running_var", None) is not None
        return not self.mixes or (remembers and not training)

    def make(self, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
        """A layer with parameters and buffers of no special value."""
        return unsettled(self.layer(*self.arguments, dtype=dtype, **self.keywords))

    def x(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
        random = torch.Generator().manual_seed(seed)
        return (2 * torch.randn(self.shape, generator=random) + 3).to(dtype)

    def mask(self) -> Tensor:
        """(N, …) without features: all but the first sample have positions that are not real."""
        shape = [size for i, size in enumerate(self.shape) if i not in self.features]
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.6
        mask[0] = True
        if mask.dim() > 1:
            mask[:, ..., :2] = True  # so that no statistic is of one element
        mask[-1] = False
        return mask

    def real(self, mask: Tensor) -> Tensor:
        """A mask at x's rank."""
        for feature in self.features:
            mask = mask.unsqueeze(feature)
        return mask

    def truth(
        self,
        layer: torch.nn.Module,
        x: Tensor,
        mask: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        def along_features(parameter: Tensor | None) -> Tensor | None:
            if parameter is None or self.last:
                return parameter
            return parameter.reshape(-1, *[1] * (x.dim() - 2))

        real = torch.tensor(True) if mask is None else self.real(mask)
        y = self.formula(layer, x, along_features, real)
        if residual is not None:
            y = torch.where(real, y + residual.double(), 0.0)
        return oracle.activated(y, layer.activation)

    def is_refused(self, x: Tensor) -> bool:
        """Whether a layer that has its size refuses x."""
        try:
            self.make()(x)
        except nw.NormError:
            return True
        return False

    def __str__(self) -> str:
        parts = [self.name, "x".join(map(str, self.shape))]
        return "-".join(parts + [f"{key}={value}" for key, value in self.keywords.items()])


def unsettled(layer):
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in [*layer.parameters(), *layer.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=random) + 0.5)
    return layer


def own(key, centres=True):
    """The formula of norms that use the input's own moments."""

    def formula(layer, x, features, real):
        weight, bias = features(layer.weight), features(getattr(layer, "bias", None))
        eps = torch.finfo(x.dtype).eps if layer.eps is None else layer.eps
        affine = {"weight": weight, "bias": bias}
        return oracle.normalized(x, key, real=real, eps=eps, centres=centres, **affine)

    return formula


def remembering(key):
    """The formula of norms that use remembered moments in evaluation, if they have them."""

    def formula(layer, x, features, real):
        if layer.training or layer.running_mean is None:
            return own(key)(layer, x, features, real)
        return by_memory(layer, x, features, real)

    return formula


def by_memory(layer, x, features, real):
    mean, var = (features(b.double()) for b in (layer.running_mean, layer.running_var))
    y = (x.double() - mean) / (var + layer.eps).sqrt()
    return oracle.affine(y, real, features(layer.weight), features(layer.bias))


def at_its_limits(layer, x, features, real):
    """Batch renorm, where r and d end at their limits: x lies above what the layer remembers."""
    if not layer.training:
        return BATCH(layer, x, features, real)
    y = oracle.normalized(x, oracle.batch, real=real) * layer.r_max + layer.d_max
    return oracle.affine(y, real, features(layer.weight), features(layer.bias))


def switched(layer, x, features, real):
    keys = [oracle.instance, oracle.sample, oracle.batch]
    means, variances = zip(*(oracle.moments(x, key, real) for key in keys), strict=True)
    if not layer.training and layer.running_mean is not None:
        remembered = (features(b.double()) for b in (layer.running_mean, layer.running_var))
        means, variances = (
            (*parts[:2], of_batch)
            for parts, of_batch in zip((means, variances), remembered, strict=True)
        )
    shares = (p.detach().double().softmax(0) for p in (layer.mean_weight, layer.var_weight))
    mean, var = (
        sum(share * part for share, part in zip(weights, parts, strict=True))
        for weights, parts in zip(shares, (means, variances), strict=True)
    )
    y = (x.double() - mean) / (var + layer.eps).sqrt()
    return oracle.affine(y, real, features(layer.weight), features(layer.bias))


def causal(layer, x, features, real):
    """Each position is the last one of a series that ends with it."""
    real = real.expand(x.shape)
    series = [(x[..., : t + 1], real[..., : t + 1]) for t in range(x.shape[-1])]
    y = [
        oracle.normalized(xs, oracle.sample, real=rs, eps=layer.eps)[..., -1:] for xs, rs in series
    ]
    return oracle.affine(torch.cat(y, -1), real, features(layer.weight), features(layer.bias))


def filter_response(layer, x, features, real):
    eps = layer.eps + (0.0 if layer.extra_eps is None else abs(layer.extra_eps.item()))
    y = oracle.normalized(x, oracle.instance, real=real, eps=eps, centres=False)
    y = oracle.affine(y, real, features(layer.weight), features(layer.bias))
    if layer.tau is None:
        return y
    return torch.where(real, torch.maximum(y, features(layer.tau.detach().double())), 0.0)


def global_response(layer, x, features, real):
    x = torch.where(real, x.double(), 0.0)
    response = x.square().sum(tuple(range(2, x.dim())), keepdim=True).sqrt()
    relative = response / (response.mean(1, keepdim=True) + layer.eps)
    y = oracle.affine(x * relative, real, features(layer.weight), features(layer.bias))
    return y + x


def evonorm_s0(channels_per_group):
    def formula(layer, x, features, real):
        _, var = oracle.moments(x, oracle.group(channels_per_group), real)
        x = x.double()
        y = x * torch.sigmoid(features(layer.slope.detach().double()) * x)
        y = y / (var + layer.eps).sqrt()
        return oracle.affine(y, real, features(layer.weight), features(layer.bias))

    return formula


def evonorm_b0(layer, x, features, real):
    _, of_batch = oracle.moments(x, oracle.batch, real)
    _, own_var = oracle.moments(x, oracle.instance, real)
    if not layer.training:
        of_batch = features(layer.running_var.double())
    x, slope = x.double(), features(layer.slope.detach().double())
    std, own_std = ((var + layer.eps).sqrt() for var in (of_batch, own_var))
    y = x / torch.maximum(std, slope * x + own_std)
    return oracle.affine(y, real, features(layer.weight), features(layer.bias))


def dynamic_tanh(layer, x, features, real):
    y = torch.tanh(layer.alpha.detach().double() * x.double())
    return oracle.affine(y, real, features(layer.weight), features(layer.bias))


def dynamic_erf(layer, x, features, real):
    y = torch.erf(layer.alpha.detach().double() * x.double() + layer.shift.detach().double())
    return oracle.affine(y, real, features(layer.weight), features(layer.bias))


def identity(layer, x, features, real):
    return oracle.affine(x.double(), real, None, None)


BATCH, INSTANCE = remembering(oracle.batch), remembering(oracle.instance)
GHOSTS = remembering(oracle.ghost(2))
PAIRS, CHANNELS = own(oracle.group(2)), own(oracle.channels)
ROOT = own(oracle.channels, centres=False)
LAST, LAST_ROOT = own(oracle.trailing(1)), own(oracle.trailing(1), centres=False)
LAST_TWO, LAST_TWO_ROOT = own(oracle.trailing(2)), own(oracle.trailing(2), centres=False)
NOT_AFFINE, PLAIN, NO_BIAS = {"affine": False}, {"elementwise_affine": False}, {"bias": False}
RANKS = ("1d", "2d", "3d")
TRACKED, NOT_TRACKED = {"track_running_stats": True}, {"track_running_stats": False}
# The limits are open at once, and x always lies beyond them, since nothing is remembered anew.
OPENED = {"hold_steps": 0, "r_steps": 0, "d_steps": 0, "r_max": 1.2, "d_max": 0.5, "momentum": 0.0}

CASES = [
    Case(nw.BatchNorm1d, (6,), (4, 6, 5), BATCH, mixes=True),
    Case(nw.BatchNorm1d, (6,), (5, 6), BATCH, mixes=True),
    Case(nw.BatchNorm1d, (6,), (4, 6, 5), BATCH, mixes=True, keywords=NOT_AFFINE),
    Case(nw.BatchNorm1d, (6,), (4, 6, 5), BATCH, mixes=True, keywords=NO_BIAS),
    Case(nw.BatchNorm1d, (6,), (4, 6, 5), BATCH, mixes=True, keywords={"momentum": None}),
    Case(nw.BatchNorm1d, (6,), (4, 6, 5), BATCH, mixes=True, keywords=NOT_TRACKED),
    Case(nw.BatchNorm2d, (6,), (4, 6, 2, 3), BATCH, mixes=True),
    Case(nw.BatchNorm3d, (6,), (3, 6, 2, 2, 3), BATCH, mixes=True),
    Case(nw.SyncBatchNorm, (6,), (4, 6, 5), BATCH, mixes=True),
    Case(nw.SyncBatchNorm, (6,), (4, 6, 2, 3), BATCH, mixes=True, keywords=NOT_AFFINE),
    Case(nw.InstanceNorm1d, (6,), (4, 6, 5), INSTANCE),
    Case(nw.InstanceNorm1d, (6,), (4, 6, 5), INSTANCE, keywords={"affine": True}),
    Case(nw.InstanceNorm1d, (6,), (4, 6, 5), INSTANCE, keywords={"affine": True, **NO_BIAS}),
    Case(nw.InstanceNorm1d, (6,), (4, 6, 5), INSTANCE, keywords=TRACKED),
    Case(nw.InstanceNorm2d, (6,), (4, 6, 2, 3), INSTANCE, keywords={"affine": True, **TRACKED}),
    Case(nw.InstanceNorm3d, (6,), (3, 6, 2, 2, 3), INSTANCE),
    Case(nw.GroupNorm, (3, 6), (4, 6, 5), PAIRS),
    Case(nw.GroupNorm, (2, 6), (4, 6), own(oracle.group(3))),
    Case(nw.GroupNorm, (3, 6), (4, 6, 2, 3), PAIRS, keywords=NOT_AFFINE),
    Case(nw.GroupNorm, (3, 6), (4, 6, 5), PAIRS, keywords=NO_BIAS),
    Case(nw.GroupNorm1d, (3, 6), (4, 6, 5), PAIRS),
    Case(nw.GroupNorm2d, (3, 6), (4, 6, 2, 3), PAIRS),
    Case(nw.GroupNorm3d, (3, 6), (3, 6, 2, 2, 3), PAIRS),
    Case(nw.LayerNorm, (6,), (4, 5, 6), LAST, last=1),
    Case(nw.LayerNorm, (6,), (4, 6), LAST, last=1),
    Case(nw.LayerNorm, ((2, 6),), (4, 3, 2, 6), LAST_TWO, last=2),
    Case(nw.LayerNorm, (6,), (4, 5, 6), LAST, last=1, keywords=NO_BIAS),
    Case(nw.LayerNorm, (6,), (4, 5, 6), LAST, last=1, keywords=PLAIN),
    Case(nw.LayerNorm1d, (6,), (4, 6, 5), CHANNELS),
    Case(nw.LayerNorm1d, (6,), (4, 6), CHANNELS),
    Case(nw.LayerNorm2d, (6,), (4, 6, 2, 3), CHANNELS),
    Case(nw.LayerNorm3d, (6,), (3, 6, 2, 2, 3), CHANNELS),
    Case(nw.RMSNorm, (6,), (4, 5, 6), LAST_ROOT, last=1),
    Case(nw.RMSNorm, ((2, 6),), (4, 3, 2, 6), LAST_TWO_ROOT, last=2, keywords={"eps": 1e-3}),
    Case(nw.RMSNorm1d, (6,), (4, 6, 5), ROOT),
    Case(nw.RMSNorm1d, (6,), (4, 6, 5), ROOT, keywords=PLAIN),
    Case(nw.RMSNorm2d, (6,), (4, 6, 2, 3), ROOT),
    Case(nw.RMSNorm3d, (6,), (3, 6, 2, 2, 3), ROOT),
    Case(nw.Norm, ("n c [...]",), (4, 6, 5), INSTANCE, keywords={"c": 6}),
    Case(nw.Norm, ("n (g [c]) [t]",), (4, 6, 5), PAIRS, keywords={"g": 3, "c": 2}),
    Case(nw.Norm, ("n [c] ...",), (4, 6, 2, 3), ROOT, keywords={"c": 6, "centres": False}),
    Case(nw.Norm, ("... [c]",), (4, 5, 6), LAST, last=1, keywords={"c": 6}),
    Case(nw.Norm, ("[n] c [t]",), (4, 6, 5), BATCH, mixes=True,
         keywords={"c": 6, "running": nw.Running()}),
    Case(nw.BatchRenorm1d, (6,), (4, 6, 5), BATCH, mixes=True),  # its limits are shut at first
    Case(nw.BatchRenorm1d, (6,), (5, 6), BATCH, mixes=True),
    Case(nw.BatchRenorm1d, (6,), (4, 6, 5), at_its_limits, mixes=True, keywords=OPENED),
    Case(nw.BatchRenorm2d, (6,), (4, 6, 2, 3), at_its_limits, mixes=True, keywords=OPENED),
    Case(nw.BatchRenorm3d, (6,), (3, 6, 2, 2, 3), BATCH, mixes=True, keywords=NOT_AFFINE),
    Case(nw.GhostBatchNorm1d, (8, 6), (4, 6, 5), BATCH, mixes=True),
    Case(nw.GhostBatchNorm1d, (2, 6), (5, 6, 5), GHOSTS, mixes=True),
    Case(nw.GhostBatchNorm1d, (2, 6), (4, 6), GHOSTS, mixes=True, keywords=NOT_AFFINE),
    Case(nw.GhostBatchNorm2d, (2, 6), (5, 6, 2, 3), GHOSTS, mixes=True),
    Case(nw.GhostBatchNorm3d, (2, 6), (4, 6, 2, 2, 3), GHOSTS, mixes=True),
    Case(nw.FrozenBatchNorm1d, (6,), (4, 6, 5), by_memory),
    Case(nw.FrozenBatchNorm1d, (6,), (5, 6), by_memory),
    Case(nw.FrozenBatchNorm2d, (6,), (4, 6, 2, 3), by_memory),
    Case(nw.FrozenBatchNorm3d, (6,), (3, 6, 2, 2, 3), by_memory),
    Case(nw.SwitchableNorm1d, (6,), (4, 6, 5), switched, mixes=True),
    Case(nw.SwitchableNorm1d, (6,), (4, 6, 5), switched, mixes=True, keywords=NOT_TRACKED),
    Case(nw.SwitchableNorm2d, (6,), (4, 6, 2, 3), switched, mixes=True, keywords=NOT_AFFINE),
    Case(nw.SwitchableNorm3d, (6,), (3, 6, 2, 2, 3), switched, mixes=True),
    Case(nw.CausalNorm1d, (6,), (4, 6, 5), causal),
    Case(nw.CausalNorm1d, (6,), (4, 6, 5), causal, keywords=NOT_AFFINE),
    Case(nw.FilterResponseNorm1d, (6,), (4, 6, 5), filter_response),
    Case(nw.FilterResponseNorm1d, (6,), (4, 6, 5), filter_response, keywords={"threshold": False}),
    Case(nw.FilterResponseNorm1d, (6,), (4, 6, 5), filter_response, keywords={"learn_eps": True}),
    Case(nw.FilterResponseNorm2d, (6,), (4, 6, 2, 3), filter_response),
    Case(nw.EvoNormS01d, (6,), (4, 6, 5), evonorm_s0(1)),  # up to 32 channels are groups each
    Case(nw.EvoNormS01d, (6,), (4, 6, 5), evonorm_s0(2), keywords={"num_groups": 3}),
    Case(nw.EvoNormS02d, (6,), (4, 6, 2, 3), evonorm_s0(1), keywords=NOT_AFFINE),
    Case(nw.EvoNormB01d, (6,), (4, 6, 5), evonorm_b0, mixes=True),
    Case(nw.EvoNormB01d, (6,), (4, 6, 5), evonorm_b0, mixes=True, keywords={"momentum": None}),
    Case(nw.EvoNormB02d, (6,), (4, 6, 2, 3), evonorm_b0, mixes=True, keywords=NOT_AFFINE),
    Case(nw.GlobalResponseNorm1d, (6,), (4, 6, 5), global_response),
    Case(nw.GlobalResponseNorm2d, (6,), (4, 6, 2, 3), global_response),
    Case(nw.DynamicTanh, (6,), (4, 6, 5), dynamic_tanh, offset=3.0),  # a tanh far from 0 is 1
    Case(nw.DynamicTanh, (6,), (4, 6, 2, 3), dynamic_tanh, offset=3.0, keywords={"alpha": 1.5}),
    Case(nw.DynamicErf, (6,), (4, 6, 5), dynamic_erf, offset=3.0),  # and so is an erf
    Case(nw.DynamicErf, (6,), (4, 6, 2, 3), dynamic_erf, offset=3.0, keywords={"alpha": 1.5}),
    Case(nw.Identity, (6,), (4, 6, 5), identity),
    Case(nw.Identity, (6,), (4, 5, 6), identity, last=1, keywords={"trailing": True}),
]  # fmt: skip

PADDED = [case for case in CASES if case.time is not None]
TWINNED = [case for case in CASES if case.twin]
LAZY = [case for case in CASES if case.lazy]
FIRST_OF_EACH = list({case.name: case for case in reversed(CASES)}.values())


def of_each(cases: list[Case]) -> pytest.MarkDecorator:
    """A parameter for each case; layers for volumes, which are those for images, are slow tests."""
    marked = [
        pytest.param(case, marks=pytest.mark.slow if case.name.endswith("3d") else ())
        for case in cases
    ]
    return pytest.mark.parametrize("case", marked, ids=str)


each = of_each(CASES)
each_padded = of_each(PADDED)
each_twinned = of_each(TWINNED)
each_lazy = of_each(LAZY)
each_class = pytest.mark.parametrize("case", FIRST_OF_EACH, ids=str)
in_training_and_evaluation = pytest.mark.parametrize("training", [True, False])
with_and_without_mask = pytest.mark.parametrize("masked", [False, True])

# The classes whose constructor takes an activation.
FUSING = [
    *(f"{kind}{rank}" for kind in ("GroupNorm", "LayerNorm", "RMSNorm") for rank in ("", *RANKS)),
    *(f"{kind}{rank}" for kind in ("BatchNorm", "InstanceNorm") for rank in RANKS),
    *("SyncBatchNorm", "Norm", *(f"FrozenBatchNorm{rank}" for rank in RANKS)),
]
FUSING = [*FUSING, *(f"Lazy{name}" for name in FUSING), "Identity"]

# Layers that are not called as layer(x, mask), and where their promises are tested.
ELSEWHERE = {
    "AdaptiveInstanceNorm1d": "takes a style beside x: test_style.py",
    "AdaptiveInstanceNorm2d": "takes a style beside x: test_style.py",
    "ConditionalInstanceNorm1d": "takes the number of a style beside x: test_style.py",
    "ConditionalInstanceNorm2d": "takes the number of a style beside x: test_style.py",
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


def gradients(layer, x, cotangent, mask=None, **more):
    """y, and the gradients by name of x, of what else is given by name, and of every parameter."""
    x = x.detach().clone().requires_grad_()
    more = {name: tensor.detach().clone().requires_grad_() for name, tensor in more.items()}
    y = layer(x, **more) if mask is None else layer(x, mask, **more)
    parameters = dict(layer.named_parameters())
    found = torch.autograd.grad(y, [x, *more.values(), *parameters.values()], cotangent)
    names = [name.removeprefix("_orig_mod.") for name in parameters]  # torch.compile's prefix
    return y.detach(), dict(zip(["x", *more, *names], found, strict=True))


def assert_same_state(one, other):
    ones, others = one.state_dict(), other.state_dict()
    assert list(ones) == list(others)
    for name, tensor in ones.items():
        torch.testing.assert_close(tensor, others[name], rtol=0, atol=0)


def clone_state(layer):
    return {name: tensor.clone() for name, tensor in layer.state_dict().items()}


# -- numbers -----------------------------------------------------------------


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


# -- masks -------------------------------------------------------------------


@each
@in_training_and_evaluation
@pytest.mark.parametrize("junk", [torch.nan, torch.inf, 1e38])
def test_masked_positions_get_0_and_send_nothing(case, training, junk):
    mask = case.mask()
    real = case.real(mask)
    cotangent = case.x(seed=3)
    dirty = torch.where(real, case.x(), junk)
    clean = torch.where(real, case.x(), 0.0)
    one, other = (case.make().train(training) for _ in range(2))
    y, found = gradients(one, dirty, cotangent, mask)
    wanted_y, wanted = gradients(other, clean, torch.where(real, cotangent, 7.0), mask)
    assert not y[~real.expand_as(y)].any()
    assert not found["x"][~real.expand_as(y)].any()
    assert torch.equal(y, wanted_y)
    for name, gradient in wanted.items():
        assert torch.equal(found[name], gradient), name
    assert_same_state(one, other)


@pytest.mark.parametrize(
    ("case", "training"), [(c, t) for c in PADDED for t in (True, False) if c.is_by_sample(t)]
)
def test_padded_equals_alone(case, training):
    layer = case.make(torch.float64).train(training)
    x, cotangent = case.x(torch.float64), case.x(torch.float64, seed=3)
    size = case.shape[case.time]
    # At least 3: of two elements, the gradient is a difference of equal numbers.
    lengths = [size - i % (size - 2) for i in range(len(x))]
    mask = torch.stack([torch.arange(size) < length for length in lengths])
    mask = mask.reshape(len(x), *[1] * (case.mask().dim() - 2), size)

    y, together = gradients(copy.deepcopy(layer), x, cotangent, mask)
    summed = {name: 0.0 for name, _ in layer.named_parameters()}
    for i, length in enumerate(lengths):

        def alone(tensor, i=i, length=length):
            return tensor[i : i + 1].narrow(case.time, 0, length)

        y_alone, found = gradients(copy.deepcopy(layer), alone(x), alone(cotangent))
        assert_close(alone(y), y_alone)
        assert_close(alone(together["x"]), found.pop("x"), backward=True)
        summed = {name: summed[name] + gradient for name, gradient in found.items()}
    for name, gradient in summed.items():
        assert_close(together[name], gradient, backward=True)


@each
@in_training_and_evaluation
def test_where_nothing_is_real_all_is_0_and_nothing_changes(case, training):
    layer = case.make().train(training)
    before = clone_state(layer)
    y = layer(torch.full(case.shape, torch.nan), torch.zeros_like(case.mask()))
    assert not y.any()
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@each
def test_a_full_mask_is_no_mask(case):
    masked, plain = case.make(torch.float64), case.make(torch.float64)
    x = case.x(torch.float64)
    assert_close(masked(x, torch.ones_like(case.mask())), plain(x))
    for name, buffer in masked.named_buffers():
        torch.testing.assert_close(buffer, plain.get_buffer(name), rtol=1e-12, atol=0)


@each_padded
def test_a_mask_of_one_sample_counts_for_all(case):
    x, mask = case.x(torch.float64), case.mask()
    layer = case.make(torch.float64).eval()
    assert torch.equal(layer(x, mask[1:2]), layer(x, mask[1:2].expand_as(mask)))
    assert torch.equal(layer(x, mask[1]), layer(x, mask[1:2].expand_as(mask)))


# -- activation and residual -------------------------------------------------

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


# -- torch's class of the same name ------------------------------------------


@each_twinned
def test_it_agrees_with_torch_over_several_steps(case):
    ours = case.make(torch.float64)
    torchs = unsettled(case.twin(*case.arguments, dtype=torch.float64, **case.keywords))
    cotangent = case.x(torch.float64, seed=9)
    for seed, training in enumerate([True, True, False, True, False]):
        x = case.x(torch.float64, seed)
        y, found = gradients(ours.train(training), x, cotangent)
        wanted_y, wanted = gradients(torchs.train(training), x, cotangent)
        assert_close(y, wanted_y)
        for name, gradient in wanted.items():
            assert_close(found[name], gradient, backward=True)
        for name, buffer in torchs.named_buffers():
            torch.testing.assert_close(ours.get_buffer(name), buffer, rtol=1e-12, atol=0)


@each_twinned
def test_state_dicts_go_both_ways(case):
    ours = case.make()
    torchs = case.twin(*case.arguments, **case.keywords)
    torchs.load_state_dict(ours.state_dict())
    assert_same_state(ours, torchs)
    back = case.layer(*case.arguments, **case.keywords)
    back.load_state_dict(torchs.state_dict())
    assert_same_state(ours, back)


@each_twinned
def test_it_is_torchs_class_and_reads_like_it(case):
    layer, torchs = case.make(), case.twin(*case.arguments, **case.keywords)
    assert isinstance(layer, case.twin)
    assert repr(layer) == repr(torchs)
    for name, value in vars(torchs).items():
        if not name.startswith("_"):
            assert getattr(layer, name) == value, name


@each_twinned
def test_it_takes_the_arguments_that_torchs_class_takes(case):
    ours, torchs = (inspect.signature(c).parameters.values() for c in (case.layer, case.twin))
    ours, torchs = list(ours), list(torchs)
    assert all(more.kind is more.KEYWORD_ONLY for more in ours[len(torchs) :])
    for mine, theirs in zip(ours, torchs, strict=False):
        assert mine.name == theirs.name
        assert mine.kind == theirs.kind
        if theirs.default is not theirs.empty:
            assert mine.default == theirs.default


LAZY_OF_TORCH = [name for name in dir(torch.nn) if name.startswith("Lazy") and hasattr(nw, name)]


def test_torchs_lazy_norms_are_all_here():
    norms = {name for name in dir(torch.nn) if name.startswith("Lazy") and "Norm" in name}
    assert norms <= set(LAZY_OF_TORCH)


@pytest.mark.parametrize("name", LAZY_OF_TORCH)
def test_a_lazy_class_has_the_defaults_of_torchs(name):
    ours, torchs = (inspect.signature(getattr(m, name)).parameters for m in (nw, torch.nn))
    assert {n: ours[n].default for n in torchs} == {n: p.default for n, p in torchs.items()}
    made, wanted = getattr(nw, name)(), getattr(torch.nn, name)()
    for argument in ("eps", "momentum", "affine", "track_running_stats"):
        assert getattr(made, argument) == getattr(wanted, argument)


def test_left_without_a_size_a_layer_keeps_its_own_defaults():
    layer = nw.InstanceNorm1d()
    assert type(layer) is nw.LazyInstanceNorm1d
    assert not layer.affine
    assert not layer.track_running_stats
    assert nw.LazyInstanceNorm1d(6).affine
    assert not nw.LazyInstanceNorm1d(affine=False).affine
    assert not nw.LazyInstanceNorm1d(6, 1e-5, 0.1, False).affine


# -- copies ------------------------------------------------------------------


@each
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_is_the_same_and_its_own(case, copied):
    layer, x = case.make(), case.x()
    layer(x)
    twin = copied(layer)
    assert type(twin) is type(layer)
    assert_same_state(twin, layer)
    assert torch.equal(twin(x), layer(x))
    assert_same_state(twin, layer)
    tensors = {t.data_ptr() for t in layer.state_dict().values()}
    assert tensors.isdisjoint(t.data_ptr() for t in twin.state_dict().values())


@each_class
def test_it_is_moved_to_another_dtype(case):
    layer = case.make().double()
    assert layer(case.x(torch.float64)).dtype == torch.float64


@each_class
def test_what_it_remembers_stays_wide_in_half_precision(case):
    made, moved_later = case.make(torch.float16), case.make().half()
    wanted = case.make()
    for layer in (made, moved_later):
        for name, buffer in layer.named_buffers():
            if name.startswith("running_"):
                assert buffer.dtype == torch.float32
                assert torch.equal(buffer, wanted.get_buffer(name))


@each
def test_repr_names_the_layer_and_its_size(case):
    text = repr(case.make())
    assert text.startswith(f"{case.name}(")
    assert str(case.arguments[-1]) in text


# -- lazy --------------------------------------------------------------------

LAZY_WAYS = {
    "without the size": lambda case, **kw: case.make_unsized(case.layer, **kw),
    "lazy class": lambda case, **kw: case.make_unsized(case.lazy, **kw),
    "lazy class with the size": lambda case, **kw: case.lazy(
        *case.arguments, **{**case.defaults, **case.keywords, **kw}
    ),
}
in_every_lazy_way = pytest.mark.parametrize("way", LAZY_WAYS.values(), ids=LAZY_WAYS)
unsized = pytest.mark.parametrize("way", list(LAZY_WAYS.values())[:2], ids=list(LAZY_WAYS)[:2])
COPIES = {
    "itself": lambda layer: layer,
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
}


@each_lazy
@in_every_lazy_way
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_lazy_is_sized_after_the_first_input(case, way, copied):
    lazy = copied(way(case))
    sized = case.layer(*case.arguments, **case.keywords)
    for seed in range(2):
        x = case.x(seed=seed)
        assert torch.equal(lazy(x), sized(x))
        assert type(lazy) is case.layer
        assert_same_state(lazy, sized)
        assert repr(lazy) == repr(sized)
        assert not lazy._forward_pre_hooks


@each_lazy
@unsized
def test_lazy_takes_its_size_from_a_state_dict(case, way):
    lazy, sized = way(case), case.make()
    lazy.load_state_dict(sized.state_dict())
    assert_same_state(lazy, sized)
    assert torch.equal(lazy.eval()(case.x()), sized.eval()(case.x()))
    assert_same_state(lazy, sized)


@each_lazy
@unsized
def test_lazy_keeps_the_dtype_it_was_moved_to(case, way):
    made, moved_later = way(case, dtype=torch.float64), way(case).double()
    for lazy in (made.eval(), moved_later.eval()):
        lazy(case.x(torch.float64))
        assert_same_state(lazy, case.layer(*case.arguments, **case.keywords, dtype=torch.float64))


@each_lazy
@unsized
def test_lazy_stays_lazy_if_its_first_input_is_refused(case, way):
    lazy, x = way(case), case.x()
    for wrong in (x.long(), torch.tensor(1.0)):
        with pytest.raises(nw.NormError):
            lazy(wrong)
        assert type(lazy) is case.lazy
        assert repr(lazy) == repr(way(case))
    lazy.eval()(x)
    assert_same_state(lazy, case.layer(*case.arguments, **case.keywords))


def refused_calls(case):
    """A good x in calls that are refused for something else."""
    x = case.x()
    plain = list(case.mask().shape)
    yield x, torch.ones(*plain[:-1], plain[-1] + 1, dtype=torch.bool)
    yield x, torch.ones(plain)
    one = x[tuple(slice(None if i in case.features else 1) for i in range(x.dim()))]
    if case.is_refused(one):
        yield one, None


def values(layer):
    """What a state dict holds; None for a parameter that waits for its size."""
    state = layer.state_dict()
    return {n: None if torch.nn.parameter.is_lazy(t) else t.tolist() for n, t in state.items()}


@each_lazy
@unsized
def test_lazy_stays_lazy_if_its_first_call_is_refused(case, way):
    called_by_hook = []
    lazy, untouched = way(case), way(case)
    lazy.register_forward_pre_hook(lambda *_: called_by_hook.append(1))
    for x, mask in refused_calls(case):
        with pytest.raises(nw.NormError):
            lazy(x, mask)
        assert type(lazy) is case.lazy
        assert not lazy.is_sized
        assert repr(lazy) == repr(untouched)
        assert values(lazy) == values(untouched)
    assert not called_by_hook
    lazy(case.x())
    sized = case.layer(*case.arguments, **case.keywords)
    sized(case.x())
    assert_same_state(lazy, sized)
    assert called_by_hook == [1]


@each_lazy
@unsized
def test_lazy_starts_with_a_mask(case, way):
    lazy, sized = way(case), case.layer(*case.arguments, **case.keywords)
    assert torch.equal(lazy(case.x(), mask=case.mask()), sized(case.x(), case.mask()))


# -- torch.compile -----------------------------------------------------------


def assert_compiled_agrees(case, backend):
    for training in (True, False):
        eager, traced = case.make().train(training), case.make().train(training)
        compiled = torch.compile(traced, fullgraph=True, backend=backend)
        x, mask, cotangent = case.x(), case.mask(), case.x(seed=3)
        for arguments in ((x,), (x, mask)):
            y, found = gradients(compiled, *arguments[:1], cotangent, *arguments[1:])
            wanted_y, wanted = gradients(eager, *arguments[:1], cotangent, *arguments[1:])
            assert_close(y, wanted_y.double())
            for name, gradient in wanted.items():
                assert_close(found[name], gradient, backward=True)
        for name, buffer in eager.named_buffers():
            torch.testing.assert_close(traced.get_buffer(name), buffer)


def slow_for_images(cases):
    """A compilation takes a second, and images take the way of signals."""
    marks = {True: [pytest.mark.slow], False: []}
    return [pytest.param(case, marks=marks[len(case.shape) > 3], id=str(case)) for case in cases]


@pytest.mark.parametrize("case", slow_for_images(FIRST_OF_EACH))
def test_it_compiles_into_one_graph(case):
    torch._dynamo.reset()
    assert_compiled_agrees(case, "eager")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inductor's own imports
@pytest.mark.parametrize("case", FIRST_OF_EACH[-2:], ids=str)
def test_it_compiles_with_inductor(case):
    torch._dynamo.reset()
    assert_compiled_agrees(case, "inductor")
