"""Every norm as a function, with a mask: `torch.nn.functional`'s arguments, then ``mask=``.

    from normwise import functional as F

    y = F.group_norm(x, 8, weight, bias, mask=nw.lengths_to_mask(lengths))

All of them can add a `residual` of x's shape and apply an `activation`, "relu",
"leaky_relu", "gelu" or "silu", on the way out: y = activation(norm(x) + residual).

Functions see the mask they are given and nothing else: `normwise.padding` speaks
to layers alone.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from normwise.axes import SCHEMES, Pattern, Scheme, trailing
from normwise.checks import (
    check_activation,
    check_averaged,
    check_floating,
    check_groups,
    check_residual,
    full_rank,
)
from normwise.errors import NormError, describe
from normwise.ops import normalize, remember
from normwise.running import Remembered, Running, recall

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    mask: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Centre and scale each channel by the statistics of the whole batch.

        y[n, c, …] = (x[n, c, …] - mean[c]) / sqrt(var[c] + eps) * weight[c] + bias[c]

    In `training`, mean and var are the batch's and the running ones, if given, are
    updated in place; otherwise the running ones are used.

    Shapes
        x                          (N, C, …), floating; any unit
        running_mean, running_var  (C,), the second unbiased; both or neither
        weight, bias               (C,)
        mask                       (N, …) bool, True where x is real; all True if left out
        out                        like x, in its dtype; 0 where masked

    A batch without a real position changes nothing.

    Raises
        NormError  if a shape does not fit, running statistics are missing where they
                   are needed, or a channel would be averaged over one element.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167. The mask is ours.
    """
    return _normalized(
        "batch_norm",
        x,
        SCHEMES["batch"],
        weight=weight,
        bias=bias,
        eps=eps,
        mask=mask,
        activation=activation,
        residual=residual,
        remembered=_remembered("batch_norm", x, running_mean, running_var, training),
        policy=Running(momentum=momentum),
        from_input=training,
    )


def instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    mask: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Centre and scale each channel of each sample by its own statistics.

        y[n, c, …] = (x[n, c, …] - mean[n, c]) / sqrt(var[n, c] + eps) * weight[c] + bias[c]

    Running statistics, if given, take in the average over the samples; with
    ``use_input_stats=False`` they are used instead of x's own.

    Shapes
        x                          (N, C, …), floating; any unit
        running_mean, running_var  (C,), the second unbiased; both or neither
        weight, bias               (C,)
        mask                       (N, …) bool, True where x is real; all True if left out
        out                        like x, in its dtype; 0 where masked

    A sample with one real position gives bias; one with none gives 0.

    Raises
        NormError  if a shape does not fit, running statistics are missing where they
                   are needed, or a sample has one position.

    Source: Ulyanov, Vedaldi and Lempitsky 2016, arXiv:1607.08022. The mask is ours.
    """
    return _normalized(
        "instance_norm",
        x,
        SCHEMES["instance"],
        weight=weight,
        bias=bias,
        eps=eps,
        mask=mask,
        activation=activation,
        residual=residual,
        remembered=_remembered("instance_norm", x, running_mean, running_var, use_input_stats),
        policy=Running(momentum=momentum),
        from_input=use_input_stats,
    )


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    mask: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Centre and scale each group of channels of each sample by its own statistics.

        y[n, c, …] = (x[n, c, …] - mean[n, g]) / sqrt(var[n, g] + eps) * weight[c] + bias[c]

    where channel c belongs to group g = c // (C / num_groups).

    Shapes
        x             (N, C, …), floating; any unit
        weight, bias  (C,)
        mask          (N, …) bool, True where x is real; all True if left out
        out           like x, in its dtype; 0 where masked

    Raises
        NormError  if num_groups does not divide C, a shape does not fit, or a group
                   would be averaged over one element.

    Source: Wu and He 2018, arXiv:1803.08494. The mask is ours.
    """
    check_floating(x, "group_norm")
    _check_channels(x, "group_norm")
    check_groups(num_groups, x.shape[1])
    return _normalized(
        "group_norm",
        x,
        SCHEMES["group"],
        weight=weight,
        bias=bias,
        eps=eps,
        mask=mask,
        activation=activation,
        residual=residual,
        sizes={"g": num_groups},
    )


def layer_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    mask: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Centre and scale the trailing dimensions by their own statistics.

        y[…, c] = (x[…, c] - mean[…]) / sqrt(var[…] + eps) * weight[c] + bias[c]

    with c running over `normalized_shape`, the last dimensions of x.

    Shapes
        x             (…, *normalized_shape), floating; any unit
        weight, bias  normalized_shape
        mask          (…) bool, True where x is real; all True if left out
        out           like x, in its dtype; 0 where masked

    Raises
        NormError  if x does not end in normalized_shape, another shape does not fit,
                   or normalized_shape is of one element.

    Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450. The mask is ours.
    """
    scheme = Scheme(_trailing("layer_norm", x, normalized_shape))
    return _normalized(
        "layer_norm",
        x,
        scheme,
        weight=weight,
        bias=bias,
        eps=eps,
        mask=mask,
        activation=activation,
        residual=residual,
    )


def rms_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    mask: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Scale the trailing dimensions by their root mean square; the mean stays.

        y[…, c] = x[…, c] / sqrt(mean(x[…]²) + eps) * weight[c]

    with c running over `normalized_shape`, the last dimensions of x. `eps=None` is
    the machine epsilon of x's dtype.

    Shapes
        x       (…, *normalized_shape), floating; any unit
        weight  normalized_shape
        mask    (…) bool, True where x is real; all True if left out
        out     like x, in its dtype; 0 where masked

    Raises
        NormError  if x does not end in normalized_shape, or another shape does not fit.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467. The mask is ours.
    """
    scheme = Scheme(_trailing("rms_norm", x, normalized_shape), centres=False)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return _normalized(
        "rms_norm",
        x,
        scheme,
        weight=weight,
        bias=None,
        eps=eps,
        mask=mask,
        activation=activation,
        residual=residual,
    )


def _normalized(
    name: str,
    x: Tensor,
    scheme: Scheme,
    *,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mask: Tensor | None,
    activation: str | None,
    residual: Tensor | None,
    sizes: Mapping[str, int] | None = None,
    remembered: Remembered | None = None,
    policy: Running | None = None,
    from_input: bool = True,
) -> Tensor:
    fitted = scheme.pattern.fit(x.dim())
    features = tuple(x.shape[i] for i in fitted.features)
    for word, tensor in (("weight", weight), ("bias", bias)):
        _check_shape(name, word, tensor, features, x)
    check_activation(activation, name)
    check_residual(x, residual, name)
    recalled = remembered is not None and not from_input
    y, moments = normalize(
        x,
        scheme,
        weight=weight,
        bias=bias,
        eps=eps,
        mask=None if mask is None else full_rank(x, mask, fitted.features, name),
        sizes=sizes,
        given=recall(remembered, fitted) if recalled and remembered is not None else None,
        activation=activation,
        residual=residual,
        keeps=from_input and remembered is not None,
    )
    if from_input:
        check_averaged(x, scheme, moments.elements, name)
        if remembered is not None and policy is not None:
            remember(policy, remembered, moments, fitted)
    return y


def _remembered(
    name: str, x: Tensor, mean: Tensor | None, var: Tensor | None, from_input: bool
) -> Remembered | None:
    check_floating(x, name)
    _check_channels(x, name)
    if (mean is None) != (var is None):
        raise NormError(f"{name} needs running_mean and running_var, or neither")
    for word, tensor in (("running_mean", mean), ("running_var", var)):
        _check_shape(name, word, tensor, (x.shape[1],), x)
    if var is not None:
        return Remembered(mean, var, None)
    if not from_input:
        raise NormError(
            f"{name} has no running statistics to use; give running_mean and running_var, or "
            f"{'training' if name == 'batch_norm' else 'use_input_stats'}=True"
        )
    return None


def _check_channels(x: Tensor, name: str) -> None:
    if x.dim() < 2:
        raise NormError(f"{name} takes x of (N, C, …), received {describe(x)}")


def _check_shape(
    name: str, word: str, tensor: Tensor | None, shape: tuple[int, ...], x: Tensor
) -> None:
    if tensor is not None and (not isinstance(tensor, Tensor) or tensor.shape != shape):
        raise NormError(
            f"the {word} of {name} must be of {tuple(shape)}, as x has it; "
            f"received {describe(tensor)} for x {tuple(x.shape)}"
        )


def _trailing(name: str, x: Tensor, normalized_shape: int | Sequence[int]) -> Pattern:
    check_floating(x, name)
    shape = (
        tuple(normalized_shape) if isinstance(normalized_shape, Iterable) else (normalized_shape,)
    )
    if not shape or tuple(x.shape[-len(shape) :]) != shape:
        raise NormError(
            f"{name} over {shape} takes x that ends in these sizes, received {describe(x)}"
        )
    return trailing(len(shape))
