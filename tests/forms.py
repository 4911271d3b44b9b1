"""x in every form that the kernels know, and what is to be found for it: for all kernels' tests."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from normwise.axes import SCHEMES, Scheme, trailing
from normwise.ops.plan import Stored
from normwise.reference import Moments
from tolerances import TOLERANCES, assert_close

Lay = Callable[[Tensor], Tensor]


def as_it_is(x: Tensor) -> Tensor:
    return x


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def sliced(x: Tensor) -> Tensor:
    """The same numbers, with others before and after each run."""
    wide = x.new_full((*x.shape[:-1], x.shape[-1] + 9), torch.nan)
    wide[..., 4:-5] = x
    return wide[..., 4:-5]


def stepping(x: Tensor) -> Tensor:
    """The same numbers, every other one in memory."""
    wide = x.new_full((*x.shape, 2), torch.nan)
    wide[..., 0] = x
    return wide[..., 0]


def transposed(x: Tensor) -> Tensor:
    return x.mT.contiguous().mT


def expanded(x: Tensor) -> Tensor:
    """The first sample, as often as there are samples."""
    return x[:1].expand_as(x)


@dataclass(frozen=True)
class Case:
    """A scheme, the sizes of x, and how x lies in memory."""

    name: str
    scheme: Scheme
    shape: tuple[int, ...]
    lay: Lay = as_it_is
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def features(self) -> tuple[int, ...]:
        return self.scheme.pattern.fit(len(self.shape)).features

    def x(self, dtype: torch.dtype = torch.float32, offset: float = 0.5) -> Tensor:
        return self.lay((2 * self.draw(0) + offset).to(dtype))

    def draw(self, seed: int, shape: tuple[int, ...] | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape or self.shape, generator=generator, dtype=torch.float64)

    def weight(self, seed: int, dtype: torch.dtype) -> Tensor:
        sizes = tuple(self.shape[i] for i in self.features)
        return (self.draw(seed, sizes) + 1).to(dtype)

    def mask(self) -> Tensor:
        """Some of the positions, all of the first sample, none of the second one."""
        shape = [1 if i in self.features else size for i, size in enumerate(self.shape)]
        mask = self.draw(3, tuple(shape)) > -0.5
        mask[0] = True
        if self.shape[0] > 2:
            mask[1] = False
        return mask

    def __str__(self) -> str:
        return self.name


BATCH, GHOST, INSTANCE, GROUP = (SCHEMES[s] for s in ("batch", "ghost", "instance", "group"))
SAMPLE, LAYER, RMS = (SCHEMES[s] for s in ("sample", "layer", "rms"))
LAST, LAST_TWO = Scheme(trailing(1)), Scheme(trailing(2))

CASES = [
    Case("instance", INSTANCE, (3, 4, 50)),
    Case("instance of few", INSTANCE, (3, 5, 4)),
    Case("instance of short runs", INSTANCE, (2, 37, 20)),
    Case("instance of many", INSTANCE, (2, 3, 2500)),
    Case("instance of images", INSTANCE, (3, 4, 6, 7)),
    Case("instance sliced", INSTANCE, (3, 4, 50), sliced),
    Case("instance stepping", INSTANCE, (3, 4, 50), stepping),
    Case("instance transposed", INSTANCE, (3, 4, 50), transposed),
    Case("instance transposed, long", INSTANCE, (2, 37, 300), transposed),
    Case("instance expanded", INSTANCE, (3, 4, 50), expanded),
    Case("instance channels last", INSTANCE, (3, 5, 6, 7), channels_last),
    Case("group", GROUP, (3, 6, 20), sizes={"g": 2}),
    Case("group of many", GROUP, (2, 6, 700), sizes={"g": 2}),
    Case("group of short runs", GROUP, (4, 200, 13), sizes={"g": 2}),
    Case("group of few", GROUP, (5, 12, 3), sizes={"g": 2}),
    Case("group of few, many groups", GROUP, (2, 93, 17), sizes={"g": 31}),
    Case("group of short runs, shared", GROUP, (2, 410, 7), sizes={"g": 1}),
    Case("group sliced", GROUP, (3, 6, 20), sliced, sizes={"g": 2}),
    Case("group channels last", GROUP, (3, 6, 5, 7), channels_last, sizes={"g": 3}),
    Case("group channels last, wide", GROUP, (3, 72, 5, 9), channels_last, sizes={"g": 2}),
    Case("group transposed", GROUP, (3, 8, 40), transposed, sizes={"g": 2}),
    Case("sample", SAMPLE, (3, 6, 20)),
    Case("sample channels last", SAMPLE, (3, 6, 5, 7), channels_last),
    Case("batch", BATCH, (5, 4, 30)),
    Case("batch of few", BATCH, (130, 3, 4)),
    Case("batch of short runs", BATCH, (40, 3, 33)),
    Case("batch of images", BATCH, (3, 4, 6, 7)),
    Case("batch of many", BATCH, (3, 2, 1500)),
    Case("batch of rows", BATCH, (70, 5)),
    Case("batch of wide rows", BATCH, (9, 1100)),
    Case("batch sliced", BATCH, (5, 4, 30), sliced),
    Case("batch of sliced rows", BATCH, (70, 5), sliced),
    Case("batch expanded", BATCH, (5, 4, 30), expanded),
    Case("batch channels last", BATCH, (3, 5, 6, 7), channels_last),
    Case("ghost", GHOST, (6, 4, 10), sizes={"g": 3}),
    Case("ghost of rows", GHOST, (40, 4), sizes={"g": 20}),
    Case("layer", LAYER, (3, 8, 40)),
    Case("layer of many rows", LAYER, (3, 130, 9)),
    Case("layer of slim rows", LAYER, (2, 44, 31)),
    Case("layer of wide rows", LAYER, (2, 7, 1300)),
    Case("layer sliced", LAYER, (3, 8, 40), sliced),
    Case("layer transposed", LAYER, (3, 8, 40), transposed),
    Case("layer channels last", LAYER, (3, 6, 5, 7), channels_last),
    Case("rms", RMS, (3, 8, 40)),
    Case("rms of many rows", RMS, (3, 130, 9)),
    Case("rms transposed", RMS, (3, 8, 40), transposed),
    Case("trailing", LAST, (4, 5, 33)),
    Case("trailing of short rows", LAST, (70, 18)),
    Case("trailing of many", LAST, (3, 2500)),
    Case("trailing sliced", LAST, (4, 5, 33), sliced),
    Case("trailing two", LAST_TWO, (4, 5, 33)),
]  # fmt: skip
A_FEW = [
    case for case in CASES
    if str(case) in ("instance of many", "group", "batch", "batch of few", "layer of many rows",
                     "rms", "trailing", "layer channels last", "group channels last, wide",
                     "group of short runs", "group of short runs, shared",
                     "group of few, many groups", "instance of short runs", "batch of short runs",
                     "trailing of short rows")
]  # fmt: skip
each = pytest.mark.parametrize("case", CASES, ids=str)
of_a_few = pytest.mark.parametrize("case", A_FEW, ids=str)
masked_or_not = pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
DTYPES = pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.bfloat16,
        pytest.param(torch.float64, marks=pytest.mark.slow),  # the same code as float32
        pytest.param(torch.float16, marks=pytest.mark.slow),  # as bfloat16, read otherwise
    ],
    ids=lambda dtype: str(dtype).removeprefix("torch."),
)


@dataclass
class Outcome:
    y: Tensor
    moments: Moments
    gradients: list[Tensor]


Inputs = dict[str, Any]


def inputs_of(
    case: Case,
    dtype: torch.dtype,
    *,
    masked: bool = False,
    adds: bool = False,
    offset: float = 0.5,
    of_weight: torch.dtype | None = None,
) -> Inputs:
    """What `normalize` takes, with NaN wherever a mask says that nothing is."""
    inputs: Inputs = {
        "x": case.x(dtype, offset),
        "weight": case.weight(1, of_weight or dtype),
        "bias": case.weight(2, of_weight or dtype),
        "gradient": case.lay(case.draw(5).to(dtype)),
    }
    if adds:
        inputs["residual"] = case.lay(case.draw(4).to(dtype))
    if masked:
        mask = inputs["mask"] = case.mask()
        for name in ("x", "residual", "gradient"):
            if name in inputs:
                inputs[name] = case.lay(torch.where(mask, inputs[name], torch.nan))
    return inputs


def outcome(run: Callable[..., Any], case: Case, inputs: Inputs, **options: Any) -> Outcome:
    named = {name: t for name, t in inputs.items() if name != "gradient"}
    leaves = {
        name: t.detach().requires_grad_() for name, t in named.items() if t.is_floating_point()
    }
    rest = {**named, **leaves}
    y, moments = run(rest.pop("x"), case.scheme, sizes=case.sizes, **rest, **options)
    gradients = list(torch.autograd.grad(y, list(leaves.values()), inputs["gradient"]))
    if isinstance(moments, Stored):
        moments = moments.moments()
    return Outcome(y.detach(), moments, gradients)


def in_float64(inputs: Inputs) -> Inputs:
    return {k: t.double() if t.is_floating_point() else t for k, t in inputs.items()}


def assert_same(found: Outcome, truth: Outcome) -> None:
    assert_close(found.y, truth.y)
    mean, var = truth.moments.mean, truth.moments.var
    # How far the mean is off shows beside the deviation, not beside the mean.
    wide = TOLERANCES[found.moments.var.dtype]
    apart = found.moments.shift.double() - mean + found.moments.offset.double()
    assert torch.all(apart.abs() <= 2 * wide.forward * (var + mean * mean * 1e-6).sqrt())
    assert_close(found.moments.var, var)
    counted, really = (torch.as_tensor(m.elements) for m in (found.moments, truth.moments))
    assert torch.equal(counted.long(), really.long().expand_as(counted))
    for gradient, true in zip(found.gradients, truth.gradients, strict=True):
        assert_close(gradient, true, backward=True)
