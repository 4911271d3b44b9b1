"""Which kernel a layer runs on an input, and why."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from normwise.errors import describe
from normwise.ops import Call, watch


@dataclass(frozen=True)
class Explanation:
    """The normalizations of one call of a module, in their order. Prints as a sentence for each.

    module  what was called
    x       what it was called with: shape, dtype and device
    calls   which kernel ran, "native", "triton", "torch" or "reference", and why
    """

    module: str
    x: str
    calls: tuple[Call, ...]

    @property
    def kernel(self) -> str:
        """The kernel, if it is one; otherwise all, joined by a comma."""
        return ", ".join(dict.fromkeys(call.kernel for call in self.calls)) or "formula"

    def __str__(self) -> str:
        if not self.calls:
            return f"{self.module} on {self.x}: a formula of its own, in plain tensor operations"
        lines = [f"{self.module} on {self.x}: {call.kernel}, {call.reason}" for call in self.calls]
        return "\n".join(lines)


def explain(layer: torch.nn.Module, x: Tensor, mask: Tensor | None = None) -> Explanation:
    """Say which kernel `layer(x)` runs, and why: ``print(nw.explain(layer, x))``.

    The layer may be a whole model. A copy of it is run once, as it stands, in training or
    evaluation; nothing that is given is changed.

    Shapes
        x     what the layer takes
        mask  what the layer takes, if it does

    Raises
        NormError  whatever the layer raises for x.
    """
    copied = copy.deepcopy(layer)
    with watch() as calls:
        copied(x) if mask is None else copied(x, mask)
    return Explanation(type(layer).__name__, describe(x), tuple(calls))
