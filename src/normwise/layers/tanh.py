"""Pointwise functions that stand in for a norm: no statistics at all."""

import torch
from torch import Tensor

from normwise.axes import SCHEMES, Fitted
from normwise.layers.base import Normalization, checked_size
from normwise.layers.lazy import Lazy, make_lazy
from normwise.reference import scale, wide


class DynamicTanh(Normalization):
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

    scheme = SCHEMES["layer"]  # for its layout alone
    eps = None

    def __init__(
        self,
        num_features: int | None = None,
        alpha: float = 0.5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = checked_size(self, num_features)
        self.initial_alpha = alpha
        self.alpha = torch.nn.Parameter(torch.empty((), device=device, dtype=dtype))
        for name, present in (
            ("weight", elementwise_affine),
            ("bias", elementwise_affine and bias),
        ):
            empty = torch.empty(self.num_features, device=device, dtype=dtype)
            self.register_parameter(name, torch.nn.Parameter(empty) if present else None)
        self.reset_parameters()
        if not self.num_features:
            make_lazy(self)

    def reset_parameters(self) -> None:
        """alpha as it was given, weight 1, bias 0."""
        with torch.no_grad():
            self.alpha.fill_(self.initial_alpha)
            if self.weight is not None:
                self.weight.fill_(1)
            if self.bias is not None:
                self.bias.fill_(0)

    def normalized(self, x: Tensor, mask: Tensor | None, fitted: Fitted) -> Tensor:
        """tanh(alpha * x), scaled and shifted along the features."""
        y = torch.tanh(wide(x) * self.alpha.to(wide(x).dtype))
        y = scale(y, fitted.features, self.weight, self.bias)
        return (y if mask is None else torch.where(mask, y, 0.0)).to(x.dtype)

    def extra_repr(self) -> str:
        affine = self.weight is not None
        return f"{self.num_features}, alpha={self.initial_alpha}, elementwise_affine={affine}"


class LazyDynamicTanh(DynamicTanh, Lazy):
    """`DynamicTanh` that takes num_features from its first input, if not given."""
