"""Gradients of the kernels: of the first order by kernels, of higher orders by the formula."""

from typing import Any

import torch
from torch import Tensor

from normwise.axes import Fitted
from normwise.ops.plan import Formula, Plan
from normwise.reference import Moments
from normwise.running import Remembered, recall

Four = tuple[Tensor | None, ...]  # of x, weight, bias and residual


class _Rest:
    """What a call of the kernels takes beside that which has gradients, and the moments it leaves.

    One argument in place of five: autograd looks at each, there and back.
    """

    __slots__ = ("mask", "mean", "moments", "plan", "var")

    def __init__(
        self, plan: Plan, mask: Tensor | None, mean: Tensor | None, var: Tensor | None
    ) -> None:
        self.plan, self.mask, self.mean, self.var = plan, mask, mean, var
        self.moments: Tensor | None = None  # as an output they would cost 3 µs


class Normalize(torch.autograd.Function):
    """One call of the kernels whose result has a gradient.

    Kept for the backward pass are the input, the statistics and what the activation
    needs to be taken back: no copy of x, in no other precision.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        rest: _Rest,
    ) -> Tensor:
        plan, mask, mean, var = rest.plan, rest.mask, rest.mean, rest.var
        y, moments = plan.forward(x, weight, bias, residual, mask, mean, var, var is None)
        if plan.formula.activation is None:
            residual = None
        ctx.save_for_backward(x, weight, bias, residual, mask, mean, var, moments)
        ctx.plan, rest.moments = plan, moments
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, residual, mask, mean, var, moments = ctx.saved_tensors
        wanted, plan = ctx.needs_input_grad[:4], ctx.plan
        if torch.is_grad_enabled():  # a gradient of the gradient is asked for
            given = _split(given_moments(mean, var), plan.formula.scheme.pattern.fit(x.dim()))
            found = by_formula(
                plan.formula, gradient, (x, weight, bias, residual), mask, given, wanted
            )
        else:
            found = plan.backward(
                gradient, x, weight, bias, residual, mask, mean, var, moments, wanted
            )
        return (*found, None)


# Function.apply in Python first asks for torch.func's transforms, which `choice.between` has
# done, and takes 3 of the 7 µs that an autograd function needs: this is what it calls then.
_apply: Any = super(torch.autograd.Function, Normalize).apply


def differentiably(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mask: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    plan: Plan,
) -> tuple[Tensor, Tensor | None]:
    """`plan.forward` with a gradient; the moments, where they are x's own, have none."""
    rest = _Rest(plan, mask, mean, var)
    return _apply(x, weight, bias, residual, rest), rest.moments


def by_formula(
    formula: Formula,
    gradient: Tensor,
    inputs: Four,
    mask: Tensor | None,
    given: Moments | None,
    wanted: tuple[bool, ...],
) -> Four:
    """The gradients of x, weight, bias and residual as a graph that can be differentiated on."""
    x, weight, bias, residual = inputs
    assert x is not None
    if wanted[3] and residual is None:  # it was not kept, as its value does not matter
        residual = torch.zeros_like(x).requires_grad_()
    y, _ = formula.by_reference(x, weight, bias, residual, mask, given)
    asked = [t for t, wish in zip((x, weight, bias, residual), wanted, strict=True) if wish]
    found = iter(
        torch.autograd.grad(y, [t for t in asked if t is not None], gradient, create_graph=True)
    )
    return tuple(next(found) if wish else None for wish in wanted)


def given_moments(mean: Tensor | None, var: Tensor | None) -> Moments | None:
    """Statistics that are not x's own, as moments; None where there are none."""
    if var is None:
        return None
    zero = var.new_zeros(())
    return Moments(zero if mean is None else mean, zero, var, 0, kept=True)


def _split(given: Moments | None, fitted: Fitted) -> Moments | None:
    """The moments as they fit the split tensor; kernels take a layer's buffers as they are."""
    if given is None or given.var.dim() == fitted.split_rank:
        return given
    mean = given.shift if given.shift.dim() else None
    return recall(Remembered(mean, given.var, None), fitted)
