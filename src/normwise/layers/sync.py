"""Batch norm over the batches of all processes."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.axes import SCHEMES, Fitted
from normwise.layers.base import Normalization
from normwise.layers.batch import _Batch
from normwise.layers.lazy import Lazy
from normwise.ops import normalize_together
from normwise.running import OnNonfinite


class SyncBatchNorm(_Batch, torch.nn.SyncBatchNorm):
    """Centre and scale each channel by the statistics of the batches of all processes.

        y[n, c, …] = (x[n, c, …] - mean[c]) / sqrt(var[c] + eps) * weight[c] + bias[c]

    In training, mean and var are taken over the real positions of every process
    of `process_group` (all, if left out), each position counting once wherever it
    is; so are the gradients of x, if the losses of the processes are summed. The
    gradients of weight and bias are the process's own, for
    DistributedDataParallel to gather. In evaluation, and where there are no other
    processes, it is `BatchNorm1d`. `num_features` left out is inferred.

    Shapes
        x     (N, C, …), floating; any unit; N and … may differ between processes
        mask  (N, …) bool, True where a sample was recorded; all True if left out
        residual  like x, floating; added to y before the `activation`, if there is one
        out   like x, in its dtype; no unit before weight and bias; 0 where masked

    A process may have an empty batch; if none has a real position, nothing changes.
    Every process has to run forward, and backward if any does: they wait for each
    other. The device is what the process group's backend takes: CPU with gloo. Yet
    DistributedDataParallel on CPU refuses every torch.nn.SyncBatchNorm, this one
    too; there, sum the gradients of the parameters by hand.

    Processes exchange count, mean and variance of each channel in float64 and
    merge them about the common mean, so an offset of any size costs no digits.

    Raises
        NormError  if C is not num_features, mask does not fit x, or, in a process
                   alone, a channel would be averaged over one element in training.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167; moments merged as in Chan, Golub
    and LeVeque 1979, Stanford STAN-CS-79-773. The mask is ours.
    """

    def __init__(
        self,
        num_features: int | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
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
        self.process_group = process_group

    def normalized(
        self, x: Tensor, mask: Tensor | None, fitted: Fitted, residual: Tensor | None = None
    ) -> Tensor:
        """Batch norm, with the others' batches where there are others and they train."""
        group = self._others() if self.training else None
        if group is None:
            return super().normalized(x, mask, fitted, residual)
        y, moments = normalize_together(
            x,
            self.scheme,
            partial(gathered, group=group),
            weight=self.weight,
            bias=self.bias,
            eps=self.eps,
            mask=mask,
            activation=self.activation,
            residual=residual,
        )
        self.remember(moments, fitted)
        return y

    def _others(self) -> Any:
        """The group of processes to agree with; None where this one is alone."""
        if not (dist.is_available() and dist.is_initialized()):
            return None
        group = self.process_group or dist.group.WORLD
        return group if dist.get_world_size(group) > 1 else None

    @classmethod
    def convert_sync_batchnorm(
        cls, module: torch.nn.Module, process_group: Any = None
    ) -> torch.nn.Module:
        """Put a SyncBatchNorm in the place of every batch norm, torch's or ours.

        A layer's activation goes with it; torch's own converter would drop it.

        The module that is given is changed and returned; if it is itself a batch
        norm, its successor is. Parameters and buffers are the same tensors, so an
        optimizer keeps its hold. Ours that build on batch norm with another
        formula stay as they are. A layer that is shared stays shared.
        """
        successors = {
            id(child): cls._successor(child, process_group)
            for child in module.modules()
            if _is_batch_norm(child)
        }
        for parent in list(module.modules()):
            for name, child in list(parent._modules.items()):
                if id(child) in successors:
                    parent.register_module(name, successors[id(child)])
        return successors.get(id(module), module)

    @classmethod
    def _successor(cls, norm: Any, process_group: Any) -> "SyncBatchNorm":
        sync = cls(
            norm.num_features or None,
            norm.eps,
            norm.momentum,
            norm.affine,
            norm.track_running_stats,
            process_group,
            bias=norm.bias is not None,
            on_nonfinite=getattr(norm, "on_nonfinite", "ignore"),
            activation=norm.activation if isinstance(norm, Normalization) else None,
        )
        sync._parameters.update(norm._parameters)
        sync._buffers.update(norm._buffers)
        sync._widen()
        return sync.train(norm.training)


class LazySyncBatchNorm(SyncBatchNorm, Lazy):
    """`SyncBatchNorm` that takes num_features from its first input, if not given."""

    def _rehearsal(self) -> Any:
        # In evaluation no process waits for another, and one element may be all of a batch here.
        group, self.process_group = self.process_group, None  # cannot be copied
        try:
            copied = super()._rehearsal()
        finally:
            self.process_group = group
        return copied.eval() if self._others() else copied


def gathered(own: Tensor, group: Any) -> Tensor:
    """What each process has, stacked by rank."""
    # Each process fills in its own row; the sum over processes is the whole table.
    here = dist.get_rank(group)
    rows = [own if i == here else torch.zeros_like(own) for i in range(dist.get_world_size(group))]
    return _sum(torch.stack(rows), group)


class _Sum(torch.autograd.Function):
    """The sum over processes. Its gradient is again the sum: every process's loss counts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _sum(gradients[0], ctx.group), None


def _sum(x: Tensor, group: Any) -> Tensor:
    total: Tensor = _Sum.apply(x, group)  # type: ignore[no-untyped-call]  # torch's own has no types
    return total


def _is_batch_norm(module: torch.nn.Module) -> bool:
    if not isinstance(module, Normalization):
        return isinstance(module, _BatchNorm)
    plain = type(module).normalized in (Normalization.normalized, SyncBatchNorm.normalized)
    return isinstance(module, _Batch) and plain and module.scheme == SCHEMES["batch"]
