"""Ghost batch norm: a large batch normalized as if it were several small ones."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from normwise.axes import SCHEMES, Fitted
from normwise.checks import whole_number
from normwise.errors import NormError
from normwise.layers.batch import BatchNorm1d, BatchNorm2d, BatchNorm3d, _Batch
from normwise.layers.lazy import Lazy
from normwise.ops import normalize
from normwise.running import OnNonfinite


class _Ghost(_Batch):
    def __init__(
        self,
        ghost_size: int,
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
        whole = whole_number(ghost_size)
        if whole is None:
            raise NormError(
                f"{type(self).__name__} takes ghost_size, in samples, as a whole number above 0, "
                f"received {ghost_size!r}"
            )
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
        self.ghost_size = whole

    def normalized(
        self, x: Tensor, mask: Tensor | None, fitted: Fitted, residual: Tensor | None = None
    ) -> Tensor:
        """Batch norm of each ghost: the last is filled up with samples that are not real."""
        samples = x.shape[0]
        if not self.training or samples <= self.ghost_size:
            return super().normalized(x, mask, fitted, residual)
        if mask is None:
            smallest = samples % self.ghost_size or self.ghost_size
            self.check_elements(x, smallest * x[0, 0].numel())
        missing = -samples % self.ghost_size
        if missing:
            if mask is None:
                mask = x.new_ones((1,) * x.dim(), dtype=torch.bool)
            below = (*(0, 0) * (x.dim() - 1), 0, missing)
            x, mask = pad(x, below), pad(mask.expand(samples, *mask.shape[1:]), below)
            residual = None if residual is None else pad(residual, below)
        scheme = SCHEMES["ghost"]
        y, moments = normalize(
            x,
            scheme,
            weight=self.weight,
            bias=self.bias,
            eps=self.eps,
            mask=mask,
            sizes={"g": self.ghost_size},
            activation=self.activation,
            residual=residual,
        )
        self.remember(moments, scheme.pattern.fit(x.dim()))
        return y[:samples]

    def extra_repr(self) -> str:
        return f"{self.ghost_size}, {super().extra_repr()}"


class GhostBatchNorm1d(_Ghost, BatchNorm1d):
    """Centre and scale each channel by the statistics of a part of the batch.

        y[n, c, t] = (x[n, c, t] - mean[g, c]) / sqrt(var[g, c] + eps) * weight[c] + bias[c]

    where sample n belongs to ghost batch g = n // ghost_size; the last may be
    smaller. A large batch then trains with the noise of small ones. In training,
    running_mean and running_var take in the average over the ghosts, as one
    batch; evaluation is batch norm's, and so are all parameters and buffers.
    A batch of no more than `ghost_size` samples is one ghost.

    Shapes
        x     (N, C, T) or (N, C), floating; any unit
        mask  (N, T) or (N,) bool, True where a sample was recorded; all True if left out
        out   like x, in its dtype; no unit before weight and bias; 0 where masked

    A ghost without a real position counts for nothing.

    Raises
        NormError  if C is not num_features, mask does not fit x, ghost_size is no
                   whole number above 0, or a ghost would be averaged over one
                   element in training.

    Source: Hoffer, Hubara and Soudry 2017, arXiv:1705.08741, where the ghosts enter
    the running statistics one after the other, so the last weighs most; here all
    weigh the same. The mask is ours.
    """


class GhostBatchNorm2d(_Ghost, BatchNorm2d):
    """`GhostBatchNorm1d` for images: x (N, C, H, W), mask (N, H, W)."""


class GhostBatchNorm3d(_Ghost, BatchNorm3d):
    """`GhostBatchNorm1d` for volumes: x (N, C, D, H, W), mask (N, D, H, W)."""


class LazyGhostBatchNorm1d(GhostBatchNorm1d, Lazy):
    """`GhostBatchNorm1d` that takes num_features from its first input, if not given."""


class LazyGhostBatchNorm2d(GhostBatchNorm2d, Lazy):
    """`GhostBatchNorm2d` that takes num_features from its first input, if not given."""


class LazyGhostBatchNorm3d(GhostBatchNorm3d, Lazy):
    """`GhostBatchNorm3d` that takes num_features from its first input, if not given."""
