"""The CPU kernels: a plan for each kind of call, and addresses handed over."""

import warnings
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from normwise.axes import Fitted
from normwise.ops.form import Form, Operand
from normwise.ops.operands import Four, Operands
from normwise.ops.plan import Batch, Plan, Stored, batch_of, like
from normwise.reference import ACTIVATIONS
from normwise.running import OnNonfinite, Remembered, Running

NUMBERS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_ACTIVATIONS = [None, *ACTIVATIONS]  # in the order of csrc/call.h

# Elements below which a second thread costs more than it brings: benchmarks/thresholds.py.
ONE_THREAD = 16_384


@cache
def library() -> Any:
    """The compiled module; None, and said once, where there is none."""
    try:
        return import_module("normwise._native")
    except ImportError as error:
        warnings.warn(
            "normwise runs without its CPU kernels, by plain formulas that are slower: "
            f"{error}. Install it with a C++ compiler and CMake at hand to have them",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


class NativePlan(Plan):
    """A plan for the CPU kernels."""

    plans: ClassVar[dict[tuple[Any, ...], Plan]] = {}

    def _prepare(self, walk: Form, x: Tensor, weight: torch.dtype, given: bool) -> None:
        self.one_thread = x.numel() <= ONE_THREAD
        # Half the time of a tensor of these sizes goes into reading them.
        self.moments_alike = torch.empty((), dtype=self.wide).expand(self.moments)
        self.native = library().Plan(
            walk.sizes,
            _four(walk.x),
            _four(walk.y),
            _five(walk.weight),
            _five(walk.mask),
            (walk.statistic.o, walk.statistic.k),
            self.weights,
            torch.Size(self.moments[1:]).numel(),
            self.formula.scheme.centres,
            given,
            self.formula.eps,
            _ACTIVATIONS.index(self.formula.activation),
            NUMBERS[x.dtype],
            NUMBERS[weight],
        )

    def describe(self) -> str:
        assert self.form is not None
        o, a, k, p, q = self.form.sizes
        if self.native.is_across():
            walk = f"{o * k} statistics across {a} rows of {k * q} neighbours"
        else:
            walk = f"{o * k} statistics of {a} x {p * q} neighbours"
        threads = self._threads()
        words = f"{walk}; {library().in_use()}, {threads} thread{'s' * (threads > 1)}"
        return words + "; x is copied to be contiguous" * self.copies

    def forward(self, of: Operands, keeps: bool) -> tuple[Tensor, Tensor | None]:
        y, of = self._laid_out(of)
        moments = torch.empty_like(self.moments_alike) if keeps else None
        self.native.forward(of, y, moments, self._threads())
        return y, moments

    def backward(
        self, gradient: Tensor, of: Operands, moments: Tensor | None, wanted: tuple[bool, ...]
    ) -> Four:
        dx, of = self._laid_out(of)
        gradient = like(dx, gradient)
        weight, bias = of.weight, of.bias
        dweight = torch.empty_like(weight) if wanted[1] and weight is not None else None
        dbias = torch.empty_like(bias) if wanted[2] and bias is not None else None
        found = (
            dx if wanted[0] else None,
            dweight,
            dbias,
            torch.empty_like(dx) if wanted[3] else None,
        )
        self.native.backward(gradient, of, moments, found, self._threads())
        return found

    def _threads(self) -> int:
        return 1 if self.one_thread else torch.get_num_threads()


def _four(operand: Operand) -> tuple[int, int, int, int]:
    return operand.o, operand.a, operand.k, operand.p


def _five(operand: Operand) -> tuple[int, int, int, int, int]:
    return operand.o, operand.a, operand.k, operand.p, operand.q


_NONFINITE = get_args(OnNonfinite)


class Taking:
    """How a batch's moments, as the kernels leave them, go into running statistics.

    Decided once for tensors of their kinds.
    """

    __slots__ = ("counts", "native", "policy")

    def __init__(
        self, policy: Running, batch: Batch, moments: Tensor, stored: Stored, of: Remembered
    ) -> None:
        self.policy = policy
        self.counts = of.batches is not None
        self.native = library().Taking(
            batch,
            policy.average == "cumulative",
            policy.start == "first-batch",
            _NONFINITE.index(policy.on_nonfinite),
            policy.momentum,
            -1.0 if stored.counted else stored.elements,
            moments.dtype is torch.float64,
            of.var.dtype is torch.float64,
        )

    def __call__(self, moments: Tensor, mean: Tensor | None, var: Tensor, batches: Any) -> None:
        remembered = (mean, var, batches if self.counts else None)
        if not self.native.take(moments, remembered):
            raise self.policy.refusal()
        torch._C._increment_version([t for t in remembered if t is not None])


def taking(
    policy: Running, remembered: Remembered, stored: Stored, fitted: Fitted
) -> Taking | None:
    """How `policy.update` is done by one pass over what the kernels left; None if it cannot be."""
    batch, moments = batch_of(policy, remembered, stored, fitted), stored.tensor
    if batch is None or moments is None:
        return None
    return Taking(policy, batch, moments, stored, remembered)


def remember(policy: Running, remembered: Remembered, stored: Stored, fitted: Fitted) -> bool:
    """`policy.update` by the kernels; False where it cannot be done so."""
    takes = taking(policy, remembered, stored, fitted)
    if takes is None or stored.tensor is None:
        return False
    takes(stored.tensor, *remembered)
    return True
