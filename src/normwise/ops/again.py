"""A call like an earlier one: what was decided then is found by one look into a table.

To check a small tensor and to find its way through memory takes longer than to normalize it.
A layer that was called before with such an x, without a mask and a residual, is asked nothing
but whether its tensors are still of the same kind. `forget` is to be called when the layer changes.
"""

import weakref
from typing import NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from normwise.ops.choice import PLAIN, between
from normwise.ops.gradients import run
from normwise.ops.operands import Operands
from normwise.ops.plan import Plan, Stored
from normwise.ops.watching import watchers

Kind = tuple[torch.Size, tuple[int, ...], torch.dtype]


class Known(NamedTuple):
    """A call that was made: its plan, and the dtypes of weight and bias, None where none was."""

    plan: Plan
    weight: torch.dtype | None
    bias: torch.dtype | None


_KNOWN: dict[int, dict[Kind, Known]] = {}  # by the owner's id, as long as it lives
_OWNERS: dict[int, weakref.ref[object]] = {}
_MOST = 64  # kinds of x for each owner: lengths that never repeat must not fill the memory


def note(owner: object, plan: Plan, of: Operands) -> None:
    """Keep what a call of `owner` came to."""
    key = id(owner)
    if key not in _OWNERS:
        _OWNERS[key] = weakref.ref(owner, lambda _: _drop(key))
    known = _KNOWN.setdefault(key, {})
    if len(known) >= _MOST:
        known.clear()
    x, weight, bias = of[:3]
    known[x.shape, x.stride(), x.dtype] = Known(
        plan, None if weight is None else weight.dtype, None if bias is None else bias.dtype
    )


def forget(owner: object) -> None:
    """Whatever was kept for `owner` no longer holds."""
    _KNOWN.pop(id(owner), None)


def _drop(key: int) -> None:
    _KNOWN.pop(key, None)
    _OWNERS.pop(key, None)


def known_of(owner: object) -> dict[Kind, Known] | None:
    """What is kept for `owner`, if anything is."""
    return _KNOWN.get(id(owner))


def again(
    known: dict[Kind, Known],
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    keeps: bool,
) -> tuple[Tensor, Stored] | None:
    """y and the moments, as far as `keeps` asks for them; None where no earlier call was alike."""
    if type(x) not in PLAIN or x.layout is not torch.strided or watchers or between():
        return None
    found = known.get((x.shape, x.stride(), x.dtype))
    if found is None or not x.is_cpu or x.is_neg() or is_functorch_wrapped_tensor(x):
        return None
    plan = found.plan
    if not _is_like(weight, found.weight, plan.weights) or not _is_like(
        bias, found.bias, plan.weights
    ):
        return None
    if plan.given is None:
        mean = var = None
    elif (
        var is None
        or not _is_like(var, plan.wide, plan.given)
        or not _is_like(mean, plan.wide if plan.formula.scheme.centres else None, plan.given)
    ):
        return None
    y, kept = run(plan, Operands(x, weight, bias, None, None, mean, var), keeps)
    return y, Stored(kept, plan.elements)


def _is_like(t: Tensor | None, dtype: torch.dtype | None, elements: int) -> bool:
    """Whether t is of this dtype and contiguous, and nothing stands before its memory."""
    if t is None:
        return dtype is None
    return (
        t.dtype is dtype
        and t.numel() == elements
        and type(t) in PLAIN
        and t.is_cpu
        and t.is_contiguous()
        and not t.is_neg()
    )
