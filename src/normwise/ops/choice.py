"""Which kernel runs a normalization, and why."""

import os
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad

from normwise.errors import NormError
from normwise.ops import triton
from normwise.ops.native import NUMBERS, NativePlan, library
from normwise.ops.operands import Operands
from normwise.ops.plan import Plan, broadcasts
from normwise.reference import Moments

Kernel = Literal["native", "triton", "torch", "reference"]


def _forced() -> Kernel | None:
    """What the variable NORMWISE_KERNELS asks for.

    Raises
        NormError  if it names no kernel.
    """
    asked = os.environ.get("NORMWISE_KERNELS", "")
    for kernel in get_args(Kernel):
        if asked == kernel:
            return kernel  # type: ignore[no-any-return]  # get_args has no types
    if asked:
        raise NormError(
            f"NORMWISE_KERNELS={asked!r} names no kernel; write one of "
            f"{', '.join(get_args(Kernel))}, or leave it out"
        )
    return None


FORCED = _forced()
PLAIN = (Tensor, torch.nn.Parameter)


def between() -> str | None:
    """What stands between any tensor and its memory now, in words; None if nothing does."""
    if torch._C._len_torch_dispatch_stack():
        return "a mode wants to see each operation"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a transform of torch.func is at work"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation is at work"
    if torch._C._get_tracing_state() is not None:
        return "the call is traced"
    return None


def kernels_for(x: Tensor) -> Kernel:
    """The kernels that x's device has, or those that are asked for."""
    return FORCED or ("triton" if x.is_cuda else "native")


def plans(kernel: Kernel) -> type[Plan]:
    """The plans for kernels that nothing stands in the way of."""
    return NativePlan if kernel == "native" else triton.plans()


def obstacle(kernel: Kernel, of: Operands, given: Moments | None) -> str | None:
    """Why kernels, "native" or "triton", cannot take these tensors, in words; None if they can.

    They are handed addresses, so nothing may stand between a tensor and its memory.

    Raises
        NormError  if a tensor with elements has no memory any more: torch itself would crash.
    """
    x, weight, bias, residual, mask = of[:5]
    if type(x) not in PLAIN:
        return f"{type(x).__name__} is not a plain tensor"
    hindrance = between()
    if hindrance is not None:
        return hindrance
    here = x.is_cpu if kernel == "native" else x.is_cuda or (x.is_cpu and triton.interprets())
    if not here:
        return f"x is on {x.device}"
    if x.layout is not torch.strided or x.dtype not in NUMBERS:
        return f"x is {x.layout}, {x.dtype}"
    if not x.numel():
        return "x is empty"
    if x.is_neg():
        return "x is a negated view"
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        return "x is left over from a transform of torch.func"
    for name, other in (("weight", weight), ("bias", bias), ("residual", residual), ("mask", mask)):
        if other is None:
            continue
        if type(other) not in PLAIN or other.device != x.device or other.is_neg():
            return f"{name} is not a plain tensor on {x.device}"
        if other is not mask and other.dtype not in NUMBERS:
            return f"{name} is {other.dtype}"
    statistics = (None, None) if given is None else (given.shift, given.var)
    names = ("x", "weight", "bias", "residual", "mask", "mean", "var")
    for name, t in zip(names, (*of[:5], *statistics), strict=True):
        if t is None or not t.numel():
            continue
        if t._is_zerotensor():
            return f"{name} is zero all over, without memory"
        if type(t) in PLAIN and not t.data_ptr():
            raise NormError(
                f"{name} has {t.numel()} elements and no memory, as its storage was emptied: "
                "fill it again before the call"
            )
    if residual is not None and residual.shape != x.shape:
        return f"the residual is {tuple(residual.shape)}, and x {tuple(x.shape)}"
    if mask is not None and not (mask.dtype == torch.bool and broadcasts(mask.shape, x.shape)):
        return f"the mask is {mask.dtype} {tuple(mask.shape)}, and x {tuple(x.shape)}"
    if weight is not None and bias is not None and weight.dtype != bias.dtype:
        return f"weight is {weight.dtype} and bias {bias.dtype}"
    if given is not None and (not given.kept or given.var.requires_grad):
        return "the statistics that are given were themselves computed"
    if kernel == "native":
        return None if library() is not None else "the kernels were not compiled"
    return triton.hindrance()
