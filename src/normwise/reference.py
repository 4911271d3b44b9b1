"""Every formula once, in plain tensor operations: slow, obvious, differentiable.

    measure      moments over the averaged axes, of real positions only
    standardise  (x - mean) / sqrt(var + eps)
    scale        * weight + bias, along the features
    finish       + residual, then the activation, 0 where masked

This is the oracle the kernels are tested against, and what runs where none fits.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from normwise.axes import Fitted, Scheme, part_sizes

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "leaky_relu": functional.leaky_relu,  # of slope 0.01
    "gelu": functional.gelu,  # exact, by erf
    "silu": functional.silu,
}


class Moments(NamedTuple):
    """Mean and variance of a split tensor, with averaged dimensions of size 1.

    The mean is kept as a sum of two, ``shift + offset``: one float32 number
    cannot hold the mean of a signal that lies 1e6 standard deviations from 0
    closely enough, and x - shift is exact where x is near shift.
    """

    shift: Tensor
    offset: Tensor
    var: Tensor  # biased; the mean square where nothing is centred
    elements: Tensor | int  # real positions that were averaged

    kept: bool = False  # whether these are what a layer remembers, so that offset is 0

    @property
    def mean(self) -> Tensor:
        return self.shift + self.offset


def normalize(
    x: Tensor,
    scheme: Scheme,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    mask: Tensor | None = None,
    sizes: Mapping[str, int] | None = None,
    given: Moments | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> tuple[Tensor, Moments]:
    """Measure, standardise, scale, finish: what every normalization does.

        y = activation((x - mean) / sqrt(var + eps) * weight + bias + residual)

    Shapes
        x             floating, with the dimensions of `scheme.pattern`
        weight, bias  the sizes of the pattern's features
        mask          bool, of x's rank, size 1 along features; True where x is real
        sizes         of the parts of composite dimensions, as {"g": 8}
        given         moments to use instead of x's own
        activation    a name of `ACTIVATIONS`; nothing is done if left out
        residual      x's shape, floating; nothing is added if left out
        out           like x, in its dtype; 0 where masked

    Returns the output and the moments that were used. Moments are float32, or
    float64 where x is.
    """
    fitted = scheme.pattern.fit(x.dim())
    split_x = split(wide(x), fitted, sizes)
    split_mask = None if mask is None else split(mask, fitted, sizes)
    if given is None:
        moments, apart = centre(split_x, fitted.averaged, split_mask, centres=scheme.centres)
    else:
        moments, apart = given, deviation(_where(split_mask, split_x), given)
    y = standardise(apart, moments.var, eps).reshape(x.shape)
    y = scale(y, fitted.features, weight, bias)
    return finish(y, x.dtype, mask=mask, activation=activation, residual=residual), moments


def measured(
    x: Tensor,
    scheme: Scheme,
    *,
    mask: Tensor | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Moments:
    """x's own moments, as `normalize` measures them."""
    fitted = scheme.pattern.fit(x.dim())
    split_mask = None if mask is None else split(mask, fitted, sizes)
    split_x = split(wide(x), fitted, sizes)
    return measure(split_x, fitted.averaged, split_mask, centres=scheme.centres)


def measure(
    x: Tensor, over: tuple[int, ...], mask: Tensor | None = None, *, centres: bool = True
) -> Moments:
    """Moments of the real positions over the dimensions `over`."""
    return centre(x, over, mask, centres=centres)[0]


def centre(
    x: Tensor, over: tuple[int, ...], mask: Tensor | None = None, *, centres: bool = True
) -> tuple[Moments, Tensor]:
    """Moments of the real positions over the dimensions `over`, and x's deviation from the mean.

    Two passes, the second about the first's mean, so that an offset of any size
    costs no digits. Where nothing is real, mean is 0 and var 1; positions that
    are not real deviate by 0.
    """
    elements, divisor = _count(x, over, mask)
    shift = offset = x.new_zeros(())
    # `where` keeps what padding may hold, even NaN, out of values and gradients; after it,
    # a product does, in a third of the time.
    apart = _where(mask, x)
    real = None if mask is None else mask.to(x.dtype)
    if centres:
        shift = (_sum(apart.detach(), over) / divisor).detach()
        apart = _times(apart - shift, real)
        offset = _sum(apart, over) / divisor
        apart = _times(apart - offset, real)
    var = _sum(apart * apart, over) / divisor
    if isinstance(elements, Tensor):
        var = torch.where(elements > 0, var, 1.0)
    elif elements == 0:
        var = var + 1
    return Moments(shift, offset, var, elements), apart


def deviation(x: Tensor, moments: Moments) -> Tensor:
    """x - mean, the mean taken off in two steps."""
    return x - moments.shift - moments.offset


def standardise(apart: Tensor, var: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps), given x - mean, in its precision."""
    return apart * torch.rsqrt(var.to(apart.dtype) + eps)


def scale(
    x: Tensor, features: tuple[int, ...], weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """x * weight + bias, with weight and bias along the dimensions `features`."""
    shape = [x.shape[i] if i in features else 1 for i in range(x.dim())]
    if weight is not None:
        x = x * weight.to(x.dtype).reshape(shape)
    if bias is not None:
        x = x + bias.to(x.dtype).reshape(shape)
    return x


def finish(
    y: Tensor,
    dtype: torch.dtype,
    *,
    mask: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """activation(y + residual), 0 where masked, in y's precision, rounded once to `dtype`."""
    if residual is not None:
        y = y + residual.to(y.dtype)
    y = _where(mask, y)  # before the activation: each leaves 0 as it is, and has no slope at NaN
    if activation is not None:
        y = ACTIVATIONS[activation](y)
    return y.to(dtype)


def split(x: Tensor, fitted: Fitted, sizes: Mapping[str, int] | None = None) -> Tensor:
    """One dimension per axis: composite dimensions of x taken apart.

    A dimension of size 1, as a mask has along features, becomes several of size 1.
    """
    for dimension, names in fitted.splits:
        total = x.shape[dimension]
        if total == 1 and x.dtype == torch.bool:
            parts: tuple[int, ...] = (1,) * len(names)
        else:
            parts = part_sizes(names, total, sizes or {})
        x = x.reshape(*x.shape[:dimension], *parts, *x.shape[dimension + 1 :])
    return x


def wide(x: Tensor) -> Tensor:
    """x in the precision that moments are accumulated in: float32, or float64 if x is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _count(
    x: Tensor, over: tuple[int, ...], mask: Tensor | None
) -> tuple[Tensor | int, Tensor | int]:
    """How many real positions are averaged over, and the same but at least 1."""
    shared = 1  # positions of x that one position of the mask stands for
    for dimension in over:
        if mask is None or mask.shape[dimension] == 1:
            shared = shared * x.shape[dimension]
    if mask is None:
        return shared, max(shared, 1)
    elements = _sum(mask.long(), over) * shared
    return elements, elements.clamp(min=1)


def _sum(x: Tensor, over: tuple[int, ...]) -> Tensor:
    return x.sum(over, keepdim=True) if over else x  # torch takes () for all dimensions


def _where(real: Tensor | None, x: Tensor) -> Tensor:
    return x if real is None else torch.where(real, x, 0.0)


def _times(x: Tensor, real: Tensor | None) -> Tensor:
    return x if real is None else x * real
