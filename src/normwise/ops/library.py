"""The kernels as operators of torch, for whatever traces: compile, fake tensors, torch.func.

    torch.ops.normwise.normalize            y and the moments
    torch.ops.normwise.normalize_backward   the gradients of x, weight, bias and residual

A formula travels as what a schema can hold: its pattern, whether it centres, the sizes
of the parts of composite dimensions, eps and the activation's name.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from normwise.axes import Scheme, parse
from normwise.ops.choice import kernels_for, obstacle, plans
from normwise.ops.gradients import by_formula
from normwise.ops.operands import Operands
from normwise.ops.plan import Formula, Plan, plan, readable, statistic_shape

_FORMULA = "str pattern, bool centres, str[] parts, int[] sizes, float eps, str activation"
_TENSORS = (
    "Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, Tensor? mask, "
    "Tensor? mean, Tensor? var"
)
_LIBRARY: Any = torch.library.Library("normwise", "DEF")
_LIBRARY.define(f"normalize({_TENSORS}, {_FORMULA}) -> (Tensor, Tensor)")
_LIBRARY.define(
    f"normalize_backward(Tensor gradient, {_TENSORS}, Tensor moments, bool[] wanted, {_FORMULA}) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)

Packed = tuple[str, bool, list[str], list[int], float, str]


def packed(formula: Formula) -> Packed:
    """A formula as the operators take it."""
    return (
        formula.scheme.pattern.text,
        formula.scheme.centres,
        list(formula.sizes),
        list(formula.sizes.values()),
        formula.eps,
        formula.activation or "",
    )


def _unpacked(
    pattern: str,
    centres: bool,
    parts: Sequence[str],
    sizes: Sequence[int],
    eps: float,
    activation: str,
) -> Formula:
    named = dict(zip(parts, sizes, strict=True))
    return Formula(Scheme(parse(pattern), centres=centres), named, eps, activation or None)


def _moments_like(formula: Formula, of: Operands) -> Tensor:
    """What the moments are written to: none where they were given."""
    wide = torch.promote_types(of.x.dtype, torch.float32)
    if of.var is not None:
        return of.x.new_empty((0,), dtype=wide)
    shape = (3 + (of.mask is not None), *statistic_shape(formula, of.x.shape))
    return of.x.new_empty(shape, dtype=wide)


def _way(formula: Formula, of: Operands) -> tuple[Plan | None, Operands]:
    """The plan for these tensors, if there is one, and these as the kernels read them."""
    kernel = kernels_for(of.x)
    if kernel not in ("native", "triton") or obstacle(kernel, of, of.given) is not None:
        return None, of
    read = readable(of, None, formula)
    way = plan(plans(kernel), formula, read)
    return (None, of) if way.unfit(read) is not None else (way, read)


@torch.library.impl(_LIBRARY, "normalize", "CUDA")
@torch.library.impl(_LIBRARY, "normalize", "CPU")
def _normalize(*arguments: Any) -> tuple[Tensor, Tensor]:
    of, formula = Operands(*arguments[:7]), _unpacked(*arguments[7:])
    way, read = _way(formula, of)
    if way is not None:
        y, kept = way.forward(read, of.var is None)
        return y, _moments_like(formula, of) if kept is None else kept
    y, measured = formula.by_reference(of, of.given)
    moments = _moments_like(formula, of)
    if of.var is None:
        for row, moment in zip(moments, measured, strict=False):
            row.copy_(torch.as_tensor(moment))
    return torch.empty_like(of.x).copy_(y), moments


def _fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    of = Operands(*arguments[:7])
    return torch.empty_like(of.x), _moments_like(_unpacked(*arguments[7:]), of)


@torch.library.impl(_LIBRARY, "normalize_backward", "CUDA")
@torch.library.impl(_LIBRARY, "normalize_backward", "CPU")
def _normalize_backward(gradient: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    of, (moments, wishes, *form) = Operands(*arguments[:7]), arguments[7:]
    formula, wanted = _unpacked(*form), tuple(wishes)
    way, read = _way(formula, of)
    if way is not None:
        kept = moments.contiguous() if of.var is None else None
        found = way.backward(gradient, read, kept, wanted)
    else:
        leaves = (t if t is None else t.detach().requires_grad_() for t in of[:4])
        with torch.enable_grad():
            inputs = Operands(*leaves, *of[4:])  # type: ignore[call-arg, arg-type]  # in order
            graph = by_formula(formula, gradient, inputs, of.given, wanted)
        found = tuple(t if t is None else t.detach() for t in graph)
    return tuple(_absent(of.x) if d is None else d for d in found)


def _fake_backward(gradient: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    x, weight, bias = arguments[:3]
    wanted = arguments[8]
    return tuple(
        torch.empty_like(t) if wish and t is not None else _absent(x)
        for t, wish in zip((x, weight, bias, x), wanted, strict=True)
    )


def _absent(x: Tensor) -> Tensor:
    """What stands for a gradient that is not wanted: a schema has no place for None."""
    return x.new_empty((0,))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tensors, ctx.form = inputs[:7], inputs[7:]
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
    rest = (None,) * 9
    if gradients[0] is None:
        return (None, None, None, None, *rest)
    *tensors, moments = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:4])
    if torch.is_grad_enabled():  # a gradient of the gradient is asked for
        of = Operands(*tensors)
        found = by_formula(_unpacked(*ctx.form), gradients[0], of, of.given, tuple(wanted))
        return (*found, *rest)
    found = torch.ops.normwise.normalize_backward(
        gradients[0], *tensors, moments, wanted, *ctx.form
    )
    return (*(d if wish else None for d, wish in zip(found, wanted, strict=True)), *rest)


torch.library.register_autograd(
    "normwise::normalize", _backward, setup_context=_setup, lib=_LIBRARY
)


def _one_by_one(operator: Any, info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
    """A batch of calls, one after the other: its elements may differ in all but their sizes."""

    def one(i: int) -> list[Any]:
        return [
            a.select(d, i) if isinstance(a, Tensor) and d is not None else a
            for a, d in zip(arguments, in_dims, strict=True)
        ]

    results = [operator(*one(i)) for i in range(info.batch_size)]
    stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)


for _name, _imitation in (("normalize", _fake), ("normalize_backward", _fake_backward)):
    _qualified, _operator = f"normwise::{_name}", getattr(torch.ops.normwise, _name)
    torch.library.register_fake(_qualified, _imitation, lib=_LIBRARY)
    torch.library.register_vmap(_qualified, partial(_one_by_one, _operator), lib=_LIBRARY)
