"""A normalization whose statistics several processes share, each of which has a part of x.

Each measures its part, they gather what they measured, and each normalizes its part by the
merged moments. Backward, the gradients of what was gathered are summed over the processes on
their way back: one exchange each way, of a few numbers for each feature.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normwise.axes import Scheme
from normwise.ops.choice import kernels_for, obstacle, plans
from normwise.ops.dispatch import normalize
from normwise.ops.gradients import by_formula
from normwise.ops.operands import Operands
from normwise.ops.plan import Formula, Plan, Stored, plan
from normwise.ops.watching import Call, watchers
from normwise.reference import Moments, measured

Gather = Callable[[Tensor], Tensor]  # what every process has, stacked; it has a gradient


def normalize_together(
    x: Tensor,
    scheme: Scheme,
    gather: Gather,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    mask: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> tuple[Tensor, Moments]:
    """What `normalize` returns for the process's part of x, by the moments of all parts.

    Each statistic has a weight and a bias of its own, as in batch norm.
    """
    formula = Formula(scheme, {}, eps, activation)
    kernel = kernels_for(x)
    # All processes have to come to the same, also the one whose part is empty.
    asked = Operands(x, weight, bias, residual, mask)
    if not x.numel():
        asked = Operands(x.new_empty([max(size, 1) for size in x.shape]), weight, bias)
    if (
        torch.compiler.is_compiling()
        or kernel not in ("native", "triton")
        or obstacle(kernel, asked, None) is not None
    ):
        moments = merged(measured(x, scheme, mask=mask), gather)
        y, _ = normalize(
            x, scheme, weight=weight, bias=bias, eps=eps, mask=mask, given=moments,
            activation=activation, residual=residual,
        )  # fmt: skip
        return y, moments
    if mask is not None and not mask.is_contiguous():
        mask = mask.contiguous()
    kept: list[Moments] = []
    call: Any = Together.apply
    y = call(x, weight, bias, residual, mask, formula, plans(kernel), gather, kept)
    for calls in watchers:
        calls.append(Call(kernel, "statistics shared by processes"))
    return y, kept[0]


def merged(own: Moments, gather: Gather) -> Moments:
    """The moments of all processes' elements, from each one's own."""
    dtype = own.var.dtype
    mean, var, total = _merged(gather(_told(own)))
    shift = mean.detach().to(dtype)
    return Moments(shift, (mean - shift).to(dtype), var.to(dtype), total)


def _told(own: Moments) -> Tensor:
    """Count, mean and variance as they are exchanged: float64, where an offset costs no digits."""
    count = torch.as_tensor(own.elements, device=own.var.device).expand_as(own.var)
    mean = own.shift.double() + own.offset.double()
    return torch.stack([count.double(), mean, own.var.double()])


def _merged(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and count, by Chan's formula."""
    counts, means, variances = table.unbind(1)
    counts = counts.detach()  # or what is remembered would hold on to the graph
    total = counts.sum(0)
    share = counts / total.clamp(min=1)
    mean = (share * means).sum(0)
    var = (share * (variances + (means - mean).square())).sum(0)
    return mean, torch.where(total > 0, var, 1.0), total


class _Ways(NamedTuple):
    """How the kernels go through this process's part by statistics that they are given."""

    given: Plan
    plain: Plan  # the same without the activation


class _Affine(NamedTuple):
    """(x - shift) * rate * weight + bias: all, also the mean's low digits, in few numbers."""

    shift: Tensor
    var: Tensor
    rate: Tensor  # float64, and so what follows; all flat, of one element for each feature
    low: Tensor  # what the mean lies above its shift, in deviations
    weight: Tensor
    bias: Tensor

    def operands(self, x: Tensor, residual: Tensor | None, mask: Tensor | None) -> Operands:
        """For kernels that are given these statistics."""
        weight, bias = (t.to(self.var.dtype) for t in (self.weight, self.bias))
        return Operands(x, weight, bias, residual, mask, self.shift, self.var)


def _affine(moments: Moments, weight: Tensor | None, bias: Tensor | None, eps: float) -> _Affine:
    rate = (moments.var.double().flatten() + eps).rsqrt()
    low = moments.offset.double().flatten() * rate
    scale = torch.ones_like(rate) if weight is None else weight.detach().double()
    level = torch.zeros_like(rate) if bias is None else bias.detach().double()
    return _Affine(moments.shift, moments.var, rate, low, scale, level - low * scale)


class Together(torch.autograd.Function):
    """`normalize_together` by the kernels, with a gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        mask: Tensor | None,
        formula: Formula,
        kind: type[Plan],
        gather: Gather,
        kept: list[Moments],
    ) -> Tensor:
        own, ways = _own(x, mask, formula, kind)
        with torch.set_grad_enabled(ctx.needs_input_grad[0]):
            told = _told(own).requires_grad_(ctx.needs_input_grad[0])
            mean, var, total = _merged(gather(told))
        wide = own.var.dtype
        shift = mean.detach().to(wide)
        moments = Moments(shift, (mean.detach() - shift).to(wide), var.detach().to(wide), total)
        kept.append(moments)
        ctx.save_for_backward(x, weight, bias, residual, mask)
        ctx.exchanged, ctx.moments, ctx.ways = (told, mean, var), moments, ways
        ctx.formula, ctx.gather = formula, gather
        ctx.set_materialize_grads(False)
        if ways is None:
            return torch.empty_like(x)
        by = _affine(moments, weight, bias, formula.eps)
        y, _ = ways.given.forward(by.operands(x, residual, mask), False)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * 9
        x, weight, bias, residual, mask = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:4]
        if torch.is_grad_enabled():  # a gradient of the gradient is asked for
            given = merged(measured(x, ctx.formula.scheme, mask=mask), ctx.gather)
            of = Operands(x, weight, bias, residual, mask)
            found = by_formula(ctx.formula, gradient, of, given, wanted)
            return (*found, None, None, None, None, None)
        by = _affine(ctx.moments, weight, bias, ctx.formula.eps)
        if ctx.ways is None:
            dx, dresidual = torch.empty_like(x), residual
            of_weight = of_bias = torch.zeros_like(by.rate)
        else:
            dx, of_weight, of_bias, dresidual = ctx.ways.given.backward(
                gradient, by.operands(x, residual, mask), None, (wanted[0], True, True, wanted[3])
            )
            of_bias = of_bias.double()
            of_weight = of_weight.double() - by.low * of_bias
        if wanted[0]:
            dx = _through_the_statistics(ctx, x, mask, dx, by, of_weight, of_bias)
        dweight = of_weight.to(weight.dtype) if wanted[1] else None
        dbias = of_bias.to(bias.dtype) if wanted[2] else None
        return (
            dx if wanted[0] else None,
            dweight,
            dbias,
            dresidual if wanted[3] else None,
            *((None,) * 5),
        )


def _own(
    x: Tensor, mask: Tensor | None, formula: Formula, kind: type[Plan]
) -> tuple[Moments, _Ways | None]:
    """The moments of this process's part, and how the kernels go on; None where it is empty."""
    if not x.numel():
        return measured(x, formula.scheme, mask=mask), None
    own = plan(kind, formula, Operands(x, mask=mask))
    moments = Stored(own.measure(x, mask), own.elements).moments()
    plain = formula._replace(activation=None)
    of = Operands(x, mask=mask, var=moments.var)
    return moments, _Ways(*(plan(kind, f, of) for f in (formula, plain)))


def _through_the_statistics(
    ctx: Any,
    x: Tensor,
    mask: Tensor | None,
    dx: Tensor,
    by: _Affine,
    of_weight: Tensor,
    of_bias: Tensor,
) -> Tensor:
    """dx and what comes through mean and variance: affine in x, so a kernel adds it."""
    told, mean, var = ctx.exchanged
    of_mean = -by.rate * by.weight * of_bias
    of_var = -by.rate.square() * by.weight * of_weight / 2
    pulled = [t.view_as(mean) for t in (of_mean, of_var)]
    # Here the processes exchange. A gradient may be asked for again, so the graph stays.
    (found,) = torch.autograd.grad((mean, var), (told,), pulled, retain_graph=True)
    if ctx.ways is None:
        return dx
    count, own, _ = (t.flatten() for t in told.detach())
    steep = 2 * found[2].flatten() / count.clamp(min=1)
    level = found[1].flatten() / count.clamp(min=1)
    level = level + steep * (by.shift.double().flatten() - own)
    ways: _Ways = ctx.ways
    by = by._replace(weight=steep / by.rate, bias=level)
    total, _ = ways.plain.forward(by.operands(x, dx, mask), False)
    return total
