"""Norms that remember: batch norm, and instance norm, which may."""

from typing import Any

import torch
from torch.nn.modules.batchnorm import _NormBase

from normwise.axes import SCHEMES
from normwise.checks import check_activation
from normwise.errors import NormError
from normwise.layers.base import checked_size
from normwise.layers.lazy import Lazy, make_lazy
from normwise.layers.remembering import Remembering, policy_of
from normwise.running import OnNonfinite, Remembered, Running


class _Remembering(Remembering, _NormBase):
    """torch.nn's constructor and momentum, with the size inferred if left out."""

    def __init__(
        self,
        num_features: int | None,
        *arguments: Any,
        bias: bool,
        on_nonfinite: OnNonfinite = "ignore",
        activation: str | None = None,
    ):
        size = checked_size(self, num_features)
        _NormBase.__init__(self, size, *arguments)
        self.on_nonfinite = on_nonfinite
        self.activation = check_activation(activation, type(self).__name__)
        if not bias:
            self.register_parameter("bias", None)
        self._widen()
        self._policy()  # refuses a momentum that can never be valid
        if not size:
            make_lazy(self)

    def _policy(self) -> Running:
        return policy_of(self.momentum, self.on_nonfinite)


class _Batch(_Remembering):
    scheme = SCHEMES["batch"]

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
        activation: str | None = None,
    ) -> None:
        if eps <= 0:
            raise NormError(f"{type(self).__name__} needs an eps above 0, received {eps!r}")
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
            activation=activation,
        )


class BatchNorm1d(_Batch, torch.nn.BatchNorm1d):
    """Centre and scale each channel by the statistics of the whole batch.

        y[n, c, t] = (x[n, c, t] - mean[c]) / sqrt(var[c] + eps) * weight[c] + bias[c]

    In training, mean and var are the batch's, taken over every real position
    once, and running_mean and running_var (unbiased) follow them with weight
    `momentum`; in evaluation, the running ones are used. `momentum=None`
    averages all batches alike. A batch whose statistics are not finite is taken in
    as torch does, passed over, or refused, as `on_nonfinite` says: "ignore", "skip",
    "raise". `num_features` left out is inferred.

    Shapes
        x     (N, C, T) or (N, C), floating; any unit
        mask  (N, T) or (N,) bool, True where a sample was recorded; all True if left out
        residual  like x, floating; added to y before the `activation`, if there is one
        out   like x, in its dtype; no unit before weight and bias; 0 where masked

    A batch without a real position changes nothing. The running statistics stay
    float32 or wider when the layer is made half.

    Raises
        NormError  if C is not num_features, mask does not fit x, or a channel
                   would be averaged over one element in training; of statistics that
                   are not finite, with ``on_nonfinite="raise"``.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167. The mask is ours.
    """

    dim = 1
    takes_flat = True


class BatchNorm2d(_Batch, torch.nn.BatchNorm2d):
    """`BatchNorm1d` for images: x (N, C, H, W), mask (N, H, W)."""

    dim = 2


class BatchNorm3d(_Batch, torch.nn.BatchNorm3d):
    """`BatchNorm1d` for volumes: x (N, C, D, H, W), mask (N, D, H, W)."""

    dim = 3


class LazyBatchNorm1d(BatchNorm1d, Lazy, torch.nn.LazyBatchNorm1d):
    """`BatchNorm1d` that takes num_features from its first input, if not given."""


class LazyBatchNorm2d(BatchNorm2d, Lazy, torch.nn.LazyBatchNorm2d):
    """`BatchNorm2d` that takes num_features from its first input, if not given."""


class LazyBatchNorm3d(BatchNorm3d, Lazy, torch.nn.LazyBatchNorm3d):
    """`BatchNorm3d` that takes num_features from its first input, if not given."""


class _Instance(_Remembering):
    scheme = SCHEMES["instance"]
    takes_unbatched = True

    def __init__(
        self,
        num_features: int | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        on_nonfinite: OnNonfinite = "ignore",
        activation: str | None = None,
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
            activation=activation,
        )

    @property
    def counts_batches(self) -> bool:
        return self.momentum is None  # torch.nn leaves an instance norm's counter at 0

    def remembered(self) -> Remembered | None:
        return super().remembered() if self.track_running_stats else None


class InstanceNorm1d(_Instance, torch.nn.InstanceNorm1d):
    """Centre and scale each channel of each series by its own statistics.

        y[n, c, t] = (x[n, c, t] - mean[n, c]) / sqrt(var[n, c] + eps) * weight[c] + bias[c]

    With `track_running_stats`, evaluation uses the average of the series'
    statistics instead of their own; `on_nonfinite` is as in `BatchNorm1d`.

    Shapes
        x     (N, C, T) or (C, T), floating; any unit
        mask  (N, T) or (T,) bool, True where a sample was recorded; all True if left out
        residual  like x, floating; added to y before the `activation`, if there is one
        out   like x, in its dtype; no unit before weight and bias; 0 where masked

    A series with one recorded sample gives bias; one with none gives 0.

    Raises
        NormError  if C is not num_features, mask does not fit x, or T is 1.

    Source: Ulyanov, Vedaldi and Lempitsky 2016, arXiv:1607.08022. The mask is ours.
    """

    dim = 1


class InstanceNorm2d(_Instance, torch.nn.InstanceNorm2d):
    """`InstanceNorm1d` for images: x (N, C, H, W) or (C, H, W), mask (N, H, W)."""

    dim = 2


class InstanceNorm3d(_Instance, torch.nn.InstanceNorm3d):
    """`InstanceNorm1d` for volumes: x (N, C, D, H, W) or (C, D, H, W), mask (N, D, H, W)."""

    dim = 3


class LazyInstanceNorm1d(
    InstanceNorm1d, Lazy, torch.nn.LazyInstanceNorm1d, affine=True, track_running_stats=True
):
    """`InstanceNorm1d` that takes num_features from its first input, if not given.

    As in torch.nn it is affine and tracks statistics, unless told otherwise.
    """


class LazyInstanceNorm2d(
    InstanceNorm2d, Lazy, torch.nn.LazyInstanceNorm2d, affine=True, track_running_stats=True
):
    """`InstanceNorm2d` that takes num_features from its first input, if not given.

    As in torch.nn it is affine and tracks statistics, unless told otherwise.
    """


class LazyInstanceNorm3d(
    InstanceNorm3d, Lazy, torch.nn.LazyInstanceNorm3d, affine=True, track_running_stats=True
):
    """`InstanceNorm3d` that takes num_features from its first input, if not given.

    As in torch.nn it is affine and tracks statistics, unless told otherwise.
    """
