"""Pointwise functions that stand in for a norm: no statistics at all."""

from collections.abc import Mapping

import torch
from torch import Tensor

from normwise.axes import SCHEMES, Fitted
from normwise.layers.channelwise import Channelwise, weight_and_bias
from normwise.layers.lazy import Lazy
from normwise.reference import wide


class _Pointwise(Channelwise):
    scheme = SCHEMES["layer"]  # for its layout alone
    shown = ("initial_alpha", "elementwise_affine")

    def __init__(
        self,
        num_features: int | None = None,
        alpha: float = 0.5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            num_features,
            weight_and_bias(elementwise_affine, bias),
            scalars=self.scalars(alpha),
            device=device,
            dtype=dtype,
        )
        self.initial_alpha = alpha
        self.elementwise_affine = elementwise_affine

    def scalars(self, alpha: float) -> Mapping[str, float]:
        """The parameters of the function itself, and what they start with."""
        return {"alpha": alpha}

    def squash(self, x: Tensor) -> Tensor:
        """The function, of a wide x."""
        raise NotImplementedError(f"{type(self).__name__} does not say which function it is")

    def normalized(
        self, x: Tensor, mask: Tensor | None, fitted: Fitted, residual: Tensor | None = None
    ) -> Tensor:
        """The squashed x, scaled and shifted along the features."""
        return self.finish(self.squash(wide(x)), x, mask, fitted, residual)


class DynamicTanh(_Pointwise):
    """Squash each value with a tanh whose steepness is learned; nothing is measured.

        y[n, c, …] = tanh(alpha * x[n, c, …]) * weight[c] + bias[c]

    `alpha` is one number for the layer. `num_features` left out is inferred.

    Shapes
        x     (N, C, …), floating; any unit
        mask  (N, …) bool, True where a sample was recorded; all True if left out
        out   like x, in its dtype; no unit before weight and bias; 0 where masked

    Raises
        NormError  if C is not num_features, or mask does not fit x.

    Source: Zhu, Chen, He, LeCun and Liu 2025, arXiv:2503.10622. The mask is ours.
    """

    alpha: Tensor

    def squash(self, x: Tensor) -> Tensor:
        return torch.tanh(x * self.alpha.to(x.dtype))


class DynamicErf(_Pointwise):
    """Squash each value with an error function, its steepness and centre learned.

        y[n, c, …] = erf(alpha * x[n, c, …] + shift) * weight[c] + bias[c]

    `alpha`, which starts at 0.5, and `shift`, which starts at 0, are one number
    each for the layer. `num_features` left out is inferred.

    Shapes
        x     (N, C, …), floating; any unit
        mask  (N, …) bool, True where a sample was recorded; all True if left out
        out   like x, in its dtype; no unit before weight and bias; 0 where masked

    Raises
        NormError  if C is not num_features, or mask does not fit x.

    Source: Chen, Lu, Zhu, Sun and Liu 2025, arXiv:2512.10938, where shift is s.
    The mask is ours.
    """

    alpha: Tensor
    shift: Tensor

    def scalars(self, alpha: float) -> Mapping[str, float]:
        return {"alpha": alpha, "shift": 0.0}

    def squash(self, x: Tensor) -> Tensor:
        return torch.erf(x * self.alpha.to(x.dtype) + self.shift.to(x.dtype))


class LazyDynamicTanh(DynamicTanh, Lazy):
    """`DynamicTanh` that takes num_features from its first input, if not given."""


class LazyDynamicErf(DynamicErf, Lazy):
    """`DynamicErf` that takes num_features from its first input, if not given."""
