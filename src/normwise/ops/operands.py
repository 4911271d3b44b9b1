"""The tensors that a normalization is computed from, as one floor hands them to the next."""

from typing import NamedTuple

from torch import Tensor

from normwise.reference import Moments

Four = tuple[Tensor | None, ...]  # of x, weight, bias and residual, or their gradients


class Operands(NamedTuple):
    """x and what is beside it, in the order that kernels and operators take.

    weight, bias  one element for each feature
    residual      as x; added before the activation
    mask          True where a sample was recorded
    mean, var     statistics in place of x's own; mean is None where nothing is centred
    """

    x: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
    residual: Tensor | None = None
    mask: Tensor | None = None
    mean: Tensor | None = None
    var: Tensor | None = None

    @property
    def given(self) -> Moments | None:
        """The statistics that are not x's own; None where there are none."""
        if self.var is None:
            return None
        zero = self.var.new_zeros(())
        return Moments(zero if self.mean is None else self.mean, zero, self.var, 0, kept=True)
