"""What is computed and how it is walked through memory, whatever kernels walk."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from math import prod
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from normwise.axes import Fitted, Scheme, part_sizes
from normwise.ops.form import Form, form
from normwise.ops.operands import Four, Operands
from normwise.reference import Moments, normalize
from normwise.running import Remembered, Running


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

    def by_reference(self, of: Operands, given: Moments | None) -> tuple[Tensor, Moments]:
        """The same, in plain tensor operations."""
        return normalize(
            of.x,
            self.scheme,
            weight=of.weight,
            bias=of.bias,
            eps=self.eps,
            mask=of.mask,
            sizes=self.sizes,
            given=given,
            activation=self.activation,
            residual=of.residual,
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
    def counted(self) -> bool:
        """Whether a mask told how many elements each averages over."""
        return self.tensor is not None and len(self.tensor) == 4

    @property
    def elements(self) -> Tensor | int:
        return self.tensor[3] if self.counted else self._elements  # type: ignore[index]  # there is

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


class Plan(ABC):
    """One way through memory, for every call with tensors of these shapes, strides and dtypes.

    form      None where no kernel can walk it
    copies    whether x has to be made contiguous first
    elements  how many elements of x a statistic averages over, without a mask
    moments   the sizes of the tensor that the moments are kept in
    weights   how many elements weight and bias have
    given     how many statistics are given; None where they are x's own
    """

    plans: ClassVar[dict[tuple[Any, ...], Any]]

    def __init__(
        self,
        formula: Formula,
        x: Tensor,
        weight: torch.dtype | None,
        mask: torch.Size | None,
        given: torch.Size | None,
    ) -> None:
        self.formula = formula
        statistic = statistic_shape(formula, x.shape)
        walk = self._form(x, statistic if given is None else given, mask)
        self.copies = walk is None
        if walk is None:
            walk = self._form(x.contiguous(), statistic if given is None else given, mask)
        self.form: Form | None = walk
        self.given = None if given is None else given.numel()
        self._given_fits = given is None or broadcasts(given, torch.Size(statistic))
        self.elements = elements_of(formula, x)
        self.moments = [3 + (mask is not None), *statistic]
        self.wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        self.weights = 1
        for i in formula.scheme.pattern.fit(x.dim()).features:
            self.weights *= x.shape[i]
        if walk is not None:
            self._prepare(walk, x, weight or self.wide, given is not None)

    def unfit(self, of: Operands) -> str | None:
        """Why the kernels cannot go this way with these, in words; None if they can."""
        if self.form is None:
            return "kept and averaged dimensions alternate too often"
        for name, t in (("weight", of.weight), ("bias", of.bias)):
            if t is not None and t.numel() != self.weights:
                return f"{name} has {t.numel()} elements, and x {self.weights} features"
        mean, var = of.mean, of.var
        apart = mean is not None and var is not None and mean.shape != var.shape
        if apart or not self._given_fits:
            return "the statistics that are given do not fit x"
        return None

    def _form(self, x: Tensor, statistic: Any, mask: torch.Size | None) -> Form | None:
        fitted = self.formula.scheme.pattern.fit(x.dim())
        y = torch.empty_like(x, device="meta").stride()
        return form(fitted, x.shape, x.stride(), y, statistic, mask, self.formula.sizes)

    @abstractmethod
    def _prepare(self, walk: Form, x: Tensor, weight: torch.dtype, given: bool) -> None:
        """Decide all that can be decided once."""

    @abstractmethod
    def describe(self) -> str:
        """How the kernels walk through memory, in words."""

    @abstractmethod
    def forward(self, of: Operands, keeps: bool) -> tuple[Tensor, Tensor | None]:
        """y and, if it `keeps` them, the moments."""

    def measure(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The moments alone; where no kernel stops there, y is computed in vain."""
        _, moments = self.forward(Operands(x, mask=mask), True)
        assert moments is not None  # they were to be kept
        return moments

    @abstractmethod
    def backward(
        self, gradient: Tensor, of: Operands, moments: Tensor | None, wanted: tuple[bool, ...]
    ) -> Four:
        """The gradients of x, weight, bias and residual, as far as they are wanted."""

    def _laid_out(self, of: Operands) -> tuple[Tensor, Operands]:
        """A tensor for y or dx, and the operands with x and residual as the kernels read them."""
        if self.copies:
            of = of._replace(x=of.x.contiguous())
        y = torch.empty_like(of.x)
        if of.residual is not None:
            of = of._replace(residual=like(y, of.residual))
        return y, of


def broadcasts(sizes: torch.Size, whole: torch.Size) -> bool:
    """Whether a tensor of these sizes broadcasts to a whole of the same rank."""
    return len(sizes) == len(whole) and all(
        size in (1, all_of_it) for size, all_of_it in zip(sizes, whole, strict=True)
    )


def like(y: Tensor, other: Tensor) -> Tensor:
    """`other` in y's dtype and where y has its elements; itself if it is so already."""
    as_it_is = other.stride() == y.stride() and other.dtype == y.dtype
    if as_it_is and not other.is_neg() and not other._is_zerotensor():
        return other
    return torch.empty_like(y).copy_(other)


def readable(of: Operands, given: Moments | None, formula: Formula) -> Operands:
    """The operands as kernels read them: weights and mask contiguous, given statistics wide.

    given  in place of mean and var, if there is one
    """
    x, weight, bias, residual, mask, mean, var = of
    if given is not None:
        mean, var = given.shift if formula.scheme.centres else None, given.var
    weight, bias, mask = (
        t if t is None or t.is_contiguous() else t.contiguous() for t in (weight, bias, mask)
    )
    mean, var = (t if t is None else _wide(t, x) for t in (mean, var))
    return Operands(x, weight, bias, residual, mask, mean, var)


def _wide(statistic: Tensor, x: Tensor) -> Tensor:
    """A given statistic as the kernels read it: contiguous, and as wide as they compute."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    plain = statistic.is_contiguous() and not statistic.requires_grad and not statistic.is_neg()
    if plain and statistic.dtype == wide:
        return statistic
    return statistic.detach().to(wide).contiguous().resolve_neg()


_Kind = TypeVar("_Kind", bound=Plan)
_MOST_PLANS = 4096  # lengths that never repeat must not fill the memory


def plan(kind: type[_Kind], formula: Formula, of: Operands) -> _Kind:
    """The plan for tensors like these; made once."""
    x, weight = of.x, of.weight if of.weight is not None else of.bias
    key = (
        formula.key,
        x.get_device(),
        x.shape,
        x.stride(),
        x.dtype,
        None if weight is None else weight.dtype,
        None if of.mask is None else of.mask.shape,
        None if of.var is None else of.var.shape,
    )
    plans = kind.plans
    found: _Kind | None = plans.get(key)
    if found is None:
        if len(plans) >= _MOST_PLANS:
            plans.clear()
        found = plans[key] = kind(formula, x, *key[5:])
    return found


class Batch(NamedTuple):
    """Where stored moments have what running statistics take in: of samples by features."""

    statistics: int  # the distance from shift to offset to var to count
    samples: int
    features: int
    sample_stride: int
    feature_stride: int


def batch_of(
    policy: Running, remembered: Remembered, stored: Stored, fitted: Fitted
) -> Batch | None:
    """What kernels are to take in; None where `policy.update` has to do it."""
    moments, (mean, var, batches) = stored.tensor, remembered
    if moments is None or var.dtype not in (torch.float32, torch.float64):
        return None
    if batches is None:
        if policy.counts_batches:
            return None
    elif not _is_beside(batches, moments, torch.int64, 1):
        return None
    features = var.numel()
    if mean is not None and not _is_beside(mean, moments, var.dtype, features):
        return None
    if not _is_beside(var, moments, var.dtype, features):
        return None
    return _where(moments.shape, features, fitted.samples)


@lru_cache(4096)
def _where(moments: torch.Size, features: int, sampled: tuple[int, ...]) -> Batch | None:
    """Where the moments of each sample and feature lie; None where strides cannot tell."""
    sizes = moments[1:]
    statistics = sizes.numel()
    samples = prod(sizes[i] for i in sampled)
    if samples * features != statistics:
        return None
    inner = sizes[sampled[0] + 1 :].numel() if sampled else features
    if len(sampled) > 1 or inner not in (1, features):  # features lie on both sides of n
        return None
    return Batch(statistics, samples, features, inner, 1 if inner == features else samples)


def _is_beside(buffer: Tensor, moments: Tensor, dtype: torch.dtype, elements: int) -> bool:
    """Whether a buffer of so many lies open in memory, on the device that the moments are on."""
    return (
        buffer.dtype is dtype
        and buffer.numel() == elements
        and type(buffer) is Tensor
        and buffer.is_contiguous()
        and buffer.get_device() == moments.get_device()
        and not buffer.requires_grad
        and not buffer.is_neg()
    )
