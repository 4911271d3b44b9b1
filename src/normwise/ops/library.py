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
from normwise.ops.gradients import by_formula, given_moments
from normwise.ops.plan import Formula, Plan, plan, ready, statistic_shape

_FORMULA = "str pattern, bool centres, str[] parts, int[] sizes, float eps, str activation"
_TENSORS = (
    "Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, Tensor? mask, "
    "Tensor? mean, Tensor? var"
)
_LIBRARY: Any = torch.library.Library("normwise", "DEF")  # type: ignore[no-untyped-call]
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


def _moments_like(x: Tensor, formula: Formula, mask: Tensor | None, var: Tensor | None) -> Tensor:
    """What the moments are written to: none where they were given."""
    wide = torch.promote_types(x.dtype, torch.float32)
    if var is not None:
        return x.new_empty((0,), dtype=wide)
    return x.new_empty((3 + (mask is not None), *statistic_shape(formula, x.shape)), dtype=wide)


def _way(
    formula: Formula, x: Tensor, *others: Tensor | None
) -> tuple[Plan | None, tuple[Any, ...]]:
    """The plan for these tensors, if there is one, and all but x as the kernels read them."""
    weight, bias, residual, mask, mean, var = others
    given = given_moments(mean, var)
    kernel = kernels_for(x)
    if kernel not in ("native", "triton"):
        return None, others
    if obstacle(kernel, x, weight, bias, residual, mask, given) is not None:
        return None, others
    weight, bias, mask = (t if t is None else t.contiguous() for t in (weight, bias, mask))
    mean, var = (t if t is None else ready(t, x) for t in (mean, var))
    way = plan(plans(kernel), formula, x, weight if weight is not None else bias, mask, var)
    if way.unfit(weight, bias, mean, var) is not None:
        return None, others
    return way, (weight, bias, residual, mask, mean, var)


@torch.library.impl(_LIBRARY, "normalize", "CUDA")
@torch.library.impl(_LIBRARY, "normalize", "CPU")
def _normalize(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mask: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    *form: Any,
) -> tuple[Tensor, Tensor]:
    formula = _unpacked(*form)
    given = given_moments(mean, var)
    way, read = _way(formula, x, weight, bias, residual, mask, mean, var)
    if way is not None:
        run: Any = way.forward
        y, kept = run(x, *read, var is None)
        return y, _moments_like(x, formula, mask, var) if kept is None else kept
    y, measured = formula.by_reference(x, weight, bias, residual, mask, given)
    moments = _moments_like(x, formula, mask, var)
    if var is None:
        for row, moment in zip(moments, measured, strict=False):
            row.copy_(torch.as_tensor(moment))
    return torch.empty_like(x).copy_(y), moments


def _fake(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mask: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    *form: Any,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), _moments_like(x, _unpacked(*form), mask, var)


@torch.library.impl(_LIBRARY, "normalize_backward", "CUDA")
@torch.library.impl(_LIBRARY, "normalize_backward", "CPU")
def _normalize_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mask: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    moments: Tensor,
    wanted: Sequence[bool],
    *form: Any,
) -> tuple[Tensor, ...]:
    formula = _unpacked(*form)
    way, read = _way(formula, x, weight, bias, residual, mask, mean, var)
    if way is not None:
        kept = moments.contiguous() if var is None else None
        run: Any = way.backward
        found = run(gradient, x, *read, kept, tuple(wanted))
    else:
        leaves = (None if t is None else t.detach() for t in (x, weight, bias, residual))
        with torch.enable_grad():
            inputs = tuple(t if t is None else t.requires_grad_() for t in leaves)
            graph = by_formula(
                formula, gradient, inputs, mask, given_moments(mean, var), tuple(wanted)
            )
        found = tuple(t if t is None else t.detach() for t in graph)
    return tuple(_absent(x) if d is None else d for d in found)


def _fake_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    wanted = rest[-7]
    like = (x, weight, bias, x)
    return tuple(
        torch.empty_like(t) if wish and t is not None else _absent(x)
        for t, wish in zip(like, wanted, strict=True)
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
        x, weight, bias, residual, mask, mean, var = tensors
        formula = _unpacked(*ctx.form)
        inputs = (x, weight, bias, residual)
        found = by_formula(
            formula, gradients[0], inputs, mask, given_moments(mean, var), tuple(wanted)
        )
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
