"""The formulas in float64, one element at a time: what every result is compared with.

Nothing of the package is used here. A norm is told by its key, a function of an
element's index: elements whose keys are equal share one mean and one variance.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable

import numpy as np
import torch
from torch import Tensor

Key = Callable[..., Hashable]


def batch(n: int, c: int, *position: int) -> Hashable:
    return c


def instance(n: int, c: int, *position: int) -> Hashable:
    return n, c


def group(channels_per_group: int) -> Key:
    return lambda n, c, *position: (n, c // channels_per_group)


def channels(n: int, c: int, *position: int) -> Hashable:
    return n, *position


def ghost(samples: int) -> Key:
    return lambda n, c, *position: (n // samples, c)


def sample(n: int, *position: int) -> Hashable:
    return n


def trailing(count: int) -> Key:
    return lambda *index: index[:-count]


def statistics(
    x: np.ndarray, key: Key, real: np.ndarray, *, centres: bool = True
) -> dict[Hashable, tuple[float, float, int]]:
    """Mean, biased variance and count of the real elements, for each key."""
    values = defaultdict(list)
    for index in np.argwhere(real):
        values[key(*index)].append(float(x[tuple(index)]))
    moments = {}
    for name, numbers in values.items():
        count = len(numbers)
        mean = math.fsum(numbers) / count if centres else 0.0
        # The mean is rounded, too: far from 0 that moves the variance, and is taken out again.
        rest = math.fsum(number - mean for number in numbers) / count if centres else 0.0
        variance = math.fsum((number - mean - rest) ** 2 for number in numbers) / count
        moments[name] = (mean + rest, variance, count)
    return moments


def moments(x: Tensor, key: Key, real: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of its key for every element; 0 and 1 where nothing is real."""
    is_real = real.expand(x.shape).numpy()
    of_key = statistics(x.detach().double().numpy(), key, is_real)
    each = [of_key.get(key(*index), (0.0, 1.0, 0))[:2] for index in np.ndindex(*x.shape)]
    mean, var = torch.tensor(each, dtype=torch.float64).reshape(*x.shape, 2).unbind(-1)
    return mean, var


def normalized(
    x: Tensor,
    key: Key,
    *,
    real: Tensor | None = None,
    eps: float = 1e-5,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    centres: bool = True,
) -> Tensor:
    """Every real element standardised by the moments of its key; 0 where nothing is real.

    real, weight and bias broadcast to x.
    """
    numbers = x.detach().double().numpy()
    is_real = np.ones(x.shape, bool) if real is None else real.expand(x.shape).numpy()
    moments = statistics(numbers, key, is_real, centres=centres)
    y = np.zeros(x.shape)
    for index in map(tuple, np.argwhere(is_real)):
        mean, variance, _ = moments[key(*index)]
        y[index] = (numbers[index] - mean) / math.sqrt(variance + eps)
    return affine(torch.from_numpy(y), is_real, weight, bias)


def activated(y: Tensor, name: str | None) -> Tensor:
    """The activation of that name, in float64, by its definition."""
    y = y.double()
    half = torch.where(y > 0, y, 0.0)
    return {
        None: y,
        "relu": half,
        "leaky_relu": half + 0.01 * (y - half),
        "gelu": y * (1 + torch.erf(y / math.sqrt(2))) / 2,
        "silu": y / (1 + torch.exp(-y)),
    }[name]


def affine(
    y: Tensor, real: Tensor | np.ndarray, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """y * weight + bias in float64; 0 where nothing is real."""
    if weight is not None:
        y = y * weight.detach().double()
    if bias is not None:
        y = y + bias.detach().double()
    return torch.where(torch.as_tensor(real), y, 0.0)
