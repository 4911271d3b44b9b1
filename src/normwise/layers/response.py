"""Norms of a filter's response over space, without a mean: filter and global response norm."""

import torch
from torch import Tensor

from normwise.axes import SCHEMES, Fitted
from normwise.layers.channelwise import Channelwise, weight_and_bias
from normwise.layers.lazy import Lazy
from normwise.reference import finish, measure, scale, wide


class _FilterResponse(Channelwise):
    scheme = SCHEMES["response"]
    shown = ("eps", "threshold", "learn_eps")
    tau: Tensor | None
    extra_eps: Tensor | None

    def __init__(
        self,
        num_features: int | None = None,
        eps: float = 1e-6,
        affine: bool = True,
        threshold: bool = True,
        learn_eps: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(
            num_features,
            {**weight_and_bias(affine, bias), "tau": 0.0 if threshold else None},
            eps,
            scalars={"extra_eps": 1e-4 if learn_eps else None},
            device=device,
            dtype=dtype,
        )
        self.threshold, self.learn_eps = threshold, learn_eps

    def normalized(
        self, x: Tensor, mask: Tensor | None, fitted: Fitted, residual: Tensor | None = None
    ) -> Tensor:
        """x over its root mean square, scaled, shifted, and cut off at tau from below."""
        moments = measure(wide(x), fitted.averaged, mask, centres=False)
        extra = 0.0 if self.extra_eps is None else wide(self.extra_eps).abs()
        y = wide(x) * (moments.var + self.eps + extra).rsqrt()
        y = scale(y, fitted.features, self.weight, self.bias)
        if self.tau is not None:
            y = torch.maximum(y, wide(self.tau).reshape(-1, *[1] * (x.dim() - 2)))
        return finish(y, x.dtype, mask=mask, activation=self.activation, residual=residual)


class FilterResponseNorm1d(_FilterResponse):
    """Scale each channel of each series by its root mean square, and cut it off from below.

        y[n, c, t] = max(x[n, c, t] / sqrt(mean(x[n, c, :]²) + eps) * weight[c] + bias[c], tau[c])

    The cut is a ReLU whose threshold is learned, and starts at 0: because no mean
    is taken off, 0 is no natural threshold. It takes the place of the activation
    that follows; `threshold=False` leaves it out. With `learn_eps`, eps is
    `eps` + |extra_eps|, one learned number that starts at 1e-4, for the few
    positions of late layers. `num_features` left out is inferred.

    Shapes
        x     (N, C, T), floating; any unit
        mask  (N, T) bool, True where a sample was recorded; all True if left out
        out   like x, in its dtype; no unit before weight and bias; 0 where masked

    Nothing depends on the batch. One position alone gives its sign.

    Raises
        NormError  if C is not num_features, or mask does not fit x.

    Source: Singh and Krishnan 2020, arXiv:1911.09737. The mask is ours.
    """

    dim = 1


class FilterResponseNorm2d(_FilterResponse):
    """`FilterResponseNorm1d` for images: x (N, C, H, W), mask (N, H, W)."""

    dim = 2


class _GlobalResponse(Channelwise):
    scheme = SCHEMES["response"]
    carries = ()  # weight is how much is added to x, not what x is scaled with

    def __init__(
        self,
        num_features: int | None = None,
        eps: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            num_features, {"weight": 0.0, "bias": 0.0}, eps, device=device, dtype=dtype
        )

    def normalized(
        self, x: Tensor, mask: Tensor | None, fitted: Fitted, residual: Tensor | None = None
    ) -> Tensor:
        """x, and x once more by how its channel compares with the others."""
        values = wide(x) if mask is None else torch.where(mask, wide(x), 0.0)
        response = torch.linalg.vector_norm(values, dim=fitted.averaged, keepdim=True)
        relative = response / (response.mean(1, keepdim=True) + self.eps)
        y = values + scale(values * relative, fitted.features, self.weight, self.bias)
        return finish(y, x.dtype, mask=mask, activation=self.activation, residual=residual)


class GlobalResponseNorm1d(_GlobalResponse):
    """Strengthen each channel by how strong it is among the channels of its series.

        y[n, c, t] = x[n, c, t] + x[n, c, t] * relative[n, c] * weight[c] + bias[c]
        relative[n, c] = |x[n, c, :]| / (mean over c of |x[n, c, :]| + eps)

    with |·| the root of the sum of squares. It makes channels compete; the level
    of x stays, and weight and bias start at 0, so a new layer returns x.
    `num_features` left out is inferred.

    Shapes
        x     (N, C, T), floating; any unit
        mask  (N, T) bool, True where a sample was recorded; all True if left out
        out   like x, in its dtype and unit; 0 where masked

    Nothing depends on the batch.

    Raises
        NormError  if C is not num_features, or mask does not fit x.

    Source: Woo, Debnath, Hu, Chen, Liu, Kweon and Xie 2023, arXiv:2301.00808, in the
    form with a residual. The mask is ours.
    """

    dim = 1


class GlobalResponseNorm2d(_GlobalResponse):
    """`GlobalResponseNorm1d` for images: x (N, C, H, W), mask (N, H, W)."""

    dim = 2


class LazyFilterResponseNorm1d(FilterResponseNorm1d, Lazy):
    """`FilterResponseNorm1d` that takes num_features from its first input, if not given."""


class LazyFilterResponseNorm2d(FilterResponseNorm2d, Lazy):
    """`FilterResponseNorm2d` that takes num_features from its first input, if not given."""


class LazyGlobalResponseNorm1d(GlobalResponseNorm1d, Lazy):
    """`GlobalResponseNorm1d` that takes num_features from its first input, if not given."""


class LazyGlobalResponseNorm2d(GlobalResponseNorm2d, Lazy):
    """`GlobalResponseNorm2d` that takes num_features from its first input, if not given."""
