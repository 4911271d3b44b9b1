"""Batch renormalization: batch norm that trains on what it will use in evaluation."""

import torch
from torch import Tensor

from normwise.axes import Fitted
from normwise.errors import NormError
from normwise.layers.batch import BatchNorm1d, BatchNorm2d, BatchNorm3d, _Batch
from normwise.layers.lazy import Lazy
from normwise.reference import Moments, normalize, wide
from normwise.running import OnNonfinite, recall


class _Renorm(_Batch):
    def __init__(
        self,
        num_features: int | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        on_nonfinite: OnNonfinite = "ignore",
        r_max: float = 3.0,
        d_max: float = 5.0,
        hold_steps: int = 5_000,
        r_steps: int = 40_000,
        d_steps: int = 25_000,
    ) -> None:
        name = type(self).__name__
        if not r_max >= 1 or not d_max >= 0:
            raise NormError(
                f"{name} takes r_max of at least 1 and d_max of at least 0, received "
                f"r_max={r_max!r} and d_max={d_max!r}; 1 and 0 are plain batch norm"
            )
        for argument, steps in (("r_steps", r_steps), ("d_steps", d_steps)):
            if not 0 <= hold_steps <= steps:
                raise NormError(
                    f"{name} opens its limits from step hold_steps={hold_steps!r} to step "
                    f"{argument}={steps!r}; write 0 <= hold_steps <= {argument}"
                )
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            True,
            device,
            dtype,
            bias=bias,
            on_nonfinite=on_nonfinite,
        )
        self.r_max, self.d_max = r_max, d_max
        self.hold_steps, self.r_steps, self.d_steps = hold_steps, r_steps, d_steps

    def limits(self) -> tuple[Tensor, Tensor]:
        """How far r and d may go from 1 and 0 at this step, counted by num_batches_tracked."""
        r_opened, d_opened = (self._opened(steps) for steps in (self.r_steps, self.d_steps))
        return 1 + r_opened * (self.r_max - 1), d_opened * self.d_max

    def _opened(self, until: int) -> Tensor:
        step, var = self.num_batches_tracked, self.running_var
        assert step is not None  # None, like var, only without running statistics
        assert var is not None
        if until == self.hold_steps:
            return (step >= until).to(var.dtype)
        return ((step - self.hold_steps).to(var.dtype) / (until - self.hold_steps)).clamp(0, 1)

    @torch.no_grad()
    def correction(self, batch: Moments, running: Moments) -> tuple[Tensor, Tensor]:
        """r and d that lead from the batch's moments to the running ones, within the limits."""
        std = (wide(running.var) + self.eps).sqrt()
        r_limit, d_limit = self.limits()
        r = (batch.var + self.eps).sqrt() / std
        d = (batch.shift - running.mean + batch.offset) / std
        return r.clamp(1 / r_limit, r_limit), d.clamp(-d_limit, d_limit)

    def normalized(
        self, x: Tensor, mask: Tensor | None, fitted: Fitted, residual: Tensor | None = None
    ) -> Tensor:
        """Batch norm, brought to where the running statistics would have put it."""
        remembered = self._remembered()
        if not self.training or remembered is None:
            return super().normalized(x, mask, fitted, residual)
        y, moments = normalize(wide(x), self.scheme, eps=self.eps, mask=mask)
        self.check_elements(x, moments.elements)
        r, d = self.correction(moments, recall(remembered, fitted))
        self.remember(moments, fitted)
        return self.finish(y * r + d, x, mask, fitted, residual)

    def extra_repr(self) -> str:
        inherited = super().extra_repr()
        return f"{inherited}, r_max={self.r_max}, d_max={self.d_max}"


class BatchRenorm1d(_Renorm, BatchNorm1d):
    """Batch norm whose training output is, within limits, that of evaluation.

        y[n, c, t] = ((x[n, c, t] - mean[c]) / sqrt(var[c] + eps) * r[c] + d[c])
                     * weight[c] + bias[c]
        r[c] = clip(sqrt((var[c] + eps) / (running_var[c] + eps)), 1 / r_limit, r_limit)
        d[c] = clip((mean[c] - running_mean[c]) / sqrt(running_var[c] + eps), ±d_limit)

    with mean and var of the batch; r and d are constants to the gradient. Where
    neither is clipped, this is x standardised by the running statistics, so
    small or biased batches train the network that evaluation uses. In
    evaluation it is batch norm, and parameters and buffers are batch norm's:
    state dicts move both ways.

    Until batch number `hold_steps` the limits are 1 and 0, which is batch norm;
    from there they open evenly, r_limit to `r_max` at batch `r_steps` and
    d_limit to `d_max` at batch `d_steps`. num_batches_tracked counts, so a
    checkpoint goes on where it was. These five defaults are the paper's, for a
    training of 160,000 batches; for a shorter one write smaller numbers.

    Shapes
        x     (N, C, T) or (N, C), floating; any unit
        mask  (N, T) or (N,) bool, True where a sample was recorded; all True if left out
        out   like x, in its dtype; no unit before weight and bias; 0 where masked

    A batch without a real position changes nothing.

    Raises
        NormError  if C is not num_features, mask does not fit x, a channel would be
                   averaged over one element in training, r_max < 1, d_max < 0, or
                   the steps are not in order.

    Source: Ioffe 2017, arXiv:1702.03275. Like batch norm, and unlike the paper, this
    remembers an unbiased variance, not a standard deviation, with a momentum of 0.1,
    not 0.01. The mask is ours.
    """


class BatchRenorm2d(_Renorm, BatchNorm2d):
    """`BatchRenorm1d` for images: x (N, C, H, W), mask (N, H, W)."""


class BatchRenorm3d(_Renorm, BatchNorm3d):
    """`BatchRenorm1d` for volumes: x (N, C, D, H, W), mask (N, D, H, W)."""


class LazyBatchRenorm1d(BatchRenorm1d, Lazy):
    """`BatchRenorm1d` that takes num_features from its first input, if not given."""


class LazyBatchRenorm2d(BatchRenorm2d, Lazy):
    """`BatchRenorm2d` that takes num_features from its first input, if not given."""


class LazyBatchRenorm3d(BatchRenorm3d, Lazy):
    """`BatchRenorm3d` that takes num_features from its first input, if not given."""
