"""`normalize` and `remember`: what layers and functions call, whatever runs beneath."""

from collections.abc import Mapping

import torch
from torch import Tensor

from normwise.axes import Fitted, Scheme
from normwise.ops import choice, stock, triton
from normwise.ops.again import Recurring, note
from normwise.ops.choice import Kernel, kernels_for, obstacle, plans
from normwise.ops.gradients import run
from normwise.ops.library import packed
from normwise.ops.native import NUMBERS, NativePlan, library
from normwise.ops.native import remember as remember_natively
from normwise.ops.operands import Operands
from normwise.ops.plan import Formula, Stored, elements_of, plan, readable
from normwise.ops.watching import Call, watchers
from normwise.reference import Moments
from normwise.running import Remembered, Running

# Elements below which torch.compile makes better code of the formula, joined with what is around
# it, than a call of the kernels: benchmarks/thresholds.py.
COMPILED = 1 << 22
# The same on a GPU, and elements below which a call of Triton takes longer than torch's own
# kernels, where torch has one. Both are guesses: benchmarks/gpu.py measures what they should be.
COMPILED_ON_GPU = 1 << 22
SMALL_ON_GPU = 1 << 18


def normalize(
    x: Tensor,
    scheme: Scheme,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    mask: Tensor | None = None,
    sizes: Mapping[str, int] | None = None,
    given: Moments | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    keeps: bool = True,
    recurring: Recurring | None = None,
) -> tuple[Tensor, Moments | Stored]:
    """What `reference.normalize` computes, by the fastest kernel that computes it right.

    keeps  whether the moments will be asked for; if not, there may be none
    recurring  who may call `again` for an x like this one
    """
    formula = Formula(scheme, sizes or {}, eps, activation)
    of = Operands(x, weight, bias, residual, mask)
    if torch.compiler.is_compiling():
        return _compiled(formula, of, given)
    hindrance = None
    kernel = kernels_for(x)
    if kernel in ("native", "triton"):
        hindrance = obstacle(kernel, of, given)
        if hindrance is None and _is_small(formula, of, given, keeps):
            hindrance = f"below {SMALL_ON_GPU} elements a call of torch's own takes less time"
        if hindrance is None:
            return _planned(kernel, formula, of, given, keeps, recurring)
        kernel = "reference" if x.is_cpu else "torch"
    if kernel == "torch" and not stock.fits(formula, x, mask, given, keeps):
        kernel = "reference"
    for calls in watchers:
        calls.append(Call(kernel, hindrance or f"NORMWISE_KERNELS is {choice.FORCED}"))
    if kernel == "torch":
        return stock.normalize(formula, of), Stored(None, elements_of(formula, x))
    return formula.by_reference(of, given)


def remember(
    policy: Running, remembered: Remembered, moments: Moments | Stored, fitted: Fitted
) -> None:
    """What `policy.update` does, with moments as `normalize` returned them."""
    if isinstance(moments, Moments):
        policy.update(remembered, moments, fitted)
        return
    assert moments.tensor is not None  # whoever remembers had them kept
    natively = kernels_for(moments.tensor) == "native"
    taken = (remember_natively if natively else triton.remember)(
        policy, remembered, moments, fitted
    )
    if not taken:
        policy.update(remembered, moments.moments(), fitted)


def _is_small(formula: Formula, of: Operands, given: Moments | None, keeps: bool) -> bool:
    """Whether x is too small for a launch of ours, and torch has another."""
    return (
        of.x.is_cuda
        and of.x.numel() < SMALL_ON_GPU
        and choice.FORCED is None
        and stock.fits(formula, of.x, of.mask, given, keeps)
    )


def _planned(
    kernel: Kernel,
    formula: Formula,
    of: Operands,
    given: Moments | None,
    keeps: bool,
    recurring: Recurring | None,
) -> tuple[Tensor, Moments | Stored]:
    of = readable(of, given, formula)
    way = plan(plans(kernel), formula, of)
    unfit = way.unfit(of)
    if unfit is not None:
        for calls in watchers:
            calls.append(Call("reference", unfit))
        return formula.by_reference(of, given)
    for calls in watchers:
        calls.append(Call(kernel, way.describe()))
    y, kept = run(way, of, keeps)
    # How many a mask leaves is known only where it was kept.
    elements = way.elements if of.mask is None or kept is not None else 0
    stored = Stored(kept, elements)
    alone = of.mask is None and of.residual is None
    if recurring is not None and alone and way.elements > 1 and isinstance(way, NativePlan):
        note(recurring, way, of, stored)
    return y, given or stored


def _compiled(formula: Formula, of: Operands, given: Moments | None) -> tuple[Tensor, Moments]:
    """The call as torch.compile is to see it: one operator, or the formula to make code of."""
    x, kernel = of.x, kernels_for(of.x)
    fits = (
        kernel in ("native", "triton")
        and not torch.compiler.is_exporting()
        and x.device.type in ("cpu", "cuda")
        and x.dtype in NUMBERS
        and (given is None or given.kept)
        and _is_there(kernel)
        and x.numel() >= (COMPILED if kernel == "native" else COMPILED_ON_GPU)
    )
    if not fits:
        return formula.by_reference(of, given)
    mean = given.shift if given is not None and formula.scheme.centres else None
    var = None if given is None else given.var
    y, kept = torch.ops.normwise.normalize(*of[:5], mean, var, *packed(formula))
    if given is not None:
        return y, given
    elements = elements_of(formula, x) if of.mask is None else kept[3]
    return y, Moments(kept[0], kept[1], kept[2], elements)


def _is_there(kernel: Kernel) -> bool:
    return library() is not None if kernel == "native" else triton.there()


# What torch.compiler.assume_constant_result does, which imports all of torch's compiler first.
_is_there._dynamo_marked_constant = True  # type: ignore[attr-defined]  # of a function
