"""Switchable norm: learns which of instance, layer and batch statistics to rely on."""

from collections.abc import Sequence

import torch
from torch import Tensor

from normwise.axes import SCHEMES, Fitted
from normwise.layers.batch import _Batch
from normwise.layers.lazy import Lazy
from normwise.reference import Moments, deviation, measure, standardise, wide
from normwise.running import OnNonfinite, recall


class _Switchable(_Batch):
    mean_weight: Tensor
    var_weight: Tensor

    def __init__(
        self,
        num_features: int | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        on_nonfinite: OnNonfinite = "ignore",
    ) -> None:
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            track_running_stats,
            device,
            dtype,
            bias=bias,
            on_nonfinite=on_nonfinite,
        )
        for name in ("mean_weight", "var_weight"):
            equal = torch.ones(3, device=device, dtype=dtype)
            self.register_parameter(name, torch.nn.Parameter(equal))

    def reset_parameters(self) -> None:
        """As batch norm; the three statistics weigh the same."""
        super().reset_parameters()
        for name in ("mean_weight", "var_weight"):
            if hasattr(self, name):  # torch.nn's constructor calls this before there are any
                torch.nn.init.ones_(getattr(self, name))

    def normalized(
        self, x: Tensor, mask: Tensor | None, fitted: Fitted, residual: Tensor | None = None
    ) -> Tensor:
        """Standardise by the mix of the three statistics."""
        rank = x.dim()
        over = [SCHEMES[name].pattern.fit(rank).averaged for name in ("instance", "sample")]
        parts = [measure(wide(x), averaged, mask) for averaged in over]
        remembered = self.remembered()
        if remembered is None:
            batch = measure(wide(x), fitted.averaged, mask)
            self.check_elements(x, batch.elements)
            self.remember(batch, fitted)
        else:
            batch = recall(remembered, fitted)
        mixed = self._mixed([*parts, batch])
        y = standardise(deviation(wide(x), mixed), mixed.var, self.eps)
        return self.finish(y, x, mask, fitted, residual)

    def _mixed(self, parts: Sequence[Moments]) -> Moments:
        """Weighted means of means and of variances, about the first one's shift."""
        shift = parts[0].shift
        offset, var = torch.zeros_like(shift), torch.zeros_like(shift)
        for part, of_mean, of_var in zip(
            parts, wide(self.mean_weight).softmax(0), wide(self.var_weight).softmax(0), strict=True
        ):
            offset = offset + of_mean * (part.shift - shift + part.offset)
            var = var + of_var * part.var
        return Moments(shift, offset, var, 0)


class SwitchableNorm1d(_Switchable):
    """Centre and scale by a learned mix of instance, layer and batch statistics.

        y[n, c, t] = (x[n, c, t] - mean[n, c]) / sqrt(var[n, c] + eps) * weight[c] + bias[c]
        mean[n, c] = softmax(mean_weight) · (mean over t, mean over c and t, mean over n and t)
        var[n, c]  = softmax(var_weight) · (the three variances, alike)

    The three start equal. In training the batch's statistics are its own, and
    running_mean and running_var (unbiased) follow them with weight `momentum`;
    evaluation takes the running ones. `num_features` left out is inferred.

    Shapes
        x     (N, C, T), floating; any unit
        mask  (N, T) bool, True where a sample was recorded; all True if left out
        mean_weight, var_weight  (3,): instance, layer, batch
        out   like x, in its dtype; no unit before weight and bias; 0 where masked

    A batch without a real position changes nothing.

    Raises
        NormError  if C is not num_features, mask does not fit x, or a channel would
                   be averaged over one element in training.

    Source: Luo, Ren, Peng, Zhang and Li 2019, arXiv:1806.10779, where evaluation takes
    the average over several batches, after training. The mask is ours.
    """

    dim = 1


class SwitchableNorm2d(_Switchable):
    """`SwitchableNorm1d` for images: x (N, C, H, W), mask (N, H, W)."""

    dim = 2


class SwitchableNorm3d(_Switchable):
    """`SwitchableNorm1d` for volumes: x (N, C, D, H, W), mask (N, D, H, W)."""

    dim = 3


class LazySwitchableNorm1d(SwitchableNorm1d, Lazy):
    """`SwitchableNorm1d` that takes num_features from its first input, if not given."""


class LazySwitchableNorm2d(SwitchableNorm2d, Lazy):
    """`SwitchableNorm2d` that takes num_features from its first input, if not given."""


class LazySwitchableNorm3d(SwitchableNorm3d, Lazy):
    """`SwitchableNorm3d` that takes num_features from its first input, if not given."""
