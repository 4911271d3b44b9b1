"""A long series as samples: what was known, and what came then."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from normwise.data import Series
from normwise.errors import NormError, describe


class Windows:
    """Every stretch of a series as a sample: `history` steps, and the `horizon` steps that follow.

        x[n] = series[:, n : n + history]
        y[n] = series[targets, n + history : n + history + horizon]

    A horizon of 0 is for models that reconstruct what they are shown: y[n] = x[n][targets].

    Shapes
        series  (C, T) or (T,), floating, any unit; or a `data.Series`, taken as float32
        x       (N, C, history), N = (T - history - horizon) // stride + 1
        y       (N, len(targets), horizon), or (N, len(targets), history)

    A task forecasts all of the horizon at once (direct multi-step), and parts windows in
    time alone: what it trains on ends before the first step that it is scored on.

    targets  channels to forecast; all if left out
    stride   steps from one window to the next

    Raises
        NormError  if the series is shorter than one window.
    """

    def __init__(
        self,
        series: Any,
        history: int,
        horizon: int,
        *,
        targets: Sequence[int] | None = None,
        stride: int = 1,
    ) -> None:
        numbers = (("history", history, 1), ("horizon", horizon, 0), ("stride", stride, 1))
        for option, number, least in numbers:
            if not isinstance(number, int) or number < least:
                raise NormError(
                    f"{option} must be a whole number of {least} or more, received {number!r}"
                )
        if isinstance(series, Series):
            series = series.values.float()
        self.series = torch.as_tensor(series)
        self.history, self.horizon, self.stride = history, horizon, stride
        self.targets = None if targets is None else list(targets)
        if self.series.dim() == 1:
            self.series = self.series[None]
        if self.series.dim() != 2:
            raise NormError(f"a series must be (C, T) or (T,), received {describe(series)}")
        if self.series.shape[1] < history + horizon:
            size = f"{history} + {horizon}" if horizon else str(history)
            raise NormError(
                f"a series of {self.series.shape[1]} steps holds no window of {size}; give a "
                "longer one, or ask for shorter windows"
            )

    def arrays(self) -> tuple[Tensor, Tensor]:
        """All windows as (x, y): views, which take no memory of their own."""
        size = self.history + self.horizon
        every = self.series.unfold(-1, size, self.stride).movedim(1, 0)
        x = every[..., : self.history]
        y = every[..., self.history :] if self.horizon else x
        return x, y if self.targets is None else y[:, self.targets]

    @property
    def gap(self) -> int:
        """Windows between two that share no step of y."""
        return -(-(self.horizon or self.history) // self.stride) - 1

    def with_history(self, history: int) -> "Windows":
        """The same forecasts from so much of the past."""
        start = self.history - history
        if start < 0:
            raise NormError(
                f"length={history} is more than the windows' history of {self.history}; "
                "give them that history"
            )
        return Windows(
            self.series[:, start:],
            history,
            self.horizon,
            targets=self.targets,
            stride=self.stride,
        )
