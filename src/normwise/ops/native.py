"""The CPU kernels: a plan for each kind of call, and addresses handed over."""

import warnings
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normwise.axes import Fitted, Scheme, part_sizes
from normwise.ops.form import Form, Operand, form
from normwise.reference import ACTIVATIONS, Moments, normalize
from normwise.running import Remembered, Running

NUMBERS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_ACTIVATIONS = [None, *ACTIVATIONS]  # in the order of csrc/call.h

# Elements below which a second thread costs more than it brings: benchmarks/thresholds.py.
ONE_THREAD = 16_384


@cache
def library() -> Any:
    """The compiled module; None, and said once, where there is none."""
    try:
        return import_module("normwise._native")
    except ImportError as error:
        warnings.warn(
            "normwise runs without its CPU kernels, by plain formulas that are slower: "
            f"{error}. Install it with a C++ compiler and CMake at hand to have them",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


class Formula(NamedTuple):
    """What is computed, apart from the tensors it is computed from."""

    scheme: Scheme
    sizes: Mapping[str, int]
    eps: float
    activation: str | None

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells formulas apart, quicker to hash than the formula is."""
        scheme = self.scheme
        parts = tuple(self.sizes.values())
        return scheme.pattern.text, scheme.centres, parts, self.eps, self.activation

    def by_reference(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        mask: Tensor | None,
        given: Moments | None,
    ) -> tuple[Tensor, Moments]:
        """The same, in plain tensor operations."""
        return normalize(
            x,
            self.scheme,
            weight=weight,
            bias=bias,
            eps=self.eps,
            mask=mask,
            sizes=self.sizes,
            given=given,
            activation=self.activation,
            residual=residual,
        )


class Stored:
    """Moments as the kernels leave them: shift, offset, var and, with a mask, count, in one tensor.

    elements  positions that each statistic averages over; a tensor where a mask counts them,
              0 where it does and they were not kept
    """

    __slots__ = ("_elements", "tensor")

    def __init__(self, tensor: Tensor | None, elements: int) -> None:
        self.tensor = tensor
        self._elements = elements

    @property
    def elements(self) -> Tensor | int:
        counted = self.tensor is not None and len(self.tensor) == 4
        return self.tensor[3] if counted else self._elements  # type: ignore[index]

    def moments(self) -> Moments:
        """The same as the formulas have them."""
        assert self.tensor is not None  # whoever asks had them kept
        shift, offset, var = self.tensor[:3]
        return Moments(shift, offset, var, self.elements)


def statistic_shape(formula: Formula, shape: torch.Size) -> list[int]:
    """The sizes of a statistic of x: those of the split tensor, 1 where it averages."""
    fitted = formula.scheme.pattern.fit(len(shape))
    names = dict(fitted.splits)
    split: list[int] = []
    for i, size in enumerate(shape):
        split += part_sizes(names[i], size, formula.sizes) if i in names else (size,)
    return [1 if i in fitted.averaged else size for i, size in enumerate(split)]


def elements_of(formula: Formula, x: Tensor) -> int:
    """How many elements of x a statistic averages over, without a mask."""
    statistics = 1
    for size in statistic_shape(formula, x.shape):
        statistics = statistics * size
    return x.numel() // max(statistics, 1)


class Plan:
    """One way through memory, for every call with tensors of these shapes, strides and dtypes.

    elements  how many elements of x a statistic averages over, without a mask
    moments   the sizes of the tensor that the moments are kept in
    """

    def __init__(
        self,
        formula: Formula,
        x: Tensor,
        weight: torch.dtype | None,
        mask: torch.Size | None,
        given: torch.Size | None,
    ) -> None:
        self.formula = formula
        shape, fitted = x.shape, formula.scheme.pattern.fit(x.dim())
        statistic = statistic_shape(formula, shape)
        walk = self._form(x, statistic if given is None else given, mask)
        self.copies = walk is None
        if walk is None:
            walk = self._form(x.contiguous(), statistic if given is None else given, mask)
        self.form: Form | None = walk
        kept = torch.Size(statistic).numel()
        self.elements = elements_of(formula, x)
        self.moments = [3 + (mask is not None), *statistic]
        self.wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        self.one_thread = x.numel() <= ONE_THREAD
        weights = 1
        for i in fitted.features:
            weights *= shape[i]
        if walk is not None:
            self.native = library().Plan(
                walk.sizes,
                _four(walk.x),
                _four(walk.y),
                _five(walk.weight),
                _five(walk.mask),
                (walk.statistic.o, walk.statistic.k),
                weights,
                kept,
                formula.scheme.centres,
                given is not None,
                formula.eps,
                _ACTIVATIONS.index(formula.activation),
                NUMBERS[x.dtype],
                NUMBERS[weight or self.wide],
            )

    def describe(self) -> str:
        """How the kernels walk through memory, in words."""
        assert self.form is not None
        o, a, k, p, q = self.form.sizes
        if self.native.is_across():
            walk = f"{o * k} statistics across {a} rows of {k * q} neighbours"
        else:
            walk = f"{o * k} statistics of {a} x {p * q} neighbours"
        threads = 1 if self.one_thread else torch.get_num_threads()
        words = f"{walk}; {library().in_use()}, {threads} thread{'s' * (threads > 1)}"
        return words + "; x is copied to be contiguous" * self.copies

    def _form(self, x: Tensor, statistic: Any, mask: torch.Size | None) -> Form | None:
        fitted = self.formula.scheme.pattern.fit(x.dim())
        y = torch.empty_like(x, device="meta").stride()
        return form(fitted, x.shape, x.stride(), y, statistic, mask, self.formula.sizes)

    def forward(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        mask: Tensor | None,
        mean: Tensor | None,
        var: Tensor | None,
        keeps: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """y and, if it `keeps` them, the moments."""
        if self.copies:
            x = x.contiguous()
        y = torch.empty_like(x)
        moments = torch.empty(self.moments, dtype=self.wide) if keeps else None
        if residual is not None:
            residual = _like(y, residual)
        self.native.forward(
            x.data_ptr(),
            0 if weight is None else weight.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            0 if mask is None else mask.data_ptr(),
            0 if residual is None else residual.data_ptr(),
            0 if mean is None else mean.data_ptr(),
            0 if var is None else var.data_ptr(),
            y.data_ptr(),
            0 if moments is None else moments.data_ptr(),
            1 if self.one_thread else torch.get_num_threads(),
        )
        return y, moments

    def backward(
        self,
        gradient: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        mask: Tensor | None,
        mean: Tensor | None,
        var: Tensor | None,
        moments: Tensor | None,
        wanted: tuple[bool, ...],
    ) -> tuple[Tensor | None, ...]:
        """The gradients of x, weight, bias and residual, as far as they are wanted."""
        if self.copies:
            x = x.contiguous()
        dx = torch.empty_like(x)
        gradient = _like(dx, gradient)
        dweight = torch.empty_like(weight) if wanted[1] and weight is not None else None
        dbias = torch.empty_like(bias) if wanted[2] and bias is not None else None
        dresidual = torch.empty_like(dx) if wanted[3] else None
        if residual is not None:
            residual = _like(dx, residual)
        self.native.backward(
            gradient.data_ptr(),
            x.data_ptr(),
            0 if weight is None else weight.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            0 if mask is None else mask.data_ptr(),
            0 if residual is None else residual.data_ptr(),
            0 if mean is None else mean.data_ptr(),
            0 if var is None else var.data_ptr(),
            0 if moments is None else moments.data_ptr(),
            dx.data_ptr() if wanted[0] else 0,
            0 if dweight is None else dweight.data_ptr(),
            0 if dbias is None else dbias.data_ptr(),
            0 if dresidual is None else dresidual.data_ptr(),
            1 if self.one_thread else torch.get_num_threads(),
        )
        return dx if wanted[0] else None, dweight, dbias, dresidual


def _four(operand: Operand) -> tuple[int, int, int, int]:
    return operand.o, operand.a, operand.k, operand.p


def _five(operand: Operand) -> tuple[int, int, int, int, int]:
    return operand.o, operand.a, operand.k, operand.p, operand.q


def _like(y: Tensor, other: Tensor) -> Tensor:
    """`other` in y's dtype and where y has its elements; itself if it is so already."""
    if other.stride() == y.stride() and other.dtype == y.dtype:
        return other
    return torch.empty_like(y).copy_(other)


def ready(statistic: Tensor, x: Tensor) -> Tensor:
    """A given statistic as the kernels read it: contiguous, and as wide as they compute."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    if statistic.dtype == wide and statistic.is_contiguous() and not statistic.requires_grad:
        return statistic
    return statistic.detach().to(wide).contiguous()


_PLANS: dict[tuple[Any, ...], Plan] = {}
_MOST_PLANS = 4096  # lengths that never repeat must not fill the memory


def plan(
    formula: Formula,
    x: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    var: Tensor | None,
) -> Plan:
    """The plan for tensors like these; made once."""
    key = (
        formula.key,
        x.shape,
        x.stride(),
        x.dtype,
        None if weight is None else weight.dtype,
        None if mask is None else mask.shape,
        None if var is None else var.shape,
    )
    found = _PLANS.get(key)
    if found is None:
        if len(_PLANS) >= _MOST_PLANS:
            _PLANS.clear()
        found = _PLANS[key] = Plan(formula, x, *key[4:])
    return found


def remember(policy: Running, remembered: Remembered, stored: Stored, fitted: Fitted) -> bool:
    """`policy.update` by one pass over what the kernels left; False where it cannot be done so."""
    moments, (mean, var, batches) = stored.tensor, remembered
    buffers = [buffer for buffer in remembered if buffer is not None]
    plain = all(
        b.is_cpu and b.is_contiguous() and type(b) is Tensor and not b.requires_grad
        for b in buffers
    )
    counts = policy.average == "cumulative" or policy.start == "first-batch"
    if (
        moments is None
        or not plain
        or (counts and batches is None)
        or (batches is not None and batches.dtype != torch.int64)
        or var.dtype not in _WIDE
        or (mean is not None and mean.dtype != var.dtype)
        or len(fitted.samples) > 1
    ):
        return False
    sizes = moments.shape[1:]
    statistics, features = sizes.numel(), var.numel()
    samples = statistics // max(features, 1)
    inner = sizes[fitted.samples[0] + 1 :].numel() if fitted.samples else features
    if inner not in (1, features):  # what is remembered lies on both sides of n
        return False
    counted = moments.shape[0] == 4
    taken = library().remember(
        moments.data_ptr(),
        statistics,
        samples,
        features,
        inner,
        1 if inner == features else samples,
        -1.0 if counted else float(stored.elements),
        moments.dtype == torch.float64,
        0 if mean is None else mean.data_ptr(),
        var.data_ptr(),
        0 if batches is None else batches.data_ptr(),
        var.dtype == torch.float64,
        policy.average == "cumulative",
        policy.start == "first-batch",
        ("ignore", "skip", "raise").index(policy.on_nonfinite),
        policy.momentum,
    )
    if not taken:
        raise policy.refusal()
    torch.autograd.graph.increment_version(buffers)
    return True


_WIDE = (torch.float32, torch.float64)
