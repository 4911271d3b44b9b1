"""Gradients of the kernels: of the first order by kernels, of higher orders by the formula."""

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor, is_legacy_batchedtensor

from normwise.axes import Fitted
from normwise.ops.operands import Four, Operands
from normwise.ops.plan import Formula, Plan
from normwise.reference import Moments
from normwise.running import Remembered, recall


class Normalize(torch.autograd.Function):
    """What a call of the kernels came to, as a result that has a gradient.

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
        call: tuple[Plan, Operands, Tensor, Tensor | None],
    ) -> Tensor:
        # One argument beside those with gradients: autograd looks at each, there and back.
        plan, of, y, moments = call
        if plan.formula.activation is None and residual is not None:
            of = of._replace(residual=None)
        ctx.save_for_backward(*of, moments)
        ctx.plan = plan
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, moments = ctx.saved_tensors
        of, plan = Operands(*tensors), ctx.plan
        wanted = ctx.needs_input_grad[:4]
        several = is_legacy_batchedtensor(gradient) or is_functorch_wrapped_tensor(gradient)
        # Several gradients at once have no one address; or one of the gradient is asked for.
        if several or torch.is_grad_enabled():
            given = _split(of.given, plan.formula.scheme.pattern.fit(of.x.dim()))
            with torch.enable_grad():
                found = by_formula(plan.formula, gradient, of, given, wanted)
        else:
            found = plan.backward(gradient, of, moments, wanted)
        return (*found, None)


# Function.apply in Python first asks for torch.func's transforms, which `choice.between` has
# done, and takes 3 of the 7 µs that an autograd function needs: this is what it calls then.
_apply: Any = super(torch.autograd.Function, Normalize).apply
# Likewise on the way back, where 1 µs of 40 goes into asking what is to be called.
_node: Any = Normalize._backward_cls
_node.apply = Normalize.backward


def run(plan: Plan, of: Operands, keeps: bool) -> tuple[Tensor, Tensor | None]:
    """`plan.forward`, with a gradient where one can be asked for; the moments have none."""
    x, weight, bias, residual, _, _, var = of
    graded = torch.is_grad_enabled() and (
        x.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
    )
    y, moments = plan.forward(of, (keeps or graded) and var is None)
    if graded:
        y = _apply(x, weight, bias, residual, (plan, of, y, moments))
    return y, moments


def by_formula(
    formula: Formula,
    gradient: Tensor,
    of: Operands,
    given: Moments | None,
    wanted: tuple[bool, ...],
) -> Four:
    """The gradients of x, weight, bias and residual as a graph that can be differentiated on."""
    if wanted[3] and of.residual is None:  # it was not kept, as its value does not matter
        of = of._replace(residual=torch.zeros_like(of.x).requires_grad_())
    y, _ = formula.by_reference(of, given)
    asked = [t for t, wish in zip(of, wanted, strict=False) if wish]
    found = iter(
        torch.autograd.grad(y, [t for t in asked if t is not None], gradient, create_graph=True)
    )
    return tuple(next(found) if wish else None for wish in wanted)


def _split(given: Moments | None, fitted: Fitted) -> Moments | None:
    """The moments as they fit the split tensor; kernels take a layer's buffers as they are."""
    if given is None or given.var.dim() == fitted.split_rank:
        return given
    mean = given.shift if given.shift.dim() else None
    return recall(Remembered(mean, given.var, None), fitted)
