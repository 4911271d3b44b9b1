"""Reversible instance norm: take level and scale off a series, and put them back on a forecast."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from normwise.axes import SCHEMES
from normwise.errors import NormError, describe
from normwise.layers.channelwise import Channelwise
from normwise.layers.lazy import Lazy
from normwise.layers.padding import full_mask
from normwise.reference import measure, scale, wide

Statistics = Literal["mean-std", "median-mad"]
_MAD_TO_STD = 1.4826022185056018  # 1 / the 3/4 quantile of a standard normal


class SeriesStatistics(NamedTuple):
    """What `ReversibleInstanceNorm` took off a batch of series: (x - shift - offset) / scale.

    Each (N, C, 1), float32 or wider. What is subtracted is a sum of two, since
    one float32 cannot hold the mean of a series far from 0 closely enough.
    """

    shift: Tensor
    offset: Tensor
    scale: Tensor


class ReversibleInstanceNorm(Channelwise):
    """Centre and scale each channel of each series, and hand out what it takes to go back.

        y, stats = norm(x)
        y[n, c, t] = (x[n, c, t] - centre[n, c]) / scale[n, c] * weight[c] + bias[c]
        scale[n, c] = sqrt(spread[n, c]² + eps)

        forecast = norm.inverse(model(y), stats)
        x'[n, c, t] = (y'[n, c, t] - bias[c]) / weight[c] * scale[n, c] + centre[n, c]

    `statistics="mean-std"`: centre and spread are mean and standard deviation.
    `statistics="median-mad"`: they are the median and 1.4826 times the median
    distance from it, which single outliers cannot move.
    `subtract_last`: centre is the last real value instead; spread stays.
    weight is exp(log_weight), so that no weight can be divided by as 0.

    The layer remembers nothing: it may serve several series in turn, in threads
    or inside another of its calls.

    Shapes
        x      (N, C, T), floating, T at least 1; any unit; NaN where a value is missing
        mask   (N, T) bool, True where a sample was recorded; all True if left out
        y      like x, in its dtype; no unit before weight and bias; 0 where masked or missing
        stats  `SeriesStatistics` of (N, C, 1) each, in the unit of x

    Where scale would be 0, as in a constant series with eps=0, it is 1. A series
    of one real value gives bias; one of none gives 0, and goes back to itself.

    Raises
        NormError  if C is not num_features, mask does not fit x, T is 0, eps is below
                   0, or `statistics` is not known.

    Source: Kim, Kim, Tae, Park, Choi and Choo 2022, OpenReview cGDAkQo1C0p, where
    weight is learned itself and inversion divides by weight + eps². Gradients
    pass through the statistics here. Masks, missing values and "median-mad" are ours.
    """

    scheme = SCHEMES["instance"]
    dim = 1
    shown = ("eps", "affine", "statistics", "subtract_last")
    log_weight: Tensor | None

    def __init__(
        self,
        num_features: int | None = None,
        eps: float = 1e-5,
        affine: bool = True,
        statistics: Statistics = "mean-std",
        subtract_last: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if statistics not in get_args(Statistics):
            raise NormError(
                f"ReversibleInstanceNorm(statistics={statistics!r}) is not known; "
                f"write one of {', '.join(map(repr, get_args(Statistics)))}"
            )
        if not eps >= 0:
            raise NormError(f"ReversibleInstanceNorm(eps={eps!r}): must not be below 0")
        start = 0.0 if affine else None
        channels = {"log_weight": start, "bias": start}
        super().__init__(num_features, channels, eps, device=device, dtype=dtype)
        self.affine, self.statistics, self.subtract_last = affine, statistics, subtract_last

    @property
    def weight(self) -> Tensor | None:
        """exp(log_weight): above 0."""
        return None if self.log_weight is None else wide(self.log_weight).exp()

    def forward(  # type: ignore[override]  # a pair, as no other layer returns
        self, x: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, SeriesStatistics]:
        """Normalize x; positions that are masked or NaN count for nothing and return 0."""
        self.check_input(x)
        if not x.shape[-1]:
            raise NormError(
                f"ReversibleInstanceNorm needs at least one position, received {describe(x)}"
            )
        fitted = self.scheme.pattern.fit(x.dim())
        given = full_mask(x, mask, fitted.features, self._name())
        real = ~x.isnan() if given is None else given & ~x.isnan()
        values = torch.where(real, wide(x), 0.0)
        stats = self._measure(values, real)
        y = (values - stats.shift - stats.offset) / stats.scale
        return self.finish(y, x, real, fitted), stats

    def inverse(
        self,
        y: Tensor,
        stats: SeriesStatistics,
        channels: Sequence[int] | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Put back what `forward` took off: undo weight and bias, scale and centre.

        Shapes
            y         (N, C, T'), floating; T' may be any; (N, len(channels), T') with channels
            stats     as `forward` gave them
            channels  which channels of x those of y are, in their order; all if left out
            mask      (N, T') bool, False where the result shall be 0; `padding` is not asked,
                      because a forecast's positions are not the input's
            out       like y, in its dtype; in the unit of x

        Raises
            NormError  if y, stats, channels and mask do not fit together.
        """
        picked = self._picked(y, stats, channels)
        shift, offset, spread = (statistic[:, picked] for statistic in stats)
        weight, bias = (None if p is None else p[picked] for p in (self.weight, self.bias))
        x = scale(wide(y), (1,), None, None if bias is None else -bias)
        x = scale(x, (1,), None if weight is None else 1 / weight, None) * spread + offset + shift
        if mask is not None:
            given = full_mask(y, mask, (1,), self._name())
            x = torch.where(torch.as_tensor(given), x, 0.0)
        return x.to(y.dtype)

    def _measure(self, x: Tensor, real: Tensor) -> SeriesStatistics:
        if self.statistics == "median-mad":
            shift, offset = _median(x, real)
            deviation, rest = _median((x - shift - offset).abs(), real)
            spread = (_MAD_TO_STD * (deviation + rest)).square()
        else:
            shift, offset, spread, *_ = measure(x, (2,), real)
        if self.subtract_last:
            positions = torch.arange(x.shape[2], device=x.device)
            last = torch.where(real, positions, 0).amax(2, keepdim=True)
            shift = x.gather(2, last)
            offset = torch.zeros_like(shift)
        spread = spread + self.eps
        # 1 goes under the root where 0 would: the root of 0 has no gradient.
        return SeriesStatistics(shift, offset, torch.where(spread > 0, spread, 1.0).sqrt())

    def _picked(
        self, y: Tensor, stats: SeriesStatistics, channels: Sequence[int] | None
    ) -> list[int]:
        count = stats.scale.shape[1]
        if self.num_features != count:
            raise NormError(
                f"stats of {count} channels do not come from this ReversibleInstanceNorm of "
                f"{self.num_features}"
            )
        picked: Any = range(count) if channels is None else channels
        if not all(-count <= channel < count for channel in picked):
            raise NormError(f"channels={channels!r} are not all among the {count} of stats")
        expected = (stats.scale.shape[0], len(picked))
        if not y.is_floating_point() or y.dim() != 3 or tuple(y.shape[:2]) != expected:
            raise NormError(
                f"ReversibleInstanceNorm.inverse takes y of {expected[0]} series and "
                f"{expected[1]} channels, (N, C, T), received {describe(y)}; where y has some of "
                "the channels only, say which: channels=[…]"
            )
        return list(picked)


class LazyReversibleInstanceNorm(ReversibleInstanceNorm, Lazy):
    """`ReversibleInstanceNorm` that takes num_features from its first input, if not given."""


class Reversible(torch.nn.Module):
    """A model between a norm and its inverse: ``Reversible(ReversibleInstanceNorm(7), model)``.

        forward(x) = norm.inverse(model(y), stats)    where norm(x) is y, stats
        forward(x) = model(norm(x))                   where the norm knows no way back

    So `swap` and `compare` can try any norm in the place of the reversible one, and the
    reversible one ("reversible", "reversible:statistics=median-mad") in the place of any.

    Shapes
        x     (N, C, T), as the norm takes it
        out   (N, C, T') for T' positions of the model's output; in the unit of x
    """

    def __init__(self, norm: torch.nn.Module, model: torch.nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """The model's output in the unit of x."""
        out: Tensor
        if isinstance(self.norm, ReversibleInstanceNorm):
            y, stats = self.norm(x)
            out = self.norm.inverse(self.model(y), stats)
        else:
            out = self.model(self.norm(x))
        return out


def _median(x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """The median along T of the real values, as a sum of two; 0 where there is none."""
    ordered = torch.where(real, x, torch.inf).sort(2).values
    count = real.sum(2, keepdim=True)
    below = ordered.gather(2, ((count - 1) // 2).clamp(min=0))
    above = ordered.gather(2, (count // 2).clamp(max=x.shape[2] - 1))
    seen = count > 0
    return torch.where(seen, below, 0.0), torch.where(seen, (above - below) / 2, 0.0)
