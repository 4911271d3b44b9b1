"""Batch norm that is done learning."""

from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from normwise.axes import SCHEMES
from normwise.checks import check_activation
from normwise.errors import NormError
from normwise.layers.base import Normalization
from normwise.layers.channelwise import Channelwise
from normwise.layers.lazy import Lazy
from normwise.layers.remembering import WideStatistics
from normwise.running import Remembered

_Self = TypeVar("_Self", bound="_Frozen")


class _Frozen(Channelwise, WideStatistics):
    scheme = SCHEMES["batch"]
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        num_features: int | None = None,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
    ) -> None:
        starts = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
        super().__init__(num_features, {}, eps, buffers=starts, device=device, dtype=dtype)
        self.activation = check_activation(activation, type(self).__name__)
        self._widen()

    @classmethod
    def from_batch_norm(cls: type[_Self], norm: Any) -> _Self:
        """A frozen copy of a batch norm that has running statistics; `norm` stays as it is.

        Raises
            NormError  if `norm` is no batch norm of this rank or remembers nothing.
        """
        fits = isinstance(norm, (getattr(torch.nn, f"BatchNorm{cls.dim}d"), torch.nn.SyncBatchNorm))
        if not fits or getattr(norm, "running_var", None) is None:
            raise NormError(
                f"{cls.__name__}.from_batch_norm takes a BatchNorm{cls.dim}d with running "
                f"statistics, received {norm!r}"
            )
        state = {name: t for name, t in norm.state_dict().items() if t.dim()}
        like = state["running_var"]
        activation = norm.activation if isinstance(norm, Normalization) else None
        frozen = cls(norm.num_features, norm.eps, like.device, like.dtype, activation=activation)
        frozen.load_state_dict(state, strict=False)  # without affine there is no weight to load
        return frozen.train(norm.training)

    def remembered(self) -> Remembered:
        buffers = self._buffers
        return Remembered(buffers["running_mean"], cast(Tensor, buffers["running_var"]), None)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any
    ) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class FrozenBatchNorm1d(_Frozen):
    """Batch norm with the statistics, weight and bias it was given, in training too.

        y[n, c, t] = (x[n, c, t] - running_mean[c]) / sqrt(running_var[c] + eps)
                     * weight[c] + bias[c]

    All four are buffers: no optimizer finds them, `.train()` does not wake them,
    and gradients pass through to x alone. For networks that were trained
    elsewhere and see batches too small, or data too odd, to relearn from. Made
    from a batch norm by `FrozenBatchNorm1d.from_batch_norm(norm)`, or by loading
    its state dict, whose num_batches_tracked is ignored.

    Shapes
        x     (N, C, T) or (N, C), floating; any unit
        mask  (N, T) or (N,) bool, True where a sample was recorded; all True if left out
        residual  like x, floating; added to y before the `activation`, if there is one
        out   like x, in its dtype; no unit before weight and bias; 0 where masked

    New, it does nothing but divide by sqrt(1 + eps).

    Raises
        NormError  if C is not num_features, or mask does not fit x.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, in evaluation; frozen as in
    He, Gkioxari, Dollár and Girshick 2017, arXiv:1703.06870. The mask is ours.
    """

    dim = 1
    takes_flat = True


class FrozenBatchNorm2d(_Frozen):
    """`FrozenBatchNorm1d` for images: x (N, C, H, W), mask (N, H, W)."""

    dim = 2


class FrozenBatchNorm3d(_Frozen):
    """`FrozenBatchNorm1d` for volumes: x (N, C, D, H, W), mask (N, D, H, W)."""

    dim = 3


class LazyFrozenBatchNorm1d(FrozenBatchNorm1d, Lazy):
    """`FrozenBatchNorm1d` that takes num_features from what it loads or first sees."""


class LazyFrozenBatchNorm2d(FrozenBatchNorm2d, Lazy):
    """`FrozenBatchNorm2d` that takes num_features from what it loads or first sees."""


class LazyFrozenBatchNorm3d(FrozenBatchNorm3d, Lazy):
    """`FrozenBatchNorm3d` that takes num_features from what it loads or first sees."""
