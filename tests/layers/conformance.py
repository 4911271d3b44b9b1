"""The layers that promise the same: each is a line in CASES, and the tests go through them all."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from formulas import (
    at_its_limits,
    by_memory,
    causal,
    dynamic_erf,
    dynamic_tanh,
    evonorm_b0,
    evonorm_s0,
    filter_response,
    global_response,
    identity,
    own,
    remembering,
    switched,
)
from torch import Tensor

import normwise as nw
import oracle


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
    Case(nw.BatchRenorm2d, (6,), (4, 6, 2, 3), BATCH, mixes=True),
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
