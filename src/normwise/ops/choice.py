"""Which kernel runs a normalization, and why."""

import os
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad

from normwise.errors import NormError
from normwise.ops.native import NUMBERS, library
from normwise.reference import Moments

Kernel = Literal["native", "torch", "reference"]


def _forced() -> Kernel | None:
    """What the variable NORMWISE_KERNELS asks for.

    Raises
        NormError  if it names no kernel.
    """
    asked = os.environ.get("NORMWISE_KERNELS", "")
    for kernel in get_args(Kernel):
        if asked == kernel:
            return kernel  # type: ignore[no-any-return]
    if asked:
        raise NormError(
            f"NORMWISE_KERNELS={asked!r} names no kernel; write one of "
            f"{', '.join(get_args(Kernel))}, or leave it out"
        )
    return None


FORCED = _forced()
_PLAIN = (Tensor, torch.nn.Parameter)


def obstacle(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mask: Tensor | None,
    given: Moments | None,
) -> str | None:
    """Why the CPU kernels cannot take these tensors, in words; None if they can.

    They are handed addresses, so nothing may stand between a tensor and its memory.
    """
    if type(x) not in _PLAIN or torch._C._len_torch_dispatch_stack():
        return f"{type(x).__name__} is not a plain tensor, or a mode wants to see each operation"
    if not x.is_cpu:
        return f"x is on {x.device}"
    if x.layout is not torch.strided or x.dtype not in NUMBERS:
        return f"x is {x.layout}, {x.dtype}"
    if not x.numel():
        return "x is empty"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a transform of torch.func is at work"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation is at work"
    if torch._C._get_tracing_state() is not None:
        return "the call is traced"
    if x.is_neg():
        return "x is a negated view"
    for name, other in (("weight", weight), ("bias", bias), ("residual", residual), ("mask", mask)):
        if other is None:
            continue
        if type(other) not in _PLAIN or not other.is_cpu or other.is_neg():
            return f"{name} is not a plain tensor on the CPU"
        if other is not mask and other.dtype not in NUMBERS:
            return f"{name} is {other.dtype}"
    if weight is not None and bias is not None and weight.dtype != bias.dtype:
        return f"weight is {weight.dtype} and bias {bias.dtype}"
    if given is not None and (not given.kept or given.var.requires_grad):
        return "the statistics that are given were themselves computed"
    if library() is None:
        return "the kernels were not compiled"
    return None
