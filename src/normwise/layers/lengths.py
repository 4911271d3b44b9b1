"""What torch.nn's layers tell of a padded batch: where its time is, and what a length becomes."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.padding import (
    _CircularPadNd,
    _ConstantPadNd,
    _ReflectionPadNd,
    _ReplicationPadNd,
)
from torch.nn.modules.pooling import (
    _AdaptiveAvgPoolNd,
    _AdaptiveMaxPoolNd,
    _AvgPoolNd,
    _LPPoolNd,
    _MaxPoolNd,
)

_SLIDING = (_ConvNd, _MaxPoolNd, _AvgPoolNd, _LPPoolNd)
_PADS = (_ConstantPadNd, _CircularPadNd, _ReflectionPadNd, _ReplicationPadNd)
_CHANNELS_SECOND = (
    *(*_SLIDING, *_PADS, _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd),
    *(_NormBase, torch.nn.GroupNorm, torch.nn.Upsample),
)
_BATCH_FIRST = (
    torch.nn.RNNBase,
    torch.nn.MultiheadAttention,
    torch.nn.TransformerEncoderLayer,
    torch.nn.TransformerEncoder,
)


def time_of(module: torch.nn.Module, x: Tensor) -> int | None:
    """T, as the layer of torch.nn that takes x knows it; None where it does not tell.

    Layers of normwise say so themselves, when they ask for their mask.
    """
    kind: Any = module
    behind = 0  # how many dimensions of features come last
    if "_orig_mod" in module._modules:  # compiled: nobody can ask what is within
        return x.shape[-1]
    if hasattr(module, "scheme"):  # of normwise: its rank may not be that of torch's class
        return None
    if isinstance(module, torch.nn.LayerNorm | torch.nn.RMSNorm):
        behind = len(kind.normalized_shape)
    elif isinstance(module, torch.nn.Linear | torch.nn.Bilinear):
        behind = 1
    elif isinstance(module, _BATCH_FIRST):
        behind = 1 if getattr(module, "batch_first", False) else x.dim()
    elif not isinstance(module, (*_CHANNELS_SECOND, torch.nn.Embedding)):
        return None
    first = 2 if isinstance(module, _CHANNELS_SECOND) else 1
    time = x.dim() - 1 - behind
    return x.shape[time] if time >= first else None


def length_after(module: torch.nn.Module, lengths: Tensor) -> Tensor | None:
    """How many positions the layer makes of a series alone, along the last dimension.

    None where it is no convolution, pooling, padding or upsampling of torch.nn, or makes
    as many of every series. A series too short for the layer keeps one position.

    Shapes
        lengths  (N,) int64, in positions of the layer's input
        out      (N,) int64, in positions of its output
    """
    layer: Any = module
    if isinstance(module, _ConvTransposeNd):
        spread = _last(layer.dilation) * (_last(layer.kernel_size) - 1)
        grown = _last(layer.output_padding) - 2 * _last(layer.padding) + spread + 1
        after = (lengths - 1) * _last(layer.stride) + grown
    elif isinstance(module, _SLIDING):
        after = _windows(layer, lengths)
    elif isinstance(module, _PADS):
        after = lengths + layer.padding[0] + layer.padding[1]
    elif isinstance(module, torch.nn.Upsample) and layer.scale_factor is not None:
        after = (lengths * _last(layer.scale_factor)).long()
    else:
        return None
    return torch.where(lengths > 0, after.clamp(min=1), 0)


def _windows(layer: Any, lengths: Tensor) -> Tensor:
    """How many windows a convolution or pooling finds."""
    kernel, stride = _last(layer.kernel_size), _last(layer.stride or layer.kernel_size)
    span = _last(getattr(layer, "dilation", 1)) * (kernel - 1) + 1
    padding = getattr(layer, "padding", 0)
    if padding == "same":
        return lengths
    padded = 0 if padding == "valid" else _last(padding)
    room: Tensor = lengths + 2 * padded - span
    if not getattr(layer, "ceil_mode", False):
        return room.div(stride, rounding_mode="floor") + 1
    windows = room.add(stride - 1).div(stride, rounding_mode="floor") + 1
    # The last window has to begin on the series, not behind it.
    return torch.where((windows - 1) * stride >= lengths + padded, windows - 1, windows)


def _last(size: Any) -> Any:
    return size[-1] if isinstance(size, tuple | list) else size
